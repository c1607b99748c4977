"""Real finite networks, solved exactly: `ExactEnsemble(spec, problem, seed=0).outputs(range(100))` trains 100 networks.

f(x) = U2 relu(U1 x), U1 (width, k) ~ N(0, 1/k), U2 (k, width) ~ N(0, 1/width), no biases. Both parameterizations
start from this distribution and differ in the learning rates that reach U1 and U2 (`Spec.gains`): (1, 1) for
`standard`, (1/k, 1/width) for `ntk`, which is what the factors 1/sqrt(k) and 1/sqrt(width) in the forward pass amount
to.

Gradient descent to convergence on the mean squared error, in the linearised network, has a closed form:

* `layers="last"`: only U2 moves. With H = relu(X U1^T), f(x) = f0(x) + H(x) H(X)^T (H(X) H(X)^T)^-1 (P - f0(X)): a k
  x k solve.
* `layers="both"`: both move, with the network's own tangent kernel. On the basis vectors the first layer couples the
  outputs of one input only, kernel[(i,j), (i',j')] = g2 (H H^T)_ii' delta_jj' + g1 delta_ii' sum_l U2_jl U2_j'l
  1[U1_li > 0], a k^2 x k^2 solve; the prediction uses the parameter change J^T alpha, so no test kernel is formed.

Hidden units are drawn and summed in blocks of `BLOCK`, so memory does not grow with the width. Each member has its
own seed: its outputs do not depend on which members share its chunk, and a resumed run is the same run bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from permlab.errors import UserError, check_range
from permlab.ntk.kernels import normalized
from permlab.ntk.settings import check_width
from permlab.ntk.table import LAYERS, PARAMETERIZATIONS

BLOCK = 4_096
"""Hidden units drawn at a time; part of the definition of a member's weights."""
ELEMENTS = 2**24
"""Numbers in the largest temporary of a chunk (64 MB in float32)."""


@dataclass(frozen=True)
class Spec:
    """Shape and training rule of one network."""

    k: int
    """Input and output size."""
    width: int
    """Hidden units."""
    parameterization: str = "standard"
    """`standard` or `ntk`."""
    layers: str = "last"
    """Layers that train: `last` or `both`."""

    def __post_init__(self) -> None:
        check_range("k", self.k, 2)
        PARAMETERIZATIONS.check("parameterization", self.parameterization)
        LAYERS.check("layers", self.layers)
        check_width(self.width, self.k)

    @property
    def first_moves(self) -> bool:
        """Whether the first layer trains too."""
        return LAYERS[self.layers].first

    @property
    def gains(self) -> tuple[float, float]:
        """Factors (first layer, last layer) on the learning rate in terms of U1 and U2; 0 for a frozen first layer."""
        first, last = PARAMETERIZATIONS[self.parameterization].gains(self.k, self.width)
        return (first if self.first_moves else 0.0), last

    @property
    def first_layer_weight(self) -> float:
        """Weight w of the first layer in the infinite-width law with this width's ratio of gains (`kernels`)."""
        first, last = self.gains
        # k / width for standard, 1 for ntk: at width 50,000 and k = 30 the released runs move their last layer only.
        return first * self.k / (last * self.width)


@dataclass(frozen=True)
class Problem:
    """Training targets and test inputs shared by all members."""

    permutation: np.ndarray
    """int (k,): training input e_i has target e_permutation[i]."""
    inputs: np.ndarray
    """Binary test inputs, bool (count, k)."""

    @property
    def answers(self) -> np.ndarray:
        """Right rounded outputs, bool (count, k)."""
        answers = np.zeros_like(self.inputs)
        # Linear in the basis: a sum of e_i has to give the sum of the P e_i that training showed one by one.
        answers[:, self.permutation] = self.inputs
        return answers


