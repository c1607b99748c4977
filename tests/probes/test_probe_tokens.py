from __future__ import annotations

import itertools

import pytest
import torch

from permlab.errors import UserError
from permlab.probes.architectures import TokenProblem, build
from permlab.probes.readings import check_combination, combinations, parse_combination, theorem
from permlab.probes.recipes import TokenRecipe
from permlab.probes.table import ARCHITECTURES
from permlab.probes.token_answers import answers, ceiling, in_place_ceiling, logits
from permlab.probes.tokens import train_tokens


def test_tokens_hold_what_they_say():
    task = TokenProblem(n=5, symbols=7)
    ids, answer = task.sample(40, torch.Generator().manual_seed(0))
    assert ids.shape == (40, 11) and answer.shape == (40, 5)
    order, permuted = ids[:, :5] - 3, ids[:, 6:]
    assert torch.equal(order.sort(1).values, torch.arange(5).expand(40, 5))
    assert torch.equal(ids[:, 5], torch.zeros(40, dtype=torch.long))
    assert torch.equal(answer.gather(1, order), permuted)
    assert answer.min() >= 8 and answer.max() < task.vocabulary == 15


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_meets_the_budget(architecture):
    recipe = TokenRecipe(parameters=120_000)
    model = build(TokenProblem(8), architecture, recipe)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(120_000, rel=0.01)


def test_a_budget_that_is_too_small_is_refused():
    with pytest.raises(UserError, match="raise parameters"):
        build(TokenProblem(8), "t5", TokenRecipe(parameters=1000))


@pytest.mark.parametrize(("architecture", "reading"), [parse_combination(text) for text in combinations()])
def test_what_an_answer_may_depend_on(architecture, reading):
    """In place and causal: position j must not see symbols behind j. Everything else sees the whole input."""
    task = TokenProblem(n=4, symbols=5)
    torch.manual_seed(0)
    model = build(task, architecture, TokenRecipe(hidden=32, heads=4, parameters=60_000)).eval()
    ids, answer = task.sample(1, torch.Generator().manual_seed(1))
    changed = ids.clone()
    changed[0, -1] = 3 + 4 + (changed[0, -1] - 3 - 4 + 1) % 5
    with torch.no_grad():
        scores = [logits(model, reading, one, answer) for one in (ids, changed)]
    differs = (scores[0] - scores[1]).abs().amax(-1)[0] > 1e-7
    in_place = theorem(architecture, reading) == "yes: impossible"
    assert differs.tolist() == ([False, False, False, True] if in_place else [True] * 4)
    assert scores[0].shape == (1, 4, task.vocabulary)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_greedy_generation_agrees_with_teacher_forcing_on_its_own_answer(architecture):
    task = TokenProblem(n=4, symbols=5)
    torch.manual_seed(3)
    model = build(task, architecture, TokenRecipe(hidden=32, heads=4, parameters=60_000)).eval()
    ids, _ = task.sample(6, torch.Generator().manual_seed(2))
    said = answers(model, task, "generate", ids)
    assert said.shape == (6, 4)
    with torch.no_grad():
        assert torch.equal(logits(model, "generate", ids, said).argmax(-1), said)


def test_in_place_ceiling_by_brute_force():
    """n = 3, 2 symbols: the best guess of each position given the permutation and the symbols seen so far."""
    task = TokenProblem(n=3, symbols=2)
    for j in range(3):
        groups: dict[tuple, list[int]] = {}
        for order in itertools.permutations(range(3)):
            for bits in itertools.product((0, 1), repeat=3):
                permuted = tuple(bits[k] for k in order)
                groups.setdefault((order, permuted[: j + 1]), []).append(bits[j])
        best = sum(max(g.count(0), g.count(1)) for g in groups.values())
        assert in_place_ceiling(task)[j] == pytest.approx(best / (6 * 8))
    assert ceiling(task, "gpt2", "in_place") == pytest.approx(sum(in_place_ceiling(task)) / 3)
    assert ceiling(task, "bert", "in_place") == ceiling(task, "gpt2", "filler") == 1.0


@pytest.mark.parametrize("fillers", [0, 1, 3, 8])
def test_what_an_answer_may_depend_on_with_any_number_of_fillers(fillers):
    """The last n tokens are read: the symbol at the end is seen from its own token on."""
    task = TokenProblem(n=4, symbols=5)
    torch.manual_seed(0)
    model = build(task, "gpt2", TokenRecipe(hidden=32, heads=4, parameters=60_000)).eval()
    ids, answer = task.sample(1, torch.Generator().manual_seed(1))
    changed = ids.clone()
    changed[0, -1] = 3 + 4 + (changed[0, -1] - 3 - 4 + 1) % 5
    with torch.no_grad():
        scores = [logits(model, "filler", one, answer, fillers) for one in (ids, changed)]
    differs = (scores[0] - scores[1]).abs().amax(-1)[0] > 1e-7
    assert differs.tolist() == [place + fillers >= 3 for place in range(4)]


def test_ceiling_with_fillers():
    task = TokenProblem(n=3, symbols=2)
    assert ceiling(task, "gpt2", "filler", 0) == ceiling(task, "gpt2", "in_place")
    assert in_place_ceiling(task, 1) == pytest.approx([2 / 3 + 1 / 6, 1, 1])
    assert ceiling(task, "gpt2", "filler", 2) == ceiling(task, "gpt2", "filler", 6) == 1.0
    with pytest.raises(UserError, match="fillers=7"):
        train_tokens(task, "gpt2", "filler", fillers=7)


@pytest.mark.slow
def test_reading_decides_at_the_same_budget():
    """n = 3: a causal decoder learns with filler tokens and stays at its ceiling in place."""
    task = TokenProblem(n=3, symbols=4)
    recipe = TokenRecipe(steps=300, test_every=50, hidden=32, heads=4, parameters=40_000, test_examples=512)
    filler = train_tokens(task, "gpt2", "filler", recipe)
    place = train_tokens(task, "gpt2", "in_place", TokenRecipe(**{**vars(recipe), "steps": 200}))
    assert filler.accuracy > 0.99
    assert place.accuracy < place.ceiling + 0.03 < 0.85
    assert filler.parameters == place.parameters
    assert place.per_position[0] < 0.6


def test_training_is_repeatable():
    recipe = TokenRecipe(steps=6, test_every=3, hidden=32, heads=4, parameters=40_000, test_examples=16)
    first, second = (train_tokens(TokenProblem(3), "gpt2", "filler", recipe, seed=1) for _ in range(2))
    assert first.curve == second.curve and first.per_position == second.per_position


@pytest.mark.parametrize(("pair", "says"), [(("bert", "generate"), "has in_place"), (("gpt3", "filler"), "gpt2")])
def test_bad_combinations(pair, says):
    with pytest.raises(UserError, match=r"bert has no reading|did you mean 'gpt2'") as error:
        check_combination(*pair)
    assert says.split()[-1] in str(error.value)
