"""The work of `permlab task=spt`: corpus -> units -> ordered training -> recall; the science is in `permlab.text`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from permlab.config import Config
from permlab.data import Corpus, Example, Query, limit_queries, load_texts
from permlab.errors import UserError
from permlab.hardware import resolve_dtype
from permlab.models.causal_lm import load_causal_lm, save_causal_lm
from permlab.runs.run import Run
from permlab.tasks.spt.figures import recall_bars, training_loss, units_histogram
from permlab.text.orders import OrderedTexts, Ordering
from permlab.text.recall import accuracy, answer_queries, encoder, likelihoods, recall_table
from permlab.text.segment import OracleSegmenter, RandomSegmenter, SegmentedCorpus, Segmenter, segment_corpus
from permlab.text.training import Hooks, TrainingSettings, latest_checkpoint, make_trainer


def train_and_ask(config: Config, run: Run) -> None:
    """Carry out one SPT run."""
    task = config.task
    corpus = load_texts(config.dataset, config.seed)
    for line in corpus.rejected[:5]:
        run.say(f"skipped {line}")
    examples = segment(config, run, corpus)
    texts = [example.text for example in corpus.examples] + [query.prompt for query in corpus.queries]
    device, dtype = run.device, resolve_dtype(config.hardware)
    model, tokenizer = load_causal_lm(
        config.model, texts, weights_dtype(dtype), device, config.seed, task.train.max_tokens
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ordering = Ordering(**{key: getattr(task, key) for key in Ordering.__dataclass_fields__})
    stream = OrderedTexts(
        examples,
        encoder(tokenizer),
        ordering,
        epochs=task.train.epochs,
        seed=config.seed,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        max_tokens=task.train.max_tokens,
    )
    run.say(
        f"{len(examples)} texts, {len(corpus.queries)} questions, vocabulary {len(tokenizer)}, "
        f"{trained / 1e6:.2f}M trained parameters, order {task.order}, {device}"
    )
    run.summary(trained_parameters=trained, texts=len(examples), vocabulary=len(tokenizer))
    train(config, run, model, tokenizer, stream, dtype)
    if task.evaluation.save_model:
        save_causal_lm(model, tokenizer, run.artifact("model"))
    ask(config, run, model, tokenizer, corpus)


def weights_dtype(dtype: Any) -> Any:
    """Return the number type of the weights: float16 trains on float32 weights, because its optimizer needs them."""
    import torch

    return torch.float32 if dtype is torch.float16 else dtype


# ---- units --------------------------------------------------------------------------------------------------------


def segment(config: Config, run: Run, corpus: Corpus) -> list[Example]:
    """Cut the texts into units when the order moves units; report counts and the histogram."""
    if config.task.order != "spt":
        return corpus.examples
    settings = config.task.segmenter
    segmenter = make_segmenter(config, run)
    with run.progress(f"segmenting ({segmenter.name})", len(corpus.examples)) as bar:
        segmented = segment_corpus(
            corpus.examples,
            segmenter,
            max_units=settings.max_units,
            on_mismatch=settings.on_mismatch,
            seed=config.seed,
            progress=lambda done, total: bar.update(done),
        )
    if not segmented.examples:
        raise UserError(f"segmenter {segmenter.name} left no text; use task.segmenter.on_mismatch=fallback")
    report_units(run, segmented)
    return segmented.examples


def make_segmenter(config: Config, run: Run) -> Segmenter:
    """Return the segmenter that the configuration names."""
    settings, kind = config.task.segmenter, config.dataset.kind
    name = settings.name
    if name == "auto":
        name = {"people": "oracle", "symbolic": "oracle", "presegmented": "presegmented"}.get(kind, "entities")
    if name == "oracle":
        return OracleSegmenter()
    if name == "random":
        return RandomSegmenter(settings.max_words)
    if name == "presegmented":
        from permlab.data import read_presegmented
        from permlab.text.presegmented import PresegmentedSegmenter

        return PresegmentedSegmenter(read_presegmented(settings.units) if settings.units else None)
    if name == "llm":
        return make_llm_segmenter(config, run)
    from permlab.data import read_entities
    from permlab.text.segment_rules import EntitySegmenter, RuleSegmenter

    if name == "rule":
        return RuleSegmenter()
    return EntitySegmenter(read_entities(settings.entities) if settings.entities else ())


def make_llm_segmenter(config: Config, run: Run) -> Segmenter:
    """Return a segmenter that asks a local model or a server."""
    from permlab.text.segment_llm import Assistant, LLMSegmenter

    settings = config.task.segmenter
    assistant: Assistant
    if settings.base_url:
        from permlab.text.assistant_server import ServerAssistant

        assistant = ServerAssistant(
            settings.base_url, settings.model, api_key_env=settings.api_key_env, concurrency=settings.concurrency
        )
    else:
        from permlab.text.assistant_local import LocalAssistant

        assistant = LocalAssistant.load(settings.path, device=run.device)
    cache = settings.cache or str(Path(config.run.root) / "cache" / "segments.jsonl")
    return LLMSegmenter(assistant, cache)


def report_units(run: Run, segmented: SegmentedCorpus) -> None:
    """Table of counts, histogram of units per text, one line of summary."""
    counts = {**segmented.counts, **segmented.reasons, **segmented.extra}
    run.table(
        "segmentation", [{"segmenter": segmented.segmenter, "mean_units": segmented.mean_units, **counts}], show=False
    )
    run.say(
        f"segmenter {segmented.segmenter}: {segmented.mean_units:.2f} units a text, "
        + ", ".join(f"{value} {key}" for key, value in segmented.counts.items())
    )
    for line in segmented.failures[:3]:
        run.say(f"  {line}")
    run.summary(mean_units=segmented.mean_units, **{f"segments_{k}": v for k, v in segmented.counts.items()})
    histogram = segmented.histogram
    run.table("units_histogram", [{"units": u, "texts": n} for u, n in histogram.items()], show=False)
    run.figure("units_histogram", units_histogram(histogram))


# ---- training -----------------------------------------------------------------------------------------------------


def train(config: Config, run: Run, model: Any, tokenizer: Any, stream: OrderedTexts, dtype: Any) -> None:
    """Train on the stream; checkpoints, stops and resumes exactly."""
    task = config.task.train
    settings = TrainingSettings(
        **{key: value for key, value in asdict(task).items() if key in TrainingSettings.__dataclass_fields__},
        seed=config.seed,
        workers=config.hardware.workers,
        dtype=dtype,
        device=str(run.device),
    )
    folder = run.dir / "checkpoints"
    checkpoint = latest_checkpoint(folder) if run.resumed else None
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    if run.resumed:
        run.rewind_metrics(done)
        run.say(f"continuing after step {done}")
    steps = -(-len(stream) // (task.batch_size * task.accumulate))
    with run.progress("training", steps, done) as bar:

        def on_step(step: int, loss: Any, rate: float) -> tuple[bool, bool]:
            if step % task.log_steps == 0 or step in (1, steps):
                value = loss.item()
                run.log({"loss": value, "learning_rate": rate, "epoch": step / steps * task.epochs}, step=step)
                bar.update(step, loss=value)
            save = run.stopping or run.checkpoint_due(step)
            return save and step < steps, run.stopping

        trainer = make_trainer(model, tokenizer.pad_token_id, stream, folder, settings, Hooks(on_step))
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.monotonic() - started
    run.check_stop()
    tokens = trained_tokens(stream, done * task.batch_size * task.accumulate)
    run.summary(train_tokens_per_second=tokens / seconds, seconds_training=seconds, steps=steps)
    losses = [(entry["step"], entry["loss"]) for entry in run.logged()]
    if losses:
        run.figure("training_loss", training_loss(losses, config.task.order))


def trained_tokens(stream: OrderedTexts, start: int, sample: int = 2000) -> float:
    """Return the tokens from position `start` on, by the mean length of up to `sample` positions."""
    rest = len(stream) - start
    places = range(start, len(stream), max(1, rest // sample))
    return rest * sum(len(stream[i]["input_ids"]) for i in places) / max(1, len(places))


# ---- recall -------------------------------------------------------------------------------------------------------


def ask(config: Config, run: Run, model: Any, tokenizer: Any, corpus: Corpus) -> None:
    """Ask every question and report accuracy, BLEU and likelihoods."""
    settings = config.task.evaluation
    queries = limit_queries(corpus.queries, settings.limit)
    if not queries:
        run.say("the dataset has no questions; nothing to ask")
        return
    with run.progress("asking", len(queries)) as bar:
        answers = answer_queries(
            model,
            tokenizer,
            queries,
            batch_size=settings.batch_size,
            progress=lambda done, total: bar.update(done),
        )
    run.check_stop()
    rows = recall_table(queries, answers)
    run.table("recall", rows, title=f"recall after training with order={config.task.order}")
    answered = [{**asdict(query), "continuation": answer} for query, answer in zip(queries, answers, strict=True)]
    run.table("answers", answered, show=False)
    if settings.likelihood:
        columns = ["direction", "group", "asked", "difference", "t", "p"]
        compared = likelihoods(model, tokenizer, headline_queries(queries), config.seed)
        run.table("likelihood", compared, title="log-probability, true minus shuffled answer (nats)", columns=columns)
    run.summary(**recall_metrics(queries, answers))
    run.figure("recall", recall_bars(rows))


def headline_queries(queries: list[Query]) -> list[Query]:
    """Return the questions in trained wordings, or all when there are none (Berglund's data)."""
    return [q for q in queries if q.wording == "trained"] or queries


def recall_metrics(queries: list[Query], answers: list[str]) -> dict[str, float]:
    """Return the headline numbers.

    `forward_accuracy` and `reverse_accuracy` count facts that were trained in one direction only; facts trained both
    ways have numbers of their own, as have held-out wordings and every kind of answer.
    """
    wording = "trained" if any(q.wording == "trained" for q in queries) else "held_out"
    single = [(q, a) for q, a in zip(queries, answers, strict=True) if q.group != "both"]
    metrics: dict[str, float | None] = {}
    for direction in ("forward", "reverse"):
        for words, suffix in ((wording, ""), ("held_out", "_held_out")):
            if words == wording and suffix:
                continue
            chosen = list(zip(*single)) or [(), ()]
            metrics[f"{direction}_accuracy{suffix}"] = accuracy(*chosen, direction=direction, wording=words)
            for kind in sorted({q.kind for q in queries}):
                name = f"{direction}_{kind}_accuracy{suffix}"
                metrics[name] = accuracy(*chosen, direction=direction, wording=words, kind=kind)
    metrics["both_ways_accuracy"] = accuracy(queries, answers, group="both", wording=wording)
    for group in sorted({q.group for q in queries if " first, " in q.group}):
        metrics[f"form_{group.replace(' first, ', '_').replace(' ', '_')}"] = accuracy(queries, answers, group=group)
    return {key: value for key, value in metrics.items() if value is not None}
