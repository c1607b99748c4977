"""The summary that every `scripts/torture_*.py` prints: fault, how often tried, how often survived.

A row with `survived < tried` is open; the exit code of the script says whether there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts by fault, in the order in which the faults were first seen."""

    title: str
    tried: dict[str, int] = field(default_factory=dict)
    survived: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """One line for each try that was not survived: what to run again, and what was seen."""

    def add(self, fault: str, survived: bool, detail: str = "") -> None:
        """Count one try; `detail` says how to repeat it and is printed when it was not survived."""
        self.tried[fault] = self.tried.get(fault, 0) + 1
        self.survived[fault] = self.survived.get(fault, 0) + bool(survived)
        if not survived:
            self.failures.append(f"{fault}: {detail}")

    @property
    def open(self) -> list[str]:
        """The faults that were not survived every time."""
        return [fault for fault, tried in self.tried.items() if self.survived[fault] < tried]

    def table(self) -> str:
        """Return the Markdown table, with a row for the sum."""
        rows = [(fault, tried, self.survived[fault]) for fault, tried in self.tried.items()]
        rows.append(("together", sum(self.tried.values()), sum(self.survived.values())))
        lines = [f"| {self.title} | tried | survived |", "|---|---|---|"]
        return "\n".join(lines + [f"| {fault} | {tried} | {survived} |" for fault, tried, survived in rows])

    def report(self) -> int:
        """Print the table and what failed; return the exit code."""
        print(self.table(), flush=True)
        for failure in self.failures:
            print(f"OPEN {failure}", flush=True)
        return 1 if self.failures else 0
