"""Every name that a table or a public function knows is refused with the nearest one when it is misspelt."""

from __future__ import annotations

import re

import pytest

from permlab import registry
from permlab.errors import UserError

ROWS = [(table, name) for table in registry.TABLES for name in registry.table(table)]


def misspelt(name: str) -> str:
    """Double the last letter: weight -> weightt."""
    return name + name[-1]


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_tables_refuse_a_typo_with_the_nearest_name(table, name):
    with pytest.raises(UserError, match=f"did you mean '{re.escape(name)}'"):
        registry.table(table)[misspelt(name)]
    with pytest.raises(UserError, match=re.escape(f"task.key={misspelt(name)} is not known; did you mean '{name}'")):
        registry.table(table).check("task.key", misspelt(name))


@pytest.mark.parametrize(("table", "name"), ROWS)
def test_rows_say_what_they_are_and_load(table, name):
    row = registry.table(table)[name]
    assert len(row.about) > 5
    assert not row.target or row.load() is not None
    assert not row.color or row.color in figures_palette()


def figures_palette() -> set[str]:
    from permlab.figures import PALETTE

    return set(PALETTE)


def test_every_table_that_plugins_extend_has_a_row_class_of_its_own():
    kinds = [type(next(iter(registry.table(name).values()))) for name in registry.TABLES]
    assert len(kinds) == len(set(kinds)) and registry.Row not in kinds


# ---- functions of the library ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlp():
    from architectures import build

    return build("mlp")


def states_of(mlp):
    return [mlp[0].state_dict(), mlp[0].state_dict()]


def digits():
    from permlab.data import load_images
    from permlab.data.images.digits import DigitsConfig

    return load_images(DigitsConfig())


def factors():
    import torch

    from permlab.adapters import Factors

    return [Factors(torch.ones(1, 2), torch.ones(2, 1))]


def adapters():
    from permlab.adapters import MemoryAdapter

    return [MemoryAdapter("one", {"q": factors()[0]}), MemoryAdapter("two", {"q": factors()[0]})]


def merged(**rule):
    from permlab.adapters import MergeRule, merge_adapters

    return merge_adapters(adapters(), MergeRule(**rule))


def matched(name, mlp):
    from permlab.matching import MatchSetting, match_networks

    return match_networks(name, mlp[2], mlp[0], states_of(mlp), MatchSetting([mlp[1]]))


def arm_of(mlp, **changed):
    from permlab.merging import Arm, Setting, merge_arm

    arm = Arm(**({"match": "identity", "combine": "average", "renorm": "none"} | changed))
    return merge_arm(arm, mlp[2], mlp[0], states_of(mlp), Setting([mlp[1]]))


def lib(target, *arguments, **named):
    """Call `module:attribute` of the library, an attribute of an attribute too."""
    module, _, path = target.partition(":")
    found = registry.load(f"permlab.{module}:{path.partition('.')[0]}")
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    return found(*arguments, **named)


def mac_counter(mlp):
    from permlab.merging import MacCounter

    return MacCounter(mlp[2], mlp[0], mlp[1][0][:1])


