"""Patterns of rank_pattern and target_modules: matched as PEFT does, for a limited time."""

from __future__ import annotations

import re
import time

import pytest

from permlab.adapters.settings import LoraSettings, match_pattern, targets
from permlab.errors import UserError

MODULE = "model.layers.0.self_attn." + "a" * 40 + "_proj"
PATTERNS = (
    "q_proj", "^model.q_proj", r"layers\.0\..*q_proj", "(q|v)_proj", r"layers.[0-3].*", "q_pro", ".*", "",
    r"^model\.layers\.0\.self_attn\.q_proj",
)  # fmt: skip
MODULES = ("model.q_proj", "model.layers.0.self_attn.q_proj", "a.model.q_proj", "q_proj", "model.layers.3.mlp.up", "")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_ordinary_patterns_match_as_the_standard_library_does(pattern):
    for module in MODULES:
        wanted = re.match(rf"(.*\.)?({pattern})$", module) is not None
        assert (match_pattern([pattern], module) is not None) == wanted
        assert targets(pattern, module) == (re.fullmatch(pattern, module) is not None)


@pytest.mark.parametrize("pattern", ["(a+)+", "(a|aa)+", "(.*a){30}b", "((a*)*)*b"])
def test_a_pattern_that_would_need_years_is_refused(pattern):
    started = time.process_time()
    for match in (lambda: match_pattern([pattern], MODULE), lambda: targets(f".*{pattern}", MODULE)):
        try:
            assert not match()  # the engine may find a short way
        except UserError as problem:
            assert "takes too long" in str(problem)
    assert time.process_time() - started < 5


def test_one_that_surely_takes_years_says_so():
    with pytest.raises(UserError, match="takes too long to match"):
        match_pattern(["(a|aa)+"], MODULE)


def test_patterns_of_endless_length_are_refused():
    with pytest.raises(UserError, match="more than 2,000 characters"):
        match_pattern(["a" * 5000], "q_proj")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e400])
def test_alpha_must_be_a_number(alpha):
    with pytest.raises(UserError, match="lora_alpha and alpha_pattern must be numbers"):
        LoraSettings.from_json({"lora_alpha": alpha})
