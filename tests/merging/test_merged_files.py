from __future__ import annotations

import pytest
import torch
from architectures import build

from permlab.errors import UserError
from permlab.merging import Layout, load_merged, save_merged
from permlab.symmetry.functional import call


def test_an_enlarged_network_comes_back_as_it_was(tmp_path):
    model, inputs, spec = build("resnet20")
    states = [build("resnet20", seed=seed)[0].state_dict() for seed in (0, 1)]
    layout = Layout(spec, model, ratios={"stage0": 1.0, "stage2": 1.0})
    merged = layout.merge(states)
    folder = save_merged(tmp_path / "artifacts" / "model", merged, {"ratios": layout.ratios, "seeds": [0, 1]})
    state, record = load_merged(folder)
    assert record["ratios"] == layout.ratios and record["seeds"] == [0, 1]
    assert state.keys() == merged.keys() and all(torch.equal(state[key], merged[key]) for key in merged)
    assert torch.equal(call(model, state, inputs), call(model, merged, inputs))


def test_tied_tensors_are_written_once(tmp_path):
    model, inputs, spec = build("llama-tied")
    state, record = load_merged(save_merged(tmp_path, model.state_dict(), {}, tied=spec.tied))
    ((alias, canonical),) = spec.tied.items()
    assert record["tied"] == spec.tied and state[alias] is state[canonical]
    assert state.keys() == model.state_dict().keys()
    assert torch.equal(call(model, state, inputs).logits, model(**inputs).logits)


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no file model\.safetensors"):
        load_merged(tmp_path / "nothing")
    save_merged(tmp_path, {"w": torch.ones(2)}, {})
    (tmp_path / "merge.json").write_text("{}")
    with pytest.raises(UserError, match="is broken"):
        load_merged(tmp_path)
    save_merged(tmp_path, {"w": torch.ones(2)}, {})
    (tmp_path / "model.safetensors").write_bytes(b"pickle")
    with pytest.raises(UserError, match="is broken"):
        load_merged(tmp_path)
    with pytest.raises(TypeError):
        save_merged(tmp_path / "new", {"w": torch.ones(2)}, {"bad": object()})
    assert not (tmp_path / "new").exists()


def test_a_save_that_fails_leaves_the_old_network(tmp_path, monkeypatch):
    folder = save_merged(tmp_path / "m", {"w": torch.ones(2)}, {"seed": 0})

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full_disk)
        for out in ("m", "new"):
            with pytest.raises(OSError, match="no space"):
                save_merged(tmp_path / out, {"w": torch.zeros(2)}, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    state, record = load_merged(folder)
    assert record["seed"] == 0 and torch.equal(state["w"], torch.ones(2))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not overwritten"):
        save_merged(tmp_path / "notes", {"w": torch.ones(2)}, {})
