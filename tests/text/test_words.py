"""Names are whole words: in the pieces that an order moves, in units, in answers and in the wording of questions."""

from __future__ import annotations

import json

import pytest

from permlab.data import load_texts
from permlab.data.examples import Example, Query
from permlab.data.texts.jsonl import JsonlConfig
from permlab.data.texts.rows import occurs
from permlab.errors import UserError
from permlab.text import EntitySegmenter, OrderedTexts, Ordering, RuleSegmenter, SegmenterSettings, segment_corpus
from permlab.text.pieces import split_words
from permlab.text.scores import headline_wording, is_prefix, is_right, recall_metrics, recall_table
from permlab.text.segment import check_segmented, segment_texts
from permlab.text.units import find_spans


def test_a_name_is_not_found_inside_a_word():
    assert split_words("Adam met Ada in Adaville.", ["Ada"]) == ["Adam", "met", "Ada", "in", "Adaville", "."]


@pytest.mark.parametrize(
    ("text", "names", "pieces"),
    [
        ("(Ada Roe), 'Ada Roe'!", ["Ada Roe"], ["(", "Ada Roe", "),", "'", "Ada Roe", "'!"]),
        ("Ada Roe's and Ada's", ["Ada Roe", "Ada"], ["Ada Roe", "'s", "and", "Ada", "'s"]),
        ("O’Neil-Roe met Neil", ["Neil"], ["O", "’", "Neil", "-", "Roe", "met", "Neil"]),
        ("Ольга знала Ольгину мать", ["Ольга", "Ольг"], ["Ольга", "знала", "Ольгину", "мать"]),
        ("अनीता और अनी", ["अनी"], ["अनीता", "और", "अनी"]),
        ("作家小明写了雪国", ["小明", "雪国"], ["作家", "小明", "写了", "雪国"]),
        ("Jose\u0301 met Jose", ["Jose"], ["Jose\u0301", "met", "Jose"]),
    ],
)
def test_names_beside_punctuation_and_in_other_scripts(text, names, pieces):
    assert split_words(text, names) == pieces


def test_spans_are_whole_words_in_every_script():
    assert find_spans("Adaville Ada", ["Ada"]) == [(9, 12)]
    assert find_spans("東京タワー", ["東京"]) == [(0, 2)]
    assert find_spans("अनीता", ["अनी"]) == []


@pytest.mark.parametrize(
    ("answer", "target", "whole", "prefix"),
    [
        ("1987.", "19", False, True),
        ("19.", "19", True, True),
        ("Ada  Roe's book", "ada roe", True, True),
        ("Ada Roes", "Ada Roe", False, True),
        ("小明是作家", "小明", True, True),
        ("Bo", "Ada", False, False),
    ],
)
def test_an_answer_is_right_as_whole_words_and_a_prefix_as_letters(answer, target, whole, prefix):
    assert is_right(answer, target) is whole
    assert is_prefix(answer, target) is prefix


def test_the_table_has_both_matches():
    queries = [Query("born in", "19", "all", "reverse", "name")] * 2
    (row,) = recall_table(queries, ["1987", "19"])
    assert (row["accuracy"], row["prefix"]) == (0.5, 1.0)
    metrics = recall_metrics(queries, ["1987", "19"])
    assert (metrics["reverse_accuracy"], metrics["reverse_prefix_accuracy"]) == (0.5, 1.0)


def test_questions_are_labelled_by_looking_at_the_texts(tmp_path):
    texts, questions = tmp_path / "texts.jsonl", tmp_path / "questions.jsonl"
    texts.write_text(json.dumps({"text": "The  author of Glass is Ada Roe."}) + "\n")
    asked = ["The author of Glass is", "Who wrote Glass?", "author of Gla"]
    questions.write_text("".join(json.dumps({"prompt": prompt, "completion": "Ada Roe"}) + "\n" for prompt in asked))
    corpus = load_texts(JsonlConfig(path=str(texts), test_path=str(questions)), 0)
    assert [query.wording for query in corpus.queries] == ["trained", "held_out", "held_out"]
    assert occurs("Glass is Ada", "The author of Glass is Ada Roe.") and not occurs("lass is Ada", "Glass is Ada")


def test_a_few_questions_in_trained_words_do_not_stand_for_all():
    asked = [Query("a", "b", "all", "reverse", "name", wording) for wording in ["trained"] + ["held_out"] * 9]
    assert headline_wording(asked, direction="reverse") == "held_out"
    assert headline_wording(asked[:2], direction="reverse") == "trained"


def test_the_entities_that_a_segmenter_finds_are_those_that_an_order_keeps(tmp_path):
    """With a list of names, entity_reverse moved single words as word_reverse does."""
    names = tmp_path / "names.txt"
    names.write_text("Ada Roe\n")
    settings = SegmenterSettings(name="entities", entities=str(names))
    segmented = segment_texts([Example("Glass was written by Ada Roe.")], settings, "jsonl", 0)
    words = {word: at for at, word in enumerate(["Glass", "was", "written", "by", "Ada", "Roe", ".", "x"])}

    def read(order, **more):
        ordering = Ordering(order=order, p_reordered=1.0, p_original=0.0, p_reversed=1.0, p_permuted=0.0, **more)
        assert ordering.segmented == (
            order != "word_reverse" and (order == "entity_reverse" or "keep_entities" in more)
        )
        made = OrderedTexts(
            segmented.examples, lambda texts: [code(text) for text in texts], ordering, epochs=1, seed=0
        )
        shown = {at: word for word, at in words.items()}
        return " ".join(shown[at] for at in made[0]["input_ids"])

    def code(text):
        return [words[word] for word in text.replace(".", " .").split()]

    assert read("word_reverse") == ". Roe Ada by written was Glass"
    assert read("entity_reverse") == ". Ada Roe by written was Glass"
    assert read("word_permute") == "Roe Ada by written was Glass ."
    assert read("word_permute", keep_entities=True) == "Ada Roe by written was Glass ."


def test_texts_in_which_nothing_is_found_are_refused_above_a_share():
    texts = [Example(f"text {at} is all in lower case and has no name") for at in range(9)]
    segmented = segment_corpus([*texts, Example("Glass is a book by Ada Roe.")], EntitySegmenter())
    with pytest.raises(UserError, match=r"9 of 10 texts \(9 no entity found\).*max_fallback=0\.9\)"):
        check_segmented(segmented, SegmenterSettings(), "task.segmenter.")
    check_segmented(segmented, SegmenterSettings(max_fallback=0.9))


def test_names_alone_in_a_unit_are_counted():
    texts = [Example("Ada Roe is the author of Glass.", protected=("Ada Roe",))] * 2
    assert segment_corpus(texts, EntitySegmenter()).name_isolated == 1.0
    whole = [Example(text.text, units=(text.text,), protected=text.protected) for text in texts[:1]]
    from permlab.text import OracleSegmenter

    assert segment_corpus(whole, OracleSegmenter()).name_isolated == 0.0
    assert segment_corpus([Example("nothing here")], RuleSegmenter()).name_isolated is None
