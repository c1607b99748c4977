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

import torch
from torch import Tensor, nn

from permlab.diverged import check_losses, check_weights
from permlab.errors import check_range
from permlab.probes.architectures import TokenProblem, build, parameter_count
from permlab.probes.mechanism import Mechanism
from permlab.probes.readings import check_combination
from permlab.probes.recipes import TokenRecipe
from permlab.probes.schedules import warmup_cosine
from permlab.probes.token_answers import answers, ceiling, logits
from permlab.probes.token_routes import token_mechanism
from permlab.seeding import derived_seed
from permlab.threads import for_work


@dataclass
class TokenResult:
    """Outcome of one combination; `per_position` is the accuracy of each answer position, `exact` of whole strings.

    `mechanism` is None where there are too few layers for one.
    """

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
    mechanism: Mechanism | None = None


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
        mechanism=token_mechanism(model, problem, architecture, reading, fillers) if recipe.layers > 1 else None,
    )
