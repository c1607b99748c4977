"""The work of `permlab task=spt`: corpus -> units -> ordered training -> recall; the science is in `permlab.text`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab import ranks
from permlab.config import Config
from permlab.data import Corpus, Example, limit_examples, load_texts
from permlab.errors import UserError
from permlab.hardware import resolve_device, resolve_dtype
from permlab.models import load_causal_lm, save_causal_lm, write_card
from permlab.models.table import OBJECTIVES
from permlab.runs.run import Run
from permlab.tasks.spt.asking import ask
from permlab.tasks.spt.before import Asked, Harness, Kept, ask_before, context_of, with_base
from permlab.tasks.spt.figures import recall_curve, training_loss, units_histogram
from permlab.tasks.spt.looked_at import corpus_of, units_of
from permlab.text import OrderedTexts, SegmentedCorpus, make_segmenter
from permlab.text.masked import Masked
from permlab.text.mixing import Mixed, pieces_needed
from permlab.text.recall import encoder
from permlab.text.settings import Pace
from permlab.text.training import (
    Hooks,
    OnStep,
    OrderedTrainer,
    Stream,
    latest_checkpoint,
    make_trainer,
    steps_of,
    trained_tokens,
    weights_dtype,
)

CARD = ("forward_accuracy", "reverse_accuracy", "final_loss", "trained_parameters", "steps")
"""Final numbers that the model's card shows."""
FEWEST_STEPS = 500
"""Steps below which no model of ours that started from random weights has learned its texts."""

if TYPE_CHECKING:
    import torch

    from permlab.tasks.spt import SptConfig


def train_and_ask(config: Config[SptConfig], run: Run) -> None:
    """Carry out one SPT run."""
    task, config = config.task, with_base(config, run)
    corpus = corpus_of(config) or limit_examples(load_texts(config.dataset, config.seed), config.debug.examples)
    for line in corpus.rejected[:5]:
        run.say(f"skipped {line}")
    examples = segment(config, run, corpus)
    model, tokenizer = model_for(config, corpus, run.device)
    ranks.told(lambda: (corpus, examples))  # to `follow`, when the files of the model are here too
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if (read := read_tokens(config, model)) < task.train.max_tokens:
        run.say(
            f"the model reads at most {read} tokens: task.train.max_tokens={read} instead of {task.train.max_tokens}"
        )
    facts = stream_of(config, examples, model, tokenizer)
    if facts.texts_cut:
        run.warn(f"{facts.texts_cut} of {len(examples)} texts have more than {facts.room} tokens and are cut there")
    run.summary(texts_cut=facts.texts_cut)
    run.say(
        f"{len(examples)} texts, {len(corpus.queries)} questions, vocabulary {len(tokenizer)}, "
        f"{trained / 1e6:.2f}M trained parameters, order {task.order}, {run.device}"
    )
    run.summary(trained_parameters=trained, texts=len(examples), vocabulary=len(tokenizer))
    if task.evaluation.chat and not tokenizer.chat_template:
        raise UserError("task.evaluation.chat=true needs a tokenizer with a chat template, and this one has none")
    asked = Asked(config, model, tokenizer, corpus)
    ask_before(config, run, asked)
    harness = Harness(config, run, model, tokenizer)
    ratio = task.general.ratio
    kept = Kept(config, run, model, tokenizer, pieces_needed(len(facts), ratio))
    stream: Stream = facts
    if ratio:
        stream = Mixed(facts, kept.pool, ratio, config.seed)
        run.say(f"{stream.added} of {len(stream)} texts are general text, from {len(kept.pool)} pieces")
    if OBJECTIVES[config.model.objective].masked:
        stream = Masked(facts, tokenizer.mask_token_id, config.seed)
    model = train(config, run, model, tokenizer, stream, asked)
    if config.hardware.shard:
        tensors, (model, _) = model, model_for(config, corpus, run.device)
        model.load_state_dict(tensors)
    kept.report(run, model)
    harness.report(run, model)
    if task.evaluation.save_model:
        save_causal_lm(model, tokenizer, run.artifact("model"))
    ask(config, run, model, tokenizer, corpus)
    if task.evaluation.save_model:
        write_card(
            run.dir / "artifacts" / "model",
            config.model,
            "`task=spt`, on texts in permuted order (arXiv 2403.00758)",
            {"order": task.order, "data": config.dataset.name, "texts": len(examples), "epochs": pace_of(config).epochs,
             "learning_rate": pace_of(config).learning_rate, "seed": config.seed},
            {key: run.metrics[key] for key in CARD if key in run.metrics},
        )  # fmt: skip


