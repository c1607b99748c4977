"""Which sequence models can follow a permutation through a product? (arXiv 2404.08819, 2411.12537, 2502.10297)

permlab task=state_tracking task.group=S3 task.network=product_2             # train three seeds, test on longer words
permlab task=state_tracking task.mode=construct task.group=S5 task.test_length=10000    # explicit weights, no training
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from permlab.keys import choice
from permlab.state_tracking.settings import Tracking
from permlab.state_tracking.table import NETWORKS
from permlab.tasks.state_tracking.table import MODES

if TYPE_CHECKING:
    from permlab.config import Config
    from permlab.footprint import Footprint
    from permlab.runs.run import Run

OBJECTIVE = "reach_worst"
HEADLINE = ("reach", "reach_worst", "solved", "accuracy_longer", "chance", "train_seconds", "drift_share")
MODELS = ("none",)
DATASETS = ("none",)
NETWORK = "task.network"
LESS_MEMORY = ("a smaller task.test_length", "a smaller task.test_words", "a smaller task.train.batch", "task.seeds=1")
LIBRARIES = 390e6
"""Resident bytes of Python and torch once networks of no size have been trained."""


@dataclass
class StateTrackingConfig(Tracking):
    """`task=state_tracking`"""

    name: str = "state_tracking"
    mode: str = choice("train", MODES)
    """Train networks, or run weights that are written down."""


def validate(config: Config[StateTrackingConfig]) -> None:
    """Check names, ranges, the group and its alphabet.

    Raises:
        UserError: naming the key and the remedy.
    """
    MODES.check("task.mode", config.task.mode)
    config.task.check("task.")
    from permlab.state_tracking import Words, group

    Words(group(config.task.group), config.task.alphabet)


def plan(config: Config[StateTrackingConfig]) -> dict[str, Any]:
    """Lines of a dry run."""
    from permlab.state_tracking import Words, group

    task = config.task
    words = Words(group(task.group), task.alphabet)
    read = f"{len(words.letters)} of {words.group.size} elements of {task.group}"
    lines = {"words": f"{read}, tested at length {task.test_length}"}
    lines["reflections"] = f"{max(words.group.reflections()[words.letters])} for one symbol, as permutations of points"
    if task.mode == "construct":
        return lines | {"weights": f"written down ({', '.join(task.suited)})"}
    trained = f"{task.seeds} x {NETWORKS[task.network].title}, {task.layers} x {task.width}"
    return lines | {"networks": trained, "training": f"{task.train.steps} steps of {task.train.batch} words"}


def footprint(config: Config[StateTrackingConfig]) -> Footprint | None:
    """Memory and time of a training."""
    from permlab.footprint import Footprint

    task = config.task
    if task.mode == "construct":
        return None
    weights = 14.0 * task.layers * task.width**2 * task.seeds
    tokens = task.seeds * max(task.train.batch * task.train.length, task.test_words * task.test_length / 3)
    row = NETWORKS[task.network]
    parts = {"weights": 16 * weights, "activations": 4.0 * 40 * row.held * task.layers * task.width * tokens}
    if row.quadratic:
        heads = task.width // 16
        parts["attention"] = 8.0 * task.seeds * task.test_words * heads * float(task.test_length) ** 2
    macs = 3.0 * weights * task.train.batch * task.train.length * task.train.steps
    return Footprint(sum(parts.values()), parts, LIBRARIES, macs, task.train.steps)


def run(config: Config[StateTrackingConfig], run: Run) -> None:
    """Train, or run what is written down."""
    MODES[config.task.mode].load()(config, run)


def sweep_figures(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Any]:
    """How far every network follows, against what else the jobs of a sweep differ in."""
    from permlab.tasks.state_tracking.figures import draw_reach

    cells = [(varied_name(point), point.get(NETWORK), metrics) for point, metrics in groups]
    if any(not cell[0] or cell[1] is None or not cell[2] for cell in cells):
        return {}
    return {"reach": draw_reach([(name, NETWORKS[str(network)].title, metrics) for name, network, metrics in cells])}


def varied_name(varied: Mapping[str, str]) -> str:
    """What a job or a group of runs is called beside its network: S3 (swaps), layers 4."""
    left = {key.removeprefix("task."): value for key, value in varied.items() if key != NETWORK}
    words = [left.pop("group", ""), f"({left.pop('alphabet')})" if "alphabet" in left else ""]
    more = [f"{key.rpartition('.')[2]} {value}" for key, value in left.items()]
    return " ".join(word for word in [" ".join(filter(None, words)), ", ".join(more)] if word)
