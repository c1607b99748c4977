"""`permlab task=merge` on image classifiers: pairs trained here or networks of the user, every arm, every control.

Tables: arms.csv (one row per pair and arm), summary.csv (mean and deviation over pairs), curves.csv, endpoints.csv.
Artifacts: the merged network of the configured arm and its matching, of the first pair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import UserError
from permlab.matching.table import MATCHES
from permlab.merging.arm import Arm, parse_arm
from permlab.merging.table import COMBINES
from permlab.seeding import derived_seed

if TYPE_CHECKING:
    from torch import nn

    from permlab.data.images import ImageData
    from permlab.merging import Endpoint, Merged, Setting, Subject
    from permlab.merging.networks.loaded import Loaded
    from permlab.runs.run import Run
    from permlab.symmetry import Spec

Row = dict[str, Any]


@dataclass
class Group:
    """Two or more networks to be merged, and how they came about."""

    states: list[Any]
    names: list[str]
    rows: list[Row]
    labels: list[list[int]] = field(default_factory=list)
    ancestor: Any = None
    untrained: list[Any] = field(default_factory=list)


def run_pairs(config: Config, run: Run) -> None:
    """Get every pair, judge every arm, write tables, figures, the merged network and the headline numbers."""
    from permlab.tasks.merge.pairs import build, forget_networks, load_data, pooled, spec_of
    from permlab.tasks.merge.report import report

    task = config.task
    data = load_data(config)
    loaded = load_users(config, data) if task.models else None
    model = loaded.module if loaded else build(config, data)
    spec = loaded.spec if loaded else spec_of(model, data)
    if loaded:
        check_classes(model, data)
    run.say(f"symmetry verified: {len(spec.groups)} groups of units ({spec.source})")
    saved = (run.load_checkpoint() if run.resumed else None) or {"arms": [], "curves": [], "endpoints": []}
    done = len({row["pair"] for row in saved["arms"]})
    if run.resumed:
        run.rewind_metrics(done)
    for pair in range(done, 1 if loaded else task.pairs):
        group = users_group(config, loaded, data) if loaded else trained_group(config, run, data, model, pair)
        work = Pair(config, run, model, spec, pooled(config, data), pair, group)
        work.judge_all()
        if pair == 0:
            work.save(loaded, data)
        for name, rows in (("arms", work.rows), ("curves", work.bench.curves), ("endpoints", group.rows)):
            saved[name] += rows
        run.log(work.headline(), step=pair + 1)
        run.save_checkpoint(saved)
        run.check_stop()
    forget_networks(run)
    report(config, run, saved, configured(config))


def configured(config: Config) -> Arm:
    """The arm of task.match, task.combine, task.renorm."""
    return Arm(config.task.match, config.task.combine, config.task.renorm)


def load_users(config: Config, data: ImageData) -> Loaded:
    """The networks of `task.models`."""
    from permlab.merging.networks.loading import load_networks

    loaded = load_networks(config.task.models, config.model, data, ancestor=config.task.ancestor)
    if loaded.module is None:
        raise UserError(
            f"{loaded.names[0]} cannot be scored on images: this architecture is merged from its files only; "
            "use dataset=none"
        )
    return loaded


def check_classes(model: nn.Module, data: ImageData) -> None:
    """Refuse images that do not fit the user's networks."""
    import torch

    from permlab.merging import evaluate

    try:
        with torch.no_grad():
            evaluate(model, model.state_dict(), [(data.x_test[:2], data.y_test[:2])])
    except (RuntimeError, ValueError, IndexError) as error:
        shape = " x ".join(map(str, data.shape))
        line = str(error).splitlines()[0][:150]
        raise UserError(
            f"the networks cannot take the {shape} images or the {data.classes} classes of {data.name}: {line}"
        ) from None


