"""Full-batch gradient descent on both layers, batched over members: `DescentEnsemble(spec, problem).outputs(range(8))`.

The training loss is the mean over the k x k outputs of the squared error and plain gradient descent (momentum 0) takes
`epochs` steps, as in the released experiment. Because the training inputs are the basis vectors, the forward pass
reads the columns of U1, and one epoch costs four batched products of size k x k x width.

Without a learning rate the step is 1 / (largest curvature in the infinite-width limit), half of what diverges;
without a number of epochs there are enough of them for the slowest mode of the kernel to shrink by `SHRINK`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from permlab.diverged import check_losses
from permlab.errors import DivergedError
from permlab.ntk.finite import ELEMENTS, ExactEnsemble, FiniteEnsemble, Problem, Spec
from permlab.threads import for_work

EPOCHS_BETWEEN_CHECKS = 64
SHRINK = 1e-6
"""Factor by which the slowest training mode shrinks with the default number of epochs."""


def curvatures(spec: Spec) -> tuple[float, float]:
    """(smallest, largest) curvature of the training loss in the infinite-width limit, for learning rates on U1 and U2.

    Eigenvalues of 2 / k^2 times the tangent kernel on the basis, g2 width / (2k) ((1 - 1/pi) I + 11^T / pi) + g1 I / 2.
    """
    first_gain, last_gain = spec.gains
    last = last_gain * spec.width / (2.0 * spec.k)
    # T(X, X) = a I + b 11^T has two eigenvalues, a and a + b k: the slow modes and the fast common one.
    smallest = last * (1.0 - 1.0 / math.pi) + first_gain / 2.0
    scale = 2.0 / spec.k**2
    return scale * smallest, scale * (smallest + last * spec.k / math.pi)


def default_learning_rate(spec: Spec) -> float:
    """1 / largest curvature: stable by a factor of two and fast in the common mode."""
    return 1.0 / curvatures(spec)[1]


def default_epochs(spec: Spec, learning_rate: float) -> int:
    """Epochs after which the slowest mode has shrunk by `SHRINK` at this learning rate."""
    rate = min(learning_rate * curvatures(spec)[0], 0.5)
    return math.ceil(math.log(SHRINK) / math.log1p(-rate))


@dataclass
class Gap:
    """Running difference between trained and linearised outputs."""

    squares: float = 0.0
    count: int = 0
    largest: float = 0.0

    def update(self, difference: torch.Tensor) -> None:
        """Add outputs of the same members."""
        self.squares += float(difference.square().sum())
        self.count += difference.numel()
        self.largest = max(self.largest, float(difference.abs().max()))


class DescentEnsemble(FiniteEnsemble):
    """Networks trained by gradient descent from the same initial weights as `ExactEnsemble` with the same seed.

    Args (besides those of `FiniteEnsemble`):
        learning_rate: step size; None for the default.
        epochs: number of steps; None for the default.
        on_epoch: called with (epochs done, epochs) now and then.
    """

    def __init__(
        self,
        spec: Spec,
        problem: Problem,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        learning_rate: float | None = None,
        epochs: int | None = None,
        on_epoch: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(spec, problem, seed, device, dtype)
        self.learning_rate = default_learning_rate(spec) if learning_rate is None else learning_rate
        self.epochs = default_epochs(spec, self.learning_rate) if epochs is None else epochs
        self.on_epoch = on_epoch
        self.training_error = 0.0
        """Largest |output - target| on the training set after the last epoch, over all members trained so far."""

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it is not told of epochs."""
        return vars(self) | {"on_epoch": None}

    @property
    def chunk(self) -> int:
        """Members trained together: their weights, gradients and hidden values stay near `ELEMENTS` numbers."""
        return max(1, ELEMENTS // (self.spec.width * (6 * self.spec.k + min(len(self.tests), 64))))

    def outputs(self, members: Sequence[int]) -> torch.Tensor:
        """Trained outputs (members, tests, k), float64 on the CPU.

        Raises:
            DivergedError: the message gives the member and the largest stable learning rate.
        """
        blocks = list(self.blocks(members))
        columns = torch.cat([first.transpose(1, 2) for first, _ in blocks], dim=2)  # U1^T, (members, k, width)
        last = torch.cat([block for _, block in blocks], dim=2)  # U2, (members, k, width)
        del blocks
        with for_work(3.0 * columns.numel() * self.spec.k):
            self._train(columns, last, members)
        return self._predict(columns, last).cpu()

    def _train(self, columns: torch.Tensor, last: torch.Tensor, members: Sequence[int]) -> None:
        """Gradient descent in place."""
        first_gain, last_gain = self.spec.gains
        targets = self.targets.to(self.dtype)
        # The loss is a mean over k^2 squared errors: its gradient carries this factor, and so does the stable step.
        step = self.learning_rate * 2.0 / self.spec.k**2
        # Full-batch descent on a quadratic is stable up to 2 / largest curvature; wide networks are nearly quadratic.
        limit = 2.0 / curvatures(self.spec)[1]
        remedy = f"lower learning_rate={self.learning_rate:g} (the largest stable one is about {limit:.3g})"
        names = [f"network {member}" for member in members]
        for epoch in range(self.epochs):
            hidden = torch.relu(columns)
            error = (hidden @ last.transpose(1, 2)).sub_(targets)
            if epoch % EPOCHS_BETWEEN_CHECKS == 0:
                losses = [error.double().square().mean((1, 2)).tolist()]
                check_losses(losses, epoch, remedy, members=names, step="epoch")
            last_gradient = error.transpose(1, 2) @ hidden
            # U1 first, while U2 still has the weights that `error` was computed with: one step of both layers at once.
            if first_gain:
                columns.sub_(((error @ last) * (columns > 0)).mul_(step * first_gain))
            last.sub_(last_gradient.mul_(step * last_gain))
            if self.on_epoch is not None and epoch % EPOCHS_BETWEEN_CHECKS == 0:
                self.on_epoch(epoch, self.epochs)
        error = torch.relu(columns) @ last.transpose(1, 2) - targets
        each = error.abs().amax((1, 2)).tolist()
        allowed = 0.1 if self.learning_rate > limit else 10.0
        # A step beyond the limit either overflows (NaN fails both comparisons) or kills the units: outputs stay at 0.
        for name, worst in zip(names, each):
            if not worst < allowed:
                found = f"training diverged: an output is {worst:.4g} off at epoch {self.epochs} ({name})"
                raise DivergedError(found, remedy)
        self.training_error = max(self.training_error, *each)

    def _predict(self, columns: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        count, k, width = len(columns), self.spec.k, self.spec.width
        outputs = torch.zeros(count, len(self.tests), k, dtype=torch.float64, device=self.device)
        size = max(1, ELEMENTS // (count * len(self.tests)))
        for start in range(0, width, size):
            hidden = (self.tests @ columns[:, :, start : start + size]).relu_()
            outputs += hidden @ last[:, :, start : start + size].transpose(1, 2)
        return outputs


def descended(
    descent: DescentEnsemble, exact: ExactEnsemble | None, members: range
) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """Return outputs by gradient descent, those of the exact solution where it is asked, the largest training error."""
    outputs = descent.outputs(members)
    return outputs, None if exact is None else exact.outputs(members), descent.training_error
