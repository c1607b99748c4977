"""Every segmenter gives units that hold, and mismatches are counted, dropped or refused."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from permlab.data.examples import Example
from permlab.data.texts import join_units, read_berglund
from permlab.errors import UserError
from permlab.text.segment import OracleSegmenter, Proposal, RandomSegmenter, segment_corpus, segment_texts, word_starts
from permlab.text.segment_rules import EntitySegmenter, RuleSegmenter, capitalised_spans, sentence_case_words
from permlab.text.settings import SegmenterSettings, check_segmenter
from permlab.text.units import CHANGED_WORDS, SPLIT_ENTITY, check_units

ADA = Example("Ever heard of Ada Roe? She wrote the opera.", protected=("Ada Roe",), source="facts.txt:1")


class Fixed:
    """Proposes what it is given."""

    name = "fixed"

    def __init__(self, *proposals):
        self.proposals = [Proposal(units) if isinstance(units, tuple) else units for units in proposals]

    def propose(self, examples, *, seed, progress=None):
        return self.proposals


def test_oracle_gives_the_dataset_units_and_counts_texts_without():
    known = Example("Ada Roe sings.", units=("Ada Roe", "sings."))
    result = segment_corpus([known, ADA], OracleSegmenter())
    assert [example.units for example in result.examples] == [("Ada Roe", "sings."), (ADA.text,)]
    assert result.counts == {"texts": 2, "ok": 1, "repaired": 0, "merged": 0, "fallback": 1, "dropped": 0}
    assert result.reasons == {"the dataset knows no units": 1}
    assert result.histogram == {1: 1, 2: 1}
    assert result.mean_units == 1.5


def test_mismatches_fall_back_drop_or_raise():
    good = ("Ever heard of", "Ada Roe", "? She wrote", "the opera.")
    wrong_words = ("Ever heard of", "Ada", "? She wrote the opera.")
    split_name = ("Ever heard of Ada", "Roe? She wrote the opera.")
    fixed = Fixed(good, wrong_words, split_name)
    kept = segment_corpus([ADA] * 3, fixed)
    assert [len(example.units) for example in kept.examples] == [4, 1, 1]
    assert kept.reasons == {CHANGED_WORDS: 1, SPLIT_ENTITY: 1}
    assert kept.failures[0].startswith("facts.txt:1: words lost")
    dropped = segment_corpus([ADA] * 3, fixed, on_mismatch="drop")
    assert (dropped.ok, dropped.dropped, len(dropped.examples), dropped.histogram) == (1, 2, 1, {4: 1})
    with pytest.raises(UserError, match=r"fixed: facts.txt:1: words lost.*on_mismatch=fallback"):
        segment_corpus([ADA] * 3, fixed, on_mismatch="raise")
    with pytest.raises(UserError, match="did you mean 'drop'"):
        segment_corpus([ADA], fixed, on_mismatch="dropp")


def test_punctuation_is_repaired_from_the_text_and_counted():
    result = segment_corpus([ADA], Fixed(("ever heard of", "Ada Roe", "She wrote", "the opera")), on_mismatch="raise")
    assert result.examples[0].units == ("Ever heard of", "Ada Roe?", "She wrote", "the opera.")
    assert (result.ok, result.repaired) == (1, 1)


def test_max_units_merges_and_keeps_the_name():
    fixed = Fixed(("Ever", "heard", "of", "Ada Roe", "?", "She", "wrote", "the", "opera."))
    result = segment_corpus([ADA], fixed, max_units=3)
    assert result.examples[0].units == ("Ever heard of", "Ada Roe", "? She wrote the opera.")
    assert result.merged == 1
    with pytest.raises(UserError, match="max_units=0"):
        segment_corpus([ADA], fixed, max_units=0)


def test_random_segments_are_seeded_short_and_never_split_a_name():
    texts = [
        Example(f"one two three four Ada Roe five six seven eight nine {n}.", protected=("Ada Roe",))
        for n in range(300)
    ]
    result = segment_corpus(texts, RandomSegmenter(max_words=3), seed=5, on_mismatch="raise")
    again = segment_corpus(texts, RandomSegmenter(max_words=3), seed=5)
    other = segment_corpus(texts, RandomSegmenter(max_words=3), seed=6)
    assert result.examples == again.examples != other.examples
    lengths = Counter(len(u.replace("Ada Roe", "Ada").split()) for e in result.examples for u in e.units[:-1])
    assert set(lengths) == {1, 2, 3}
    whole = sum(lengths.values())
    assert all(abs(count / whole - 1 / 3) < 0.05 for count in lengths.values())
    assert segment_corpus(texts[:1], RandomSegmenter(1)).examples[0].units[4] == "Ada Roe"
    with pytest.raises(UserError, match="max_words=0"):
        RandomSegmenter(0)


def test_word_starts():
    assert word_starts("ab  cd e", [(4, 8)]) == [0, 4]


def test_entities_from_the_example_a_list_and_capitals():
    three = ("Ever heard of", "Ada Roe", "? She wrote the opera.")
    bare = Example(ADA.text)
    for example, segmenter in (
        (ADA, EntitySegmenter(source="protected")),
        (ADA, EntitySegmenter()),
        (bare, EntitySegmenter(["Bo Lind", "Ada Roe"], source="list")),
        (bare, EntitySegmenter(source="capitalised")),
    ):
        result = segment_corpus([example], segmenter, on_mismatch="raise")
        assert result.examples[0].units == three
        assert result.examples[0].protected == ("Ada Roe",)


def test_texts_without_an_entity_are_mismatches():
    result = segment_corpus([Example("nobody is here."), ADA], EntitySegmenter(source="protected"))
    assert result.reasons == {"no entity found": 1}
    assert result.fallback == 1
    with pytest.raises(UserError, match="options: auto, protected, list, capitalised"):
        EntitySegmenter(source="names")
    with pytest.raises(UserError, match="one entity per line"):
        EntitySegmenter(source="list")


def test_detection_alone_knows_nothing_of_the_names_that_a_data_set_knows():
    """Berglund's names come from the answers of the test: with them as protected strings an arm would be an oracle."""
    odd = replace(ADA, protected=("Roe? She",))  # no detector finds this, and no segmentation of its units keeps it
    settings = SegmenterSettings(name="entities", source="capitalised")
    result = segment_texts([odd], settings, "jsonl", 0)
    assert (result.ok, result.fallback) == (1, 0)
    assert result.examples[0].units == ("Ever heard of", "Ada Roe", "? She wrote the opera.")
    assert result.examples[0].protected == ("Ada Roe",)
    assert result.name_isolated == 0.0  # of the known names, not of those that it found itself
    known = segment_texts([odd], SegmenterSettings(name="entities"), "jsonl", 0)
    assert known.examples[0].protected == ("Roe? She",) and known.name_isolated == 1.0


