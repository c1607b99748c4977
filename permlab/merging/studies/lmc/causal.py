"""Permutations found from a part of the singular vectors: `causal(subject)["causal"]`."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from permlab.matching import weight_matching
from permlab.merging.measure.spectra import Decomposition
from permlab.merging.measure.subject import Subject
from permlab.merging.studies.lmc.arms import Tables, barriers
from permlab.seeding import derived_seed
from permlab.symmetry import Spec
from permlab.tables import Row, pick

CAUSAL_GAMMAS = (0.1, 0.2, 0.3, 0.5)


def matrices_only(spec: Spec, names: Sequence[str]) -> Spec:
    """The spec without the tensors that have no singular vectors, so that only the named ones are matched."""
    result = copy.deepcopy(spec)
    for name in list(result.axes):
        if name not in names:
            del result.axes[name]
    return result


def random_ranks(spectra: Decomposition, gamma: float, seed: int) -> dict[str, Tensor]:
    """As much of every weight as its vectors below `gamma` hold, in squared norm, but from ranks drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    chosen = {}
    for name, (_, s, _) in spectra.parts.items():
        order = torch.randperm(len(s), generator=generator).to(s.device)
        # The energy of the rest: what differs between the two arms is then which directions, not how much of them.
        wanted = float(s[s < gamma * s[0]].square().sum())
        chosen[name] = torch.zeros(len(s), dtype=torch.bool, device=s.device)
        chosen[name][order[s[order].square().cumsum(0) <= wanted]] = True
    return chosen


def causal(subject: Subject) -> Tables:
    """Permutations found from the leading singular vectors only, from all the others only, or from random ones.

    If the leading vectors carry the effect, their permutation must do as well as weight matching, and that of the rest
    must not, whatever distance it saves. Random ranks with no more energy than the rest tell whether energy is what the
    rest lacks. Biases and norms have no singular vectors and are left out of these matchings.
    """
    first, second = subject.spectra
    spec = matrices_only(subject.spec, list(first.parts))
    everything = {name: torch.ones_like(s, dtype=torch.bool) for name, (_, s, _) in first.parts.items()}
    rows: list[Row] = []

    def add(part: str, gamma: float, own: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        # Only the search sees truncated weights; barriers are those of the whole networks under its permutation.
        states = [first.restricted(own), second.restricted(other)]
        permutation = weight_matching(spec, *states, seed=subject.setting.seed, keep_costs=False).permutation
        kept = sum(float(first.parts[name][1][mask].square().sum()) for name, mask in own.items())
        rows.append(
            {
                "pair": subject.pair, "part": part, "gamma": gamma,
                "vectors": float(torch.cat(list(own.values())).double().mean()),
                "energy": kept / sum(float(s.square().sum()) for _, s, _ in first.parts.values()),
                **subject.alignment(permutation), **barriers(subject, permutation),
            }
        )  # fmt: skip

    # arXiv 2402.04051, section 4: vectors with large singular values, which decide what a network does, are what weight
    # matching aligns. That is a correlation; leaving them, or all others, out of the matching tests the cause.
    add("all", 0.0, everything, everything)
    for gamma in CAUSAL_GAMMAS:
        leading = [{name: s >= gamma * s[0] for name, (_, s, _) in each.parts.items()} for each in (first, second)]
        add("leading", gamma, *leading)
        add("rest", gamma, *({name: ~mask for name, mask in each.items()} for each in leading))
        ranks = random_ranks(first, gamma, derived_seed(subject.setting.seed, "ranks", gamma))
        add("random ranks", gamma, ranks, ranks)
    return {"causal": rows}


def causal_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Barrier, distance and alignment of the leading vectors, of the rest and of random ranks at gamma 0.3."""
    numbers: dict[str, float] = {}
    for part in ("leading", "rest", "random ranks"):
        line, name = pick(lines, part=part, gamma=0.3), part.replace(" ", "_")
        numbers |= {
            f"{name}_loss_barrier": line["loss_barrier"],
            f"{name}_l2_reduction": line["l2_reduction"],
            f"{name}_r": line["r_0.3"],
        }
    return numbers
