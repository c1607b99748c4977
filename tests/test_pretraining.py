"""A base pretrained on general text: trained once, found again, and better than chance on text it has not seen."""

from __future__ import annotations

import dataclasses
import math

import pytest

from permlab.errors import UserError
from permlab.pretraining import BaseSettings, base_folder, general_text, load_base, pretrained_base, read_record

TINY = BaseSettings(epochs=4.0, hidden_size=16, layers=1, vocab_size=320, tokens=32, batch=32)


@pytest.mark.slow
def test_a_base_is_trained_once_and_found_again(tmp_path):
    calls = []
    folder = pretrained_base(TINY, tmp_path, progress=lambda done, steps, loss: calls.append((done, steps)))
    assert calls[-1][0] == calls[-1][1] > 0
    calls.clear()
    assert pretrained_base(TINY, tmp_path, progress=lambda *seen: calls.append(seen)) == folder
    assert not calls
    record = read_record(folder)
    # 320 tokens drawn alike cost log(320) = 5.8 nats each; the grammar has some fifty words.
    assert record["loss_held_out"] < 0.8 * math.log(320)
    model, tokenizer = load_base(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.decode(tokenizer("The king lost a horse.", add_special_tokens=False)["input_ids"]).strip()


def test_the_name_of_a_base_follows_its_settings_and_the_bytes_of_its_text(tmp_path):
    corpus = tmp_path / "texts"
    corpus.mkdir()
    (corpus / "a.txt").write_text("The harbour was quiet that day.\n\nNobody had seen the boat leave.\n")
    settings = dataclasses.replace(TINY, corpus=str(corpus))
    first = base_folder(settings, tmp_path)
    assert first == base_folder(settings, tmp_path)
    assert first != base_folder(dataclasses.replace(settings, epochs=1.0), tmp_path)
    (corpus / "a.txt").write_text("Another text stands here, of another kind.\n")
    assert first != base_folder(settings, tmp_path)


def test_files_with_test_in_their_names_are_held_out(tmp_path):
    (tmp_path / "a_train.txt").write_text(" = A title of a page = \n A paragraph that is <unk> 3 @.@ 5 words long . \n")
    (tmp_path / "a_test.txt").write_text("What is asked stands in a file of its own .\n")
    texts, held_out = general_text(str(tmp_path))
    assert texts == ["A paragraph that is 3.5 words long ."]
    assert held_out == ["What is asked stands in a file of its own ."]


def test_a_corpus_without_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="no folder with"):
        pretrained_base(dataclasses.replace(TINY, corpus=str(tmp_path)), tmp_path / "cache")
    with pytest.raises(UserError, match="multiple of 8"):
        pretrained_base(dataclasses.replace(TINY, hidden_size=20), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
