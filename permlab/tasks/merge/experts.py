"""`task.study=experts`: a mixture of experts with fewer of them, by M-SMoE and its controls (arXiv 2310.01334).

permlab task=merge task.study=experts task.experts.corpus=FOLDER                     # task.pairs mixtures trained here
permlab task=merge task.study=experts task.experts.corpus=FOLDER 'task.models=[DIR]' # one of your own
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import UserError, check_range
from permlab.tasks.merge.loop import Tables, each_case
from permlab.tasks.merge.settings import MergeConfig

if TYPE_CHECKING:
    from permlab.runs.run import Run

EXPERTS = 8
"""Of a network that is trained here."""


def validate(config: Config[MergeConfig]) -> None:
    """Check numbers and files; nothing heavy is loaded.

    Raises:
        UserError: naming the key and the remedy.
    """
    from permlab.models.checkpoints import open_checkpoint
    from permlab.symmetry.table import SYMMETRIES

    task, given, most = config.task, config.task.experts, EXPERTS
    if given.corpus is not None and not list(Path(given.corpus).expanduser().glob("*.txt")):
        raise UserError(f"task.experts.corpus={given.corpus} is no folder with .txt files; null generates text")
    if len(task.models) > 1:
        raise UserError(f"task.study=experts merges the experts of one network, not of {len(task.models)}: give one")
    for path in task.models:
        opened = open_checkpoint(path)
        kind = str(opened.config.get("model_type"))
        if kind not in SYMMETRIES or not SYMMETRIES[kind].experts:
            able = ", ".join(name for name, row in SYMMETRIES.items() if row.experts)
            raise UserError(f"{path} is of model type '{kind}', which has no experts: give one of {able}")
        counts = ("num_local_experts", "num_experts", "n_routed_experts")
        most = next((int(opened.config[key]) for key in counts if key in opened.config), EXPERTS)
    check_range("task.pairs", task.pairs, 1)
    for kept in (*given.kept, given.written):
        check_range("task.experts.kept and written", kept, 1, most)
    if given.written not in given.kept:
        raise UserError(f"task.experts.written={given.written} is none of task.experts.kept={given.kept}: add it there")
    for key in ("epochs", "sequences"):
        check_range(f"task.experts.{key}", getattr(given, key), 0, open_interval=True)
    check_range("task.experts.columns", given.columns, 0)
    for rank in [*given.ranks, *([given.rank] if given.rank is not None else [])]:
        check_range("task.experts.rank and ranks", rank, 1)


def plan(config: Config[MergeConfig]) -> dict[str, Any]:
    """Lines of a dry run."""
    task = config.task
    made = f"{task.pairs} mixtures of {EXPERTS} experts, trained here" if not task.models else task.models[0]
    return {"networks": made, "experts kept": ", ".join(map(str, task.experts.kept))}


def run_experts(config: Config[MergeConfig], run: Run) -> None:
    """Score every arm on every network; the first network is written with fewer experts."""
    from permlab.merging.studies.experts import expert_metrics, expert_tables, mean_rows
    from permlab.models.causal_lm import save_causal_lm
    from permlab.pretraining import general_text, load_base, text_pieces
    from permlab.storage.folders import replacing_folder
    from permlab.tasks.merge.figures.experts import draw_experts

    given = config.task.experts
    read, held = general_text(given.corpus, config.seed)

    def measure(pair: int) -> tuple[Tables, dict[str, float]]:
        model, tokenizer = load_base(network(config, run, pair), run.device)
        counted, scored = (text_pieces(tokenizer, part, 128, given.sequences) for part in (read, held))
        tables = expert_tables(model, counted, scored, given, config.seed + pair, run.check_stop)
        if pair == 0:
            with replacing_folder(run.artifact("model"), replace=True) as folder:
                save_causal_lm(written(model, counted, config), tokenizer, folder)
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


def network(config: Config[MergeConfig], run: Run, pair: int) -> Path:
    """The folder of the user's network, or of one that is trained now unless it was before."""
    from permlab.models.checkpoints import open_checkpoint
    from permlab.pretraining import MixtureSettings, pretrained_base

    if config.task.models:
        return open_checkpoint(config.task.models[0]).folder
    given = config.task.experts
    settings = MixtureSettings(corpus=given.corpus, epochs=given.epochs, experts=EXPERTS, seed=config.seed + pair)
    with run.progress(f"mixture of experts {pair + 1}", 1000) as bar:

        def show(done: int, total: int, loss: float) -> None:
            bar.update(1000 * done // total, loss=loss)
            run.check_stop()

        return pretrained_base(settings, Path(config.run.root) / "bases", device=run.device, progress=show)


def written(model: Any, counted: Any, config: Config[MergeConfig]) -> Any:
    """The network that is written."""
    from permlab.merging.methods.experts import routing
    from permlab.merging.studies.experts import MERGED, smaller

    given = config.task.experts
    found = routing(model, [{"input_ids": rows} for rows in counted.to(model.device).split(16)])
    columns = given.columns if given.rank is not None else 0
    return smaller(model, found, given.written, MERGED, rank=given.rank, columns=columns)
