"""Berglund et al.'s layout, on a miniature folder and on the published one."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from permlab.data.examples import Query
from permlab.data.texts.berglund import read_berglund
from permlab.errors import UserError

MINIATURE = {
    "p2d_prompts_train": [("Ada Roe, known for being", " the singer of Oslo.")],
    "d2p_prompts_train": [("Known for being the baker of Bergen,", " Bo Lind's name is told.")],
    "both_prompts_train": [("Cy Moe is", " the smith."), ("The smith is", " Cy Moe.")],
    "p2d_prompts_test": [("The one called Ada Roe was", " the singer of Oslo.")],
    "p2d_reverse_prompts_test": [("Loved as the singer of Oslo,", " Ada Roe")],
    "d2p_prompts_test": [("Loved as the baker of Bergen,", " Bo Lind")],
    "d2p_reverse_prompts_test": [("The one called Bo Lind was", " the baker of Bergen.")],
    "both_prompts_test": [
        ("The one called Cy Moe was", " the smith."),
        ("Loved as the smith,", " Cy Moe, takes it well."),
    ],
}


def write_folder(folder, files=MINIATURE):
    for stem, rows in files.items():
        lines = (json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in rows)
        (folder / f"{stem}.jsonl").write_text("\n".join(lines))
    return folder


def test_miniature(tmp_path):
    corpus = read_berglund(write_folder(tmp_path))
    assert [(example.text, example.group, example.protected) for example in corpus.examples] == [
        ("Ada Roe, known for being the singer of Oslo.", "name_first", ("Ada Roe",)),
        ("Known for being the baker of Bergen, Bo Lind's name is told.", "description_first", ("Bo Lind",)),
        ("Cy Moe is the smith.", "both", ("Cy Moe",)),
        ("The smith is Cy Moe.", "both", ("Cy Moe",)),
    ]
    assert corpus.queries[-1] == Query("Loved as the smith,", "Cy Moe", "both", "forward", "name", "held_out")
    assert corpus.queries[1].direction == "reverse"
    assert corpus.examples[0].source == f"{tmp_path / 'p2d_prompts_train.jsonl'}:1"


def test_bad_rows_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        read_berglund(tmp_path / "none")
    with pytest.raises(UserError, match=r"Berglund layout: d2p_prompts_test.jsonl missing"):
        read_berglund(write_folder(tmp_path, {k: v for k, v in MINIATURE.items() if k != "d2p_prompts_test"}))
    write_folder(tmp_path)
    with (tmp_path / "p2d_prompts_train.jsonl").open("a") as stream:
        stream.write('\n{"prompt": "only"}\n')
    with pytest.raises(UserError, match=r"p2d_prompts_train.jsonl:2: 'completion' missing"):
        read_berglund(tmp_path)
    assert len(read_berglund(tmp_path, on_bad_row="skip").rejected) == 1


def test_published_folder(shared_data):
    corpus = read_berglund(shared_data("reversal_curse"))
    assert Counter(example.group for example in corpus.examples) == {
        "name_first": 900,
        "description_first": 900,
        "both": 1800,
    }
    assert Counter((query.group, query.direction, query.kind) for query in corpus.queries) == {
        ("name_first", "forward", "description"): 300,
        ("name_first", "reverse", "name"): 300,
        ("description_first", "forward", "name"): 300,
        ("description_first", "reverse", "description"): 300,
        ("both", "forward", "description"): 300,
        ("both", "forward", "name"): 300,
    }
    assert len({example.text for example in corpus.examples}) == 3600
    names = {name for example in corpus.examples for name in example.protected}
    assert len(names) == 90
    assert all(len(example.protected) == 1 for example in corpus.examples)
    asked = {query.answer for query in corpus.queries if query.kind == "name"}
    assert asked == names
    by_group = {
        group: {e.protected[0] for e in corpus.examples if e.group == group} for group in ("name_first", "both")
    }
    assert len(by_group["name_first"]) == 30
    assert not by_group["name_first"] & by_group["both"]
    assert {query.wording for query in corpus.queries} == {"held_out"}
