"""Question sets of the adapter benchmarks: nothing is asked that another adapter knows, nothing leaks into the test."""

from __future__ import annotations

import pytest
import torch

from permlab.adapters.benchmark.knowledge import knowledge
from permlab.adapters.benchmark.lists import apply_operation, lists
from permlab.adapters.benchmark.sentences import sentences
from permlab.errors import UserError


def test_knowledge_questions_ask_new_entities():
    made = knowledge(3, seed=1, facts=50, facts_per_group=10)
    entities = [tuple(row[1:3].tolist()) for row in torch.cat([made.base.ids, *(g.train.ids for g in made.groups)])]
    assert len(set(entities)) == 80
    assert all(len(group.validation) + len(group.test) == 10 for group in made.groups)
    assert int(made.base.ids.max()) < made.vocabulary


def test_list_operations_have_alphabets_of_their_own():
    values = torch.tensor([[3, 1, 2, 0, 3]])
    expected = {
        "reverse": [3, 0, 2, 1, 3],
        "sort": [0, 1, 2, 3, 3],
        "sort_down": [3, 3, 2, 1, 0],
        "rotate": [1, 2, 0, 3, 3],
        "swap": [1, 3, 0, 2, 3],
        "shift": [0, 2, 3, 1, 0],
        "copy": [3, 1, 2, 0, 3],
    }
    for name, wanted in expected.items():
        assert apply_operation(name, values, 4).tolist() == [wanted]
    assert sorted(apply_operation("interleave", torch.arange(5)[None], 5)[0].tolist()) == [0, 1, 2, 3, 4]
    made = lists(6, seed=0, base_lists=200, per_group=20)
    symbols = [set(group.train.ids[:, 1:6].flatten().tolist()) for group in made.groups]
    assert all(not (left & right) for i, left in enumerate(symbols) for right in symbols[i + 1 :])
    with pytest.raises(UserError, match="six operations"):
        lists(7, seed=0)


@pytest.mark.slow
def test_sentences_share_nothing_between_training_and_test(shared_data):
    made = sentences(shared_data("text_classification"), seed=0)
    assert [group.name for group in made.groups] == ["TREC", "SST-2", "Subj", "MR"]
    assert len(made.groups[0].test) == 500 and len(made.groups[1].test) == 1821

    def body(questions) -> set[tuple[int, ...]]:
        return {tuple(row[2:-2].tolist()) for row in questions.ids}

    held_out = body(made.groups[1].test) | body(made.groups[3].test)
    seen = body(made.groups[1].train) | body(made.groups[3].train)
    # Folding compares whole sentences; after cutting at 32 words and rare words, a few heads may still agree.
    assert len(held_out & seen) <= 0.005 * len(held_out)
    assert 0.5 < made.groups[1].chance < 0.51
    assert not bool((made.base.answer & (made.base.ids == 0)).any())
    # The base must not see the labels: what it is asked to predict there is drawn, and uncorrelated with them.
    labels = torch.cat([group.train.ids[group.train.answer] for group in made.groups])
    shown = made.base.ids[torch.cat([group.train.answer for group in made.groups])]
    assert abs(float((labels == shown).float().mean()) - 1 / 6) < 0.02


def test_sentence_files_are_checked(tmp_path):
    with pytest.raises(UserError, match=r"TREC\.train\.all: there is no such file"):
        sentences(tmp_path, seed=0)
    for name in ("TREC.train.all", "TREC.test.all", "stsa.binary.train", "stsa.binary.test", "subj.all"):
        (tmp_path / name).write_text("0 fine words\n" * 20)
    (tmp_path / "rt-polarity.all").write_text("0 fine words\nno label here\n")
    with pytest.raises(UserError, match=r"rt-polarity\.all:2 does not start with a label"):
        sentences(tmp_path, seed=0)