def follow(config: Config[SptConfig], path: Path) -> None:
    """Take part in the training of a run whose first process is another one: `hardware.processes=2`."""
    corpus, examples = ranks.heard()  # from `train_and_ask`
    model, tokenizer = model_for(config, corpus, resolve_device(config.hardware))
    stream = stream_of(config, examples, model, tokenizer)
    trainer = trainer_of(config, model, tokenizer, stream, path / "checkpoints", lambda *_: (False, False))
    trainer.train(resume_from_checkpoint=ranks.heard())
    trained(config, model, False)


def model_for(config: Config[SptConfig], corpus: Corpus, device: torch.device) -> tuple[Any, Any]:
    """Return model and tokenizer."""
    texts = [example.text for example in corpus.examples] + [query.prompt for query in corpus.queries]
    frozen = config.model.lora.rank > 0
    weights = weights_dtype(resolve_dtype(config.hardware), frozen=frozen, pure=config.hardware.pure_bfloat16)
    return load_causal_lm(config.model, texts, weights, device, config.seed, config.task.train.max_tokens)


def stream_of(config: Config[SptConfig], examples: list[Example], model: Any, tokenizer: Any) -> OrderedTexts:
    """Return all epochs as one sequence."""
    return OrderedTexts(
        examples,
        encoder(tokenizer),
        config.task,
        epochs=pace_of(config).epochs,
        seed=config.seed,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        max_tokens=read_tokens(config, model),
    )


def pace_of(config: Config[SptConfig]) -> Pace:
    """Return epochs and learning rate."""
    return config.task.train.used(config.model.weights, config.model.lora.rank > 0)


def read_tokens(config: Config[SptConfig], model: Any) -> int:
    """Return the longest text in tokens: what is asked for, or what the model can read where that is less."""
    return min(config.task.train.max_tokens, context_of(model) or config.task.train.max_tokens)


# ---- units --------------------------------------------------------------------------------------------------------


def segment(config: Config[SptConfig], run: Run, corpus: Corpus) -> list[Example]:
    """Cut the texts into units when the order moves units; report counts and the histogram."""
    if not config.task.segmented:
        return corpus.examples
    settings = config.task.segmenter
    cache = Path(config.run.root) / "cache" / "segments.jsonl"  # answers of an assistant, shared by all runs
    segmenter = make_segmenter(settings, config.dataset.kind, device=str(run.device), cache=str(cache))
    with run.progress(f"segmenting ({segmenter.name})", len(corpus.examples)) as bar:
        segmented = units_of(config, corpus, segmenter, progress=lambda done, total: bar.update(done))
    report_units(run, segmented)
    return segmented.examples


def report_units(run: Run, segmented: SegmentedCorpus) -> None:
    """Table of counts, histogram of units per text, one line of summary."""
    counts = {**segmented.counts, **segmented.reasons, **segmented.extra}
    row = {"segmenter": segmented.segmenter, "mean_units": segmented.mean_units}
    run.table("segmentation", [{**row, "name_isolated": segmented.name_isolated, **counts}], show=False)
    run.say(
        f"segmenter {segmented.segmenter}: {segmented.mean_units:.2f} units a text, "
        + ", ".join(f"{value} {key}" for key, value in segmented.counts.items())
    )
    for line in segmented.failures[:3]:
        run.say(f"  {line}")
    if segmented.fallback:
        run.warn(
            f"{segmented.fallback} of {segmented.counts['texts']} texts have no units and train as they are "
            f"({', '.join(f'{count} {reason}' for reason, count in segmented.reasons.items())})"
        )
    run.summary(mean_units=segmented.mean_units, **{f"segments_{k}": v for k, v in segmented.counts.items()})
    if segmented.name_isolated is not None:
        run.summary(name_isolated=segmented.name_isolated)
    histogram = segmented.histogram
    run.table("units_histogram", [{"units": u, "texts": n} for u, n in histogram.items()], show=False)
    run.figure("units_histogram", units_histogram(histogram))


