"""`permlab task=merge` on image classifiers: pairs trained here or networks of the user, every arm, every control.

Tables: arms.csv (one row per pair and arm), summary.csv (mean and deviation over pairs), curves.csv, endpoints.csv.
Artifacts: the merged network of the configured arm and its matching, of the first pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import UserError, first_line
from permlab.merging.table import COMBINES
from permlab.seeding import derived_seed
from permlab.tables import Row
from permlab.tasks.merge.checks import arms_of
from permlab.tasks.merge.loop import Measured, each_case
from permlab.tasks.merge.settings import MergeConfig

if TYPE_CHECKING:
    from torch import nn

    from permlab.data import ImageData
    from permlab.merging import ImagePairs, Subject
    from permlab.merging.networks.loaded import Loaded
    from permlab.runs.run import Run
    from permlab.symmetry import Spec


@dataclass
class Group:
    """Two or more networks to be merged, and how they came about."""

    states: list[Any]
    names: list[str]
    rows: list[Row]
    labels: list[list[int]] = field(default_factory=list)
    ancestor: Any = None
    untrained: list[Any] = field(default_factory=list)
    model: Any = None


def run_pairs(config: Config[MergeConfig], run: Run) -> None:
    """Get every pair, judge every arm, write tables, figures, the merged network and the headline numbers."""
    from permlab.tasks.merge.pairs import pairs_of
    from permlab.tasks.merge.report import judge, pair_numbers, report, save_result

    pairs = pairs_of(config)
    data = pairs.data
    loaded = load_users(config, data) if config.task.models else None
    model: Any = loaded.module if loaded else pairs.build()
    spec = loaded.spec if loaded else pairs.spec(model)
    if loaded:
        check_classes(model, data)
    run.say(f"{data.name}: {len(data.x_train)} images for training, {len(data.x_test)} for testing ({data.note})")
    run.say(f"symmetry verified: {len(spec.groups)} groups of units ({spec.source})")
    everything = pairs.pooled()

    def measure(pair: int) -> Measured:
        group = users_group(config, loaded, data) if loaded else trained_group(config, run, pairs, model, pair)
        subject = subject_of(config, run, pairs, group.model or model, spec, everything, pair, group)
        rows, curves, merged = judge(config, run, subject)
        if pair == 0:
            save_result(config, run, subject, merged, rows[0]["arm"], group.rows, loaded, data)
        return {"arms": rows, "curves": curves, "endpoints": group.rows}, pair_numbers(rows)

    report(config, run, each_case(run, range(1 if loaded else config.task.pairs), measure))


def subject_of(
    config: Config[MergeConfig],
    run: Run,
    pairs: ImagePairs,
    model: nn.Module,
    spec: Spec,
    data: ImageData,
    pair: int,
    group: Group,
) -> Subject:
    """The networks of a group with the images that they are scored, matched and fitted on."""
    from permlab.merging import Subject, find_head, head_tensors
    from permlab.tasks.merge.pairs import setting_of

    task, sets = config.task, pairs.sets(data)
    heads: tuple[str, ...] = ()
    if group.labels:
        heads = head_tensors(group.states[0], find_head(model, (data.x_train[:2],)))
    own = None
    if task.apart and not task.models:
        own = [pairs.statistics(part) for part in replace(pairs, data=data).parts(pair, len(group.states))]
    setting = setting_of(
        config, run, sets["train"], pair, own_batches=own, heads=heads, ancestor=group.ancestor
    )  # fmt: skip
    subject = Subject(
        model, spec, group.states, sets, setting, names=group.names, labels=group.labels, untrained=group.untrained,
        pair=pair, seed=config.seed,
    )  # fmt: skip
    # Training accuracy is what greedy and quadratic budgets are spent on.
    setting.measure = lambda states: subject.score(states, "train").accuracy
    return subject


def load_users(config: Config[MergeConfig], data: ImageData) -> Loaded:
    """The networks of `task.models`."""
    from permlab.merging import load_networks

    loaded = load_networks(config.task.models, config.model, data, ancestor=config.task.ancestor)
    if loaded.module is None:
        raise UserError(
            f"{loaded.names[0]} cannot be scored on images: this architecture is merged from its files only; "
            "use dataset=none"
        )
    return loaded


def check_classes(model: nn.Module, data: ImageData) -> None:
    """Refuse images that do not fit the user's networks."""
    from permlab.merging import evaluate

    try:
        evaluate(model, model.state_dict(), [(data.x_test[:2], data.y_test[:2])])
    except (RuntimeError, ValueError, IndexError) as error:
        shape = " x ".join(map(str, data.shape))
        line = first_line(error, 150)
        raise UserError(
            f"the networks cannot take the {shape} images or the {data.classes} classes of {data.name}: {line}"
        ) from None


def users_group(config: Config[MergeConfig], loaded: Loaded, data: ImageData) -> Group:
    """The user's networks as a pair (or more)."""
    from permlab.tasks.merge.pairs import device_of

    device = device_of(config)
    if loaded.module is not None:
        loaded.module.to(device)
    states = [{name: state[name].to(device) for name in state} for state in loaded.states]
    ancestor = loaded.ancestor and {name: value.float().to(device) for name, value in loaded.ancestor.items()}
    rows = [{"pair": 0, "network": name, "source": path} for name, path in zip(loaded.names, config.task.models)]
    return Group(states, list(loaded.names), rows, ancestor=ancestor, untrained=fresh_networks(config, loaded, data))


def fresh_networks(config: Config[MergeConfig], loaded: Loaded, data: ImageData) -> list[Any]:
    """Two untrained networks of the users' architecture, for the control."""
    from permlab.merging import initial_state
    from permlab.merging.networks.huggingface import untrained_state
    from permlab.tasks.merge.pairs import device_of

    seeds = [derived_seed(config.seed, "init", 0, k) for k in (0, 1)]
    if loaded.kind == "vision":
        record = loaded.config
        options = {key: record.get(key) for key in ("width", "depth", "norm")}
        fresh = [initial_state(record["network"], data, seed, **options) for seed in seeds]
    else:
        fresh = [untrained_state(loaded, seed) for seed in seeds]
    if any(fresh[0][name].shape != value.shape for name, value in loaded.states[0].items()):
        return []  # the networks have more outputs than the images have classes
    return [{name: value.to(device_of(config)) for name, value in state.items()} for state in fresh]


def trained_group(config: Config[MergeConfig], run: Run, pairs: ImagePairs, model: nn.Module, pair: int) -> Group:
    """A pair trained here, from a common ancestor where the arm needs one."""
    from permlab.merging.networks.tangent import linearised
    from permlab.tasks.merge.pairs import train_ancestor, train_pair

    ancestor = None
    if any("ancestor" in COMBINES[arm.combine].needs for arm in arms_of(config)):
        ancestor = train_ancestor(run, pairs, model, pair).state
        if config.task.train.tangent:
            model = linearised(model, ancestor)
    found = train_pair(run, pairs, model, pair, start=ancestor)
    rows = [
        {"pair": pair, "member": k, "labels": " ".join(map(str, end.labels)), **end.provenance, **end.metrics}
        for k, end in enumerate(found)
    ]
    return Group(
        [endpoint.state for endpoint in found],
        [f"network {chr(65 + k)}" for k in range(len(found))],
        rows,
        [endpoint.labels for endpoint in found] if config.task.labels > 1 else [],
        ancestor,
        [pairs.untrained(pair, k) for k in range(len(found))],
        model,
    )
