"""The names of this room: `PARAMETERIZATIONS["ntk"].gains(30, 4096)`, `TESTS.choices`, `SOLVERS["linearized"].exact`.

Nothing heavy is imported here, because configurations are checked with these rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class ParameterizationRow(Row):
    """How the size of the network enters training.

    Attributes:
        scaled: factors 1/sqrt(fan-in) stand in the forward pass, with unit-variance weights.
    """

    scaled: bool = False

    def gains(self, k: int, width: int) -> tuple[float, float]:
        """Factors on the learning rates of (U1, U2): the squares of the factors in the forward pass."""
        # A factor c in front of a weight is the same as a weight c times as large with a rate c^2 times as large.
        return (1.0 / k, 1.0 / width) if self.scaled else (1.0, 1.0)

    def first_layer_weight(self, k: int | None = None, width: int | None = None) -> float:
        """Weight of the first layer in the tangent kernel (`kernels`), at infinite width where none is given."""
        if self.scaled:
            return 1.0
        # standard: the last layer's part grows with the width and the first layer's with k, so only their ratio counts.
        return k / width if k is not None and width is not None else 0.0


@dataclass(frozen=True)
class LayersRow(Row):
    """Which layers train.

    Attributes:
        first: U1 moves too, not only U2.
    """

    first: bool = False


@dataclass(frozen=True)
class TestRow(Row):
    """What must be right; `target`: (k, ones, tests, replicates, rng) -> `inputs.TestSet`.

    Attributes:
        every: all 2^k - 1 inputs at once, whatever their number of ones.
        drawn: a random test set, of which a share must be right.
    """

    __test__ = False  # not a pytest class

    every: bool = False
    drawn: bool = False


@dataclass(frozen=True)
class SolverRow(Row):
    """How real networks are trained.

    Attributes:
        exact: by the closed form of the linearised network.
        descends: by gradient descent; with both, their difference is measured.
    """

    exact: bool = False
    descends: bool = False


@dataclass(frozen=True)
class DtypeRow(Row):
    """Number type of the weights of real networks; `target` is torch's.

    Attributes:
        bytes: of one number.
    """

    bytes: int = 4


@dataclass(frozen=True)
class GrowthRow(Row):
    """A law of growth N = c * shape(k); `target`: k -> shape(k).

    Attributes:
        metric: name of its residual among the metrics of a run.
    """

    metric: str = ""


_PAPER = "2502.16763"

PARAMETERIZATIONS = Table(
    "parameterization",
    [
        ParameterizationRow("standard", "no factors: only the last layer moves at infinite width", color="blue"),
        ParameterizationRow(
            "ntk", "factors 1/sqrt(fan-in): both layers move", paper="1806.07572", color="orange", scaled=True
        ),
    ],
)
LAYERS = Table(
    "choice of layers",
    [
        LayersRow("last", "only the last layer trains"),
        LayersRow("both", "both layers train", first=True),
    ],
)
TESTS = Table(
    "test",
    [
        TestRow("single", "all k outputs at one input", target="permlab.ntk.inputs:single_input"),
        TestRow("all", "all 2^k - 1 inputs at once", target="permlab.ntk.inputs:every_input", paper=_PAPER, every=True),
        TestRow(
            "random",
            "a share of inputs drawn with replacement, as published",
            target="permlab.ntk.inputs:drawn_inputs",
            paper=_PAPER,
            drawn=True,
        ),
    ],
)
SOLVERS = Table(
    "solver",
    [
        SolverRow("exact", "closed form of the trained, linearised network", exact=True),
        SolverRow("gradient_descent", "full-batch gradient descent", paper=_PAPER, descends=True),
        SolverRow("linearized", "both, and their difference", exact=True, descends=True),
    ],
)
DTYPES = Table(
    "number type",
    [
        DtypeRow("float32", "single precision", target="torch:float32", bytes=4),
        DtypeRow("float64", "double precision", target="torch:float64", bytes=8),
    ],
)
GROWTHS = Table(
    "law of growth",
    [
        GrowthRow(
            "k log k",
            "one input, as the paper proves",
            target="permlab.ntk.fits:linearithmic",
            paper=_PAPER,
            metric="fit_k_log_k",
        ),
        GrowthRow(
            "k^1.5 log k",
            "all inputs by the union bound, for large k",
            target="permlab.ntk.fits:three_halves",
            metric="fit_k_32_log_k",
        ),
        GrowthRow(
            "k^2",
            "all inputs, the paper's upper bound",
            target="permlab.ntk.fits:quadratic",
            paper=_PAPER,
            metric="fit_k_squared",
        ),
    ],
)