def users_group(config: Config, loaded: Loaded, data: ImageData) -> Group:
    """The user's networks as a pair (or more)."""
    from permlab.tasks.merge.pairs import device_of

    device = device_of(config)
    loaded.module.to(device)
    states = [{name: state[name].to(device) for name in state} for state in loaded.states]
    ancestor = loaded.ancestor and {name: value.float().to(device) for name, value in loaded.ancestor.items()}
    rows = [{"pair": 0, "network": name, "source": path} for name, path in zip(loaded.names, config.task.models)]
    return Group(states, list(loaded.names), rows, ancestor=ancestor, untrained=fresh_networks(config, loaded, data))


def fresh_networks(config: Config, loaded: Loaded, data: ImageData) -> list[Any]:
    """Two untrained networks of the users' architecture, for the control."""
    from permlab.merging import initial_state
    from permlab.tasks.merge.pairs import device_of

    record, device = loaded.config, device_of(config)
    options = {key: record.get(key) for key in ("width", "depth", "norm")}
    fresh = [initial_state(record["network"], data, derived_seed(config.seed, "init", 0, k), **options) for k in (0, 1)]
    if any(fresh[0][name].shape != value.shape for name, value in loaded.states[0].items()):
        return []  # the networks have more outputs than the images have classes
    return [{name: value.to(device) for name, value in state.items()} for state in fresh]


def trained_group(config: Config, run: Run, data: ImageData, model: nn.Module, pair: int) -> Group:
    """A pair trained here, from a common ancestor where the arm needs one."""
    from permlab.tasks.merge.pairs import train_ancestor, train_pair, untrained

    arms = [configured(config), *map(parse_arm, config.task.compare)]
    ancestor = None
    if any("ancestor" in COMBINES[arm.combine].needs for arm in arms):
        ancestor = train_ancestor(config, run, data, model, pair).state
    found = train_pair(config, run, data, model, pair, start=ancestor)
    return Group(
        [endpoint.state for endpoint in found],
        [f"network {chr(65 + k)}" for k in range(len(found))],
        [endpoint_row(pair, k, endpoint) for k, endpoint in enumerate(found)],
        [endpoint.labels for endpoint in found] if config.task.labels > 1 else [],
        ancestor,
        [untrained(config, data, pair, k) for k in range(len(found))],
    )


def endpoint_row(pair: int, k: int, endpoint: Endpoint) -> Row:
    """Where a trained network came from and what it can do on its own data."""
    labels = " ".join(map(str, endpoint.labels))
    return {"pair": pair, "member": k, "labels": labels, **endpoint.provenance, **endpoint.metrics}


