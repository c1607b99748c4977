"""From resolved parameter axes to a spec: `collect({"a.weight": axes}, "inferred")`.

Decides which symbols are channel groups, which are attention heads, and which stay pinned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from permlab.symmetry.algebra import Axis, Product, Symbol, resolve, width
from permlab.symmetry.groups import HeadGroup
from permlab.symmetry.rules import BORING
from permlab.symmetry.spec import Block, Spec

STATISTICS = ("running_mean", "running_var")


def collect(parameters: Mapping[str, list[Axis]], source: str) -> Spec:
    """Build the spec; `parameters`: tensor name -> its axes, in state-dict order or any other."""
    resolved = {name: [resolve(axis) for axis in axes] for name, axes in parameters.items()}
    partners = _partners(resolved)
    spec = Spec(source=source)
    names: dict[Symbol, str] = {}
    # Producers first: a group is called after the layer that writes it (axis 0 of its weight).
    for wanted in (0, None):
        for tensor, axes in resolved.items():
            for place, axis in enumerate(axes):
                if wanted is None or place == wanted:
                    for product in axis:
                        _name(spec, names, partners, tensor, product)
    for tensor, axes in resolved.items():
        for place, axis in enumerate(axes):
            blocks = _blocks(axis, names, partners)
            if blocks:
                spec.use(tensor, place, *blocks)
                if tensor.endswith(STATISTICS):
                    spec.statistics.add(tensor)
            for symbol in (symbol for product in axis for symbol in product):
                if symbol.pinned and symbol.pinned not in BORING and symbol.size > 1:
                    spec.pinned[f"{tensor} axis {place}"] = symbol.pinned
    return spec


def _free(product: Product) -> list[Symbol]:
    return [symbol for symbol in product if not symbol.pinned and symbol.size > 1]


def _partners(resolved: Mapping[str, list[Axis]]) -> dict[Symbol, list[Symbol]]:
    """Outer symbol of a two-level product (heads) -> its inner symbols; whatever is no such pattern gets pinned."""
    while True:
        # To the fixed point: pinning one symbol can take the pattern of another away.
        found: dict[Symbol, list[Symbol]] = {}
        alone: set[Symbol] = set()
        wrong: list[tuple[Symbol, str]] = []
        for axes in resolved.values():
            for product in (product for axis in axes for product in axis):
                free = _free(product)
                if len(free) == 1:
                    alone.add(free[0])
                elif len(free) == 2 and len(product) == 2:
                    inside = found.setdefault(free[0], [])
                    if free[1] not in inside:
                        inside.append(free[1])
                elif len(free) > 1:
                    wrong += [(symbol, "three levels of units are flattened together") for symbol in free]
        owners: dict[Symbol, Symbol] = {}
        for outer, inners in found.items():
            # Attention has two kinds of dims per head, those of q and k and those of the values.
            if len(inners) > 2:
                wrong.append((outer, "more than two kinds of units per head share these heads"))
            for unit in inners:
                # The order inside a head may differ from head to head, which a flat use of its units cannot follow.
                if unit in alone or unit in found or owners.setdefault(unit, outer) is not outer:
                    wrong.append((unit, "units inside a head are also used outside of it"))
        if not wrong:
            return found
        for symbol, reason in wrong:
            symbol.pinned = symbol.pinned or reason


def _name(
    spec: Spec, names: dict[Symbol, str], partners: dict[Symbol, list[Symbol]], tensor: str, product: Product
) -> None:
    for symbol in _free(product):
        if symbol in names or any(symbol in inner for inner in partners.values()):
            continue
        layer = tensor.rpartition(".")[0] or tensor
        if symbol in partners:
            # Query heads that share keys are no two-level product: grouped queries are declared by hand.
            sizes = [inner.size for inner in partners[symbol]]
            name = _unused(spec, layer.rpartition(".")[0] or layer)
            spec.heads(HeadGroup(name, symbol.size, 1, sizes[0] if len(sizes) == 2 else 1, sizes[-1]))
        else:
            name = spec.channel(_unused(spec, layer), symbol.size)
        names[symbol] = name


def _unused(spec: Spec, name: str) -> str:
    number, wanted = 2, name
    while name in spec.groups:
        name, number = f"{wanted}.{number}", number + 1
    return name


def _blocks(axis: Axis, names: dict[Symbol, str], partners: dict[Symbol, list[Symbol]]) -> list[Block]:
    blocks, offset = [], 0
    for product in axis:
        free = _free(product)
        if free:
            first = product.index(free[0])
            before, after = math.prod(s.size for s in product[:first]), product[first + len(free) :]
            space = "unit"
            if free[0] in partners:
                inner = partners[free[0]]
                space = "head" if len(free) == 1 else ("key" if len(inner) == 2 and free[1] is inner[0] else "value")
            blocks.append(Block(names[free[0]], space, offset, math.prod(s.size for s in after), before))
        offset += width(product)
    return blocks
