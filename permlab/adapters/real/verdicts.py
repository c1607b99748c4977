"""LEGO against the merges that its paper compares it with: `leads(scores)`."""

from __future__ import annotations

from collections.abc import Sequence

from permlab.adapters.real.domains import ALL, DOMAINS
from permlab.tables import Row, paired

PAPERS = "LEGO as in the paper, k = r"
BEATEN = ("average of A and of B", "sum of updates", "TIES on updates, density 0.5")
"""Weight average, task arithmetic and TIES: what LoRA-LEGO says it is better than (arXiv 2409.16167)."""


def leads(scores: Sequence[Row]) -> list[Row]:
    """By domain, scale rule and rival: how much more LEGO answers exactly, on the same seeds, and its 95 % interval.

    `rule`: untuned (every merge as its paper has it) or tuned (each at the scale that validation questions picked).
    """
    rows: list[Row] = []
    for domain in DOMAINS:
        for rule, name in (("1", "untuned"), ("tuned", "tuned")):
            part = [r for r in scores if (r["domain"], r["task"], r["scale_rule"]) == (domain, ALL, rule)]
            for line in paired(part, "method", PAPERS, "exact", on="seed"):
                if line["method"] in BEATEN:
                    found: Row = {"domain": domain, "rule": name, "against": line["method"]}
                    ends = {"lead": line["exact"], "low": line["high"], "high": line["low"]}
                    # The other's lead turned round; equal counts differ in the last bits of their means.
                    found |= {
                        key: None if value is None else round(0.0 - value, 9) + 0.0 for key, value in ends.items()
                    }
                    rows.append(found | {"seeds": line["pairs"], "above": _above(part, line["method"])})
    return rows


def _above(part: Sequence[Row], rival: str) -> int:
    """Seeds on which LEGO is ahead."""
    own = {row["seed"]: row["exact"] for row in part if row["method"] == PAPERS}
    return sum(own[row["seed"]] > row["exact"] for row in part if row["method"] == rival and row["seed"] in own)