class Pair:
    """One pair under every arm."""

    def __init__(
        self, config: Config, run: Run, model: nn.Module, spec: Spec, data: ImageData, pair: int, group: Group
    ) -> None:
        from permlab.merging.measure.bench import Bench
        from permlab.tasks.merge.pairs import evaluation_sets

        self.config, self.run, self.model, self.spec = config, run, model, spec
        self.data, self.pair, self.group = data, pair, group
        self.sets = evaluation_sets(config, data)
        self.bench = Bench(self._subject(), config.task.points)
        self.rows: list[Row] = []
        self.merged: Merged | None = None

    def _subject(self) -> Subject:
        from permlab.merging import Subject

        group = self.group
        return Subject(
            self.model,
            self.spec,
            group.states,
            self.sets,
            self._setting(group.labels),
            names=group.names,
            labels=group.labels,
            untrained=group.untrained,
            pair=self.pair,
            seed=self.config.seed,
        )

    def _setting(self, labels: Sequence[Sequence[int]]) -> Setting:
        from permlab.merging import Setting, find_head, head_tensors
        from permlab.tasks.merge.pairs import network_data, statistics_batches

        task = self.config.task
        heads: tuple[str, ...] = ()
        if labels:
            heads = head_tensors(self.group.states[0], find_head(self.model, (self.data.x_train[:2],)))
        own = None
        if (task.labels > 1 or task.share < 1) and not task.models:
            parts = network_data(self.config, self.data, self.pair, len(self.group.states))
            own = [statistics_batches(self.config, part) for part in parts]
        return Setting(
            self.sets["train"],
            own_batches=own,
            seed=derived_seed(self.config.seed, "match", self.pair),
            similarity=task.similarity,
            restarts=task.restarts,
            steps=task.steps,
            weights=list(task.weights),
            ridge=task.ridge,
            density=task.density,
            allocation=task.allocation,
            measure=self._measure,
            heads=heads,
            ancestor=self.group.ancestor,
            should_stop=lambda: self.run.stopping,
        )

    def _measure(self, states: Sequence[Any]) -> float:
        """Training accuracy: what greedy and quadratic budgets are spent on."""
        return self.bench.subject.score(states, "train").accuracy

    def judge_all(self) -> None:
        """The configured arm, those to compare, the controls."""
        chosen = configured(self.config)
        plan = planned_arms(self.config, has_batchnorm(self.model), chosen)
        with self.run.progress(f"merging pair {self.pair + 1}", len(plan) + 1) as bar:
            for number, each in enumerate(plan):
                row, merged = self.bench.judge(each.arm, each.role, each.label, each.budget)
                self.run.check_stop()
                self.rows.append(row)
                if each.role == "configured":
                    self.merged = merged
                bar.update(number + 1, loss_barrier=row["loss_barrier"])
            if self.config.task.controls:
                self._controls(chosen)
            self.rows += self.bench.endpoints(self.group.names)

    def _controls(self, chosen: Arm) -> None:
        from permlab.merging.measure.bench import Bench

        self.rows.append(self.bench.ensemble())
        if not self.group.untrained or MATCHES[chosen.match].control:
            return
        bench = Bench(self.bench.subject.before_training(), self.config.task.points)
        arm = Arm(chosen.match, MATCHES[chosen.match].combine, chosen.renorm)
        row, _ = bench.judge(arm, "untrained", f"untrained networks, {arm.label}")
        self.rows.append(row)
        self.bench.curves += bench.curves

    def headline(self) -> dict[str, float]:
        """Numbers of this pair for metrics.jsonl."""
        keys = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "l2_reduction")
        first = self.rows[0]
        naive = next((row for row in self.rows if row["arm"] == "no permutation"), {})
        values = {key: first.get(key) for key in keys} | {"naive_loss_barrier": naive.get("loss_barrier")}
        return {key: float(value) for key, value in values.items() if value is not None}

    def save(self, loaded: Loaded | None, data: ImageData) -> None:
        """The merged network of the configured arm, under every head, and its matching without the cost matrices."""
        from permlab.tasks.merge.report import save_result

        save_result(self, loaded, data)


def has_batchnorm(model: nn.Module) -> bool:
    """Whether any layer keeps running statistics."""
    from permlab.merging.methods.repair import batchnorms

    return bool(batchnorms(model))


@dataclass(frozen=True)
class Planned:
    """An arm to be judged: its role in the comparison and the multiply-accumulates it may use."""

    arm: Arm
    role: str
    budget: float = 1.0

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.arm.label + (f" at {self.budget:g}x" if self.budget > 1 else "")


def planned_arms(config: Config, batchnorm: bool, chosen: Arm) -> list[Planned]:
    """Every arm once: the configured one, those to compare, the controls that permute nothing or anything."""

    def budget(arm: Arm) -> float:
        return config.task.budget if COMBINES[arm.combine].partial else 1.0

    arms = [Planned(chosen, "configured", budget(chosen))]
    arms += [Planned(arm, "compare", budget(arm)) for arm in map(parse_arm, config.task.compare)]
    if config.task.controls:
        controls = [Planned(Arm("identity"), "control"), Planned(Arm("random"), "control")]
        # The same treatment without the permutation: what the permutation itself is worth.
        same = [each for each in arms if not COMBINES[each.arm.combine].matches]
        controls += [dataclasses.replace(each, arm=dataclasses.replace(each.arm, match="identity")) for each in same]
        controls += [Planned(each.arm, "") for each in same if each.budget > 1]
        if batchnorm:
            controls.append(Planned(Arm("identity", "average", "reset"), "control"))
        arms += [dataclasses.replace(each, role="control") for each in controls]
    seen: dict[str, Planned] = {}
    for each in arms:
        seen.setdefault(each.label, each)
    return list(seen.values())
