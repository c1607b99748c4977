"""Questions in words and their scores: what is asked, how it is counted, who is said to lead."""

from __future__ import annotations

import math

import pytest
import torch

from permlab.adapters.benchmark.questions import Questions
from permlab.adapters.real.answers import answers_of
from permlab.adapters.real.domains import ALL, IN, MIXED, OUT, DomainExam, over_draws, with_totals
from permlab.adapters.real.questions import (
    FACT_TASKS,
    MARKED,
    PIECE,
    RELATED,
    SENTENCE_TASKS,
    asked_at_random,
    joined,
    padded,
    questions_of_file,
    replayed_text,
    word_tasks,
)
from permlab.adapters.real.verdicts import BEATEN, PAPERS, leads
from permlab.errors import UserError
from permlab.models.tokenizers import train_tokenizer

WORDS = ["film", "plot", "who", "where", "dull", "bright", "river", "king", "slow", "new", "old", "red"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    for number, name in enumerate(
        ("TREC.train", "TREC.test", "stsa.binary.train", "stsa.binary.test", "subj", "rt-polarity")
    ):
        suffix = ".all" if "stsa" not in name else ""
        labels = 6 if "TREC" in name else 2
        lines = [
            f"{row % labels} {' '.join(WORDS[(row + number * step) % 12] for step in range(1, 4))} {number} {row}"
            for row in range(40)
        ]
        (folder / f"{name}{suffix}").write_text("\n".join(lines))
    tokenizer = train_tokenizer(
        [
            wording.told.format("x") + " " + " ".join(wording.labels)
            for wording in {**SENTENCE_TASKS, **FACT_TASKS}.values()
        ],
        "bpe",
        500,
    )
    return folder, tokenizer, word_tasks(folder, tokenizer, seed=0, asked=10, facts=8)


def texts(tokenizer, questions: Questions) -> list[str]:
    return [tokenizer.decode(row[row != 0], skip_special_tokens=True) for row in questions.ids]


def test_tasks_are_told_or_not_and_nothing_that_is_asked_was_read(asked):
    _, tokenizer, tasks = asked
    assert [task.name for task in tasks] == ["TREC", "SST-2", "Subj", "MR", "people", "towns"]
    for task in tasks:
        told, untold = texts(tokenizer, task.told["test"]), texts(tokenizer, task.untold)
        start = {**SENTENCE_TASKS, **FACT_TASKS}[task.name].told.split(" {}")[0].split()[0]
        assert all(text.split()[0] == start for text in told)
        assert all(text.split()[:2] == ["text", ":"] for text in untold)
        known = set(texts(tokenizer, task.train))
        # Facts are what is recalled; of sentences none may have been read.
        assert set(told) <= known if task.name in FACT_TASKS else not set(told) & known
        assert bool(task.told["test"].answer.any(dim=1).all())
        first = task.told["test"].ids[0][task.told["test"].answer[0]][0]
        assert int(first) in task.candidates.tolist()
    every = joined(tasks, 5, seed=1)
    assert len(every) == 30 and every.answer.any(dim=1).all()


def test_no_two_tasks_share_an_answer_or_the_end_of_a_prompt():
    wordings = [*SENTENCE_TASKS.values(), *FACT_TASKS.values()]
    answers = [label for wording in wordings for label in wording.labels]
    assert len(set(answers)) == len(answers)
    # An adapter that does its task wherever the last word is the prompt's must not find another task there.
    assert len({wording.told.split()[-1] for wording in wordings}) == len(wordings)


def test_out_of_domain_asks_in_the_words_of_the_related_task(asked):
    _, tokenizer, tasks = asked
    parts = [part for part in DomainExam(None, tasks, []).parts if part.domain == OUT]
    assert [(part.task, tasks[part.left_out].name) for part in parts] == [(name, name) for name in RELATED]
    for part in parts:
        other = SENTENCE_TASKS[RELATED[part.task]]
        said = texts(tokenizer, part.questions)
        assert all(text.split()[0] == other.told.split()[0] for text in said)
        own = {task.name: task for task in tasks}
        assert part.candidates.equal(own[RELATED[part.task]].candidates)
        # The same sentences as the task's own: between the first two words and the last of the prompt.
        middle = {" ".join(text.split()[2:5]) for text in texts(tokenizer, own[part.task].told["test"])}
        assert {" ".join(text.split()[2:5]) for text in said} == middle


def test_a_base_learns_the_prompts_around_other_text_with_answers_drawn(asked):
    _, tokenizer, tasks = asked
    general = " ".join(f"word{number}" for number in range(40))
    found = asked_at_random([general], tokenizer, 90, seed=3)
    assert len(found) == 2 * 90 * len(tasks)
    said = texts(tokenizer, found)
    read = {text for task in tasks for text in texts(tokenizer, task.train)}
    assert not read & set(said)
    for name, wording in {**SENTENCE_TASKS, **FACT_TASKS}.items():
        start, end = wording.told.split(" {} ")
        told = [text.strip() for text in said if text.strip().startswith(f"{start} ") and f" {end} " in text]
        assert len(told) == 90
        assert {text.split()[-1] for text in told} == set(wording.labels), name
        assert name in FACT_TASKS or all("word" in text for text in told)
    untold = [text.strip() for text in said if text.strip().startswith("text :")]
    assert len(untold) == 90 * len(tasks)
    again = asked_at_random([general], tokenizer, 90, seed=3)
    assert again.ids.equal(found.ids) and not asked_at_random([general], tokenizer, 90, seed=4).ids.equal(found.ids)


def test_replayed_text_is_cut_into_pieces_whose_ends_are_predicted(asked):
    _, tokenizer, _ = asked
    text = " ".join(WORDS * 4)
    found = replayed_text([text, text], tokenizer)
    ids = tokenizer([text, text], add_special_tokens=False)["input_ids"]
    assert found.ids.flatten().tolist() == (ids[0] + ids[1])[: found.ids.numel()]
    assert found.ids.shape[1] == PIECE and found.answer.sum() == MARKED * len(found)
    assert found.answer[:, -MARKED:].all()
    wide = padded(found, PIECE + 3)
    assert wide.ids[:, :PIECE].equal(found.ids) and not wide.ids[:, PIECE:].any() and not wide.answer[:, PIECE:].any()
    with pytest.raises(UserError, match="fewer than the 16"):
        replayed_text(["new film"], tokenizer)


def test_a_file_of_ones_own_is_asked_by_its_labels(asked, tmp_path):
    _, tokenizer, _ = asked
    (tmp_path / "mine.txt").write_text("1 new film\n0 dull plot\n")
    mine = questions_of_file(tmp_path / "mine.txt", tokenizer, None, 0)
    assert mine.name == "mine" and all(text.startswith(" review") or text.startswith("review") for text in
                                       texts(tokenizer, mine.told["test"]))  # fmt: skip


def test_answers_are_counted_by_all_tokens_by_probability_and_among_candidates():
    ids = torch.tensor([[9, 1, 2], [9, 3, 0]])
    answer = torch.tensor([[False, True, True], [False, True, False]])
    # Question one: first token right, second wrong; question two: another token wins, but not among the candidates.
    probabilities = torch.tensor([[0, 0.6, 0.2, 0.2, 0], [0, 0.5, 0.3, 0.2, 0], [0.0, 0.1, 0.1, 0.3, 0.5]])
    found = answers_of(probabilities, Questions(ids, answer), torch.tensor([1, 3]))
    assert (found.exact, found.choice, found.count) == (0.0, 1.0, 2)
    assert found.log_probability == pytest.approx((math.log(0.6) + math.log(0.3) + math.log(0.3)) / 2)
    certain = torch.nn.functional.one_hot(torch.tensor([1, 2, 3]), 5).float()
    assert answers_of(certain, Questions(ids, answer), torch.tensor([1, 3])).exact == 1.0


def row(method: str, domain: str, task: str, exact: float, count: int = 10, seed: int = 0, rule: str = "1"):
    scores = {"exact": exact, "choice": exact, "log_probability": -exact}
    about = {"seed": seed, "method": method, "family": "lego", "scale_rule": rule, "scale": 1.0}
    return about | {"domain": domain, "task": task, "left_out": None, "count": count} | scores


def test_a_list_counts_its_questions_and_a_domain_its_tasks():
    rows = [
        row("m", domain, task, exact, count)
        for domain in (IN, MIXED)
        for task, exact, count in (("a", 1, 30), ("b", 0, 10))
    ]
    whole = {r["domain"]: r["exact"] for r in with_totals(rows) if r["task"] == ALL}
    assert whole == {IN: 0.5, MIXED: 0.75}


def test_draws_of_clusters_are_totalled_one_by_one_and_count_as_their_mean():
    rows = [
        row("lego", IN, task, exact) | {"draw": draw}
        for draw, both in enumerate(((0.2, 0.4), (0.4, 0.8)))
        for task, exact in zip("ab", both)
    ]
    found = over_draws(with_totals([*rows, row("ties", IN, "a", 0.5)]))
    [whole] = [r for r in found if r["task"] == ALL and r["method"] == "lego"]
    # Totals of the draws are 0.3 and 0.6: their mean, and their deviation.
    assert whole["exact"] == pytest.approx(0.45) and whole["draws"] == 2
    assert whole["draw_sd"] == pytest.approx(0.3 / 2**0.5)
    assert {(r["draws"], r["draw_sd"]) for r in found if r["method"] == "ties"} == {(1, None)}


def test_leads_are_those_of_lego():
    rows = []
    for seed, ahead in enumerate((0.1, 0.2, 0.3)):
        rows.append(row(PAPERS, IN, ALL, 0.5 + ahead, seed=seed))
        rows += [row(rival, IN, ALL, 0.5, seed=seed) for rival in BEATEN]
    for line in leads(rows):
        assert line["lead"] == pytest.approx(0.2) and line["above"] == line["seeds"] == 3
        assert line["low"] == pytest.approx(0.2 - 4.303 * 0.1 / 3**0.5, abs=1e-3) and line["high"] > line["lead"]
