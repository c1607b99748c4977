from __future__ import annotations

import itertools

import pytest
import torch
from architectures import build

from permlab.errors import UserError
from permlab.matching import Matching, identity_matching
from permlab.merging import align, average, task_arithmetic, task_vectors, ties


def small(seed, half=False):
    generator = torch.Generator().manual_seed(seed)
    values = {"w": torch.randn(3, 4, generator=generator), "b": torch.randn(5, generator=generator)}
    values["n"] = torch.tensor(seed)
    return {k: v.half() if half and v.is_floating_point() else v for k, v in values.items()}


def test_weighted_mean():
    a, b, c = small(1), small(2), small(3)
    got = average([a, b, c], [1, 2, 5])
    assert torch.allclose(got["w"], (a["w"] + 2 * b["w"] + 5 * c["w"]) / 8, atol=1e-6)
    assert got["n"] == 1
    assert torch.equal(average([a, b])["b"], (a["b"] + b["b"]) / 2)
    assert torch.equal(average([a, b], [0, 1])["w"], b["w"])
    low = average([small(1, half=True), small(2, half=True)])["w"]
    assert low.dtype == torch.float16
    assert torch.equal(low, ((small(1, half=True)["w"].float() + small(2, half=True)["w"].float()) / 2).half())


def test_tied_names_share_the_merged_tensor():
    model, _, spec = build("llama-tied")
    state = model.state_dict()
    got = average([state, state], tied=spec.tied)
    ((alias, canonical),) = spec.tied.items()
    assert got[alias] is got[canonical] and got.keys() == state.keys()


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_bad_weights_are_refused(weights):
    with pytest.raises(UserError, match="weights"):
        average([small(1), small(2)], weights)


def test_models_that_differ_are_refused():
    other = {**small(2), "w": torch.zeros(4, 4)}
    with pytest.raises(UserError, match="different architectures or shapes"):
        average([small(1), other])
    with pytest.raises(UserError, match="no models given"):
        average([])
    _, _, spec = build("mlp")
    with pytest.raises(UserError, match="3 models given, but the matching is between 2"):
        align(spec, [{}, {}, {}], identity_matching(spec))
    with pytest.raises(UserError, match="zip_states"):
        align(spec, [{}], Matching("zip", [{}], clusters={"a": torch.zeros(1)}))


def test_task_arithmetic():
    base, a, b = small(0), small(1), small(2)
    wanted = average([a, b])
    assert all(torch.allclose(task_arithmetic(base, [a, b])[k], wanted[k]) for k in ("w", "b"))
    got = task_arithmetic(base, [a, b], 0.3)
    assert torch.allclose(got["w"], base["w"] + 0.3 * (a["w"] + b["w"] - 2 * base["w"]), atol=1e-6)
    assert got["n"] == 0 and torch.equal(task_vectors(base, [a])[0]["w"], a["w"] - base["w"])
    with pytest.raises(UserError, match="no fine-tuned models"):
        task_arithmetic(base, [])


def plain_ties(base, models, keep, scale, weights=(1, 1, 1)):
    """TIES on lists of numbers, step by step."""
    vectors = [[m - b for m, b in zip(model, base)] for model in models]
    kept = round(keep * len(base))
    for vector in vectors:
        least = sorted((abs(v) for v in vector), reverse=True)[kept - 1]
        vector[:] = [v if abs(v) >= least else 0.0 for v in vector]
    result = []
    for start, *column in zip(base, *vectors):
        sign = sum(w * v for w, v in zip(weights, column))
        chosen = [(w, v) for w, v in zip(weights, column) if v * sign > 0 and w > 0]
        mean = sum(w * v for w, v in chosen) / sum(w for w, _ in chosen) if chosen else 0.0
        result.append(start + scale * mean)
    return result


@pytest.mark.parametrize("keep, scale, models", list(itertools.product([0.2, 0.5, 1.0], [1.0, 0.4], [1, 2, 3])))
def test_ties_against_plain_lists(keep, scale, models):
    def flat(state):
        return torch.cat([state["w"].flatten(), state["b"]]).tolist()

    for seed in range(5):
        base = small(100 + seed)
        tuned = [small(10 * seed + k) for k in range(models)]
        got = flat(ties(base, tuned, keep=keep, scale=scale))
        assert got == pytest.approx(plain_ties(flat(base), [flat(each) for each in tuned], keep, scale), abs=1e-5)
        weights = [3, 0.5, 0][:models]
        got = flat(ties(base, tuned, keep=keep, scale=scale, weights=weights))
        wanted = plain_ties(flat(base), [flat(each) for each in tuned], keep, scale, weights)
        assert got == pytest.approx(wanted, abs=1e-5)


def test_ties_where_changes_cancel_or_keep_is_bad():
    base = {"w": torch.zeros(3)}
    got = ties(base, [{"w": torch.tensor([1.0, 2.0, 3.0])}, {"w": torch.tensor([-1.0, 4.0, -9.0])}], keep=1.0)
    assert got["w"].tolist() == [0.0, 3.0, -9.0]
    for keep in (0, 1.5):
        with pytest.raises(UserError, match="keep"):
            ties(base, [base], keep=keep)
