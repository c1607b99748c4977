"""`[SEP]` files: reading, lookup by words, and the corrupted rows of the SPT authors' release."""

from __future__ import annotations

import pytest

from permlab.data.examples import Example
from permlab.data.texts import read_berglund, read_presegmented, split_marked
from permlab.errors import UserError
from permlab.text.presegmented import PresegmentedSegmenter, compare_words
from permlab.text.segment import segment_corpus


@pytest.mark.parametrize(
    ("line", "units"),
    [
        ("Ada Roe, [SEP] who sings [SEP]", ("Ada Roe,", "who sings")),
        ("guess [SEP], but[sep]so [ SEP ] [SEP] it ends", ("guess", ", but", "so", "it ends")),
        ("no marker", ("no marker",)),
        ("[SEP] [SEP]", ()),
    ],
)
def test_split_marked(line, units):
    assert split_marked(line) == units


def test_other_separators():
    assert split_marked("a | b|c", "|") == ("a", "b", "c")
    assert split_marked("a\tb c", "\t") == ("a", "b c")


def test_reader_names_bad_rows(tmp_path):
    path = tmp_path / "cut.txt"
    path.write_bytes(b"Ada Roe [SEP] sings.\n\n[SEP] [SEP]\n\xff\xfe [SEP] x\nBo [SEP]?\n")
    with pytest.raises(UserError, match=r"cut.txt:3: only separators, no text; .*cut.txt:4: not UTF-8"):
        read_presegmented(path)
    corpus = read_presegmented(path, on_bad_row="skip")
    assert [(example.text, example.units) for example in corpus.examples] == [
        ("Ada Roe sings.", ("Ada Roe", "sings.")),
        ("Bo?", ("Bo", "?")),
    ]
    assert len(corpus.rejected) == 2
    with pytest.raises(UserError, match="separator is empty"):
        read_presegmented(path, "")


def test_lookup_by_words_repairs_punctuation(tmp_path):
    path = tmp_path / "cut.txt"
    path.write_text("Ada Roe, [SEP] who sings [SEP]\n")
    texts = [Example("Ada Roe, who sings!"), Example("Ada Roe who sang")]
    result = segment_corpus(texts, PresegmentedSegmenter(read_presegmented(path)))
    assert [example.units for example in result.examples] == [("Ada Roe,", "who sings!"), ("Ada Roe who sang",)]
    assert (result.repaired, result.fallback) == (1, 1)


def test_own_units_are_used_without_a_file():
    result = segment_corpus([Example("a b", units=("a", "b")), Example("c d")], PresegmentedSegmenter())
    assert [example.units for example in result.examples] == [("a", "b"), ("c d",)]


def test_compare_words_aligns_whatever_the_order():
    originals = [Example(text, source=f"o:{n}") for n, text in enumerate(("a one.", "b two.", "c three.", "d four."))]
    rows = [Example(text, source=f"s:{n}") for n, text in enumerate(("D four", "wholly other", "a one", "b too."))]
    found = compare_words(rows, originals)
    assert (found.rows, found.matched) == (4, 2)
    assert found.originals == [3, None, 0, 1]
    assert [line.partition(" (")[0] for line in found.corrupted] == ["s:1: wholly other", "s:3: b too."]
    assert found.corrupted[0].endswith("(no original left)")
    assert "(o:1: b two.)" in found.corrupted[1]
    assert found.unused == [2]
    alike = compare_words([Example("now four d"), Example("one")], originals)
    assert alike.originals == [3, 0]
    assert compare_words(rows[:1], originals).unused == [0, 1, 2]


def test_duplicate_rows_need_as_many_originals():
    found = compare_words([Example("a b"), Example("a b")], [Example("a b")])
    assert (found.matched, len(found.corrupted)) == (1, 1)


@pytest.mark.slow
def test_released_segmentation_has_14_corrupted_rows(shared_data):
    corpus = read_berglund(shared_data("reversal_curse"))
    released = read_presegmented(shared_data("spt_segmented") / "person_description.sep.txt")
    assert len(released.examples) == 3600
    found = compare_words(released.examples, corpus.examples)
    assert (found.rows, found.matched, len(found.corrupted), found.unused) == (3600, 3586, 14, [])
    lines = [int(line.split(".sep.txt:")[1].partition(":")[0]) for line in found.corrupted]
    assert lines == [21, 51, 120, 141, 231, 651, 681, 771, 2066, 2391, 2735, 2751, 2961, 3291]
    assert "both_prompts_train.jsonl:231" in found.corrupted[4]

    result = segment_corpus(corpus.examples, PresegmentedSegmenter(released))
    assert (result.ok, result.fallback) == (3586, 14)
    assert result.mean_units == pytest.approx(5.155)
    assert result.reasons == {"no row with these words in the segmentation file": 14}
