"""Sizes that a configuration states are held against what its weights hold, before anything is built of them."""

from __future__ import annotations

import json

import pytest
from checkpoints_made import edit, save_pair

from permlab.errors import UserError
from permlab.merging.networks.loading import load_networks
from permlab.models.causal_lm import load_tokenizer
from permlab.models.causal_lm_config import CausalLMConfig
from permlab.models.checkpoints import open_checkpoint
from permlab.models.needs import estimate_parameters
from permlab.models.sizes import check_config


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def network(pair, tmp_path):
    """A copy of a network whose config.json may be edited."""
    folder = tmp_path / "a"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        with open(f"{pair[0]}/{name}", "rb") as file:
            (folder / name).write_bytes(file.read())
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_labels": 10**9}, "num_labels is 1000000000"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000"),
        ({"num_hidden_layers": 9_000}, "num_hidden_layers is 9,000, its weights are"),
        ({"vocab_size": 10**7}, "vocab_size is 10,000,000, no axis of its weights is longer"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"hidden_size": [[]]}, r"hidden_size is \[\]"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'"),
        ({"architectures": 5}, "architectures must be a list of names"),
        ({"architectures": [5]}, "architectures must be a list of names"),
    ],
)
def test_an_absurd_config_is_refused_by_name(network, changes, said):
    edit(network, **changes)
    with pytest.raises(UserError, match=said) as problem:
        open_checkpoint(str(network))
    assert "config.json" in str(problem.value)


def test_an_integer_of_thousands_of_digits_is_refused(network):
    text = (network / "config.json").read_text()
    (network / "config.json").write_text(text.replace('"hidden_size": 32', '"hidden_size": ' + "9" * 4000))
    with pytest.raises(UserError, match=r"config\.json is not a JSON object|hidden_size is too large"):
        open_checkpoint(str(network))


def test_sizes_of_real_networks_pass(tmp_path):
    known = {"hidden_size": 8192, "num_hidden_layers": 126, "vocab_size": 262144, "max_position_embeddings": 10485760}
    odd = {"type_vocab_size": 0, "intermediate_size": [2048, 4096], "image_size": [224, 224], "n_inner": None}
    check_config({**known, **odd, "architectures": ["LlamaForCausalLM"]}, tmp_path / "config.json")


@pytest.mark.parametrize("changes", [{"hidden_act": "none of them"}, {"rope_parameters": 5}, {"rms_norm_eps": "x"}])
def test_a_config_that_transformers_stumbles_over_is_refused_in_one_line(network, changes):
    edit(network, **changes)
    with pytest.raises(UserError, match=r"config.json"):
        load_networks([str(network), str(network)])


def test_a_model_folder_of_the_user_is_checked_before_transformers_reads_it(network):
    edit(network, num_labels=10**9)
    config = CausalLMConfig(path=str(network), weights="pretrained", tokenizer="pretrained")
    for read in (lambda: load_tokenizer(config, []), lambda: estimate_parameters(config)):
        with pytest.raises(UserError, match="num_labels"):
            read()
    (network / "config.json").write_text("[" * 2000 + "]" * 2000)
    with pytest.raises(UserError, match="is not a JSON object"):
        estimate_parameters(config)


@pytest.fixture
def recorded(tmp_path):
    """A folder as task=merge writes it: merge.json beside the tensors of a small mlp."""
    from safetensors.torch import save_file

    from permlab.models.vision import build_vision_model

    state = build_vision_model("mlp", shape=(1, 8, 8), classes=10, width=16, depth=1).state_dict()
    save_file(dict(state), tmp_path / "model.safetensors")
    about = {"network": "mlp", "width": 16.0, "depth": 1, "norm": None, "shape": [1, 8, 8], "classes": 10}

    def write(**changes):
        (tmp_path / "merge.json").write_text(json.dumps(about | changes))
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": 10**9}, "depth is 1000000000"),
        ({"depth": 900}, "depth is 900, its weights are"),
        ({"width": 10**9}, "must be at most"),
        ({"width": 60_000.0}, "is no mlp of width 60000"),
        ({"width": "16"}, "width and depth must be numbers"),
        ({"shape": [1, 10**6, 10**6]}, "more than"),
        ({"shape": [1, 900, 900]}, "is no mlp"),
        ({"shape": 5}, "shape must be"),
        ({"classes": 10**9}, "classes is 1000000000"),
        ({"classes": True}, "classes is True"),
        ({"network": ["mlp"]}, "network"),
    ],
)
def test_an_absurd_merge_json_is_refused_before_it_is_built(recorded, changes, said):
    folder = recorded(**changes)
    with pytest.raises(UserError, match=said):
        load_networks([folder, folder])


def test_a_true_merge_json_is_read(recorded):
    folder = recorded()
    assert load_networks([folder, folder]).checks


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "vocab.txt", "tokenizer.model"])
def test_gigabytes_and_devices_among_the_texts_of_a_folder_are_refused(network, name):
    config = CausalLMConfig(path=str(network), weights="pretrained", tokenizer="pretrained")
    with (network / name).open("ab") as file:
        file.truncate(2**40)
    for read in (lambda: open_checkpoint(str(network)), lambda: load_tokenizer(config, [])):
        with pytest.raises(UserError, match=rf"{name} has 1,099,511,627,776 bytes"):
            read()
    (network / name).unlink()
    (network / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match=rf"{name} is no regular file"):
        open_checkpoint(str(network))
