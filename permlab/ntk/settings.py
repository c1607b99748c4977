"""What is asked about ensembles: `EnsembleSettings(k=[10, 20], test="all").has_band(10)`. Nothing heavy is imported.

The configuration of `task=ntk` is this dataclass, so a default stands here and nowhere else. `check` takes what to put
before a name in its messages: `check("task.")` speaks of `task.target`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from permlab.errors import UserError, check_choice, check_range
from permlab.keys import choice
from permlab.ntk.table import DTYPES, LAYERS, PARAMETERIZATIONS, SOLVERS, TESTS, LayersRow, SolverRow, TestRow

AUTO = "auto"
"""Leaves the layers that train to solver and parameterization."""
LARGEST_K = 10**12
ENUMERATED_K = 10
"""With test=all, inputs are listed (bands, sampling, training) up to this k; the law itself has no such limit."""
LISTED_K = 1000
"""Largest k of simulated runs and real networks on other test sets."""


@dataclass
class EnsembleSettings:
    """Sizes, question and kernel of the law; how many runs are simulated; how real networks are trained."""

    k: list[int] = field(default_factory=lambda: [5, 10, 15, 20, 25, 30])
    """Input sizes, at least 2."""
    ones: list[int] = field(default_factory=lambda: [2])
    """Numbers of ones m of the test inputs; every pair (k, m) is computed. Not used by test=all."""
    target: float = 0.9
    """single, all: probability that every output is right. random: accuracy over the test set."""
    parameterization: str = choice("standard", PARAMETERIZATIONS)
    """In the law of standard only the last layer moves, in that of ntk both."""
    test: str = choice("random", TESTS)
    """What must be right. single: all k outputs at one input. random: a share `target` of `tests` inputs drawn with
    replacement; its ensemble size is where the expected accuracy reaches the target, so it equals single, and low/high
    is the 95 % band of the first N at which one run's accuracy does. all: all 2^k - 1 inputs at once; the ensemble
    size is the sufficient one by the union bound, `necessary` a proven lower one."""
    tests: int = 1000
    """Draws of a random test set."""
    replicates: int = 200
    """Simulated runs behind low/high and mode=sample; 0 leaves the band out."""
    band_up_to: int = 100
    """No band for larger k: its cost grows like k^4."""
    fit_from: int = 10
    """Smallest k of the growth fits."""
    networks: list[int] = field(default_factory=list)
    """mode=sample: numbers of networks at which accuracy is recorded; empty takes 40 around the law's size."""
    solver: str = choice("exact", SOLVERS)
    """mode=train: exact is the trained network in closed form, linearized both and their difference."""
    layers: str = choice(AUTO, LAYERS, AUTO)
    """Layers that train; auto is last for solver=exact in the standard parameterization, else both."""
    width: list[int] = field(default_factory=lambda: [4096])
    """Hidden units; every width is a case of its own."""
    members: int = 2000
    """Networks trained per case."""
    checked: int = 0
    """mode=train solver=exact: so many of these networks are trained by gradient descent on both layers too, and their
    distance from the exact solution is measured."""
    learning_rate: float | None = None
    """Of gradient descent; null: 1 / largest curvature."""
    epochs: int | None = None
    """Of gradient descent; null: until the slowest mode has shrunk by 1e-6."""
    dtype: str = choice("float32", DTYPES)
    """For the weights of real networks."""

    @property
    def testing(self) -> TestRow:
        """What is known about the test."""
        return TESTS[self.test]

    @property
    def solving(self) -> SolverRow:
        """What is known about the solver."""
        return SOLVERS[self.solver]

    @property
    def trained(self) -> LayersRow:
        """The layers that train, with auto resolved."""
        if self.layers != AUTO:
            return LAYERS[self.layers]
        first = self.solving.descends or PARAMETERIZATIONS[self.parameterization].scaled
        return LAYERS[LAYERS.where(first=first)[0]]

    @property
    def counts(self) -> list[int | None]:
        """Numbers of ones that are asked about; None alone where every input counts."""
        return [None] if self.testing.every else list(self.ones)

    @property
    def largest_listed(self) -> int:
        """Largest k at which the test inputs are listed one by one."""
        return ENUMERATED_K if self.testing.every else LISTED_K

    def has_band(self, k: int) -> bool:
        """Whether runs are simulated for this k."""
        largest = min(self.band_up_to, ENUMERATED_K) if self.testing.every else self.band_up_to
        return self.replicates > 0 and k <= largest

    def check(self, prefix: str = "") -> None:
        """Refuse unknown names, numbers out of range and pairs (k, ones) that do not exist.

        Args:
            prefix: stands before the names in the messages.

        Raises:
            UserError: naming the setting and the remedy.
        """
        TESTS.check(f"{prefix}test", self.test)
        PARAMETERIZATIONS.check(f"{prefix}parameterization", self.parameterization)
        SOLVERS.check(f"{prefix}solver", self.solver)
        check_choice(f"{prefix}layers", self.layers, (AUTO, *LAYERS))
        DTYPES.check(f"{prefix}dtype", self.dtype)
        for key in ("k", "ones", "width"):
            if not getattr(self, key):
                raise UserError(f"{prefix}{key}=[] is empty: give at least one number")
        for k in self.k:
            check_range(f"{prefix}k", k, 2, LARGEST_K)
        check_range(f"{prefix}target", self.target, 0, 1, open_interval=True)
        check_range(f"{prefix}tests", self.tests, 1, 100_000)
        check_range(f"{prefix}replicates", self.replicates, 0, 100_000)
        check_range(f"{prefix}members", self.members, 2)
        if any(b <= a for a, b in zip([0, *self.networks], self.networks)):
            raise UserError(f"{prefix}networks={list(self.networks)} must be increasing numbers of at least 1")
        for ones in self.ones:
            check_range(f"{prefix}ones", ones, 1)
            if not self.testing.every and ones > min(self.k):
                smallest = min(self.k)
                raise UserError(
                    f"{prefix}ones={ones} is larger than {prefix}k={smallest}: k bits hold at most k ones; "
                    "drop one of them"
                )

    def check_trained(self, prefix: str = "") -> None:
        """Refuse what real networks cannot do.

        Raises:
            UserError: naming the setting and the remedy.
        """
        if not self.testing.every and min(self.ones) < 2:
            raise UserError(
                f"{prefix}ones=1 tests the training inputs, whose zeros are rounded at random; use {prefix}ones of 2 "
                "or more"
            )
        for width in self.width:
            check_width(width, max(self.k), prefix)
        check_range(f"{prefix}checked", self.checked, 0, self.members)
        if self.checked and self.solving.descends:
            raise UserError(
                f"{prefix}checked={self.checked} needs {prefix}solver=exact: {prefix}solver={self.solver} trains all "
                f"{self.members} networks by gradient descent"
            )
        if self.learning_rate is not None:
            check_range(f"{prefix}learning_rate", self.learning_rate, 0, open_interval=True)
        if self.epochs is not None:
            check_range(f"{prefix}epochs", self.epochs, 1)


def check_width(width: int, k: int, prefix: str = "") -> None:
    """Refuse networks with fewer hidden units than training inputs.

    Raises:
        UserError: with the least width.
    """
    if width < k:
        raise UserError(
            f"{prefix}width={width} is below {prefix}k={k}: so few hidden units cannot fit the training inputs, "
            f"and no number of networks reaches the target; use a width of at least {k}"
        )
