"""Can a transformer undo a permutation, and what does the causal mask cost? (arXiv 2509.24125)

permlab task=inverse_permutation task.variant=scratch                # train three seeds of a small network
permlab task=inverse_permutation task.mode=construct task.n=256      # explicit weights, no training
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import UserError, check_range
from permlab.probes.readings import combinations, parse_combination
from permlab.probes.table import POSITIONS
from permlab.tasks.inverse_permutation.settings import InversePermutationConfig as InversePermutationConfig
from permlab.tasks.inverse_permutation.settings import TokenTraining, arms
from permlab.tasks.inverse_permutation.table import MODES

if TYPE_CHECKING:
    from permlab.runs.run import Run

OBJECTIVE = "-test_mse"
HEADLINE = ("test_mse", "mse_floor", "row_accuracy", "steps", "train_seconds", "accuracy", "exact")
MODELS = ("none", "causal_lm")
DATASETS = ("none",)


def validate(config: Config[InversePermutationConfig]) -> None:
    """Check choices, ranges and combinations; loads nothing."""
    task = config.task
    mode = MODES.check("task.mode", task.mode)
    if mode.asks:
        validate_prompt(config)
        return
    if config.model.kind != "none":
        asking = MODES.where(asks=True)[0]
        raise UserError(
            f"task.mode={task.mode} builds its own networks; model={config.model.name} is for task.mode={asking}"
        )
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
    validate_tokens(task.tokens)


def validate_tokens(tokens: TokenTraining) -> None:
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
    tokens.check("task.tokens.")


def validate_prompt(config: Config[InversePermutationConfig]) -> None:
    """Check the prompt keys and that there is a model to ask."""
    from permlab.models.causal_lm_config import validate_causal_lm

    if config.model.kind == "none":
        raise UserError("task.mode=prompt needs a language model: add model=local model.path=DIR, or model=tiny-llama")
    validate_causal_lm(config.model)
    config.task.prompt.check("task.prompt.")


def plan(config: Config[InversePermutationConfig]) -> dict[str, Any]:
    """Describe a dry run: layouts, floors, sizes and memory.

    Raises:
        UserError: the networks would not fit into memory.
    """
    task, mode = config.task, MODES[config.task.mode]
    if mode.networks:
        from permlab.tasks.inverse_permutation.train import plan_networks

        return {"mode": task.mode, **plan_networks(config)}
    if mode.asks:
        from permlab.models.availability import check_available

        prompt, model = task.prompt, config.model
        sizes = f"n {prompt.sizes}, {', '.join(prompt.styles)}, {prompt.shots} shots, {prompt.examples} each"
        asked = lambda: f"{model.name} ({model.path or 'random weights'}, {check_available(model)})"  # noqa: E731
        return {"mode": task.mode, "model": asked, "prompts": sizes}
    return {"mode": task.mode, "combinations": f"{', '.join(task.tokens.combinations)} at n = {task.n}"}


def run(config: Config[InversePermutationConfig], run: Run) -> None:
    """Do what `task.mode` says."""
    MODES[config.task.mode].load()(config, run)


def sweep_figures(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Any]:
    """Figures of a sweep over task.n: steps and seconds to the target."""
    from permlab.tasks.inverse_permutation.figures import scaling

    return scaling(groups)
