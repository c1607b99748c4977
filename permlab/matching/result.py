"""What every matcher returns: `Matching`.

`matching = weight_matching(spec, a, b); matching.permutation; matching.scores[1]["layers.0"]; matching.save(path)`
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from permlab.errors import UserError, blaming, first_line
from permlab.symmetry import Permutation


@dataclass
class Matching:
    """Permutations that align K models (two, as a rule) with each other.

    Attributes:
        method: identity, random, weight, activation, straight_through or zip.
        permutations: one per model, to be applied to that model; in a two-model matching the first is the identity.
        costs: per model, group name -> similarity [n, n] in float32: entry (i, j) compares slot i of the reference (the
            first model, or the sum of the other permuted models) with unit j of this model *in its original frame*;
            larger is better. For head groups n counts key/value heads. Empty where there is no cost.
        scores: per model, group name -> [n], the entry of `costs` at (i, permutation[i]): how well slot i is matched.
        clusters: ZipIt only: group name -> LongTensor [K, n], the merged unit that each unit of each model goes to.
        trace: one row per sweep or step; weight matching gives restart, sweep, objective, solves, seconds.
        objective: what the method reports at the end (weight matching: the sum of squared distances, smaller is
            better; activation matching and ZipIt: the summed similarity, larger is better; straight_through: the loss).
        sweeps, solves: passes over the groups and assignment problems solved.
        pinned: groups or tensors left alone -> why.
        notes: groups treated in a special way -> how and why.
    """

    method: str
    permutations: list[Permutation]
    costs: list[dict[str, Tensor]] = field(default_factory=list)
    scores: list[dict[str, Tensor]] = field(default_factory=list)
    clusters: dict[str, Tensor] = field(default_factory=dict)
    trace: list[dict[str, float]] = field(default_factory=list)
    objective: float = 0.0
    sweeps: int = 0
    solves: int = 0
    seconds: float = 0.0
    pinned: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def permutation(self) -> Permutation:
        """The permutation of the second model.

        Raises:
            ValueError: the matching is not between two models.
        """
        if len(self.permutations) != 2:
            raise ValueError(f"{len(self.permutations)} models were matched: use permutations[k]")
        return self.permutations[1]

    @property
    def apart(self) -> list[str]:
        """Groups in front of which zipping stopped: every unit of every model stays one of its own."""
        return [
            name for name, units in self.clusters.items() if len(units) > 1 and int(units.max()) + 1 == units.numel()
        ]

    def moved(self, model: int = 1) -> float:
        """Share of units that are not in their original place, from 0 to 1."""
        parts = self.permutations[model].values()
        moved = sum(int((part != torch.arange(len(part))).sum()) for part in parts)
        return moved / max(1, sum(len(part) for part in parts))

    def save(self, path: str | Path) -> Path:
        """Write permutations, clusters, costs and scores as safetensors, the rest as its metadata."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for kind in ("permutations", "costs", "scores"):
            for number, values in enumerate(getattr(self, kind)):
                tensors |= {f"{kind}/{number}/{name}": value.contiguous().clone() for name, value in values.items()}
        tensors |= {f"clusters/{name}": value.contiguous() for name, value in self.clusters.items()}
        plain: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("method", "trace", "objective", "sweeps", "solves", "seconds", "pinned", "notes")
        }
        plain["models"] = len(self.permutations)
        save_file(tensors, str(path), metadata={"permlab": json.dumps(plain)})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Matching:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or is not a saved matching.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise UserError(f"there is no matching at {path}")
        try:
            with safe_open(str(path), framework="pt") as file:
                plain = json.loads((file.metadata() or {}).get("permlab", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            reason = first_line(error, 120)
            raise UserError(f"{path} is not a safetensors file ({reason}): save it with Matching.save") from None
        if not isinstance(plain, dict) or not plain:
            raise UserError(f"{path} holds tensors but no matching: save it with Matching.save")
        with blaming(f"{path} holds no whole matching", "save it with Matching.save"):
            count = plain.pop("models")
            if not 0 <= count <= len(tensors):
                raise ValueError(f"{count} models, {len(tensors)} tensors")
            result = cls(permutations=[{} for _ in range(count)], **plain)
            for name, value in tensors.items():
                kind, rest = name.split("/", 1)
                if kind == "clusters":
                    result.clusters[rest] = value
                    continue
                number, group = rest.split("/", 1)
                values = getattr(result, kind)
                values += [{} for _ in range(count - len(values))]
                values[int(number)][group] = value
        return result
