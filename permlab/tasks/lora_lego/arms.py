"""The methods that `permlab task=lora_lego` compares: one `Arm` is one row of tables/methods.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from permlab.adapters import LegoRule, MergeRule, TrimRule
from permlab.tasks.lora_lego import LoraLegoConfig


@dataclass(frozen=True)
class Arm:
    """`label` names the row, `family` gives its colour, `rule` does the merge; `sweep` marks the k sweep of LEGO."""

    label: str
    family: str
    rule: MergeRule
    sweep: bool = False

    def describe(self) -> dict[str, object]:
        """Columns of the table that follow from the rule."""
        lego = self.rule.method == "lego"
        return {
            "method": self.label,
            "family": self.family,
            "gauge": self.rule.lego.gauge if lego else None,
            "param_reweight": self.rule.lego.param_reweight if lego else None,
            "output_reweight": self.rule.lego.output_reweight if lego else None,
            "density": self.rule.trim.density if self.rule.method in ("ties", "dare", "knots") else None,
        }


def sweep_ranks(task: LoraLegoConfig, ranks: Sequence[int]) -> list[int]:
    """LEGO's k: `task.sweep` times the mean rank, and all units; without those above the pool."""
    mean, pool = sum(ranks) / len(ranks), sum(ranks)
    wanted = {max(1, round(multiple * mean)) for multiple in task.sweep} | {pool}
    return sorted(k for k in wanted if k <= pool)


def baseline_arms(task: LoraLegoConfig, ranks: Sequence[int], seed: int) -> list[Arm]:
    """Every method but LEGO, with the settings their papers or PEFT use."""
    largest = max(ranks)

    def arm(label: str, method: str, rank: int | None = None, density: float = 0.5, space: str = "delta") -> Arm:
        trim = TrimRule(density, space, False, task.sign_method)
        return Arm(label, method, MergeRule(method=method, rank=rank, trim=trim, seed=seed))

    # sqrt(weight) goes to A and to B: weights 1/n^2 average the factors, weights 1/n are what PEFT's users write.
    count = len(ranks)
    average = MergeRule("linear", weights=(1 / count**2,) * count, seed=seed)
    arms = [
        Arm("average of A and of B", "linear", average),
        arm("linear, weights 1/n", "linear"),
        arm("cat: sum of updates", "cat"),
        arm(f"svd of the sum, rank {largest}", "svd", largest),
        arm("ties on updates, density 0.2", "ties", None, 0.2),
        arm("ties on updates, density 0.5", "ties", None, 0.5),
        arm("ties on A and B, density 0.5", "ties", None, 0.5, "factor"),
        arm("dare on updates, density 0.5", "dare", None, 0.5),
        arm("dare on A and B, density 0.5", "dare", None, 0.5, "factor"),
        arm("knots-ties, density 0.2", "knots", None, 0.2),
        arm("knots-ties, density 0.5", "knots", None, 0.5),
    ]
    if 2 * largest <= sum(ranks):
        arms.insert(4, arm(f"svd of the sum, rank {2 * largest}", "svd", 2 * largest))
    return arms


def lego_arms(task: LoraLegoConfig, ranks: Sequence[int], seed: int) -> list[Arm]:
    """LEGO over k with each reweighting on and off; gauges and features at twice the mean rank."""
    arms = []

    def arm(k: int, said: str, sweep: bool = False, **keys: object) -> None:
        lego = LegoRule(**{"gauge": task.gauge, "n_init": task.n_init} | keys)  # type: ignore[arg-type]
        rule = MergeRule("lego", rank=k, reference_rank=task.reference_rank, lego=lego, seed=seed)
        arms.append(Arm(f"lego k={k}, {said}", "lego", rule, sweep))

    for k in sweep_ranks(task, ranks):
        arm(k, "both", sweep=True)
        arm(k, "parameter only", sweep=True, output_reweight=False)
        arm(k, "output only", sweep=True, param_reweight="none")
        arm(k, "no reweighting", sweep=True, param_reweight="none", output_reweight=False)
    k = min(sum(ranks), round(2 * sum(ranks) / len(ranks)))
    for gauge in ("none", "balanced", "svd"):
        if gauge != task.gauge:
            arm(k, f"both, gauge {gauge}", gauge=gauge)
    arm(k, "both, gauge none, up to sign", gauge="none", sign_invariant=True)
    arm(k, "both, normalized features, max norm", gauge="none", features="normalized", param_reweight="max")
    arm(k, "both, per-half norm", param_reweight="per_half")
    return arms


def reference_arms(ranks: Sequence[int], seed: int) -> list[Arm]:
    """Rules for r in sqrt(r / k) with mixed ranks, at k = the mean rank and twice it."""
    mean = max(1, round(sum(ranks) / len(ranks)))
    arms = []
    for k in (mean, min(2 * mean, sum(ranks))):
        for reference in ("mean", "max", "min"):
            rule = MergeRule("lego", rank=k, reference_rank=reference, lego=LegoRule(gauge="balanced"), seed=seed)
            arms.append(Arm(f"lego k={k}, both, reference rank {reference}", "lego", rule))
    return arms


def all_arms(task: LoraLegoConfig, ranks: Sequence[int], seed: int) -> list[Arm]:
    """Baselines, LEGO, and the reference-rank rules where ranks are mixed."""
    arms = baseline_arms(task, ranks, seed) + lego_arms(task, ranks, seed)
    return arms + (reference_arms(ranks, seed) if len(set(ranks)) > 1 else [])
