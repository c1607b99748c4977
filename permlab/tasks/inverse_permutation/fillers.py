"""The mode fillers of `task=inverse_permutation`: accuracy against the number of filler tokens."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.tasks.inverse_permutation import figures_deeper as drawing
from permlab.tasks.inverse_permutation.settings import InversePermutationConfig
from permlab.tasks.inverse_permutation.train import explain

if TYPE_CHECKING:
    from permlab.runs.run import Run


def fillers(config: Config[InversePermutationConfig], run: Run) -> None:
    """Train every architecture `task.seeds` times at every number of fillers; a resumed run repeats the one cut off."""
    from permlab.probes import TokenProblem, train_tokens
    from permlab.probes.token_rows import filler_row, token_seed_rows

    task, keys = config.task, config.task.tokens
    problem, counts = TokenProblem(task.n, keys.symbols), keys.fillers or list(range(2 * task.n + 1))
    points = [(a, k, run.seed + s) for a in keys.architectures for k in counts for s in range(task.seeds)]
    done: dict[str, Any] = (run.load_checkpoint() or {}).get("done", {})
    if run.resumed:
        run.rewind_metrics(len(done) - 1)
    with run.progress("training", len(points), len(done)) as bar:
        for number, (architecture, count, seed) in enumerate(points):
            name = f"{architecture}/{count}/{seed}"
            if name in done:
                continue
            stop = lambda step, accuracy: run.check_stop()  # noqa: E731
            result = train_tokens(problem, architecture, "filler", keys, seed, run.device, stop, count)
            done[name] = dataclasses.asdict(result)
            run.log({"fillers": count, f"{architecture}/accuracy": result.accuracy}, step=number)
            run.save_checkpoint({"done": done})
            bar.update(number + 1, fillers=count, accuracy=result.accuracy)
    seeds = [run.seed + k for k in range(task.seeds)]
    results = {(a, k): [done[f"{a}/{k}/{seed}"] for seed in seeds] for a in keys.architectures for k in counts}
    rows = [filler_row(count, one) for (_, count), one in results.items()]
    run.table("fillers", rows, title=f"n = {task.n}, {keys.symbols} symbols, last n tokens read")
    kept = token_seed_rows({f"{a}, {k} fillers": one for (a, k), one in results.items()}, seeds)
    run.table("seeds", kept, show=False)
    explain(run, kept, "share of right symbols")
    run.figure("fillers", drawing.fillers(rows, task.n))
    enough = [row for row in rows if row["fillers"] >= task.n - 1]
    run.summary(
        n=task.n,
        train_seconds=sum(result["seconds"] for result in done.values()),
        above_ceiling=max(row["best"] - row["ceiling"] for row in rows),
        least_accuracy_where_enough=min((row["accuracy"] for row in enough), default=0.0),
        least_solved_where_enough=min((row["solved"] for row in enough), default=0.0),
    )
