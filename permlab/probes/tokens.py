"""The inverse-permutation problem for Transformers architectures: `train_tokens(Task(n=8), "llama", "filler")`.

Input tokens: the permutation (n index tokens), a separator, the permuted string (n symbols). The answer is the string
in its original order. Where the answer is read:

- `in_place`: at the n positions of the permuted string, the token reading of the theorem (arXiv 2509.24125). A causal
  model is held to a ceiling by `in_place_ceiling`; an encoder is not.
- `filler`: at n filler tokens after the input, the token form of scratch rows.
- `generate`: token by token after the input, trained with teacher forcing and tested by greedy decoding. The answer
  comes after the input, so the theorem says nothing about this reading.

Models are built from Transformers configurations with random weights; the feed-forward width is chosen so that every
architecture has the same number of parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_range
from permlab.probes.readings import check_combination
from permlab.seeding import derived_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SEPARATOR, _FILLER, _START = 0, 1, 2
_FIRST_INDEX = 3


@dataclass(frozen=True)
class Task:
    """The token problem: `n` index tokens, and `symbols` different symbols for the string, drawn with repetition."""

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

    def sample(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw inputs of 2n + 1 tokens, (batch, 2n + 1), and answers, (batch, n); both int64 token ids."""
        order = torch.rand(batch, self.n, generator=generator).argsort(1)
        answer = torch.randint(self.symbols, (batch, self.n), generator=generator) + _FIRST_INDEX + self.n
        separator = torch.full((batch, 1), _SEPARATOR)
        return torch.cat([order + _FIRST_INDEX, separator, answer.gather(1, order)], 1), answer


