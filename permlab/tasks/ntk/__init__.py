"""How many networks must be averaged to learn a permutation exactly? (arXiv 2502.16763)

permlab task=ntk task.k=[10,20,30]                # the exact law, with the band of published-style runs
permlab task=ntk task.mode=train task.k=[10]      # the same numbers from 2,000 real finite networks
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from permlab.errors import UserError, check_choice, check_range

if TYPE_CHECKING:
    from permlab.config import Config
    from permlab.runs.run import Run

HEADLINE = ("ensemble_size", "ensemble_size_law", "stopping_mean", "fit_k_log_k")
MODELS = ("none",)
DATASETS = ("none",)
MODES = ("law", "sample", "train")
TESTS = ("single", "all", "random")
PARAMETERIZATIONS = ("standard", "ntk")
SOLVERS = ("exact", "gradient_descent", "linearized")
LAYERS = ("auto", "last", "both")
LARGEST_K = 10**12
ENUMERATED_K = 10
"""With test=all, inputs are listed (bands, sampling, training) up to this k; the law itself has no such limit."""


@dataclass
class NtkConfig:
    """`task=ntk`"""

    name: str = "ntk"
    mode: str = "law"
    """law (closed form) | sample (ensembles drawn from the Gaussian process) | train (real finite networks)"""
    k: list[int] = field(default_factory=lambda: [5, 10, 15, 20, 25, 30])
    """Input sizes, at least 2."""
    ones: list[int] = field(default_factory=lambda: [2])
    """Numbers of ones m of the test inputs; every pair (k, m) is computed. Not used by test=all."""
    target: float = 0.9
    """single, all: probability that every output is right. random: accuracy over the test set."""
    parameterization: str = "standard"
    """standard (law: only the last layer moves) | ntk (both layers)"""
    test: str = "random"
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
    solver: str = "exact"
    """mode=train: exact (closed-form trained network) | gradient_descent | linearized (both, and their difference)"""
    layers: str = "auto"
    """Layers that train: last | both; auto is last for solver=exact in the standard parameterization, else both."""
    width: list[int] = field(default_factory=lambda: [4096])
    """Hidden units; every width is a case of its own."""
    members: int = 2000
    """Networks trained per case."""
    learning_rate: float | None = None
    """Of gradient descent; null: 1 / largest curvature."""
    epochs: int | None = None
    """Of gradient descent; null: until the slowest mode has shrunk by 1e-6."""
    dtype: str = "float32"
    """float32 | float64, for the weights of real networks."""


def validate(config: Config) -> None:
    """Check choices, ranges and pairs (k, ones).

    Raises:
        UserError: naming the key and the remedy.
    """
    task = config.task
    for key, options in (
        ("mode", MODES),
        ("test", TESTS),
        ("parameterization", PARAMETERIZATIONS),
        ("solver", SOLVERS),
        ("layers", LAYERS),
        ("dtype", ("float32", "float64")),
    ):
        check_choice(f"task.{key}", getattr(task, key), options)
    for key in ("k", "ones", "width"):
        if not getattr(task, key):
            raise UserError(f"task.{key}=[] is empty: give at least one number")
    for k in task.k:
        check_range("task.k", k, 2, LARGEST_K)
    check_range("task.target", task.target, 0, 1, open_interval=True)
    check_range("task.tests", task.tests, 1, 100_000)
    check_range("task.replicates", task.replicates, 0, 100_000)
    check_range("task.members", task.members, 2)
    for ones in task.ones:
        check_range("task.ones", ones, 1)
        if task.test != "all" and ones > min(task.k):
            raise UserError(
                f"task.ones={ones} is larger than task.k={min(task.k)}: k bits hold at most k ones; drop one of them"
            )
    _validate_simulated(task)
    if task.mode == "train":
        _validate_train(task)


def _validate_simulated(task: NtkConfig) -> None:
    """Modes that list test inputs."""
    if task.mode == "law":
        return
    if task.mode == "sample" and task.replicates == 0:
        raise UserError("task.mode=sample needs task.replicates of at least 1")
    largest = ENUMERATED_K if task.test == "all" else 1000
    if max(task.k) > largest:
        raise UserError(
            f"task.k={max(task.k)} is too large for task.mode={task.mode} task.test={task.test} (at most {largest}); "
            "task.mode=law has no such limit"
        )
    if any(b <= a for a, b in zip([0, *task.networks], task.networks)):
        raise UserError("task.networks must be increasing numbers of at least 1")


def _validate_train(task: NtkConfig) -> None:
    """Keys of real networks."""
    if task.test != "all" and min(task.ones) < 2:
        raise UserError(
            "task.ones=1 tests the training inputs, whose zeros are rounded at random; use task.ones of 2 or more"
        )
    for width in task.width:
        if width < max(task.k):
            raise UserError(
                f"task.width={width} is below task.k={max(task.k)}: so few units cannot fit the training inputs, "
                f"and no number of networks reaches the target; use at least {max(task.k)}"
            )
    if task.learning_rate is not None:
        check_range("task.learning_rate", task.learning_rate, 0, open_interval=True)
    if task.epochs is not None:
        check_range("task.epochs", task.epochs, 1)


def trained_layers(task: NtkConfig) -> str:
    """Return `last` or `both`, with auto resolved."""
    if task.layers != "auto":
        return task.layers
    return "last" if task.solver == "exact" and task.parameterization == "standard" else "both"


def plan(config: Config) -> dict[str, str]:
    """Lines of a dry run: what is computed, and the memory of mode=train."""
    task = config.task
    lines = {"mode": f"{task.mode}, test={task.test}, target {task.target:g}, {task.parameterization} parameterization"}
    lines["sizes"] = f"{len(task.k)} values of k from {min(task.k)} to {max(task.k)}, ones {list(task.ones)}"
    if task.mode != "train":
        lines["band"] = (
            f"{task.replicates} simulated runs for each k up to {task.band_up_to}" if task.replicates else "none"
        )
        return lines
    from permlab.tasks.ntk.train import memory_gib

    cases = len(task.k) * len(task.width) * (1 if task.test == "all" else len(task.ones))
    lines["networks"] = f"{cases} cases of {task.members} networks, widths {list(task.width)}, solver {task.solver}"
    lines["layers"] = trained_layers(task)
    lines["memory"] = f"about {memory_gib(config):.2f} GiB for the largest chunk, whatever task.members is"
    return lines


def run(config: Config, run: Run) -> None:
    """Compute the law, sample it, or train networks."""
    if config.task.mode == "law":
        from permlab.tasks.ntk.law import run_law as work
    elif config.task.mode == "sample":
        from permlab.tasks.ntk.sample import run_sample as work
    else:
        from permlab.tasks.ntk.train import run_train as work
    work(config, run)
