"""Finite permutation groups by name, with their multiplication tables: `group("S3").table`.

Z<m> are the rotations of m points, S<n> all permutations of n points, A<n> the even ones, D<n> the symmetries of a
polygon. The word problem of a group is to say, after every symbol, the product of all elements read so far.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from permlab.errors import UserError

Elements = npt.NDArray[np.int64]
LARGEST = 720
"""Elements of the largest group: a model gives one answer for each of them."""


@dataclass(frozen=True)
class Group:
    """A permutation group.

    Attributes:
        name: as on the command line.
        elements: [g, n], one permutation of n points a row (point i goes to row[i]); the identity first.
        table: [g, g], the number of the product "first a, then b": table[a, b].
    """

    name: str
    elements: Elements
    table: Elements

    @property
    def size(self) -> int:
        """Elements."""
        return len(self.elements)

    @property
    def degree(self) -> int:
        """Points."""
        return int(self.elements.shape[1])

    def number(self, permutation: object) -> int:
        """The number of a permutation.

        Raises:
            KeyError: it is not in the group.
        """
        return self._numbers[tuple(np.asarray(permutation).tolist())]

    @functools.cached_property
    def _numbers(self) -> dict[tuple[int, ...], int]:
        return {tuple(row): number for number, row in enumerate(self.elements.tolist())}

    @functools.cached_property
    def signs(self) -> npt.NDArray[np.int64]:
        """[g]: 1 for even permutations, -1 for odd ones."""
        return np.array([(-1) ** (self.degree - cycles(row)) for row in self.elements])

    def reflections(self) -> npt.NDArray[np.int64]:
        """[g]: how many reflections the permutation matrix of an element is a product of, and no fewer.

        n - c with c cycles: a cycle of length l is l - 1 transpositions, and the fixed space of a product of r
        reflections has dimension n - r at least, that of the permutation has dimension c.
        """
        return np.array([self.degree - cycles(row) for row in self.elements])

    def order(self, number: int) -> int:
        """How often an element is multiplied until the identity comes back."""
        power, count = number, 1
        while power:
            power, count = int(self.table[power, number]), count + 1
        return count

    def transpositions(self) -> list[int]:
        """Numbers of the elements that swap two points."""
        return [number for number, row in enumerate(self.elements) if (row != np.arange(self.degree)).sum() == 2]

    def generators(self) -> list[int]:
        """Numbers of a small set of generators: greedily, the element that makes most of the group comes next."""
        chosen: list[int] = []
        made = {0}
        while len(made) < self.size:
            best = max(range(1, self.size), key=lambda each: (len(self.closure([*chosen, each])), -each))
            chosen.append(best)
            made = self.closure(chosen)
        return chosen

    def closure(self, numbers: list[int]) -> set[int]:
        """Numbers of all products of the elements."""
        made, fresh = {0}, {0}
        while fresh:
            fresh = {int(self.table[a, b]) for a in fresh for b in numbers} - made
            made |= fresh
        return made

    @property
    def abelian(self) -> bool:
        """Whether the order of the factors is of no account."""
        return bool((self.table == self.table.T).all())


def cycles(permutation: object) -> int:
    """Number of cycles of a permutation, fixed points among them."""
    goes, seen, count = np.asarray(permutation).tolist(), set[int](), 0
    for start in range(len(goes)):
        count += start not in seen
        while start not in seen:
            seen.add(start)
            start = goes[start]
    return count


@functools.cache
def group(name: str) -> Group:
    """The group of a name: Z2, Z60, S3, A5, D4.

    Raises:
        UserError: no such name, or more than `LARGEST` elements.
    """
    found = re.fullmatch(r"([ZSAD])(\d{1,4})", name)
    if found is None or int(found[2]) < 2:
        raise UserError(f"group '{name}' is not known: give Z<m>, S<n>, A<n> or D<n> such as Z2, S3, A5, D4")
    kind, n = found[1], int(found[2])
    size = {"Z": n, "D": 2 * n}.get(kind, 1)
    if kind in "SA":
        for factor in range(2, n + 1):
            size *= factor
            if size > 2 * LARGEST:
                break
        size = size // 2 if kind == "A" else size
    if size > LARGEST:
        raise UserError(f"group {name} has more than {LARGEST} elements, each of which would be an answer")
    if (kind == "A" and n < 3) or (kind == "D" and n < 3):
        raise UserError(f"group {name} is too small for its kind: take {kind}3 or more, or Z{n}")
    rows = sorted(_members(kind, n))
    elements = np.array(rows, np.int64)
    numbers = {row: number for number, row in enumerate(rows)}
    # First a, then b: point i goes to b[a[i]].
    table = np.array([[numbers[tuple(b[list(a)])] for b in elements] for a in rows], np.int64)
    return Group(name, elements, table)


def _members(kind: str, n: int) -> list[tuple[int, ...]]:
    if kind in "ZD":
        turns = [tuple((i + shift) % n for i in range(n)) for shift in range(n)]
        flips = [tuple((shift - i) % n for i in range(n)) for shift in range(n)] if kind == "D" else []
        return [*turns, *flips]
    every = itertools.permutations(range(n))
    return [each for each in every if kind == "S" or (n - cycles(each)) % 2 == 0]
