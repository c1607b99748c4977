"""Which way to undo a permutation did a token model find? `token_mechanism(model, TokenProblem(3), "filler").name`.

The routes are those of `mechanism`, in tokens: answer token j finds the index token that holds j (`lookup`), symbol i
of the permuted string copies index token i (`fetch`), index token i copies symbol i (`carry`). A route is taken away in
every attention before the last one that the answers are read from: there the second step happens. In an encoder-decoder
fetch and carry run in the encoder, lookup in the decoder's attention to it. Answers that are generated are measured
with the right ones fed back, so that one wrong symbol is one mistake.

Every architecture computes its attention by the softmax of torch, so a torch function mode sees and edits it; no class
of a model is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from permlab.probes.architectures import TokenProblem
from permlab.probes.mechanism import WORKS, Edges, Mechanism, judged, strengths
from permlab.probes.table import ROUTES
from permlab.probes.token_answers import ceiling, logits
from permlab.seeding import derived_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)
Edit = Callable[[int, Tensor], Tensor]


class Attentions(TorchFunctionMode):
    """Every attention that a model computes, in order, (batch, heads, queries, keys), with `edit` in its place.

    Args:
        edit: (number of the attention among those of the same shape, attention) -> attention.
    """

    def __init__(self, edit: Edit | None = None) -> None:
        super().__init__()
        self.edit, self.maps = edit, list[Tensor]()

    def __torch_function__(
        self, func: Any, types: Iterable[Any], args: Sequence[Any] = (), kwargs: Any | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _SOFTMAX or result.dim() != 4:
            return result
        number = sum(seen.shape == result.shape for seen in self.maps)
        self.maps.append(result)
        return result if self.edit is None else self.edit(number, result)


def token_edges(problem: TokenProblem, ids: Tensor, queries: int, encoder: bool) -> dict[str, Edges]:
    """The edges of the routes that run in attention of `queries` tokens to at least the 2n + 1 of the input.

    Args:
        problem: what is permuted.
        ids: (batch, 2n + 1) input tokens.
        queries: tokens that attend; the last n give the answer, save in an encoder with a decoder behind it.
        encoder: whether this is such an encoder.
    """
    n, batch = problem.n, len(ids)
    wanted = problem.order(ids)[:, None] == torch.arange(n, device=ids.device)[:, None]
    same = torch.eye(n, dtype=torch.bool, device=ids.device).expand(batch, n, n)
    permutation, string, answer = slice(0, n), slice(n + 1, 2 * n + 1), slice(queries - n, queries)
    keys = max(queries, 2 * n + 1)
    places = {"lookup": (answer, permutation, wanted)} if not encoder else {}
    if queries > n:
        places |= {"fetch": (string, permutation, same), "carry": (permutation, string, same)}
    found = {}
    for name, (rows, columns, own) in places.items():
        block = torch.zeros(queries, keys, dtype=torch.bool, device=ids.device)
        block[rows, columns] = True
        whole = torch.zeros(batch, queries, keys, dtype=torch.bool, device=ids.device)
        whole[:, rows, columns] = own
        found[name] = Edges(whole, block)
    return found


@torch.no_grad()
def token_mechanism(
    model: PreTrainedModel,
    problem: TokenProblem,
    architecture: str,
    reading: str,
    fillers: int | None = None,
    examples: int = 128,
) -> Mechanism:
    """Say what a trained model does, by taking routes away, alone and together.

    Args:
        model: of at least two layers.
        problem: what it was trained on.
        architecture: of `table.ARCHITECTURES`.
        reading: of `table.READINGS`.
        fillers: as in `tokens.train_tokens`.
        examples: test problems.
    """
    device = next(model.parameters()).device
    ids, answer = problem.sample(examples, torch.Generator().manual_seed(derived_seed("token-mechanism")))
    ids, answer = ids.to(device), answer.to(device)
    both, layers = bool(model.config.is_encoder_decoder), int(model.config.num_hidden_layers)
    model.eval()
    # Other implementations of attention never form the matrix that is taken apart here.
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")

    def runs_in(number: int, attention: Tensor) -> dict[str, Edges]:
        queries, keys = attention.shape[-2:]
        encoder = both and queries == keys
        if keys < 2 * problem.n + 1 or (number == layers - 1 and not encoder):
            return {}
        return token_edges(problem, ids, queries, encoder)

    def left(gone: tuple[str, ...]) -> tuple[float, list[Tensor]]:
        def edit(number: int, attention: Tensor) -> Tensor:
            edges = runs_in(number, attention)
            for route in gone:
                attention = edges[route].flattened(attention) if route in edges else attention
            return attention

        with Attentions(edit) as seen:
            scores = logits(model, reading, ids, answer, fillers)
        return float((scores.argmax(-1) == answer).float().mean()), seen.maps

    try:
        accuracies = {gone: left(gone)[0] for size in range(len(ROUTES) + 1) for gone in combinations(ROUTES, size)}
        shown = {f"{route}{sign}": 0.0 for route in ROUTES for sign in ("", "_others")}
        maps = left(())[1]
    finally:
        model.set_attn_implementation(before)
    for k, attention in enumerate(maps):
        number = sum(other.shape == attention.shape for other in maps[:k])
        for route, edges in runs_in(number, attention).items():
            for sign, strength in zip(("", "_others"), strengths(attention[None], edges)):
                shown[f"{route}{sign}"] = max(shown[f"{route}{sign}"], float(strength))
    # Who ignores the permutation takes any symbol it sees: right by its place once in n, and by its symbol else.
    guessed = 1 / problem.n + (1 - 1 / problem.n) / problem.symbols
    allowed = ceiling(problem, architecture, reading, fillers)
    return judged(accuracies, shown, guessed + WORKS * max(0.0, allowed - guessed))
