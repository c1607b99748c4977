"""The tasks, `permlab task=NAME`: a module, a YAML in conf/task/ and a row here make one (docs/adding_a_task.md)."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class TaskRow(Row):
    """A task: `target` is its module and configuration dataclass; the module imports nothing heavy at its top.

    Attributes:
        section: the module with its part of the report, where that is not `section` in the task's own package; a task
            with neither has a part of its tables and figures as the runs left them. Such a module has TITLE, QUESTION,
            `blocks(collection, out)` and, where one run holds several seeds, `repeats(task) -> int`.
    """

    section: str = ""


TASKS = Table(
    "task",
    [
        TaskRow(
            "spt",
            "does training on permuted semantic units cure the reversal curse?",
            target="permlab.tasks.spt:SptConfig",
            paper="2403.00758",
        ),
        TaskRow(
            "inverse_permutation",
            "can attention undo a permutation, and what does the causal mask cost?",
            target="permlab.tasks.inverse_permutation:InversePermutationConfig",
            paper="2509.24125",
        ),
        TaskRow(
            "ntk",
            "how many networks must be averaged to learn a permutation exactly?",
            target="permlab.tasks.ntk:NtkConfig",
            paper="2502.16763",
        ),
        TaskRow(
            "merge",
            "can two networks be merged after permuting their units?",
            target="permlab.tasks.merge:MergeConfig",
            paper="2209.04836",
        ),
        TaskRow(
            "lora_lego",
            "can LoRA adapters be taken apart by rank and rebuilt as one?",
            target="permlab.tasks.lora_lego:LoraLegoConfig",
            paper="2409.16167",
        ),
        TaskRow(
            "state_tracking",
            "which sequence models can follow a permutation through a product?",
            target="permlab.tasks.state_tracking:StateTrackingConfig",
            paper="2411.12537",
        ),
        TaskRow("report", "finished runs as tables, figures and one page", target="permlab.tasks.report:ReportConfig"),
    ],
)
