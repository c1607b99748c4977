"""Tables of token models over seeds: `combination_row([dataclasses.asdict(train_tokens(...))])`.

Results are those of `tokens.train_tokens` as dictionaries, one for each seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from permlab.probes.measure import average
from permlab.probes.readings import theorem
from permlab.tables import Row

SOLVED = 0.99
"""Share of right symbols above which a network counts as solved."""

Results = Sequence[Mapping[str, Any]]


def _over_seeds(results: Results) -> Row:
    accuracies = [result["accuracy"] for result in results]
    return {
        "seeds": len(results),
        "accuracy": average(accuracies),
        "worst": min(accuracies),
        "best": max(accuracies),
        "ceiling": results[0]["ceiling"],
        "exact": average([result["exact"] for result in results]),
        "solved": average([float(accuracy > SOLVED) for accuracy in accuracies]),
        "parameters": results[0]["parameters"],
        "steps": average([result["steps"] for result in results]),
        "seconds": sum(result["seconds"] for result in results),
    }


def combination_row(results: Results) -> Row:
    """One architecture with one reading; `theorem` says whether the impossibility theorem speaks about it."""
    first = results[0]
    named = {"architecture": first["architecture"], "reading": first["reading"]}
    return {**named, **_over_seeds(results), "theorem": theorem(**named)}


def filler_row(count: int, results: Results) -> Row:
    """One architecture with `count` filler tokens."""
    return {"architecture": results[0]["architecture"], "fillers": count, **_over_seeds(results)}


def position_rows(results: Mapping[str, Results]) -> list[Row]:
    """Accuracy of every position of the answer, mean over seeds."""
    return [
        {"combination": name, "position": j, "accuracy": average(values)}
        for name, one in results.items()
        for j, values in enumerate(zip(*(result["per_position"] for result in one)))
    ]


def token_seed_rows(results: Mapping[str, Results], seeds: Sequence[int]) -> list[Row]:
    """One row per network, with its mechanism (`measure.mechanism_rows` counts them)."""
    made: list[Row] = []
    for arm, one in results.items():
        for seed, result in zip(seeds, one):
            row: Row = {"arm": arm, "seed": seed, "accuracy": result["accuracy"], "steps": result["steps"]}
            found = dict(result["mechanism"] or {})
            if found:
                row |= {"mechanism": found.pop("name")}
                row |= {f"without_{route}": left for route, left in found.pop("without").items()} | found
            made.append(row)
    return made


def token_verdict(rows: Sequence[Row]) -> dict[str, float]:
    """The numbers of every combination, by name, and what they took together."""
    found: dict[str, float] = {}
    for row in rows:
        name = f"{row['architecture']}_{row['reading']}"
        found |= {f"{name}_{key}": row[key] for key in ("accuracy", "worst", "best", "exact", "ceiling", "solved")}
        found[f"{name}_steps"] = row["steps"]
    return {
        **found,
        "above_ceiling": max(row["best"] - row["ceiling"] for row in rows),
        "train_seconds": sum(row["seconds"] for row in rows),
        "steps": sum(row["steps"] * row["seeds"] for row in rows),
    }