@dataclass(frozen=True)
class TokenRecipe:
    """Training of one small model: AdamW, linear warm-up over 5 % of the steps, cosine down to a tenth."""

    steps: int = 1200
    batch: int = 64
    learning_rate: float = 5e-3
    hidden: int = 64
    layers: int = 2
    heads: int = 8
    parameters: int = 120_000
    test_every: int = 100
    test_examples: int = 256
    target: float = 0.999

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based)."""
        warm = max(1, self.steps // 20)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        progress = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)


@dataclass
class TokenResult:
    """Outcome of one combination; `per_position` is the accuracy of each answer position, `exact` of whole strings."""

    architecture: str
    reading: str
    parameters: int
    steps: int
    seconds: float
    accuracy: float
    exact: float
    ceiling: float
    per_position: list[float]
    curve: list[tuple[int, float]]


def in_place_ceiling(task: Task) -> list[float]:
    """Largest expected accuracy of each position of a causal model read in place.

    Position j sees the first j + 1 symbols of the permuted string; the one it needs is uniform over n, and one that is
    hidden is a guess among `symbols`.
    """
    seen = [(j + 1) / task.n for j in range(task.n)]
    return [share + (1 - share) / task.symbols for share in seen]


def ceiling(task: Task, architecture: str, reading: str) -> float:
    """Largest expected accuracy of a combination: `in_place_ceiling` for causal decoders read in place, else 1."""
    if reading == "in_place" and architecture in ("llama", "gpt2"):
        return sum(in_place_ceiling(task)) / task.n
    return 1.0


def build(task: Task, architecture: str, recipe: TokenRecipe) -> PreTrainedModel:
    """Build an architecture with random weights and close to `recipe.parameters` parameters.

    Raises:
        UserError: the rest of the network alone is larger than the budget.
    """
    with torch.device("meta"):
        narrow = _parameters(_construct(task, architecture, recipe, 1))
        slope = _parameters(_construct(task, architecture, recipe, 2)) - narrow
    width = 1 + round((recipe.parameters - narrow) / slope)
    if width < 1:
        raise UserError(
            f"{architecture} needs {narrow} parameters without feed-forward layers, above the budget of "
            f"{recipe.parameters}: raise parameters, or lower hidden or layers"
        )
    return _construct(task, architecture, recipe, width)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _construct(task: Task, architecture: str, recipe: TokenRecipe, feed_forward: int) -> PreTrainedModel:
    """One constructor call per architecture; dropout off, because the data never repeats."""
    import transformers as hf

    size, layers, heads, longest = recipe.hidden, recipe.layers, recipe.heads, 4 * task.n + 2
    spread = recipe.hidden**-0.5  # the usual 0.02 is meant for networks ten times as wide
    ids: dict[str, Any] = {
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "initializer_range": spread,
    }
    if architecture == "llama":
        return hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=task.vocabulary, hidden_size=size, intermediate_size=feed_forward, num_hidden_layers=layers,
                num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=longest, **ids,
            )
        )  # fmt: skip
    if architecture == "gpt2":
        return hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=task.vocabulary, n_embd=size, n_inner=feed_forward, n_layer=layers, n_head=heads,
                n_positions=longest, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ids,
            )
        )  # fmt: skip
    if architecture == "bert":
        return hf.BertForMaskedLM(
            hf.BertConfig(
                vocab_size=task.vocabulary, hidden_size=size, intermediate_size=feed_forward, num_hidden_layers=layers,
                num_attention_heads=heads, max_position_embeddings=longest, hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0, pad_token_id=None, initializer_range=spread,
            )
        )  # fmt: skip
    return hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=task.vocabulary, d_model=size, d_kv=size // heads, d_ff=feed_forward, num_layers=layers,
            num_heads=heads, relative_attention_num_buckets=64, relative_attention_max_distance=128, dropout_rate=0.0,
            decoder_start_token_id=_START, pad_token_id=_SEPARATOR, eos_token_id=None,
        )
    )  # fmt: skip


def logits(model: PreTrainedModel, task: Task, reading: str, ids: Tensor, answer: Tensor) -> Tensor:
    """Return the scores of the answer positions, (batch, n, vocabulary); `generate` is teacher-forced with `answer`."""
    batch, n = answer.shape
    start = ids.new_full((batch, 1), _START)
    if model.config.is_encoder_decoder:
        return model(input_ids=ids, decoder_input_ids=torch.cat([start, answer[:, :-1]], 1)).logits
    if reading == "in_place":
        return model(input_ids=ids).logits[:, -n:]
    after = ids.new_full((batch, n), _FILLER) if reading == "filler" else torch.cat([start, answer[:, :-1]], 1)
    return model(input_ids=torch.cat([ids, after], 1)).logits[:, -n:]


@torch.no_grad()
def answers(model: PreTrainedModel, task: Task, reading: str, ids: Tensor) -> Tensor:
    """Return the answers of a model, (batch, n) token ids; `generate` decodes greedily, each token fed back."""
    empty = ids.new_full((ids.shape[0], task.n), _FILLER)
    if reading != "generate":
        return logits(model, task, reading, ids, empty).argmax(-1)
    prompt = ids if model.config.is_encoder_decoder else torch.cat([ids, ids.new_full((len(ids), 1), _START)], 1)
    mask = torch.ones_like(prompt)
    generated = model.generate(
        input_ids=prompt, attention_mask=mask, max_new_tokens=task.n, min_new_tokens=task.n, do_sample=False
    )
    return generated[:, -task.n :]


def _batch(task: Task, size: int, seed: int, device: str | torch.device) -> tuple[Tensor, Tensor]:
    ids, answer = task.sample(size, torch.Generator().manual_seed(seed))
    return ids.to(device), answer.to(device)


def train_tokens(
    task: Task,
    architecture: str,
    reading: str,
    recipe: TokenRecipe | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> TokenResult:
    """Train one architecture with one reading on fresh batches, and test it.

    Args:
        task: the problem.
        architecture: `llama`, `gpt2`, `bert` or `t5`.
        reading: `in_place`, `filler` or `generate`.
        recipe: sizes and schedule.
        seed: of weights and data; a step's batch depends on (seed, step).
        device: where to train.
        progress: called with (step, accuracy) after every test; may raise to stop.

    Returns:
        Accuracy on fixed test examples, stopping early when all but 1 - `target` of the symbols are right.
    """
    recipe = recipe or TokenRecipe()
    check_combination(architecture, reading)
    torch.manual_seed(derived_seed("tokens", architecture, reading, seed) % 2**32)
    model = build(task, architecture, recipe).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    test_ids, test_answer = _batch(task, recipe.test_examples, derived_seed("tokens-test", seed), device)
    started, curve = time.perf_counter(), []
    for step in range(recipe.steps):
        ids, answer = _batch(task, recipe.batch, derived_seed("tokens", seed, step), device)
        model.train()
        scores = logits(model, task, reading, ids, answer)
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), answer.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
        if (step + 1) % recipe.test_every == 0 or step + 1 == recipe.steps:
            model.eval()
            right = answers(model, task, reading, test_ids) == test_answer
            curve.append((step + 1, float(right.float().mean())))
            if progress is not None:
                progress(step + 1, curve[-1][1])
            if curve[-1][1] >= recipe.target:
                break
    return TokenResult(
        architecture=architecture,
        reading=reading,
        parameters=_parameters(model),
        steps=curve[-1][0],
        seconds=time.perf_counter() - started,
        accuracy=curve[-1][1],
        exact=float(right.all(1).float().mean()),
        ceiling=ceiling(task, architecture, reading),
        per_position=right.float().mean(0).tolist(),
        curve=curve,
    )
