"""Transformers architectures with random weights at one budget: `build(TokenProblem(n=8), "llama", TokenRecipe())`.

Also the token form of the problem, which says how large their vocabulary is: n index tokens (the permutation), a
separator, n symbols (the permuted string); the answer is the string in its original order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_range
from permlab.probes.recipes import TokenRecipe
from permlab.probes.table import ARCHITECTURES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEPARATOR, FILLER, START = 0, 1, 2
_FIRST_INDEX = 3


@dataclass(frozen=True)
class TokenProblem:
    """The token problem: `n` index tokens, and `symbols` different symbols for the string, drawn with repetition.

    Raises:
        UserError: n or symbols below 2.
    """

    n: int = 8
    symbols: int = 4

    def __post_init__(self) -> None:
        if self.n < 2:
            raise UserError(f"n={self.n} leaves nothing to permute: n must be at least 2")
        check_range("symbols", self.symbols, low=2)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return _FIRST_INDEX + self.n + self.symbols

    def order(self, ids: Tensor) -> Tensor:
        """Read the permutation, (batch, n): symbol i of the permuted string stood at place `order[:, i]`."""
        return ids[:, : self.n] - _FIRST_INDEX

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs of 2n + 1 tokens, (batch, 2n + 1), and answers, (batch, n); both int64 token ids."""
        order = torch.rand(batch, self.n, generator=generator).argsort(1)
        answer = torch.randint(self.symbols, (batch, self.n), generator=generator) + _FIRST_INDEX + self.n
        separator = torch.full((batch, 1), SEPARATOR)
        # [P, P Y] of 2509.24125 as tokens: an index token for each row of P, a symbol for each row of Y_P.
        return torch.cat([order + _FIRST_INDEX, separator, answer.gather(1, order)], 1), answer


def build(problem: TokenProblem, architecture: str, recipe: TokenRecipe) -> PreTrainedModel:
    """Build an architecture with random weights and close to `recipe.parameters` parameters.

    Raises:
        UserError: an unknown architecture, or the rest of the network alone is larger than the budget.
    """
    make = ARCHITECTURES[architecture].load()
    with torch.device("meta"):
        narrow = parameter_count(make(problem, recipe, 1))
        slope = parameter_count(make(problem, recipe, 2)) - narrow
    # Parameters grow linearly with the feed-forward width: two models without storage give the whole line.
    width = 1 + round((recipe.parameters - narrow) / slope)
    if width < 1:
        raise UserError(
            f"{architecture} needs {narrow} parameters without feed-forward layers, above the budget of "
            f"{recipe.parameters}: raise parameters, or lower hidden or layers"
        )
    model: PreTrainedModel = make(problem, recipe, width)
    return model


def parameter_count(model: nn.Module) -> int:
    """Number of weights, tied ones once."""
    return sum(p.numel() for p in model.parameters())


# ---- targets of `table.ARCHITECTURES`; dropout is off, because the data never repeats --------------------------------


def _common(problem: TokenProblem, recipe: TokenRecipe) -> dict[str, Any]:
    """Vocabulary and initial spread; the usual spread of 0.02 is meant for networks ten times as wide."""
    return {"vocab_size": problem.vocabulary, "initializer_range": recipe.hidden**-0.5, "pad_token_id": None}


def _longest(problem: TokenProblem) -> int:
    """Tokens of the input, the filler or answer behind it, and one to start."""
    return 4 * problem.n + 2


def llama(problem: TokenProblem, recipe: TokenRecipe, feed_forward: int) -> PreTrainedModel:
    """A Llama decoder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=recipe.hidden,
            intermediate_size=feed_forward,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=_longest(problem),
            bos_token_id=None,
            eos_token_id=None,
            **_common(problem, recipe),
        )
    )


def gpt2(problem: TokenProblem, recipe: TokenRecipe, feed_forward: int) -> PreTrainedModel:
    """A GPT-2 decoder."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=recipe.hidden,
            n_inner=feed_forward,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            n_positions=_longest(problem),
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            **_common(problem, recipe),
        )
    )


def bert(problem: TokenProblem, recipe: TokenRecipe, feed_forward: int) -> PreTrainedModel:
    """A BERT encoder with its masked-token head."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            hidden_size=recipe.hidden,
            intermediate_size=feed_forward,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=_longest(problem),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **_common(problem, recipe),
        )
    )


def t5(problem: TokenProblem, recipe: TokenRecipe, feed_forward: int) -> PreTrainedModel:
    """A T5 encoder and decoder; T5 has spreads of its own, by the shapes of its matrices."""
    from transformers import T5Config, T5ForConditionalGeneration

    options: dict[str, Any] = {"decoder_start_token_id": START, "pad_token_id": SEPARATOR, "eos_token_id": None}
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=problem.vocabulary,
            d_model=recipe.hidden,
            d_kv=recipe.hidden // recipe.heads,
            d_ff=feed_forward,
            num_layers=recipe.layers,
            num_heads=recipe.heads,
            relative_attention_num_buckets=64,
            relative_attention_max_distance=128,
            dropout_rate=0.0,
            **options,
        )
    )
