"""Can a transformer undo a permutation, and what does the causal mask cost? (arXiv 2509.24125)

permlab task=inverse_permutation task.variant=scratch                # train three seeds of a small network
permlab task=inverse_permutation task.mode=construct task.n=256      # explicit weights, no training
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.data.loading import check_dataset, preview_texts
from permlab.data.table import DATASETS as DATA_SETS
from permlab.division import Shared
from permlab.errors import UserError, check_range
from permlab.probes.readings import combinations, parse_combination
from permlab.probes.recipes import WORDS, PromptSettings
from permlab.probes.table import ARCHITECTURES, POSITIONS
from permlab.tasks.inverse_permutation.settings import InversePermutationConfig as InversePermutationConfig
from permlab.tasks.inverse_permutation.settings import TokenTraining, arms
from permlab.tasks.inverse_permutation.table import LESS_MEMORY as LESS_MEMORY
from permlab.tasks.inverse_permutation.table import MODES

if TYPE_CHECKING:
    from permlab.footprint import Footprint
    from permlab.runs.run import Run
    from permlab.text.assistant_server import ServerAssistant

OBJECTIVE = "-test_mse"
HEADLINE = ("test_mse", "mse_floor", "row_accuracy", "steps", "train_seconds", "accuracy", "exact")
MODELS = ("none", "causal_lm")
DATASETS = ("none", *DATA_SETS.those(gives_texts=True))


def validate(config: Config[InversePermutationConfig]) -> None:
    """Check choices, ranges and combinations; loads nothing."""
    task = config.task
    mode = MODES.check("task.mode", task.mode)
    if mode.asks:
        validate_prompt(config)
        return
    for group, part in (("model", config.model), ("dataset", config.dataset)):
        if part.kind != "none":
            asking = " or ".join(MODES.where(asks=True))
            own = {"model": "builds its own networks", "dataset": "draws its own problems"}[group]
            raise UserError(f"task.mode={task.mode} {own}; {group}={part.name} is for task.mode={asking}")
    arms(task)
    for key in ("depth", "heads", "seeds", "examples"):
        check_range(f"task.{key}", getattr(task, key), 1)
    check_range("task.target_mse", task.target_mse, 0)
    task.train.check("task.train.")
    for beta in task.betas:
        check_range("task.betas", beta, 0, open_interval=True)
    if not task.betas:
        raise UserError("task.betas is empty; give inverse temperatures such as task.betas=[5,10,20]")
    for count in task.scratch_counts:
        check_range("task.scratch_counts", count, 0)
    for position in task.positions:
        POSITIONS.check("task.positions", position)
    if not task.positions:
        raise UserError(f"task.positions is empty; give some of {', '.join(POSITIONS)}")
    task.depths.check("task.depths.")
    if MODES[task.mode].models == "lengths":
        task.lengths.check(task.n, "task.lengths.")
    validate_tokens(task.tokens, task.n)


def validate_tokens(tokens: TokenTraining, n: int) -> None:
    """Check combinations and sizes of the small architectures."""
    for combination in tokens.combinations:
        try:
            parse_combination(combination)
        except UserError as error:
            known = ", ".join(combinations())
            raise UserError(f"task.tokens.combinations: {error}; combinations: {known}") from error
    if not tokens.combinations:
        raise UserError("task.tokens.combinations is empty; give some such as [gpt2/in_place,gpt2/filler]")
    check_range("task.tokens.symbols", tokens.symbols, 2)
    for count in tokens.fillers:
        check_range("task.tokens.fillers", count, 0, 2 * n)
    for name in tokens.architectures:
        if "filler" not in ARCHITECTURES.check("task.tokens.architectures", name).readings:
            raise UserError(f"task.tokens.architectures: {name} has no reading at filler tokens")
    tokens.check("task.tokens.")


def validate_prompt(config: Config[InversePermutationConfig]) -> None:
    """Check the prompt keys and that there is a model to ask, or a server."""
    from permlab.models.causal_lm_config import validate_causal_lm

    prompt, mode = config.task.prompt, config.task.mode
    prompt.check("task.prompt.")
    config.task.text.check("task.text.")
    check_range("task.n", config.task.n, 2, len(WORDS))
    check_dataset(config.dataset)
    if prompt.base_url is not None:
        if mode != "prompt":
            raise UserError(f"task.prompt.base_url asks a server, and task.mode={mode} trains: name a model by model=")
        if config.model.kind != "none":
            raise UserError(f"task.prompt.base_url asks a server: leave model={config.model.name} out")
        server_of(prompt)
        return
    if config.model.kind == "none":
        raise UserError(
            f"task.mode={mode} needs a language model: add model=local model.path=DIR, or model=tiny-llama"
            + (", or ask a server: task.prompt.base_url=URL task.prompt.model=NAME" if mode == "prompt" else "")
        )
    validate_causal_lm(config.model)


def server_of(prompt: PromptSettings, **options: Any) -> ServerAssistant:
    """Return the client of the server that the keys name; asks nothing.

    Raises:
        UserError: a bad address, or a key's variable that is not set.
    """
    from permlab.text.assistant_server import ServerAssistant, completions_url

    completions_url(prompt.base_url or "", "task.prompt.base_url")
    return ServerAssistant(
        prompt.base_url or "",
        prompt.model or "",
        api_key_env=prompt.api_key_env,
        concurrency=prompt.concurrency,
        **options,
    )


def shares(config: Config[InversePermutationConfig]) -> Shared | None:
    """Return what several processes share: the seeds of a training."""
    task = config.task
    if not (MODES[task.mode].networks and MODES[task.mode].trains):
        return None
    return Shared(task.seeds, f"seeds (task.seeds={task.seeds})")


def plan(config: Config[InversePermutationConfig]) -> dict[str, Any]:
    """Describe a dry run: layouts, floors and sizes."""
    task, mode = config.task, MODES[config.task.mode]
    if mode.networks:
        from permlab.tasks.inverse_permutation.train import plan_networks

        return {"mode": task.mode, **plan_networks(config)}
    if mode.asks:
        from permlab.models.availability import check_available

        prompt, model = task.prompt, config.model
        server = f"{prompt.model} at {prompt.base_url}"
        sizes = f"n {prompt.sizes}, {', '.join(prompt.styles)}, {prompt.shots} shots, {prompt.examples} each"
        asked = lambda: f"{model.name} ({model.path or 'random weights'}, {check_available(model)})"  # noqa: E731
        if mode.name == "text":
            sizes = f"{task.n} words, {', '.join(prompt.styles)}, {task.text.steps} steps of {task.text.batch} each"
        return {"mode": task.mode, "model": server if prompt.base_url else asked, "prompts": sizes + sentences(config)}
    if mode.name == "fillers":
        counts = task.tokens.fillers or f"0 to {2 * task.n}"
        said = f"{', '.join(task.tokens.architectures)} with {counts} fillers at n = {task.n}, {task.seeds} seeds"
        return {"mode": task.mode, "networks": said}
    return {"mode": task.mode, "combinations": f"{', '.join(task.tokens.combinations)} at n = {task.n}"}


def footprint(config: Config[InversePermutationConfig]) -> Footprint | None:
    """Memory and time of the modes that have networks of this project."""
    if not MODES[config.task.mode].networks:
        return None
    from permlab.tasks.inverse_permutation.train import footprint

    return footprint(config)


def sentences(config: Config[InversePermutationConfig]) -> str:
    """Say how many runs of words `dataset=` gives, where that is known without a download.

    Raises:
        UserError: too few.
    """
    from permlab.probes.sentences import drawn_from

    corpus = None if config.dataset.kind == "none" else preview_texts(config.dataset, config.seed)
    if corpus is None:
        return ""
    texts = [example.text for example in corpus.examples]
    sizes = config.task.prompt.sizes if config.task.mode == "prompt" else [config.task.n]
    counts = ", ".join(f"{len(drawn_from(texts, n))} of {n}" for n in sizes)
    return f"; runs of words in sentences of {config.dataset.name}: {counts}"


def run(config: Config[InversePermutationConfig], run: Run) -> None:
    """Do what `task.mode` says."""
    MODES[config.task.mode].load()(config, run)


def sweep_figures(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Any]:
    """Figures of a sweep over task.n: steps and seconds to the target."""
    from permlab.tasks.inverse_permutation.figures import scaling

    return scaling(groups)
