"""What merging language models reads texts for, beside scores: the factor on changes, Fisher information."""

from __future__ import annotations

from permlab.config import Config
from permlab.merging.measure.evaluate import evaluate
from permlab.merging.measure.subject import Subject
from permlab.merging.methods.fisher_files import save_fisher, text_fisher
from permlab.runs.run import Run
from permlab.tables import Row
from permlab.tasks.merge.checks import arms_of
from permlab.tasks.merge.settings import MergeConfig


def best_scale(config: Config[MergeConfig], run: Run, subject: Subject) -> float:
    """The factor on the merged change, of `task.scales`, with the least loss on the texts that are not held out."""
    arm, rows = arms_of(config)[0], []
    for scale in config.task.scales:
        run.check_stop()
        merged = subject.merge(arm, scale=scale)
        found = evaluate(subject.model, merged.state, subject.setting.batches, subject.scoring.scorer)
        rows.append({"arm": arm.label, "scale": scale, "loss": found.loss})
    best: Row = min(rows, key=lambda row: row["loss"])
    run.table("scales", rows, title="Loss on the texts that are not held out")
    run.say(f"scale {best['scale']:g} is the best of {len(rows)}; what follows is for held-out texts")
    run.summary(scale=best["scale"])
    return float(best["scale"])


def text_information(run: Run, subject: Subject) -> list[str]:
    """Files with the Fisher information of every network on the texts that are not held out."""
    files = []
    for number, state in enumerate(subject.states):
        run.check_stop()
        path = run.artifact(f"fisher/{number}.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        information = text_fisher(subject.model, state, subject.setting.batches, seed=subject.setting.seed)
        files.append(str(save_fisher(path, {name: value.cpu() for name, value in information.items()})))
    run.say(f"Fisher information of {len(files)} networks in {path.parent}")
    return files
