"""What networks changed since their ancestor, thinned out, then added up or elected: rows of `COMBINES` that stream.

    permlab task=merge task.models=[A,B] task.ancestor=BASE task.match=identity task.combine=della task.scale=0.7
    combine_changes("della", base, [a, b], Setting(density=0.5, epsilon=0.1))

merged = base + lambda * sum_k w_k thin(theta_k - base), or the disjoint mean of TIES over what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from permlab import registry
from permlab.matching.activation import added
from permlab.merging.methods.thinning import Drawn, Everything, Magnitudes, Middle, Thinning
from permlab.merging.methods.ties import elect
from permlab.merging.networks.states import State
from permlab.merging.numbers import Numbers, numbers_of
from permlab.merging.setting import Setting
from permlab.merging.streaming import Piece, Pieces, Rule, Streamed, ancestor_of
from permlab.merging.table import COMBINES
from permlab.symmetry import Spec

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned


def summed(changes: Sequence[Tensor], numbers: Numbers, normalize: bool = False) -> Tensor:
    """sum_k w_k tau_k (task arithmetic, arXiv 2212.04089)."""
    factors = numbers.factors(len(changes), normalize)
    return added(factor * change for factor, change in zip(factors, changes))


def elected(changes: Sequence[Tensor], numbers: Numbers, normalize: bool = True) -> Tensor:
    """The disjoint mean of TIES (arXiv 2306.01708, steps 2 and 3); not normalised: their weighted sum."""
    return elect(changes, numbers.weights, mean=normalize if numbers.normalize is None else numbers.normalize)


def _stream(read: Pieces, setting: Setting, thinning: Thinning, elect: bool, normalize: bool) -> Rule:
    find, join = numbers_of(setting, read.count), elected if elect else summed

    def rule(piece: Piece) -> Tensor:
        assert piece.base is not None
        numbers = find(piece.name)
        return piece.base + numbers.scale * join(thinning.thin(piece), numbers, normalize)

    return rule


def stream_task_arithmetic(read: Pieces, setting: Setting) -> Rule:
    """All changes, added up (arXiv 2212.04089)."""
    return _stream(read, setting, Everything(), elect=False, normalize=False)


def stream_ties(read: Pieces, setting: Setting) -> Rule:
    """The largest entries, elected (arXiv 2306.01708); thresholds are counted out, which reads all networks twice."""
    thinning = Magnitudes(read, numbers_of(setting, read.count), setting.trim_tensors)
    return _stream(read, setting, thinning, elect=True, normalize=True)


def stream_dare(read: Pieces, setting: Setting) -> Rule:
    """Random entries, scaled up and added (arXiv 2311.03099)."""
    thinning = Drawn(read, numbers_of(setting, read.count), setting.seed)
    return _stream(read, setting, thinning, elect=False, normalize=False)


def stream_dare_ties(read: Pieces, setting: Setting) -> Rule:
    """Random entries, scaled up and elected (arXiv 2311.03099, before TIES)."""
    thinning = Drawn(read, numbers_of(setting, read.count), setting.seed)
    return _stream(read, setting, thinning, elect=True, normalize=False)


def stream_della(read: Pieces, setting: Setting) -> Rule:
    """Entries drawn by rank, scaled up and elected (arXiv 2406.11617)."""
    thinning = Drawn(read, numbers_of(setting, read.count), setting.seed, ranked=True)
    return _stream(read, setting, thinning, elect=True, normalize=True)


def stream_della_linear(read: Pieces, setting: Setting) -> Rule:
    """Entries drawn by rank, scaled up and added (arXiv 2406.11617, without the election)."""
    thinning = Drawn(read, numbers_of(setting, read.count), setting.seed, ranked=True)
    return _stream(read, setting, thinning, elect=False, normalize=False)


def stream_breadcrumbs(read: Pieces, setting: Setting) -> Rule:
    """Neither outliers nor small entries, added up (arXiv 2312.06795)."""
    thinning = Middle(read, numbers_of(setting, read.count))
    return _stream(read, setting, thinning, elect=False, normalize=False)


def stream_breadcrumbs_ties(read: Pieces, setting: Setting) -> Rule:
    """Neither outliers nor small entries, elected."""
    thinning = Middle(read, numbers_of(setting, read.count))
    return _stream(read, setting, thinning, elect=True, normalize=False)


def combine_changes(name: str, base: State, states: Sequence[State], setting: Setting) -> dict[str, Tensor]:
    """Combine plain state dicts by a row of `COMBINES` that adds up changes since `base`.

    Raises:
        UserError: networks that differ, or numbers out of range.
    """
    read = Pieces(Spec(groups={}), states, [{} for _ in states], base)
    return dict(Streamed(read, registry.load(COMBINES[name].stream)(read, replace(setting, ancestor=base))))


def _combine(name: str, networks: Aligned, setting: Setting) -> State:
    # Networks fine-tuned from one ancestor still have its order of units: nothing is permuted.
    return combine_changes(name, ancestor_of(setting), networks.original, setting)


combine_task_arithmetic = partial(_combine, "task_arithmetic")
combine_ties = partial(_combine, "ties")
combine_dare = partial(_combine, "dare")
combine_dare_ties = partial(_combine, "dare_ties")
combine_della = partial(_combine, "della")
combine_della_linear = partial(_combine, "della_linear")
combine_breadcrumbs = partial(_combine, "breadcrumbs")
combine_breadcrumbs_ties = partial(_combine, "breadcrumbs_ties")