CALLS = {
    # key: (misspelt, nearest, call)
    "match_networks": ("wieght", "weight", lambda bad, mlp: matched(bad, mlp)),
    "merge_arm match": ("wieght", "weight", lambda bad, mlp: arm_of(mlp, match=bad)),
    "merge_arm combine": ("avrage", "average", lambda bad, mlp: arm_of(mlp, combine=bad)),
    "merge_arm renorm": ("resett", "reset", lambda bad, mlp: arm_of(mlp, renorm=bad)),
    "parse_arm match": ("wieght", "weight", lambda bad, _: lib("merging:parse_arm", bad)),
    "parse_arm combine": ("fischer", "fisher", lambda bad, _: lib("merging:parse_arm", f"weight/{bad}")),
    "parse_arm renorm": ("resett", "reset", lambda bad, _: lib("merging:parse_arm", f"weight+{bad}")),
    "similarity": (
        "pearsn",
        "pearson",
        lambda bad, mlp: lib("matching:activation_matching", mlp[2], mlp[0], states_of(mlp), [mlp[1]], similarity=bad),
    ),
    "where": (
        "pots",
        "post",
        lambda bad, mlp: lib("matching:activation_matching", mlp[2], mlp[0], states_of(mlp), [mlp[1]], where=bad),
    ),
    "quadratic": (
        "linearize",
        "linearise",
        lambda bad, mlp: lib("matching:weight_matching", mlp[2], *states_of(mlp), quadratic=bad),
    ),
    "straight_through start": (
        "wram",
        "warm",
        lambda bad, mlp: lib("matching:straight_through", mlp[2], mlp[0], states_of(mlp), [mlp[1]], start=bad),
    ),
    "allocate": ("unifrom", "uniform", lambda bad, mlp: lib("merging:allocate", bad, mac_counter(mlp), 1.5)),
    "renormalise": ("resett", "reset", lambda bad, mlp: lib("merging:renormalise", bad, None, {}, None)),
    "domain": ("invertd", "inverted", lambda bad, _: lib("merging:domain", digits(), bad)),
    "endpoint optimizer": (
        "adm",
        "adam",
        lambda bad, mlp: lib("merging:train_endpoint", mlp[0], digits(), start={}, optimizer=bad),
    ),
    "endpoint schedule": (
        "cosin",
        "cosine",
        lambda bad, mlp: lib("merging:train_endpoint", mlp[0], digits(), start={}, schedule=bad),
    ),
    "decomposition part": (
        "leadin",
        "leading",
        lambda bad, mlp: lib("merging:truncated", mlp[2], states_of(mlp)[0], part=bad),
    ),
    "merge_adapters method": ("lgo", "lego", lambda bad, _: merged(method=bad)),
    "merge_adapters gauge": ("blanced", "balanced", lambda bad, _: merged(gauge=bad)),
    "merge_adapters features": ("normalised", "normalized", lambda bad, _: merged(features=bad)),
    "merge_adapters param_reweight": ("per_haf", "per_half", lambda bad, _: merged(param_reweight=bad)),
    "merge_adapters trim_space": ("dleta", "delta", lambda bad, _: merged(method="ties", trim_space=bad)),
    "merge_adapters sign_method": ("totl", "total", lambda bad, _: merged(method="ties", sign_method=bad)),
    "merge_adapters reference_rank": ("maen", "mean", lambda bad, _: merged(reference_rank=bad)),
    "pool_units": ("blanced", "balanced", lambda bad, _: lib("adapters.units:pool_units", factors(), [1.0], bad)),
    "elect_and_average": (
        "totl",
        "total",
        lambda bad, _: lib("adapters.trimming:elect_and_average", [factors()[0].a], [1.0], bad),
    ),
    "write_merge extra": (
        "avrage",
        "average",
        lambda bad, _: lib("adapters:write_merge", "nowhere", adapters(), None, extra=bad),
    ),
    "apply_operation": (
        "sort_donw",
        "sort_down",
        lambda bad, _: lib("adapters.benchmark.lists:apply_operation", bad, factors()[0].a.long(), 4),
    ),
    "Ordering.order": (
        "token_revers",
        "token_reverse",
        lambda bad, _: lib("text:Ordering", order=bad).probabilities(),
    ),
    "Ordering.budget": ("replce", "replace", lambda bad, _: lib("text:Ordering", budget=bad).probabilities()),
    "OrderedTexts": (
        "token_revers",
        "token_reverse",
        lambda bad, _: lib("text:OrderedTexts", [], None, lib("text:Ordering", order=bad), epochs=1, seed=0),
    ),
    "make_segmenter": (
        "oracl",
        "oracle",
        lambda bad, _: lib("text:make_segmenter", lib("text:SegmenterSettings", name=bad)),
    ),
    "segment_corpus on_mismatch": (
        "fallbck",
        "fallback",
        lambda bad, _: lib("text:segment_corpus", [], lib("text:OracleSegmenter"), on_mismatch=bad),
    ),
    "EntitySegmenter source": ("lst", "list", lambda bad, _: lib("text:EntitySegmenter", source=bad)),
    "accuracy": ("diretion", "direction", lambda bad, _: lib("text:accuracy", [], [], **{bad: "forward"})),
    "read_queries direction": (
        "revrse",
        "reverse",
        lambda bad, _: lib("data.texts.rows:read_queries", "nowhere", direction=bad),
    ),
    "on_bad_row": ("skp", "skip", lambda bad, _: lib("data.texts.rows:BadRows", bad)),
    "symbolic forms": (
        "invers",
        "inverse",
        lambda bad, _: lib("data.texts.symbolic:symbolic_corpus", 4, 2, 8, bad, 0, 0),
    ),
    "load_texts": ("peple", "people", lambda bad, _: lib("data:load_texts", lib("config:NoneConfig", kind=bad))),
    "load_images": ("digts", "digits", lambda bad, _: lib("data:load_images", lib("config:NoneConfig", kind=bad))),
    "check_dataset": ("digts", "digits", lambda bad, _: lib("data:check_dataset", lib("config:NoneConfig", kind=bad))),
    "build_vision_model": (
        "vgg1",
        "vgg11",
        lambda bad, _: lib("models:build_vision_model", bad, shape=(1, 8, 8), classes=2),
    ),
    "build_vision_model norm": (
        "btch",
        "batch",
        lambda bad, _: lib("models:build_vision_model", "mlp", shape=(1, 8, 8), classes=2, norm=bad),
    ),
    "train_tokenizer": ("wrd", "word", lambda bad, _: lib("models:train_tokenizer", ["a"], bad)),
    "Layout mask": ("causl", "causal", lambda bad, _: lib("probes:Layout", 4, mask=bad)),
    "Layout readout": ("strng", "string", lambda bad, _: lib("probes:Layout", 4, readout=bad)),
    "Layout.variant": ("scrach", "scratch", lambda bad, _: lib("probes:Layout.variant", bad, 4)),
    "Layout.swept": ("befor", "before", lambda bad, _: lib("probes:Layout.swept", 4, bad, 1)),
    "check_combination": (
        "lama",
        "llama",
        lambda bad, _: lib("probes.readings:check_combination", bad, "in_place"),
    ),
    "check_combination reading": (
        "in_plac",
        "in_place",
        lambda bad, _: lib("probes.readings:check_combination", "llama", bad),
    ),
    "Prompt": ("plin", "plain", lambda bad, _: lib("probes:Prompt", 4, bad)),
    "Recipe optimizer": ("adm", "adam", lambda bad, _: lib("probes:Recipe", optimizer=bad).check()),
    "Recipe schedule": ("cosin", "cosine", lambda bad, _: lib("probes:Recipe", schedule=bad).check()),
    "first_layer_weight": ("standrd", "standard", lambda bad, _: lib("ntk.kernels:first_layer_weight", bad)),
    "ensemble_size": ("standrd", "standard", lambda bad, _: lib("ntk:ensemble_size", 8, 2, 0.9, parameterization=bad)),
    "finite Spec layers": ("lst", "last", lambda bad, _: lib("ntk.finite:Spec", 4, 16, layers=bad)),
    "draw_test_set": ("randm", "random", lambda bad, _: lib("ntk.inputs:draw_test_set", 4, 2, bad, 1, 1, None)),
    "resolve_dtype": (
        "bflaot16",
        "bfloat16",
        lambda bad, _: lib("hardware:resolve_dtype", lib("config:HardwareConfig", dtype=bad)),
    ),
    "registry.table": ("ordrs", "orders", lambda bad, _: registry.table(bad)),
    "registry.task": ("mrge", "merge", lambda bad, _: registry.task(bad)),
}


@pytest.mark.parametrize("call", CALLS)
def test_functions_refuse_a_typo_with_the_nearest_name(call, mlp):
    bad, near, function = CALLS[call]
    with pytest.raises(UserError, match=rf"{bad}.*did you mean '{near}'"):
        function(bad, mlp)
