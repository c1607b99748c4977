"""Names are known in one table: every function that takes one refuses a typo with the nearest name."""

from __future__ import annotations

import re

import pytest

from permlab.errors import UserError
from permlab.probes import Layout, Prompt, PromptSettings, Recipe, TokenProblem, TokenRecipe, Training, Transformer
from permlab.probes.architectures import build
from permlab.probes.readings import parse_combination, theorem
from permlab.probes.table import (
    ARCHITECTURES,
    MASKS,
    OPTIMIZERS,
    POSITIONS,
    READINGS,
    READOUTS,
    ROUTES,
    SCHEDULES,
    STYLES,
    VARIANTS,
)
from permlab.probes.tokens import train_tokens

TABLES = (ARCHITECTURES, MASKS, OPTIMIZERS, POSITIONS, READINGS, READOUTS, ROUTES, SCHEDULES, STYLES, VARIANTS)


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: Layout(3, mask="casual"), "causal"),
        (lambda: Layout(3, readout="sting"), "string"),
        (lambda: Layout.variant("no-mask", 3), "no_mask"),
        (lambda: Layout.parse("causal/sting", 3), "string"),
        (lambda: Layout.swept(3, "aftr", 2), "after"),
        (lambda: Training(Transformer(Layout(3)), Recipe(optimizer="adamm"), [0]), "adam"),
        (lambda: Recipe(schedule="cosin").check(), "cosine"),
        (lambda: parse_combination("gpt3/filler"), "gpt2"),
        (lambda: parse_combination("gpt2/fillr"), "filler"),
        (lambda: theorem("berd", "in_place"), "bert"),
        (lambda: build(TokenProblem(3), "lama", TokenRecipe()), "llama"),
        (lambda: train_tokens(TokenProblem(3), "gpt2", "inplace"), "in_place"),
        (lambda: Prompt(3, "plane"), "plain"),
        (lambda: PromptSettings(styles=["scratsh"]).check(), "scratch"),
        *((lambda t=t: t[t.choices[-1] + "x"], t.choices[-1]) for t in TABLES),
    ],
)
def test_typos_are_refused_with_the_nearest_name(call, nearest):
    with pytest.raises(UserError, match=re.escape(f"did you mean '{nearest}'")):
        call()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.what)
def test_every_row_loads_what_it_names(table):
    assert all(row.about and (not row.target or callable(row.load())) for row in table.values())


def test_settings_of_the_task_are_those_of_the_library():
    from permlab.tasks.inverse_permutation.settings import InversePermutationConfig

    task = InversePermutationConfig()
    assert Recipe(**vars(task.train), target_mse=task.target_mse) == Recipe()
    assert {key: getattr(task.tokens, key) for key in vars(TokenRecipe())} == vars(TokenRecipe())
    assert task.prompt == PromptSettings() and list(STYLES) == task.prompt.styles
