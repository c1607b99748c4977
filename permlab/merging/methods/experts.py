"""Fewer experts in a mixture of experts: `compressed(model, plan_groups(routing(model, batches), kept=4))` (M-SMoE).

Merge, then compress (arXiv 2310.01334): the experts that a text is sent to most are dominant, each of the others joins
the dominant one whose router logits are most like its own, the units of a group are brought to the order of its
dominant expert, and the group becomes its mean, weighted by how often each is used. The router keeps the rows of the
dominant experts, so that the network is one of `transformers` with fewer experts; in the paper it keeps all rows, and
experts of a group share weights (`shared=True`). The number kept is that of every layer here; the paper spreads it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_range
from permlab.matching.assign import assign
from permlab.merging.measure.evaluate import eval_mode
from permlab.merging.networks.expert_checks import COUNTS
from permlab.seeding import derived_seed

ROUTER = ".gate"
DOMINANT, RANDOM, NONE = "router logits", "random", "none"


@dataclass
class Routing:
    """What the router of one layer did on a text.

    Attributes:
        layer: name of the layer's mixture, such as model.layers.0.mlp.
        used: [E], share of the choices that fell on each expert; sums to 1.
        similarity: [E, E], cosine of the logits of two experts over all tokens.
    """

    layer: str
    used: Tensor
    similarity: Tensor


@dataclass
class Grouping:
    """Which experts of one layer become one.

    Attributes:
        layer: its name.
        dominant: [K], numbers of the experts that name groups, ascending.
        members: [E], place in `dominant` of the group of every expert, -1 where it is dropped.
        weights: [E], share of every expert in its group; sums to 1 in each.
    """

    layer: str
    dominant: Tensor
    members: Tensor
    weights: Tensor


def mixtures(model: nn.Module) -> list[str]:
    """Names of the layers that are mixtures of experts.

    Raises:
        UserError: there is none, or one whose router chooses groups of experts.
    """
    names = [
        name.removesuffix(".experts")
        for name, module in model.named_modules()
        if name.endswith(".experts") and hasattr(module, "gate_up_proj")
    ]
    if not names:
        raise UserError("the network has no experts as those of Mixtral, Qwen-MoE and DeepSeek are: nothing to merge")
    if (getattr(model.config, "n_group", None) or 1) > 1:
        raise UserError("the router chooses groups of experts first (n_group), which fewer experts cannot fill")
    return names


@torch.no_grad()
def routing(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> list[Routing]:
    """Run texts through a network and count what its routers choose.

    Args:
        model: of `transformers`.
        batches: mappings with input_ids.

    Raises:
        UserError: no mixture of experts, or no text.
    """
    names = mixtures(model)
    counts: dict[str, Tensor] = {}
    products: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def count(_: nn.Module, __: Any, found: tuple[Tensor, Tensor, Tensor]) -> None:
            logits, _scores, chosen = found
            logits = logits.double().reshape(-1, logits.shape[-1])
            counts[name] = counts.get(name, 0) + torch.bincount(chosen.flatten(), minlength=logits.shape[-1])
            products[name] = products.get(name, 0) + logits.T @ logits

        return model.get_submodule(name + ROUTER).register_forward_hook(count)

    hooks = [watch(name) for name in names]
    try:
        with eval_mode(model):
            for batch in batches:
                model(input_ids=batch["input_ids"])
    finally:
        for hook in hooks:
            hook.remove()
    if not counts:
        raise UserError("routing is counted on a text: give one")
    found = []
    for name in names:
        norm = products[name].diagonal().clamp(min=1e-30).sqrt()
        used = counts[name].double()
        found.append(Routing(name, used / used.sum(), products[name] / norm / norm[:, None]))
    return found


def plan_groups(
    found: Sequence[Routing], kept: int, by: str = DOMINANT, *, uniform: bool = False, seed: int = 0
) -> list[Grouping]:
    """Group the experts of every layer around the `kept` ones that are used most.

    Args:
        found: of `routing`.
        kept: experts that stay, per layer.
        by: how the others find their group: "router logits" (the paper), "random", or "none": they are dropped.
        uniform: the experts of a group weigh alike; otherwise as often as they are used.
        seed: of random groups.

    Raises:
        UserError: more kept than there are.
    """
    groups = []
    for number, layer in enumerate(found):
        count = len(layer.used)
        check_range("kept", kept, 1, count)
        # Ties go to the first expert.
        dominant = layer.used.argsort(descending=True, stable=True)[:kept].sort().values
        if by == DOMINANT:
            members = layer.similarity[:, dominant].argmax(1)
        elif by == RANDOM:
            generator = torch.Generator().manual_seed(derived_seed(seed, "groups", number))
            members = torch.randint(kept, (count,), generator=generator)
        else:
            members = torch.full((count,), -1)
        members[dominant] = torch.arange(kept)
        weights = torch.ones_like(layer.used) if uniform else layer.used.clone()
        for group in range(kept):
            own = members == group
            total = weights[own].sum()
            # A group that the text never reached is its plain mean.
            weights[own] = weights[own] / total if total else 1 / own.sum()
        groups.append(Grouping(layer.layer, dominant, members, weights))
    return groups


def aligned_units(first: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """The order [I] in which the units of one expert do what those of another do, by the inner product of weights.

    Args:
        first, other: gate [I, width], up [I, width] and down [width, I] of both.
    """
    gate, up, down = (a.double() @ b.double().T for a, b in zip((*first[:2], first[2].T), (*other[:2], other[2].T)))
    found: Tensor = assign(gate + up + down)
    return found


def parts_of(state: Mapping[str, Tensor], layer: str, expert: int) -> tuple[Tensor, Tensor, Tensor]:
    """gate, up and down of one expert."""
    gate, up = state[f"{layer}.experts.gate_up_proj"][expert].chunk(2)
    return gate, up, state[f"{layer}.experts.down_proj"][expert]


def merged_group(
    state: Mapping[str, Tensor], grouping: Grouping, group: int, *, align: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted mean of the experts of a group, in the order of units of its dominant one."""
    dominant = int(grouping.dominant[group])
    reference = parts_of(state, grouping.layer, dominant)
    total = [torch.zeros_like(part, dtype=torch.float64) for part in reference]
    for expert in (grouping.members == group).nonzero().flatten().tolist():
        gate, up, down = parts_of(state, grouping.layer, expert)
        if align and expert != dominant:
            order = aligned_units(reference, (gate, up, down))
            gate, up, down = gate[order], up[order], down[:, order]
        for whole, part in zip(total, (gate, up, down)):
            whole += grouping.weights[expert].double() * part
    gate, up, down = (whole.to(part.dtype) for whole, part in zip(total, reference))
    return gate, up, down