def test_a_source_of_entities_and_its_list_go_together(tmp_path):
    with pytest.raises(UserError, match=r"source=list needs task\.segmenter\.entities=FILE"):
        check_segmenter(SegmenterSettings(name="entities", source="list"), "jsonl", "task.segmenter.")
    (tmp_path / "names.txt").write_text("Ada Roe\n")
    unread = SegmenterSettings(name="entities", source="capitalised", entities=str(tmp_path / "names.txt"))
    with pytest.raises(UserError, match="source=capitalised reads no list"):
        check_segmenter(unread, "jsonl")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Ada Roe sings.", ["Ada Roe"]),
        ("Did Ada Roe's aunt meet J. K. Lind?", ["Ada Roe", "J. K. Lind"]),
        ("In Oslo, Dr. Bo van der Lind sleeps. Then he wakes.", ["Oslo", "Dr. Bo van der Lind"]),
        ("Nothing here. Really nothing.", []),
        ('The AI of Lind wrote "A Walk in the Rain.".', ["Lind", '"A Walk in the Rain."']),
        ("Meet Jean-Luc O'Neil, I'm told.", ["Jean-Luc O'Neil"]),
        ("", []),
    ],
)
def test_capitalised_spans(text, names):
    lower = sentence_case_words(["we meet", "did", "really nothing"])
    assert [text[start:end] for start, end in capitalised_spans(text, lower)] == names


def test_rule_cuts_at_punctuation_function_words_and_names():
    example = Example("Among many, Ada Roe holds the title of the finest singer who ever toured the coast.")
    result = segment_corpus([example], RuleSegmenter(), on_mismatch="raise")
    assert result.examples[0].units == (
        "Among many,",
        "Ada Roe",
        "holds the title",
        "of the finest singer",
        "who ever toured",
        "the coast.",
    )


def test_rules_hold_on_random_word_salad():
    draw = random.Random(3)
    words = ["the", "of", "Ada", "Roe", "(and", "so)", "it's", '"Big', 'Day"', "-", "who", "sings,", "ends.", "I", "…"]
    texts = [Example(" ".join(draw.choices(words, k=draw.randint(1, 12))), protected=("Ada Roe",)) for _ in range(500)]
    for segmenter in (RuleSegmenter(), RandomSegmenter(2), EntitySegmenter()):
        result = segment_corpus(texts, segmenter)
        assert set(result.reasons) <= {"no entity found"}
        for example in result.examples:
            assert check_units(example.text, example.units, ["Ada Roe"]) is None


def test_progress_reaches_the_total():
    seen = []
    for segmenter in (RuleSegmenter(), RandomSegmenter(2), EntitySegmenter()):
        segment_corpus([ADA] * 4, segmenter, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (4, 4)


def test_berglund_three_way_split(shared_data):
    corpus = read_berglund(shared_data("reversal_curse"))
    result = segment_corpus(corpus.examples, EntitySegmenter(), on_mismatch="raise")
    assert result.histogram == {2: 300, 3: 3300}
    for example in result.examples:
        assert example.protected[0] in example.units
        assert join_units(example.units) == example.text


@pytest.mark.slow
def test_berglund_names_are_found_by_their_capitals(shared_data):
    corpus = read_berglund(shared_data("reversal_curse"))
    bare = [Example(example.text) for example in corpus.examples]
    result = segment_corpus(bare, EntitySegmenter(source="capitalised"), on_mismatch="raise")
    for example, original in zip(result.examples, corpus.examples):
        assert original.protected[0] in example.units
