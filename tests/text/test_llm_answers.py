"""Answers of an assistant: parsing whatever stands around the units, and the cache that a kill cannot spoil."""

from __future__ import annotations

import json

import pytest

from permlab.data.examples import Example
from permlab.errors import UserError
from permlab.text.prompts import DEMONSTRATIONS, Failure, chat_messages, plain_prompt
from permlab.text.segment import segment_corpus
from permlab.text.segment_llm import (
    EMPTY_ANSWER,
    NO_ANSWER,
    NO_MARKER,
    AnswerCache,
    LLMSegmenter,
    parse_answer,
)
from permlab.text.units import CHANGED_WORDS, check_units

TEXT = "Ada Roe, the singer of Oslo, never rests."
UNITS = ("Ada Roe,", "the singer of Oslo,", "never rests.")
MARKED = "Ada Roe, [SEP] the singer of Oslo, [SEP] never rests."


class Scripted:
    """An assistant with fixed answers; counts what it is asked."""

    name = "scripted"
    retries_made = 0

    def __init__(self, answers):
        self.scripted, self.asked = answers, []

    def answers(self, texts):
        for index, text in enumerate(texts):
            self.asked.append(text)
            yield index, self.scripted[text]


@pytest.mark.parametrize(
    "answer",
    [
        MARKED,
        f"  {MARKED} [SEP]\n",
        f"Output: {MARKED}",
        f"Text: {TEXT}\nUnits: {MARKED}",
        f"Sure! Here it is:\n```\n{MARKED}\n```\nI hope this helps.",
        f'"{MARKED}"',
        f"**{MARKED}**",
        f"<think>The name [SEP] stays whole.</think>\n{MARKED}",
        f"{DEMONSTRATIONS[0][1]}\n{MARKED}",
        MARKED.replace(" [SEP] ", "[sep]"),
        MARKED.replace(" [SEP] ", "\n[SEP]\n"),
        "- " + MARKED.replace(" [SEP] ", "\n- "),
        "The units are:\n1. " + "\n2) ".join(UNITS),
        "\n".join(UNITS),
        json.dumps(UNITS),
        f"```json\n{json.dumps(UNITS)}\n```",
    ],
)
def test_good_answers_in_any_dress(answer):
    proposal = parse_answer(answer, TEXT, ["Ada Roe"])
    result = segment_corpus([Example(TEXT)], LLMSegmenter(Scripted({TEXT: answer})), on_mismatch="raise")
    assert result.examples[0].units == proposal.units == UNITS


def test_lost_punctuation_is_repaired():
    answer = "ada roe [SEP] the singer of Oslo [SEP] never rests"
    result = segment_corpus([Example(TEXT)], LLMSegmenter(Scripted({TEXT: answer})))
    assert (result.examples[0].units, result.repaired) == (UNITS, 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", EMPTY_ANSWER),
        ("<think>never ends", EMPTY_ANSWER),
        (TEXT, NO_MARKER),
        (f"{TEXT} [SEP]", NO_MARKER),
        ("Ada Roe, [SEP] the singer of", CHANGED_WORDS),
        (DEMONSTRATIONS[0][1], CHANGED_WORDS),
        (MARKED.replace("never", "never ever"), CHANGED_WORDS),
        (MARKED.replace("Ada Roe", "Ada [SEP] Roe"), "protected entity split"),
        ("I cannot do that.", NO_MARKER),
    ],
)
def test_bad_answers_fall_back_with_their_reason(answer, reason):
    result = segment_corpus([Example(TEXT, protected=("Ada Roe",))], LLMSegmenter(Scripted({TEXT: answer})))
    assert result.examples[0].units == (TEXT,)
    assert result.reasons == {reason: 1}


def test_demonstrations_are_segmentations_themselves():
    for plain, marked in DEMONSTRATIONS:
        units = parse_answer(marked, plain).units
        assert len(units) > 3
        assert check_units(plain, units) is None
    assert [message["role"] for message in chat_messages("x")] == ["system", *["user", "assistant"] * 3, "user"]
    assert plain_prompt("Bo bakes.").endswith("Text: Bo bakes.\nUnits:")


