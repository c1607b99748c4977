"""The inverse-permutation problem for Transformers architectures: `train_tokens(TokenProblem(n=8), "llama", "filler")`.

Input tokens: the permutation (n index tokens), a separator, the permuted string (n symbols). The answer is the string
in its original order. Where the answer is read:

- `in_place`: at the n positions of the permuted string, the token reading of the theorem (arXiv 2509.24125). A causal
  model is held to a ceiling by `in_place_ceiling`; an encoder is not.
- `filler`: at n filler tokens after the input, the token form of scratch rows; with another number of fillers the last
  n tokens are read, whatever they are (`fillers=3`).
- `generate`: token by token after the input, trained with teacher forcing and tested by greedy decoding. The answer
  comes after the input, so the theorem says nothing about this reading.

Models are built from Transformers configurations with random weights; the feed-forward width is chosen so that every
architecture has the same number of parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from permlab.diverged import check_losses, check_weights
from permlab.errors import check_range
from permlab.probes.architectures import FILLER, START, TokenProblem, build, parameter_count
from permlab.probes.readings import check_combination
from permlab.probes.recipes import TokenRecipe
from permlab.probes.schedules import warmup_cosine
from permlab.probes.table import ARCHITECTURES, READINGS
from permlab.seeding import derived_seed
from permlab.threads import for_work

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


def in_place_ceiling(problem: TokenProblem, fillers: int = 0) -> list[float]:
    """Largest expected accuracy of each position of a causal model whose last n tokens are read.

    Position j sees the first j + 1 symbols of the permuted string, and one more for each filler behind it; the one it
    needs is uniform over n, and one that is hidden is a guess among `symbols`.
    """
    # As in 2509.24125's in-place reading: the source of position j is uniform, and a causal row sees j + 1 of n.
    seen = [min(1.0, (fillers + j + 1) / problem.n) for j in range(problem.n)]
    return [share + (1 - share) / problem.symbols for share in seen]


def ceiling(problem: TokenProblem, architecture: str, reading: str, fillers: int | None = None) -> float:
    """Largest expected accuracy of a combination: `in_place_ceiling` for causal decoders, 1 for all else.

    Args:
        problem: what is permuted.
        architecture: of `table.ARCHITECTURES`.
        reading: of `table.READINGS`.
        fillers: filler tokens of reading `filler`; n when None.
    """
    # The one case of the impossibility theorem; generation and n - 1 fillers answer behind the input and see all of it.
    row = READINGS[reading]
    if row.generates or not ARCHITECTURES[architecture].causal:
        return 1.0
    behind = 0 if row.in_place else problem.n if fillers is None else fillers
    return sum(in_place_ceiling(problem, behind)) / problem.n


def logits(model: PreTrainedModel, reading: str, ids: Tensor, answer: Tensor, fillers: int | None = None) -> Tensor:
    """Return the scores of the answer positions, (batch, n, vocabulary); `generate` is teacher-forced with `answer`.

    What follows the input goes to the decoder where there is one of its own, and behind the input elsewhere; `fillers`
    tokens of reading `filler`, n when None.
    """
    following = READINGS[reading].load()(ids, answer)
    if fillers is not None:
        following = ids.new_full((len(ids), fillers), FILLER)
    if model.config.is_encoder_decoder:
        scores: Tensor = model(input_ids=ids, decoder_input_ids=following).logits
    else:
        scores = model(input_ids=torch.cat([ids, following], 1)).logits
    return scores[:, -answer.shape[1] :]


@torch.no_grad()
def answers(
    model: PreTrainedModel, problem: TokenProblem, reading: str, ids: Tensor, fillers: int | None = None
) -> Tensor:
    """Return the answers of a model, (batch, n) token ids; `generate` decodes greedily, each token fed back."""
    empty = ids.new_full((ids.shape[0], problem.n), FILLER)
    if not READINGS[reading].generates:
        return logits(model, reading, ids, empty, fillers).argmax(-1)
    prompt = ids if model.config.is_encoder_decoder else torch.cat([ids, ids.new_full((len(ids), 1), START)], 1)
    # The length is known and no token ends an answer: a model must not lose places by stopping early.
    options: dict[str, Any] = {"max_new_tokens": problem.n, "min_new_tokens": problem.n, "do_sample": False}
    generate: Any = model.generate
    generated: Tensor = generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
    return generated[:, -problem.n :]


# ---- targets of `table.READINGS`: (input, answer) -> the tokens that follow the input --------------------------------


def in_place_tokens(ids: Tensor, answer: Tensor) -> Tensor:
    """Nothing: the answer is read at the tokens of the permuted string, the last n of the input."""
    return ids[:, :0]


def filler_tokens(ids: Tensor, answer: Tensor) -> Tensor:
    """n fillers."""
    return torch.full_like(answer, FILLER)


def generate_tokens(ids: Tensor, answer: Tensor) -> Tensor:
    """A token to start, then the right answer one place late (teacher forcing)."""
    return torch.cat([ids.new_full((ids.shape[0], 1), START), answer[:, :-1]], 1)


def _batch(problem: TokenProblem, size: int, seed: int, device: str | torch.device) -> tuple[Tensor, Tensor]:
    ids, answer = problem.sample(size, torch.Generator().manual_seed(seed))
    return ids.to(device), answer.to(device)


def train_tokens(
    problem: TokenProblem,
    architecture: str,
    reading: str,
    recipe: TokenRecipe | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
    fillers: int | None = None,
) -> TokenResult:
    """Train one architecture with one reading on fresh batches, and test it.

    Args:
        problem: what is permuted.
        architecture: `llama`, `gpt2`, `bert` or `t5`.
        reading: `in_place`, `filler` or `generate`.
        recipe: sizes and schedule.
        seed: of weights and data; a step's batch depends on (seed, step).
        device: where to train.
        progress: called with (step, accuracy) after every test; may raise to stop.
        fillers: filler tokens of reading `filler`, at most 2n; n when None.

    Returns:
        Accuracy on fixed test examples, stopping early when all but 1 - `target` of the symbols are right.

    Raises:
        DivergedError: the loss left the finite numbers.
    """
    recipe = recipe or TokenRecipe()
    recipe.check()
    check_combination(architecture, reading)
    if fillers is not None:
        check_range("fillers", fillers, low=0, high=2 * problem.n)
    torch.manual_seed(derived_seed("tokens", architecture, reading, seed) % 2**32)
    model = build(problem, architecture, recipe)
    nn.Module.to(model, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, recipe.steps))
    test_ids, test_answer = _batch(problem, recipe.test_examples, derived_seed("tokens-test", seed), device)
    started, curve = time.perf_counter(), []
    unchecked: list[Tensor] = []
    macs = 3.0 * parameter_count(model) * recipe.batch * (test_ids.shape[1] + test_answer.shape[1])
    with for_work(macs):
        for step in range(recipe.steps):
            ids, answer = _batch(problem, recipe.batch, derived_seed("tokens", seed, step), device)
            model.train()
            scores = logits(model, reading, ids, answer, fillers)
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), answer.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            unchecked.append(loss.detach())
            if (step + 1) % recipe.test_every == 0 or step + 1 == recipe.steps:
                losses = torch.stack(unchecked)[:, None].tolist()
                remedy = f"lower learning_rate={recipe.learning_rate:g}"
                check_losses(losses, step + 2 - len(losses), remedy)
                check_weights(model.parameters(), step + 1, remedy)
                unchecked.clear()
                model.eval()
                right = answers(model, problem, reading, test_ids, fillers) == test_answer
                curve.append((step + 1, float(right.float().mean())))
                if progress is not None:
                    progress(step + 1, curve[-1][1])
                if curve[-1][1] >= recipe.target:
                    break
    return TokenResult(
        architecture=architecture,
        reading=reading,
        parameters=parameter_count(model),
        steps=curve[-1][0],
        seconds=time.perf_counter() - started,
        accuracy=curve[-1][1],
        exact=float(right.all(1).float().mean()),
        ceiling=ceiling(problem, architecture, reading, fillers),
        per_position=right.float().mean(0).tolist(),
        curve=curve,
    )
