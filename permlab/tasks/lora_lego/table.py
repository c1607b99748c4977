"""The studies of `task=lora_lego`: `task.study=merge`."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class LoraStudyRow(Row):
    """A study: `target` is `(config, run) -> None`.

    Attributes:
        trains: trains a base and adapters of its own, once per seed of `task.repeats`.
        takes_adapters: works on `task.adapters` too.
    """

    trains: bool = True
    takes_adapters: bool = False


LORA_STUDIES = Table(
    "study of adapters",
    [
        LoraStudyRow(
            "merge",
            "every method on trained adapters",
            target="permlab.tasks.lora_lego.studies:study_merges",
            takes_adapters=True,
        ),
        LoraStudyRow("prune", "one adapter, fewer ranks", target="permlab.tasks.lora_lego.studies:study_pruning"),
        LoraStudyRow(
            "pareto",
            "score and energy kept against the parameters of a merge",
            target="permlab.tasks.lora_lego.pareto:study_pareto",
        ),
        LoraStudyRow(
            "real",
            "six adapters on a base pretrained on other text: in domain, mixed, out of domain",
            target="permlab.tasks.lora_lego.real:study_real",
            needs=("folder",),
        ),
        LoraStudyRow(
            "identities",
            "what LEGO does exactly and what it cannot, on random adapters",
            target="permlab.tasks.lora_lego.studies:study_identities",
            trains=False,
        ),
    ],
)
