"""What a token model is asked, what it answers and how right it can be: `answers(model, problem, "filler", ids)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from permlab.probes.architectures import FILLER, START, TokenProblem
from permlab.probes.table import ARCHITECTURES, READINGS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
