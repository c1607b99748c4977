"""Axes as algebra: which entries of two axes must move together, decided by unification.

An axis is a sequence of segments (concatenation), each a product of symbols (flattening); a symbol stands for a set of
interchangeable entries. Adding two tensors unifies their axes, flattening multiplies them, concatenation joins them;
what an operation does not leave free is pinned with a sentence. `infer` runs a network's graph through this.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

_COUNTER = itertools.count()


class Symbol:
    """A set of `size` entries. `bound`: the axis it turned out to be. `pinned`: why it may not be permuted, or ""."""

    def __init__(self, size: int, pinned: str = "") -> None:
        self.size, self.pinned = size, pinned
        self.bound: Axis | None = None
        self.number = next(_COUNTER)


Product = tuple[Symbol, ...]
Axis = tuple[Product, ...]


def fresh(size: int, pinned: str = "") -> Axis:
    """A new axis of one symbol. Axes of one entry have nothing to permute and are the empty product."""
    return ((),) if size == 1 else ((Symbol(size, pinned),),)


def width(product: Product) -> int:
    """Entries of one segment."""
    return math.prod(symbol.size for symbol in product)


def length(axis: Axis) -> int:
    """Entries of an axis."""
    return sum(width(product) for product in axis)


def resolve(axis: Axis) -> Axis:
    """The axis with every bound symbol replaced by what it is bound to."""
    segments: list[Product] = []
    for product in axis:
        # Alone in its segment a symbol may turn out to be a concatenation: its pieces are spliced in.
        if len(product) == 1 and product[0].bound is not None:
            segments.extend(resolve(product[0].bound))
            continue
        factors: list[Symbol] = []
        for symbol in product:
            if symbol.bound is None:
                factors.append(symbol)
                continue
            inner = resolve(symbol.bound)
            if len(inner) == 1:
                factors.extend(inner[0])
            else:
                # A concatenation inside a product has no representation here: neither part may move.
                pin(inner, "a concatenated axis is flattened together with another one")
                factors.append(Symbol(symbol.size, "a concatenated axis is flattened together with another one"))
        segments.append(tuple(factors))
    return tuple(segments)


def symbols(axis: Axis) -> Iterable[Symbol]:
    """All free symbols of an axis."""
    return [symbol for product in resolve(axis) for symbol in product]


def pin(axis: Axis, reason: str) -> None:
    """Nothing on this axis may move; the first reason given is kept."""
    for symbol in symbols(axis):
        symbol.pinned = symbol.pinned or reason


def unify(one: Axis, other: Axis, reason: str = "two different layouts meet") -> Axis:
    """Make two axes of the same length move together; where their layouts cannot agree both are pinned."""
    one, other = resolve(one), resolve(other)
    # A broadcast axis repeats one entry, so it says nothing about the order of the other.
    if length(one) == 1:
        return other
    if length(other) == 1:
        return one
    # A symbol nothing is known about takes whatever layout it meets.
    for left, right in ((one, other), (other, one)):
        if len(left) == 1 and len(left[0]) == 1:
            _bind(left[0][0], right)
            return right
    if len(one) == 1 and len(other) == 1:
        _unify_products(one[0], other[0], reason)
    # Concatenations that agree in their cuts agree piece by piece, as joined channels do after a skip.
    elif [width(p) for p in one] == [width(p) for p in other]:
        for mine, yours in zip(one, other):
            unify((mine,), (yours,), reason)
    else:
        pin(one, reason)
        pin(other, reason)
    return resolve(one)


def _bind(symbol: Symbol, axis: Axis) -> None:
    target = symbols(axis)
    # The occurs check of unification.
    if symbol in target:
        if len(axis) > 1 or len(axis[0]) > 1:
            pin(axis, "an axis would have to contain itself")
        return
    # Entries that must move together are all held when one of them is.
    if symbol.pinned:
        pin(axis, symbol.pinned)
    symbol.bound = axis


def _unify_products(one: Product, other: Product, reason: str) -> None:
    """Factor by factor; a symbol that spans several factors of the other side is split into them."""
    left, right = list(one), list(other)
    while left and right:
        a, b = left.pop(0), right.pop(0)
        if a is b:
            continue
        if a.size == b.size:
            _bind(a, ((b,),))
        # The coarser symbol was a flattening all along: heads times dims, seen first as one axis.
        elif a.size > b.size and a.size % b.size == 0:
            rest = Symbol(a.size // b.size)
            _bind(a, ((b, rest),))
            left.insert(0, rest)
        elif b.size % a.size == 0:
            rest = Symbol(b.size // a.size)
            _bind(b, ((a, rest),))
            right.insert(0, rest)
        else:
            for symbol in (a, b, *left, *right):
                symbol.pinned = symbol.pinned or reason
            return


def flatten(axes: Iterable[Axis]) -> Axis:
    """The product of several axes, the first one varying slowest."""
    axes = [resolve(axis) for axis in axes]
    # Axes of one entry add nothing to a flattening: a map of 1 x 1 leaves its channels plain units.
    wide = [axis for axis in axes if length(axis) > 1]
    if len(wide) == 1:
        return wide[0]
    for axis in wide:
        if len(axis) > 1:
            pin(axis, "a concatenated axis is flattened together with another one")
    if any(len(axis) > 1 for axis in wide):
        return fresh(
            math.prod(length(axis) for axis in wide), "a concatenated axis is flattened together with another one"
        )
    return (tuple(symbol for axis in wide for symbol in axis[0]),)


def split(axis: Axis, sizes: list[int]) -> list[Axis]:
    """Undo a flattening: cut one axis into several of the given sizes, the first varying slowest."""
    product: list[Symbol] = list(resolve(axis)[0]) if len(resolve(axis)) == 1 else []
    if not product and length(axis) > 1:
        pin(axis, "a concatenated axis is reshaped")
        return [fresh(size, "a concatenated axis is reshaped") for size in sizes]
    result: list[Axis] = []
    for size in sizes:
        taken: list[Symbol] = []
        while width(tuple(taken)) < size:
            symbol = product.pop(0)
            need = size // width(tuple(taken))
            # A flat axis that is cut into heads and dims was their product: so heads are found without being declared.
            if symbol.size > need and symbol.size % need == 0:
                first, rest = Symbol(need), Symbol(symbol.size // need)
                first.pinned = rest.pinned = symbol.pinned
                symbol.bound = ((first, rest),)
                product.insert(0, rest)
                symbol = first
            taken.append(symbol)
            if width(tuple(taken)) > size:
                for each in (*taken, *product):
                    each.pinned = each.pinned or "a reshape cuts across the units of this axis"
                return [fresh(each, "a reshape cuts across the units of this axis") for each in sizes]
        result.append((tuple(taken),))
    return result


def cut(axis: Axis, sizes: list[int]) -> list[Axis]:
    """Cut one axis into neighbouring stretches (chunk, split, slice); a single symbol becomes a concatenation."""
    axis = resolve(axis)
    if len(axis) == 1 and len(axis[0]) == 1 and len(sizes) > 1:
        symbol = axis[0][0]
        parts = [fresh(size, symbol.pinned) for size in sizes]
        # Packed matrices: q, k and v turn out to stand side by side on one axis.
        symbol.bound = tuple(product for part in parts for product in part)
        return parts
    result: list[Axis] = []
    left = list(axis)
    for size in sizes:
        taken: list[Product] = []
        while length(tuple(taken)) < size and left:
            taken.append(left.pop(0))
        if length(tuple(taken)) != size:
            pin(axis, "a slice cuts across the units of this axis")
            return [fresh(each, "a slice cuts across the units of this axis") for each in sizes]
        result.append(tuple(taken))
    return result
