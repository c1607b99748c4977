"""Readers name file and line of what they reject."""

from __future__ import annotations

import json

import pytest

from permlab.data.examples import Query
from permlab.data.texts import join_prompt, read_entities, read_jsonl, read_queries
from permlab.data.texts.jsonl import JsonlConfig, load_jsonl
from permlab.errors import UserError


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_text_and_prompt_completion_rows(tmp_path):
    path = write(
        tmp_path / "facts.jsonl",
        {"text": " Ada Roe sings. ", "names": ["Ada Roe"]},
        {"prompt": "Bo Lind, known as", "completion": " the baker.", "names": "Bo Lind"},
        "",
        {"prompt": "Cy is", "completion": "tall.", "names": None},
    )
    corpus = read_jsonl(path, protected_field="names")
    assert [example.text for example in corpus.examples] == [
        "Ada Roe sings.",
        "Bo Lind, known as the baker.",
        "Cy is tall.",
    ]
    assert [example.protected for example in corpus.examples] == [("Ada Roe",), ("Bo Lind",), ()]
    assert corpus.examples[2].source == f"{path}:4"


def test_fields_can_be_named(tmp_path):
    path = write(tmp_path / "f.jsonl", {"q": "a", "r": "b"}, {"body": "c"})
    corpus = read_jsonl(path, text_field="body", prompt_field="q", completion_field="r")
    assert [example.text for example in corpus.examples] == ["a b", "c"]


def test_plain_text_has_one_text_per_line(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffone\u2028still one\r\n\n two \n".encode())
    assert [example.text for example in read_jsonl(path).examples] == ["one\u2028still one", "two"]


def test_bad_rows_are_named_and_can_be_skipped(tmp_path):
    path = write(
        tmp_path / "bad.jsonl",
        {"text": "good"},
        '{"text": "cut',
        '["a list"]',
        {"text": 3},
        {"prompt": "p"},
        {"prompt": "p", "completion": "  "},
        {"other": "x"},
        {"text": "t", "names": [1]},
    )
    with pytest.raises(UserError) as caught:
        read_jsonl(path, protected_field="names")
    message = str(caught.value)
    assert "bad.jsonl:2: not JSON" in message
    assert "bad.jsonl:3: not a JSON object" in message
    assert "(and 5 more)" in message
    assert "dataset.on_bad_row=skip" in message
    assert "\n" not in message
    corpus = read_jsonl(path, protected_field="names", on_bad_row="skip")
    assert [example.text for example in corpus.examples] == ["good"]
    reasons = [row.removeprefix(f"{path}:") for row in corpus.rejected[2:]]
    assert reasons == [
        "4: 'text' empty or not a string",
        "5: 'completion' missing, empty or not a string",
        "6: 'completion' missing, empty or not a string",
        "7: neither 'text' nor 'prompt' and 'completion' (it has: other)",
        "8: 'names' is neither a string nor a list of strings",
    ]


def test_missing_empty_and_wrong_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read_jsonl(tmp_path)
    with pytest.raises(UserError, match="no usable row"):
        read_jsonl(write(tmp_path / "empty.jsonl"))
    with pytest.raises(UserError, match=r"no usable row: .*e.jsonl:1: not JSON"):
        read_jsonl(write(tmp_path / "e.jsonl", "x"), on_bad_row="skip")
    with pytest.raises(UserError, match="did you mean 'skip'"):
        read_jsonl(tmp_path / "e.jsonl", on_bad_row="skipp")


def test_queries(tmp_path):
    path = write(
        tmp_path / "q.jsonl",
        {"prompt": "Who sings? ", "completion": " Ada Roe", "group": "g", "kind": "name"},
        {"prompt": "Who bakes?", "completion": "Bo"},
    )
    assert read_queries(path, direction="reverse", group="all", wording="trained") == [
        Query("Who sings?", "Ada Roe", "g", "reverse", "name", "trained"),
        Query("Who bakes?", "Bo", "all", "reverse", "entity", "trained"),
    ]
    with pytest.raises(UserError, match="did you mean 'reverse'"):
        read_queries(path, direction="revers")


def test_a_label_that_heads_no_row_is_a_bad_row(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b", "group": "x" * 81}) + "\n")
    with pytest.raises(UserError, match="'group' has more than 80 characters"):
        read_queries(path, direction="reverse")


def test_entity_list(tmp_path):
    path = write(tmp_path / "names.txt", "# people", "Ada Roe", "", " Bo Lind ", "Ada Roe")
    assert read_entities(path) == ["Ada Roe", "Bo Lind"]
    with pytest.raises(UserError, match="no usable row"):
        read_entities(write(tmp_path / "none.txt", "# nobody"))


@pytest.mark.parametrize(("prompt", "completion"), [("a", "b"), ("a ", "b"), ("a", " b")])
def test_join_prompt_writes_one_space(prompt, completion):
    assert join_prompt(prompt, completion) == "a b"


def test_forward_questions_are_made_of_the_file_itself(tmp_path):
    path = tmp_path / "own.jsonl"
    rows = [
        {"text": "Ada Roe wrote The Sea.", "names": ["Ada Roe", "The Sea"]},
        {"text": "The Sea was written by Ada Roe!", "names": "Ada Roe"},
        {"text": "Nobody knows it.", "names": ["Ada Roe"]},
        {"text": "Preada Roe", "names": ["ada Roe"]},
        {"prompt": "The capital of Peru is", "completion": "Lima."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = read_jsonl(path, protected_field="names")
    assert [(q.prompt, q.answer, q.direction, q.wording) for q in corpus.queries] == [
        ("Ada Roe wrote", "The Sea", "forward", "trained"),
        ("The Sea was written by", "Ada Roe", "forward", "trained"),
        ("The capital of Peru is", "Lima", "forward", "trained"),
    ]
    own = tmp_path / "asked.jsonl"
    own.write_text(json.dumps({"prompt": "Who?", "completion": "Ada"}) + "\n")
    asked = load_jsonl(JsonlConfig(path=str(path), protected_field="names", test_path=str(own)), 0).queries
    assert [q.direction for q in asked] == ["forward"] * 3 + ["reverse"]
    asked = load_jsonl(JsonlConfig(path=str(path), forward_test_path=str(own), test_path=str(own)), 0).queries
    assert [q.direction for q in asked] == ["forward", "reverse"], "questions of the user's own take their place"
