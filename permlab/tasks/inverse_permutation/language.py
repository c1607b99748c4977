"""The modes that use language models: tokens and prompt of `task=inverse_permutation`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.probes.readings import parse_combination
from permlab.tables import counted, mean
from permlab.tasks.inverse_permutation import figures as drawing
from permlab.tasks.inverse_permutation.settings import InversePermutationConfig
from permlab.tasks.inverse_permutation.train import explain

if TYPE_CHECKING:
    from permlab.probes import Prompt, PromptResult
    from permlab.runs.run import Run

OUTSIDE = (
    "reading 'generate' answers after the input, token by token; the impossibility theorem is about reading in place "
    "and does not cover it"
)


def tokens(config: Config[InversePermutationConfig], run: Run) -> None:
    """Train every architecture with every reading `task.seeds` times; a resumed run repeats the network cut off."""
    from permlab.probes import TokenProblem, train_tokens
    from permlab.probes.token_rows import combination_row, position_rows, token_seed_rows, token_verdict

    keys = config.task.tokens
    problem = TokenProblem(config.task.n, keys.symbols)
    seeds = [run.seed + k for k in range(config.task.seeds)]
    points = [(combination, seed) for combination in keys.combinations for seed in seeds]
    done: dict[str, Any] = (run.load_checkpoint() or {}).get("done", {})
    if run.resumed:
        run.rewind_metrics(sum(result["steps"] for result in done.values()))
    with run.progress("training", keys.steps * len(points), keys.steps * len(done)) as bar:
        for number, (combination, seed) in enumerate(points):
            name = f"{combination}/{seed}"
            if name in done:
                continue
            before = sum(result["steps"] for result in done.values())
            label = name if len(seeds) > 1 else combination

            def progress(step: int, accuracy: float, label: str = label, k: int = number, b: int = before) -> None:
                run.log({f"{label}/accuracy": accuracy}, step=b + step)
                bar.update(k * keys.steps + step, accuracy=accuracy)
                run.check_stop()

            architecture, reading = parse_combination(combination)
            result = train_tokens(problem, architecture, reading, keys, seed, run.device, progress)
            done[name] = dataclasses.asdict(result)
            run.save_checkpoint({"done": done})
            run.say(f"{name}: accuracy {result.accuracy:.3f} (ceiling {result.ceiling:.3f})")
    results = {name: [done[f"{name}/{seed}"] for seed in seeds] for name in keys.combinations}
    rows = [combination_row(one) for one in results.values()]
    title = f"n = {problem.n}, {problem.symbols} symbols, same parameter budget, {counted(len(seeds), 'seed')}"
    shown = ["architecture", "reading", "accuracy", "worst", "best", "ceiling", "exact", "solved", "steps", "theorem"]
    run.table("combinations", rows, title=title, columns=shown)
    run.table("positions", position_rows(results), show=False)
    kept = token_seed_rows(results, seeds)
    run.table("seeds", kept, show=False)
    explain(run, kept, "share of right symbols")
    run.figure("combinations", drawing.combinations(rows, problem.n))
    run.say(OUTSIDE)
    run.summary(**token_verdict(rows), n=problem.n)


Progress = Callable[[int, int], None]


def sentences_of(config: Config[InversePermutationConfig]) -> list[str] | None:
    """Return the texts of `dataset=`, or None without one."""
    from permlab.data import limit_examples, load_texts

    if config.dataset.kind == "none":
        return None
    corpus = limit_examples(load_texts(config.dataset, config.seed), config.debug.examples)
    return [example.text for example in corpus.examples]


def of_what(config: Config[InversePermutationConfig]) -> str:
    """Where the shuffled words come from, for titles."""
    return "" if config.dataset.kind == "none" else f" of sentences ({config.dataset.name})"


def answering(
    config: Config[InversePermutationConfig], run: Run, asked: list[Prompt]
) -> Callable[[Prompt, Progress], PromptResult]:
    """Return what asks about one prompt: the model of `model=`, loaded here, or the server of `task.prompt`."""
    from permlab.hardware import resolve_dtype
    from permlab.models.causal_lm import load_causal_lm
    from permlab.probes.prompts import check_context, probe_prompts, score_answers, texts
    from permlab.tasks.inverse_permutation import server_of
    from permlab.text.prompts import Failure

    keys, seed = config.task.prompt, run.seed
    if keys.base_url is not None:

        def ask_server(one: Prompt, progress: Progress) -> PromptResult:
            # A text of the client is the number of an item: the conversation about it is made where it is sent.
            longest = 64 + 16 * one.n * (2 if one.asking.steps else 1)
            server = server_of(keys, messages=lambda k: one.chat(seed, int(k)), max_tokens=lambda _: longest)

            def ask(indices: Sequence[int]) -> Iterator[tuple[int, str | None]]:
                for place, said in server.answers([str(index) for index in indices]):
                    yield indices[place], None if isinstance(said, Failure) else said

            return score_answers(one, ask, keys.examples, seed, progress)

        return ask_server
    dtype = resolve_dtype(config.hardware)
    model, tokenizer = load_causal_lm(config.model, texts(asked, seed), dtype, run.device, seed, max_tokens=2048)
    for one in asked:
        check_context(model, tokenizer, one, seed)
    return lambda one, progress: probe_prompts(model, tokenizer, one, keys.examples, keys.batch, seed, progress)


def prompt(config: Config[InversePermutationConfig], run: Run) -> None:
    """Ask `model=`, or a server, with few-shot prompts of every size and style."""
    from permlab.probes.prompts import prompts_of

    keys = config.task.prompt
    asked = prompts_of(keys, sentences_of(config))
    ask = answering(config, run, asked)
    name_of_model = keys.model or config.model.name
    done: dict[str, Any] = (run.load_checkpoint() or {}).get("done", {})
    if run.resumed:
        run.rewind_metrics(len(done) - 1)  # lines are numbered from 0
    with run.progress("asking", keys.examples * len(asked), keys.examples * len(done)) as bar:
        for number, one in enumerate(asked):
            name = f"{one.style}_n{one.n}"
            if name in done:
                continue

            def progress(count: int, total: int, k: int = number) -> None:
                bar.update(k * keys.examples + count)
                run.check_stop()

            result = ask(one, progress)
            done[name] = dataclasses.asdict(result)
            run.log({"n": one.n, f"{one.style}/exact": result.exact, f"{one.style}/accuracy": result.accuracy}, number)
            run.save_checkpoint({"done": done})
    results = [done[f"{one.style}_n{one.n}"] for one in asked]
    kept = ("n", "style", "examples", "unanswered", "exact", "chance_exact", "accuracy", "chance_accuracy")
    rows = [{key: result[key] for key in kept} for result in results]
    run.table("prompts", rows, title=f"{name_of_model}: few-shot prompts{of_what(config)}, {keys.shots} shots")
    places = [
        {"n": result["n"], "style": result["style"], "place": k + 1, "accuracy": value}
        for result in results
        for k, value in enumerate(result["per_position"])
    ]
    run.table("places", places, show=False)
    run.artifact("samples.txt").write_text(
        "\n\n----\n\n".join(result["sample"] for result in results), encoding="utf-8"
    )
    run.figure("prompts", drawing.prompts(rows))
    run.say(OUTSIDE.replace("reading 'generate'", "a causal language model"))
    for result in results:
        prefix = f"{result['style']}_n{result['n']}"
        run.summary(**{f"{prefix}_exact": result["exact"], f"{prefix}_accuracy": result["accuracy"]})
    run.summary(exact=mean(rows, "exact") or 0.0, accuracy=mean(rows, "accuracy") or 0.0)