def low_rank(matrix: Tensor, rank: int, columns: int = 0) -> Tensor:
    """The best approximation of a rank, and beside it the columns that it misses most.

    Merged experts lie in fewer dimensions, which the paper uses: W = U V + S with S sparse in whole columns (section
    3.3). Here nothing is trained afterwards.

    Args:
        matrix: [m, n].
        rank: of U V.
        columns: of S.
    """
    wide = matrix.double()
    u, s, v = torch.linalg.svd(wide, full_matrices=False)
    found = (u[:, :rank] * s[:rank]) @ v[:rank]
    if columns:
        missed = (wide - found).norm(dim=0).argsort(descending=True, stable=True)[:columns]
        found[:, missed] = wide[:, missed]
    whole: Tensor = found.to(matrix.dtype)
    return whole


def compressed(
    model: Any,
    groups: Sequence[Grouping],
    *,
    align: bool = True,
    shared: bool = False,
    rank: int | None = None,
    columns: int = 0,
    per_token: int | None = None,
) -> Any:
    """A network of `transformers` in which every group of experts is one.

    Args:
        model: the whole network; not changed.
        groups: of every layer, with as many groups each.
        align: units of a group are brought to one order before.
        shared: every expert keeps its row of the router, and gets the weights of its group: as many experts as before.
        rank, columns: of `low_rank`; None keeps merged matrices whole.
        per_token: experts for a token; default as before, at most those that are left.
    """
    state = dict(model.state_dict())
    kept = len(groups[0].dominant)
    for grouping in groups:
        made = [merged_group(state, grouping, group, align=align) for group in range(kept)]
        if rank is not None:
            made = [tuple(low_rank(part, rank, columns) for part in parts) for parts in made]  # type: ignore[misc]
        if shared:
            made = [made[group] for group in grouping.members.tolist()]
        name = grouping.layer
        state[f"{name}.experts.gate_up_proj"] = torch.stack([torch.cat(parts[:2]) for parts in made])
        state[f"{name}.experts.down_proj"] = torch.stack([parts[2] for parts in made])
        for key in () if shared else ("weight", "e_score_correction_bias"):
            if f"{name}{ROUTER}.{key}" in state:
                state[f"{name}{ROUTER}.{key}"] = state[f"{name}{ROUTER}.{key}"][grouping.dominant]
    config = copy.deepcopy(model.config)
    if not shared:
        key = next(each for each in COUNTS if each in config.to_dict())
        setattr(config, key, kept)
        config.num_experts_per_tok = min(per_token or config.num_experts_per_tok, kept)
    with torch.random.fork_rng(devices=[]):
        fresh = type(model)(config).to(device=model.device, dtype=model.dtype)
    fresh.load_state_dict(state)
    fresh.tie_weights()
    return fresh.eval()


def expert_parameters(model: Any, rank: int | None = None, columns: int = 0) -> int:
    """Entries of all experts, or of the factors that stand for them at a rank."""
    total = 0
    for name in mixtures(model):
        gate_up, down = (model.get_parameter(f"{name}.experts.{key}") for key in ("gate_up_proj", "down_proj"))
        if rank is None:
            total += gate_up.numel() + down.numel()
        else:
            count, units, width = len(gate_up), gate_up.shape[1] // 2, gate_up.shape[2]
            total += count * (2 * (rank * (units + width) + columns * units) + rank * (units + width) + columns * width)
    return total
