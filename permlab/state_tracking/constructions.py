"""Weights that solve a word problem, written down: `construct("reflections", group("S5"))`, run to any length.

A linear recurrence h_t = A(x_t) h_{t-1} solves the word problem where A is a faithful representation of the group and
h_0 a vector that no element but the identity leaves in place: the states A(g) h_0 are then all different, and the
nearest of them names the product.

- `sign` (parity): eigenvalue -1, one real number; with eigenvalues in [0, 1] alone nothing of the kind exists.
- `rotation` (Z<m>): one complex eigenvalue exp(2 pi i / m).
- `reflections` (any group): permutation matrices as products of Householder reflections I - 2 k k^T, n - c for c
  cycles; a rotation of the plane is two.
- `automaton` (any group): a one-hot state and the multiplication table, as an LSTM with saturated gates keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.state_tracking.groups import Group
from permlab.state_tracking.scans import delta_scan
from permlab.state_tracking.table import CONSTRUCTIONS
from permlab.state_tracking.words import Words


@dataclass(frozen=True)
class Machine:
    """A recurrence with explicit weights.

    Attributes:
        name: of the construction.
        step: (state [..., d], symbols [...]) -> the next state.
        start: [d], the state before the first symbol.
        states: [g, d], the exact state of every element.
        need: reflections per symbol at most, or 0 where there are none.
    """

    name: str
    step: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    states: Tensor
    need: int = 0

    def margin(self) -> float:
        """Half the distance between the two nearest exact states: a smaller drift changes no answer."""
        states = _real(self.states)
        gaps = torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist")
        return float(gaps[~torch.eye(len(states), dtype=torch.bool)].min()) / 2

    def run(self, symbols: Tensor, on_step: Callable[[int], None] | None = None) -> tuple[Tensor, Tensor]:
        """Read words [B, T].

        Args:
            symbols: places in the alphabet.
            on_step: called now and then with the symbols read; may raise to stop.

        Returns:
            answers [B, T], the nearest exact state after every symbol, and distances [B, T] to it.
        """
        state = self.start.expand(len(symbols), -1)
        answers, distances = [], []
        for t in range(symbols.shape[1]):
            if on_step and t % 100 == 0:
                on_step(t)
            state = self.step(state, symbols[:, t])
            # Complex numbers as pairs: torch.cdist knows real ones only.
            gaps = torch.cdist(_real(state), _real(self.states), compute_mode="donot_use_mm_for_euclid_dist")
            distance, answer = gaps.min(-1)
            answers.append(answer)
            distances.append(distance)
        return torch.stack(answers, 1), torch.stack(distances, 1)


def _real(values: Tensor) -> Tensor:
    return torch.view_as_real(values).flatten(-2) if values.is_complex() else values


def sign(words: Words, dtype: torch.dtype = torch.float32) -> Machine:
    """Eigenvalue 1 for even symbols and -1 for odd ones; of groups with two elements only.

    Raises:
        UserError: a larger group, of which the sign says too little.
    """
    if words.group.size != 2:
        raise UserError(f"construction=sign tells two elements apart, and {words.group.name} has {words.group.size}")
    values = torch.tensor([1.0, -1.0], dtype=dtype)
    factors = values[torch.tensor(words.letters)]
    return Machine("sign", lambda h, x: factors[x, None] * h, values[:1], values[:, None])


def rotation(words: Words, dtype: torch.dtype = torch.complex64) -> Machine:
    """One complex eigenvalue exp(2 pi i s / m) for a turn by s of m points.

    Raises:
        UserError: a group that is not Z<m>.
    """
    group = words.group
    if not group.name.startswith("Z"):
        raise UserError(f"construction=rotation needs commuting turns (Z<m>); {group.name} is none")
    angles = 2 * np.pi * group.elements[:, 0] / group.size
    turns = torch.tensor(np.exp(1j * angles)).to(dtype)
    factors = turns[torch.tensor(words.letters)]
    return Machine("rotation", lambda h, x: factors[x, None] * h, turns[:1], turns[:, None])


def reflections(words: Words, dtype: torch.dtype = torch.float32) -> Machine:
    """Every symbol as a product of reflections, applied by `delta_scan` with beta = 2.

    Z<m> with more than two elements is turned in the plane by two reflections; every other group permutes the entries
    of its state, a cycle (i_1 ... i_l) by l - 1 reflections that swap two entries each.
    """
    group = words.group
    plane = group.name.startswith("Z") and group.size > 2
    keys = [_turn(group, int(e)) if plane else _swaps(group.elements[e]) for e in words.letters]
    need = max(len(each) for each in keys)
    width = 2 if plane else group.degree
    # A symbol that needs fewer is filled up with beta = 0, which changes nothing.
    table = np.zeros((len(keys), max(need, 1), width))
    betas = np.zeros((len(keys), max(need, 1)))
    for row, each in enumerate(keys):
        for column, key in enumerate(each):
            table[row, column], betas[row, column] = key, 2.0
    k, beta = torch.tensor(table, dtype=dtype), torch.tensor(betas, dtype=dtype)
    start = np.array([1.0, 0.0]) if plane else np.arange(width) - (width - 1) / 2
    states = np.array([_moved(group, number, start, plane) for number in range(group.size)])

    def step(h: Tensor, x: Tensor) -> Tensor:
        keys = k[x]
        nothing = torch.zeros(*keys.shape[:-1], 1, dtype=dtype)
        _, after = delta_scan(keys, keys, nothing, beta[x], h[..., None, :])
        return after[..., 0, :]

    return Machine("reflections", step, torch.tensor(start, dtype=dtype), torch.tensor(states, dtype=dtype), need)


def _turn(group: Group, number: int) -> list[np.ndarray]:
    """Two reflections whose product turns the plane by the angle of an element; none for the identity."""
    half = np.pi * group.elements[number, 0] / group.size
    if not number:
        return []
    # At the line of the first axis, then at the line that is half the angle further.
    return [np.array([0.0, 1.0]), np.array([-np.sin(half), np.cos(half)])]


def _swaps(permutation: np.ndarray) -> list[np.ndarray]:
    """Keys of reflections that move entry i to place permutation[i], one after another."""
    found, goes = [], permutation.tolist()
    for start in range(len(goes)):
        # Swapping with the place it belongs to sets one entry right at a time.
        while goes[start] != start:
            other = goes[start]
            key = np.zeros(len(goes))
            key[start], key[other] = np.sqrt(0.5), -np.sqrt(0.5)
            found.append(key)
            goes[start], goes[other] = goes[other], other
    return found


def _moved(group: Group, number: int, start: np.ndarray, plane: bool) -> np.ndarray:
    """The exact state of an element."""
    if plane:
        angle = 2 * np.pi * group.elements[number, 0] / group.size
        return np.array([np.cos(angle), np.sin(angle)])
    moved = np.empty_like(start)
    moved[group.elements[number]] = start
    return moved


def automaton(words: Words, dtype: torch.dtype = torch.float32) -> Machine:
    """A one-hot state that every symbol moves through the table; saturated gates of an LSTM do the same."""
    group = words.group
    one_hot = torch.eye(group.size, dtype=dtype)
    # [m, g]: where every entry of the next state comes from; a letter permutes the states.
    comes = torch.tensor(np.argsort(group.table[:, words.letters], axis=0).T.copy())
    return Machine("automaton", lambda h, x: h.gather(-1, comes[x]), one_hot[0], one_hot)


def construct(name: str, words: Words) -> Machine:
    """The construction of a name.

    Raises:
        UserError: no such name, or a group that it does not solve.
    """
    machine: Machine = CONSTRUCTIONS[name].load()(words)
    return machine
