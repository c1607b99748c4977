"""The mode text of `task=inverse_permutation`: a language model is trained to restore shuffled words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.tables import Row, mean
from permlab.tasks.inverse_permutation import figures_deeper as drawing
from permlab.tasks.inverse_permutation.language import of_what, sentences_of
from permlab.tasks.inverse_permutation.settings import InversePermutationConfig

if TYPE_CHECKING:
    from permlab.probes import PromptResult
    from permlab.runs.run import Run


def text(config: Config[InversePermutationConfig], run: Run) -> None:
    """Train `model=` anew in every style; a resumed run repeats the style that was cut off, no other."""
    from permlab.hardware import resolve_dtype
    from permlab.models.causal_lm import load_causal_lm
    from permlab.probes.finetune import finetune
    from permlab.probes.prompts import Prompt, texts
    from permlab.probes.sentences import divided, drawn_from

    task, recipe, styles = config.task, config.task.text, config.task.prompt.styles
    sentences = sentences_of(config)
    known, held_out = ((), ()) if sentences is None else divided(drawn_from(sentences, task.n))
    done: dict[str, Any] = (run.load_checkpoint() or {}).get("done", {})
    if run.resumed:
        run.rewind_metrics(sum(tests[-1]["step"] for tests in done.values()))
    with run.progress("training", recipe.steps * len(styles), recipe.steps * len(done)) as bar:
        for number, style in enumerate(styles):
            if style in done:
                continue
            before = sum(tests[-1]["step"] for tests in done.values())

            def on_test(step: int, found: PromptResult, k: int = number, b: int = before, name: str = style) -> None:
                if step:
                    run.log({f"{name}/accuracy": found.accuracy, f"{name}/exact": found.exact}, step=b + step)
                bar.update(k * recipe.steps + step, accuracy=found.accuracy)
                run.check_stop()

            prompt, asked = (Prompt(task.n, style, 0, tuple(words)) for words in (known, held_out))
            corpus = texts([prompt, asked], run.seed)
            dtype = resolve_dtype(config.hardware)
            model, tokenizer = load_causal_lm(config.model, corpus, dtype, run.device, run.seed, max_tokens=2048)
            tests = finetune(model, tokenizer, prompt, recipe, run.seed, on_test, asked)
            done[style] = [{"step": step, **dataclasses.asdict(found)} for step, found in tests]
            run.save_checkpoint({"done": done})
    rows = [text_row(style, done[style]) for style in styles]
    run.table(
        "text", rows, title=f"{config.model.name}: {task.n} shuffled words{of_what(config)}, before and after training"
    )
    curves = [{"style": style, **{k: test[k] for k in ("step", "accuracy", "exact")}} for style in styles
              for test in done[style]]  # fmt: skip
    run.table("text_curves", curves, show=False)
    run.figure("text", drawing.text(curves, task.n))
    for row in rows:
        run.summary(**{f"{row['style']}_{key}": row[key] for key in ("accuracy", "exact", "accuracy_before", "steps")})
    run.summary(n=task.n, accuracy=mean(rows, "accuracy") or 0.0, exact=mean(rows, "exact") or 0.0)


def text_row(style: str, tests: list[dict[str, Any]]) -> Row:
    """First and last test of a style, with what guessing gives."""
    first, last = tests[0], tests[-1]
    return {
        "style": style,
        "steps": last["step"],
        "accuracy_before": first["accuracy"],
        "accuracy": last["accuracy"],
        "chance_accuracy": last["chance_accuracy"],
        "exact_before": first["exact"],
        "exact": last["exact"],
        "chance_exact": last["chance_exact"],
    }
