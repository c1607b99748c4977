"""`task.study=experts`: a mixture of experts with fewer of them, by M-SMoE and its controls (arXiv 2310.01334).

permlab task=merge task.study=experts task.experts.corpus=FOLDER                     # task.pairs mixtures trained here
permlab task=merge task.study=experts task.experts.corpus=FOLDER 'task.models=[DIR]' # one of your own
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import check_range
from permlab.merging.networks.expert_checks import EXPERTS, check_experts
from permlab.tasks.merge.loop import Tables, each_case
from permlab.tasks.merge.settings import MergeConfig

if TYPE_CHECKING:
    from permlab.runs.run import Run


def validate(config: Config[MergeConfig]) -> None:
    """Check numbers and files; nothing heavy is loaded.

    Raises:
        UserError: naming the key and the remedy.
    """
    check_range("task.pairs", config.task.pairs, 1)
    check_experts(config.task.experts, config.task.models)


def plan(config: Config[MergeConfig]) -> dict[str, Any]:
    """Lines of a dry run."""
    task = config.task
    made = f"{task.pairs} mixtures of {EXPERTS} experts, trained here" if not task.models else task.models[0]
    return {"networks": made, "experts kept": ", ".join(map(str, task.experts.kept))}


def run_experts(config: Config[MergeConfig], run: Run) -> None:
    """Score every arm on every network; the first network is written with fewer experts."""
    from permlab.merging.studies.expert_figure import draw_experts
    from permlab.merging.studies.experts import expert_metrics, expert_tables, mean_rows, mixture_of, written
    from permlab.models.causal_lm import save_causal_lm
    from permlab.pretraining import general_text, load_base, text_pieces
    from permlab.storage.folders import replacing_folder

    given = config.task.experts
    read, held = general_text(given.corpus, config.seed)

    def measure(pair: int) -> tuple[Tables, dict[str, float]]:
        show = progress(run, pair)
        folder = mixture_of(
            given, config.task.models, Path(config.run.root) / "bases", config.seed + pair, run.device, show
        )
        model, tokenizer = load_base(folder, run.device)
        counted, scored = (text_pieces(tokenizer, part, 128, given.sequences) for part in (read, held))
        tables = expert_tables(model, counted, scored, given, config.seed + pair, run.check_stop)
        if pair == 0:
            with replacing_folder(run.artifact("model"), replace=True) as folder:
                save_causal_lm(written(model, counted, given), tokenizer, folder)
        found = {name: [{"pair": pair, **row} for row in rows] for name, rows in tables.items()}
        return found, {f"{row['arm']} {row['kept']}": row["loss"] for row in tables["experts"]}

    tables = each_case(run, range(1 if config.task.models else config.task.pairs), measure)
    means = mean_rows(tables["experts"], ("kept", "arm"))
    for name, rows in tables.items():
        run.table(name, rows, show=False)
    run.table(
        "experts_mean", means, title="Means over networks", columns=["kept", "arm", "pairs", "loss", "perplexity"]
    )
    ranks = mean_rows(tables["ranks"], ("rank", "columns"), "share")
    run.table("ranks_mean", ranks, title=f"{given.written} merged experts at a low rank")
    run.figure("experts", draw_experts(means))
    run.summary(**expert_metrics(tables["experts"], given.written))
    run.say(f"{given.written} experts per layer: {run.dir / 'artifacts' / 'model'}")


def progress(run: Run, pair: int) -> Any:
    """A line on the training of a mixture now and then; raises to stop it."""

    def show(done: int, total: int, loss: float) -> None:
        if done % 50 == 0 or done == total:
            run.say(f"mixture of experts {pair + 1}: step {done} of {total}, loss {loss:.3f}")
        run.check_stop()

    return show