def member_generator(seed: int, member: int) -> torch.Generator:
    """Random source of one member; a function of (seed, member) only."""
    state = np.random.SeedSequence([seed, member]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


class FiniteEnsemble(ABC):
    """What the solvers share: weights by member and block of hidden units, inputs as tensors."""

    def __init__(
        self,
        spec: Spec,
        problem: Problem,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec, self.problem, self.seed = spec, problem, seed
        self.device, self.dtype = torch.device(device), dtype
        tests = torch.from_numpy(normalized(problem.inputs)).to(self.device, dtype)
        self.tests = tests
        self.all_inputs = torch.cat([torch.eye(spec.k, device=self.device, dtype=dtype), tests])
        targets = torch.zeros(spec.k, spec.k, device=self.device, dtype=torch.float64)
        targets[torch.arange(spec.k), torch.from_numpy(problem.permutation)] = 1.0
        self.targets = targets

    @property
    def chunk(self) -> int:
        """Members solved together so that no temporary exceeds `ELEMENTS` numbers (at least 1)."""
        rows = len(self.all_inputs) + (self.spec.k**2 if self.spec.first_moves else 0)
        return max(1, ELEMENTS // (min(self.spec.width, BLOCK) * rows))

    def blocks(self, members: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Initial weights block by block: U1 (members, block, k) and U2 (members, k, block)."""
        k, width = self.spec.k, self.spec.width
        generators = [member_generator(self.seed, member) for member in members]
        for start in range(0, width, BLOCK):
            size = min(BLOCK, width - start)
            drawn = torch.empty(len(generators), 2, k, size, dtype=self.dtype)
            # Drawn on the CPU, member by member, so that neither device nor chunk changes a network.
            for row, generator in zip(drawn, generators):
                row.normal_(generator=generator)
            drawn = drawn.to(self.device)
            # The released initialisation; the factors of ntk's forward pass are in the learning rates (`gains`).
            yield (drawn[:, 0] / k**0.5).transpose(1, 2), drawn[:, 1] / width**0.5

    @abstractmethod
    def outputs(self, members: Sequence[int]) -> torch.Tensor:
        """Trained outputs (members, tests, k) in float64 on the CPU."""


class ExactEnsemble(FiniteEnsemble):
    """Networks trained to convergence by their exact (linearised) solution."""

    def outputs(self, members: Sequence[int]) -> torch.Tensor:
        """Trained outputs (members, tests, k), float64 on the CPU.

        Raises:
            UserError: a network whose hidden units do not tell the training inputs apart (singular Gram matrix).
        """
        solve = self._both if self.spec.first_moves else self._last
        try:
            return solve(members).cpu()
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # its stubs leave it out
            raise UserError(
                f"width={self.spec.width} is too small for k={self.spec.k} (singular Gram matrix): use a larger"
            ) from error

    def _last(self, members: Sequence[int]) -> torch.Tensor:
        """Solve on the basis first, then run the tests once through the trained last layer.

        That is half the work of carrying the tests' Gram rows and untrained outputs along. The weights are kept between
        the two passes, or drawn again where they would not fit.
        """
        k, width = self.spec.k, self.spec.width
        kept = list(self.blocks(members)) if 2 * k * width * len(members) <= ELEMENTS else None
        gram = torch.zeros(len(members), k, k, dtype=torch.float64, device=self.device)
        untrained = torch.zeros_like(gram)
        for first, last in kept or self.blocks(members):
            hidden = first.transpose(1, 2).relu()  # the inputs are the basis: each sees one column of U1
            gram += hidden @ hidden.transpose(1, 2)
            untrained += hidden @ last.transpose(1, 2)
        # f(x) = f0(x) + H(x) H^T (H H^T)^-1 (P - f0): U2 alone (Lee et al. 2019, section 2.2)
        solved = torch.cholesky_solve(self.targets - untrained, torch.linalg.cholesky(gram))
        change = solved.transpose(1, 2).to(self.dtype)
        outputs = torch.zeros(len(members), len(self.tests), k, dtype=torch.float64, device=self.device)
        for first, last in kept or self.blocks(members):
            columns = first.transpose(1, 2)
            outputs += (self.tests @ columns).relu_() @ (last + change @ columns.relu()).transpose(1, 2)
        return outputs

    def _initial(self, members: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gram H(Z) H(X)^T (members, k + tests, k), untrained outputs (members, k + tests, k), first-layer blocks."""
        k = self.spec.k
        gram = torch.zeros(len(members), len(self.all_inputs), k, dtype=torch.float64, device=self.device)
        untrained = torch.zeros_like(gram)
        coupling = torch.zeros(len(members), k, k, k, dtype=torch.float64, device=self.device)
        for first, last in self.blocks(members):
            hidden = (self.all_inputs @ first.transpose(1, 2)).relu_()
            # One product for both sums: columns are the hidden values on the basis and the output weights.
            both = hidden @ torch.cat([hidden[:, :k], last], dim=1).transpose(1, 2)
            gram += both[..., :k]
            untrained += both[..., k:]
            # relu' at basis vector i is the sign of column i of U1: the first layer couples the outputs of one input.
            active = (first.transpose(1, 2) > 0).to(self.dtype)
            coupling += (active[:, :, None, :] * last[:, None]) @ last[:, None].transpose(2, 3)
        return gram, untrained, coupling

    def _both(self, members: Sequence[int]) -> torch.Tensor:
        k, (first_gain, last_gain) = self.spec.k, self.spec.gains
        gram, untrained, coupling = self._initial(members)
        kernel = torch.zeros(len(members), k, k, k, k, dtype=torch.float64, device=self.device)
        diagonal = torch.arange(k, device=self.device)
        kernel[:, :, diagonal, :, diagonal] += last_gain * gram[:, :k]  # (output, members, i, i'): same output only
        kernel[:, diagonal, :, diagonal, :] += first_gain * coupling.transpose(0, 1)  # same training input only
        # alpha = K^-1 (P - f0) with the linearised network's own kernel (Lee et al. 2019, section 2.2)
        factor = torch.linalg.cholesky(kernel.reshape(len(members), k * k, k * k))
        residual = (self.targets - untrained[:, :k]).reshape(len(members), k * k, 1)
        alpha = torch.cholesky_solve(residual, factor).reshape(len(members), k, k).to(self.dtype)
        trained = untrained[:, k:]
        for first, last in self.blocks(members):
            before = self.tests @ first.transpose(1, 2)
            columns = first.transpose(1, 2)  # (members, i, block): the basis sees one column of U1 each
            last_change = last_gain * alpha.transpose(1, 2) @ torch.relu(columns)
            first_change = first_gain * (alpha @ last) * (columns > 0)
            trained = trained + torch.relu(before) @ last_change.transpose(1, 2)
            # Linearised at the start: relu' is that of the untrained unit, U2 that of the untrained network.
            trained = trained + ((before > 0) * (self.tests @ first_change)) @ last.transpose(1, 2)
        return trained
