"""The kinds of networks that `model=` describes, and the image classifiers among them.

    from permlab.models.table import VISION
    VISION["resnet20"].norms

Each option in conf/model/ is of one kind of `MODELS`. A new image classifier is one function that builds it, one row of
`VISION` and one option in conf/model/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from permlab import registry
from permlab.registry import Row, Table


@dataclass(frozen=True)
class ModelRow(Row):
    """A kind of network: `target` is its configuration dataclass; `texts` and `images` say what its networks read."""

    texts: bool = False
    images: bool = False


MODELS = Table(
    "kind of model",
    [
        ModelRow("none", "no network of one's own: the task brings what it needs", target="permlab.config:NoneConfig"),
        ModelRow(
            "causal_lm",
            "causal language models of transformers, from scratch, a folder or the hub",
            target="permlab.models.causal_lm_config:CausalLMConfig",
            texts=True,
        ),
        ModelRow(
            "vision",
            "small image classifiers with random weights",
            target="permlab.models.vision_config:VisionConfig",
            images=True,
        ),
    ],
)


@dataclass(frozen=True)
class TokenizerRow(Row):
    """A tokenizer; `target` trains one from (texts, size of the vocabulary), and is empty where none is trained.

    Attributes:
        needs: "path" for the one that comes with a model.
    """


TOKENIZERS = Table(
    "tokenizer",
    [
        TokenizerRow("word", "every word of the corpus is a token", target="permlab.models.tokenizers:word_tokenizer"),
        TokenizerRow("bpe", "byte-level BPE", target="permlab.models.tokenizers:bpe_tokenizer"),
        TokenizerRow("pretrained", "the one that comes with the model", needs=("path",)),
    ],
)


@dataclass(frozen=True)
class ObjectiveRow(Row):
    """What a language model of `scratch` sizes predicts; `target` makes its architecture from (sizes, options).

    Attributes:
        answers: "module:function" that asks it, see `permlab.text.recall.answer_queries`.
        masked: tokens are covered and filled in from both sides; otherwise each token from those before it.
    """

    answers: str = "permlab.text.recall:answer_queries"
    masked: bool = False

    def load_answers(self) -> Any:
        """Import the function that asks."""
        return registry.load(self.answers)


OBJECTIVES = Table(
    "training objective",
    [
        ObjectiveRow("causal", "the next token, from those before it (a Llama)", target="permlab.models.scratch:llama"),
        ObjectiveRow(
            "masked",
            "covered tokens, from both sides (a BERT)",
            label="covered tokens (masked model)",
            target="permlab.models.scratch:bert",
            paper="1810.04805",
            answers="permlab.text.masked:fill_answers",
            masked=True,
        ),
    ],
)


@dataclass(frozen=True)
class WeightsRow(Row):
    """Where the weights of a causal language model come from; those that are loaded need a path.

    Attributes:
        epochs, rate, adapter_rate, decay: its training on texts where nothing else is said: readings of every text, the
            largest learning rate of all weights and of adapters alone, AdamW's weight decay.
    """

    epochs: float = 10.0
    rate: float = 2e-5
    adapter_rate: float = 2e-4
    decay: float = 0.01

    @property
    def pretrained(self) -> bool:
        """Whether there is something to forget."""
        return bool(self.needs)


WEIGHTS = Table(
    "kind of weights",
    [
        WeightsRow("pretrained", "those of the folder or hub id", needs=("path",)),
        WeightsRow("scratch", "random", epochs=24.0, rate=5e-3, adapter_rate=5e-3, decay=0.3),
    ],
)


@dataclass(frozen=True)
class VisionRow(Row):
    """An image classifier; `target` builds it from (shape, classes, width, depth, norm).

    Attributes:
        norms: normalisations that it can have; the first is taken when none is named.
        depth: layers or blocks when no depth is named; None where the depth is fixed.
        fixed_depth: what the fixed depth is, for the message.
        counts_units: `width` is a number of units; elsewhere it multiplies the usual channel counts.
        square: it needs images as high as they are wide.
        epochs, batch_size, rate: its training with Adam where nothing else is said.
    """

    norms: tuple[str, ...] = ("batch", "none", "layer")
    depth: int | None = None
    fixed_depth: str = ""
    counts_units: bool = False
    square: bool = True
    epochs: int = 15
    batch_size: int = 32
    rate: float = 1e-3


VISION = Table(
    "image classifier",
    [
        VisionRow(
            "mlp",
            "hidden layers of ReLU units",
            target="permlab.models.vision:build_mlp",
            norms=("none", "batch", "layer"),
            depth=3,
            counts_units=True,
            square=False,
            epochs=20,
            batch_size=64,
        ),
        VisionRow(
            "vgg11",
            "eight convolutions with max pooling",
            target="permlab.models.vision:build_vgg11",
            paper="1409.1556",
            fixed_depth="8 convolutions",
        ),
        VisionRow(
            "resnet20",
            "three stages of basic blocks at 16, 32 and 64 channels",
            target="permlab.models.vision:build_resnet20",
            paper="1512.03385",
            depth=3,
            rate=5e-3,
        ),
        VisionRow(
            "resnet-tiny",
            "stem and one block at 8 and at 16 channels",
            target="permlab.models.vision:build_resnet_tiny",
            paper="1512.03385",
            depth=1,
            rate=5e-3,
        ),
        VisionRow(
            "vit-tiny",
            "pre-norm transformer blocks on patches",
            target="permlab.models.vision:build_vit_tiny",
            paper="2010.11929",
            norms=("none",),
            depth=4,
            epochs=30,
            batch_size=64,
        ),
    ],
)