def test_second_run_asks_nothing_and_equal_texts_are_asked_once(tmp_path):
    texts = [Example(TEXT), Example("word"), Example(TEXT), Example("Bo bakes.")]
    answers = {TEXT: MARKED, "Bo bakes.": "Bo [SEP] bakes."}
    first, second = Scripted(answers), Scripted(answers)
    seen = []
    one = segment_corpus(texts, LLMSegmenter(first, tmp_path / "a" / "c.jsonl"), progress=lambda *at: seen.append(at))
    two = segment_corpus(texts, LLMSegmenter(second, tmp_path / "a" / "c.jsonl"))
    assert first.asked == [TEXT, "Bo bakes."]
    assert second.asked == []
    assert one.examples == two.examples
    assert [len(example.units) for example in one.examples] == [3, 1, 3, 2]
    assert seen == [(1, 4), (3, 4), (4, 4)]
    assert (one.extra["asked"], one.extra["cached"]) == (2, 1)
    assert (two.extra["asked"], two.extra["cached"]) == (0, 4)


def test_cache_depends_on_the_model(tmp_path):
    AnswerCache(tmp_path / "c.jsonl", "one").put(TEXT, MARKED)
    assert AnswerCache(tmp_path / "c.jsonl", "one").get(TEXT) == MARKED
    assert AnswerCache(tmp_path / "c.jsonl", "two").get(TEXT) is None


def test_interrupted_run_goes_on_where_it_stopped(tmp_path):
    texts = [Example(f"text number {n}") for n in range(6)]
    answers = {example.text: example.text.replace(" ", " [SEP] ") for example in texts}

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_corpus(texts, LLMSegmenter(Scripted(answers), tmp_path / "c.jsonl"), progress=stop)
    rest = Scripted(answers)
    result = segment_corpus(texts, LLMSegmenter(rest, tmp_path / "c.jsonl"), on_mismatch="raise")
    assert rest.asked == [f"text number {n}" for n in (3, 4, 5)]
    assert result.mean_units == 3


def test_half_written_line_costs_one_question_only(tmp_path):
    path = tmp_path / "c.jsonl"
    cache = AnswerCache(path, "scripted")
    cache.put(TEXT, MARKED)
    cache.put("Bo bakes.", "Bo [SEP] bakes.")
    path.write_bytes(path.read_bytes()[:-20])  # killed while it wrote the second answer
    again = AnswerCache(path, "scripted")
    assert (again.get(TEXT), again.get("Bo bakes.")) == (MARKED, None)
    again.put("Bo bakes.", "Bo [SEP] bakes.")
    whole = AnswerCache(path, "scripted")
    assert (whole.get(TEXT), whole.get("Bo bakes.")) == (MARKED, "Bo [SEP] bakes.")


def test_cache_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        AnswerCache(tmp_path, "m")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        AnswerCache(tmp_path / "file" / "c.jsonl", "m").put("a", "b")


def test_failures_are_counted_and_asked_again_next_time(tmp_path):
    texts = [Example(TEXT), Example("Bo bakes.")]
    broken = Scripted({TEXT: MARKED, "Bo bakes.": Failure("HTTP 500")})
    result = segment_corpus(texts, LLMSegmenter(broken, tmp_path / "c.jsonl"))
    assert result.reasons == {NO_ANSWER: 1}
    assert "HTTP 500" in result.failures[0]
    mended = Scripted({"Bo bakes.": "Bo [SEP] bakes."})
    assert segment_corpus(texts, LLMSegmenter(mended, tmp_path / "c.jsonl")).fallback == 0
    assert mended.asked == ["Bo bakes."]


def test_no_answer_at_all_is_an_error():
    with pytest.raises(UserError, match="answered none of 1 texts, last: too long"):
        segment_corpus([Example(TEXT)], LLMSegmenter(Scripted({TEXT: Failure("too long")})))