# ---- training -----------------------------------------------------------------------------------------------------


def train(
    config: Config[SptConfig],
    run: Run,
    model: Any,
    tokenizer: Any,
    stream: Stream,
    asked: Asked,
) -> Any:
    """Train on the stream; stops and resumes exactly. Returns the model, or the tensors of a divided one."""
    settings, every, pace = config.task.train, config.task.evaluation.every, pace_of(config)
    folder = run.dir / "checkpoints"
    checkpoint = latest_checkpoint(folder) if run.resumed else None
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    if run.resumed:
        run.rewind_metrics(done)
        run.say(f"continuing after step {done}")
    steps = steps_of(stream, settings)
    hint = few_steps(steps, pace.epochs) if config.model.weights == "scratch" else ""
    run.say(f"{steps} steps of {settings.batch_size * settings.accumulate} texts, {pace.epochs:g} epochs{hint}")
    with run.progress("training", steps, done) as bar:

        def on_step(step: int, loss: Any, rate: float) -> tuple[bool, bool]:
            if step % settings.log_steps == 0 or step in (1, steps):
                value = loss.item()
                run.log({"loss": value, "learning_rate": rate, "epoch": step / steps * pace.epochs}, step=step)
                bar.update(step, loss=value)
            if every and asked.queries and (step % every == 0 or step == steps):
                run.log(asked(), step=step)
            save = run.stopping or run.checkpoint_due(step)
            return save and step < steps, run.stopping

        trainer = trainer_of(config, model, tokenizer, stream, folder, on_step)
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=ranks.told(lambda: str(checkpoint) if checkpoint else None))
        seconds = time.monotonic() - started
        found = trained(config, model, run.stopping)
    run.check_stop()
    tokens = trained_tokens(stream, done * settings.batch_size * settings.accumulate)
    run.summary(train_tokens_per_second=tokens / seconds, seconds_training=seconds, steps=steps)
    logged = run.logged()
    losses = [(entry["step"], entry["loss"]) for entry in logged if "loss" in entry]
    if recalled := [entry for entry in logged if "loss" not in entry]:
        run.figure("recall_while_training", recall_curve(recalled))
    if losses:
        run.say(f"loss {losses[-1][1]:.3f} nats per token after {losses[-1][0]} steps, {losses[0][1]:.3f} in the first")
        run.summary(final_loss=losses[-1][1])
        run.figure("training_loss", training_loss(losses, config.task.order))
    return found


def trainer_of(
    config: Config[SptConfig], model: Any, tokenizer: Any, stream: Stream, folder: Path, on_step: OnStep
) -> OrderedTrainer:
    """Return what trains the model on the stream; a model that does not fit one process is divided here."""
    kind, device = None, resolve_device(config.hardware)
    if config.hardware.shard:
        from permlab.text.sharded import ShardedTrainer, shard

        shard(model, device.type, resolve_dtype(config.hardware))
        kind = ShardedTrainer
    return make_trainer(
        model,
        tokenizer.pad_token_id,
        stream,
        folder,
        config.task.train,
        Hooks(on_step),
        seed=config.seed,
        workers=config.hardware.workers,
        dtype=resolve_dtype(config.hardware),
        device=str(device),
        pace=pace_of(config),
        kind=kind,
    )


def trained(config: Config[SptConfig], model: Any, stopped: bool) -> Any:
    """Return the model as it is, or where it is divided its tensors, in the first process; not of a run that stops."""
    if not config.hardware.shard or ranks.told(lambda: stopped):
        return model
    from permlab.text.sharded import whole

    return whole(model)


def few_steps(steps: int, epochs: float) -> str:
    """Return a hint when a model that starts from nothing gets fewer steps than any of ours has learned in, else ""."""
    if steps >= FEWEST_STEPS:
        return ""
    wanted = math.ceil(epochs * FEWEST_STEPS / steps)
    return f"; few for a model from scratch: task.train.epochs={wanted} makes {FEWEST_STEPS}, a smaller batch_size too"
