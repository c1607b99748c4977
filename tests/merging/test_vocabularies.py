"""Networks of different vocabularies: rows go where their tokens are, and a row that one network has stays its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from permlab.errors import UserError
from permlab.matching import Matching, identity_matching
from permlab.merging import Setting, load_networks, merge_arm, parse_arm, save_network
from permlab.merging.merge import combine_stored
from permlab.merging.networks.vocabularies import Wanted, read_vocabulary
from permlab.models.tokenizers import train_tokenizer
from permlab.symmetry import apply, declare_huggingface, inverse

WORDS = ["the", "cat", "sat", "on", "mat"]
EMBEDDING = "model.embed_tokens.weight"
SIZES = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0)


def save(folder, words, seed=0, size=None, tied=True, state=None):
    """A Llama and a tokenizer of "<s>" and words, in this order; `size`: of the embedding, with rows to spare."""
    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES, vocab_size=size or len(words) + 1, tie_word_embeddings=tied, eos_token_id=1)
    model = LlamaForCausalLM(config)
    if state is not None:
        model.load_state_dict(state)
    model.save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({w: k for k, w in enumerate(["<s>", *words])}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(folder)
    return model


def load(tmp_path, names, tokenizer="union", weights=(), **more):
    wanted = Wanted(tokenizer, tmp_path / "scratch", weights)
    return load_networks([str(tmp_path / name) for name in names], vocabulary=wanted, **more)


def merged(loaded, arm="identity", **given):
    matching = identity_matching(loaded.spec, len(loaded.stored))
    setting = Setting([], known=loaded.known, ancestor=loaded.ancestor, **given)
    return combine_stored(parse_arm(arm), loaded.spec, loaded.stored, matching, setting)


def test_equal_vocabularies_are_left_alone(tmp_path):
    for seed, name in enumerate("ab"):
        save(tmp_path / name, WORDS, seed, size=9)
    for tokenizer in ("base", "union", str(tmp_path / "b")):
        loaded = load(tmp_path, "ab", tokenizer)
        assert loaded.frame is None and not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_a_permuted_vocabulary_come_back_exactly(tied, tmp_path):
    one = save(tmp_path / "a", WORDS, tied=tied)
    order = torch.tensor([0, 3, 1, 5, 4, 2])  # row k of b is the token that has row order[k] in a
    state = dict(one.state_dict())
    for name in (EMBEDDING, "lm_head.weight"):
        state[name] = state[name][order]
    save(tmp_path / "b", [WORDS[k - 1] for k in order[1:]], tied=tied, state=state)
    with pytest.raises(UserError, match=r"different vocabularies \(6 \| 6 tokens\).*tokenizer=union or base"):
        load_networks([str(tmp_path / "a"), str(tmp_path / "b")])
    loaded = load(tmp_path, "ab", "base")
    for name, value in loaded.stored[0].items():
        assert torch.equal(loaded.stored[1][name], value) and torch.equal(value, one.state_dict()[name])
    assert loaded.frame.counts == {
        "tokens": 6, "of_all": 6, "of_some": 0, "appended": 0, "unnamed_rows": 0, "lost": 0
    }  # fmt: skip
    # Towards b's tokenizer the logits are those of the network, in the order of b.
    folder = save_network(tmp_path / "m", merged(load(tmp_path, "ab", str(tmp_path / "b"))), loaded, {})
    found = LlamaForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[0, 1, 4, 2]])
    assert torch.equal(found(ids).logits, one(order[ids]).logits[..., order])


METHODS = ["identity", "identity/slerp", "identity/multi_slerp", "weight"]
CHANGES = ["task_arithmetic", "ties", "dare", "dare_ties", "della", "breadcrumbs", "model_stock"]


@pytest.mark.parametrize("arm", [*METHODS, *(f"identity/{name}" for name in CHANGES)])
def test_a_row_that_one_network_has_stays_that_row(arm, tmp_path):
    save(tmp_path / "a", [*WORDS, "dog"], 0)
    b = save(tmp_path / "b", ["dog", "bird", *WORDS], 1, size=11)
    changes = arm.partition("/")[2] in CHANGES
    if changes:
        save(tmp_path / "base", WORDS, 2)
    weights = () if "stock" in arm or changes else (1.0, 2.0)
    loaded = load(tmp_path, "ab", weights=weights, ancestor=str(tmp_path / "base") if changes else None)
    assert loaded.frame.appended.keys() == ({"dog", "bird"} if changes else {"bird"})
    row = loaded.frame.tokens.index("bird")
    own = b.state_dict()[EMBEDDING][2]
    options = {"weights": list(weights), "density": 0.5}
    state = merged(loaded, arm, **options)
    assert torch.equal(state[EMBEDDING][row], own) and len(state[EMBEDDING]) == len(loaded.frame.tokens)
    # The same where the networks are run, and whatever the size of the pieces.
    setting = Setting([], known=loaded.known, ancestor=loaded.ancestor, **options)
    states = [{**each, "lm_head.weight": each[EMBEDDING]} for each in loaded.stored]
    if changes:
        setting.ancestor = {**loaded.ancestor, "lm_head.weight": loaded.ancestor[EMBEDDING]}
    whole = merge_arm(parse_arm(arm), loaded.spec, loaded.module, states, setting).state
    if arm != "weight":
        assert torch.equal(whole[EMBEDDING][row], own)
    state.read.entries = 32
    assert torch.equal(torch.cat(list(state.pieces(EMBEDDING)))[row], own)


def test_a_row_that_some_have_is_their_mean_by_their_weights(tmp_path):
    words = {"a": [*WORDS, "dog"], "b": WORDS[::-1], "c": ["dog", *WORDS]}
    rows = {name: save(tmp_path / name, words[name], k).state_dict()[EMBEDDING] for k, name in enumerate(words)}
    weights = (1.0, 2.0, 3.0)
    loaded = load(tmp_path, "abc", weights=weights)
    found = merged(loaded, weights=list(weights))[EMBEDDING]
    assert torch.allclose(found[6], (rows["a"][6] + 3 * rows["c"][1]) / 4, atol=1e-7)
    assert torch.allclose(found[2], (rows["a"][2] + 2 * rows["b"][4] + 3 * rows["c"][3]) / 6, atol=1e-7)
    table = loaded.frame.table()
    assert table[6] == {"row": 6, "token": "dog", "from": "a c", "a": 6, "b": -1, "c": 1}
    assert table[2]["from"] == "all" and table[0]["token"] == "<s>"


def test_rows_are_filled_in_the_common_order_of_units(tmp_path):
    """b and c are a in other orders of units, b without a token: what b is given is a row in the order of a."""
    one = save(tmp_path / "a", [*WORDS, "dog"])
    spec, permutations = declare_huggingface(one.config, one.state_dict()), [{}]
    for seed, (name, words) in enumerate({"b": WORDS, "c": [*WORDS, "dog"]}.items()):
        moved = spec.random(torch.Generator().manual_seed(seed))
        permutations.append(inverse(moved))
        state = apply(spec, one.state_dict(), moved)
        for tensor in (EMBEDDING, "lm_head.weight"):
            state[tensor] = state[tensor][: len(words) + 1]
        save(tmp_path / name, words, state=state)
    loaded = load(tmp_path, "abc")
    assert not loaded.stored[1][EMBEDDING][6].any()
    matching = Matching("given", [{**spec.identity(), **each} for each in permutations])
    found = combine_stored(parse_arm("weight"), spec, loaded.stored, matching, Setting([], known=loaded.known))
    for name, value in loaded.stored[0].items():
        assert torch.allclose(found[name], value, atol=1e-6), name
    whole = merge_arm(
        parse_arm("weight"), spec, loaded.module, loaded.stored, Setting([], known=loaded.known), matching
    )
    assert torch.allclose(whole.state[EMBEDDING], loaded.stored[0][EMBEDDING], atol=1e-6)


def test_a_network_without_a_token_has_not_changed_what_the_ancestor_has(tmp_path):
    base = save(tmp_path / "base", [*WORDS, "dog"], 2).state_dict()[EMBEDDING]
    a = save(tmp_path / "a", [*WORDS, "dog"], 0).state_dict()[EMBEDDING]
    save(tmp_path / "b", WORDS, 1)
    loaded = load(tmp_path, "ab", "base", ancestor=str(tmp_path / "base"))
    found = merged(loaded, "identity/task_arithmetic")[EMBEDDING]
    assert torch.allclose(found[6], base[6] + (a[6] - base[6]), atol=1e-7)
    assert torch.equal(loaded.stored[1][EMBEDDING][6], base[6])


def test_appended_tokens_take_rows_that_mean_nothing(tmp_path):
    a = save(tmp_path / "a", WORDS, 0, size=8).state_dict()[EMBEDDING]
    b = save(tmp_path / "b", [*WORDS, "dog"], 1, size=12).state_dict()[EMBEDDING]
    loaded = load(tmp_path, "ab")
    found = merged(loaded)[EMBEDDING]
    assert len(found) == 8 and torch.equal(found[6], b[6])
    assert torch.allclose(found[7], (a[7] + b[7]) / 2)
    assert loaded.frame.counts["unnamed_rows"] == 1
    config = json.loads((save_network(tmp_path / "m", merged(loaded), loaded, {}) / "config.json").read_text())
    assert config["vocab_size"] == 8
    assert "1 were appended" in (tmp_path / "m" / "README.md").read_text()


def test_special_tokens_keep_their_meaning_under_another_tokenizer(tmp_path):
    save(tmp_path / "a", ["</s>", *WORDS], 0)
    save(tmp_path / "b", [*WORDS, "</s>"], 1)
    (tmp_path / "a" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1], "bos_token_id": 0}))
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [1]}))
    loaded = load(tmp_path, "ab", str(tmp_path / "b"))
    folder = save_network(tmp_path / "m", merged(loaded), loaded, {})
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_text())["eos_token_id"] == [6]
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("</s>") == 6


def test_a_byte_level_union_reads_the_tokens_of_both(tmp_path):
    texts = {"a": "the cat sat on the mat", "b": "the dog sat in the fog and the dog ran"}
    for seed, (name, text) in enumerate(texts.items()):
        save(tmp_path / name, WORDS, seed, size=330)
        tokenizer = train_tokenizer([text] * 3, "bpe", 330)
        if name == "b":
            tokenizer.add_tokens([AddedToken("<tool>", special=True)], special_tokens=True)
        tokenizer.save_pretrained(tmp_path / name)
    loaded = load(tmp_path, "ab")
    folder = save_network(tmp_path / "m", merged(loaded), loaded, {})
    union, own = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tmp_path / "b")
    assert len(union) == len(loaded.frame.tokens) - loaded.frame.counts["unnamed_rows"]
    found = load_file(folder / "model.safetensors")[EMBEDDING]
    theirs = load_file(tmp_path / "b" / "model.safetensors")[EMBEDDING]
    for text, token in ((" dog", "Ġdog"), ("<tool>", "<tool>")):
        (number,) = union(text, add_special_tokens=False)["input_ids"]
        assert loaded.frame.tokens[number] == token
        assert torch.equal(found[number], theirs[own.convert_tokens_to_ids(token)])
    ids = union("the cat saw the dog <tool>", add_special_tokens=False)["input_ids"]
    assert union.decode(ids).strip() == "the cat saw the dog <tool>"
    assert union.decode(ids, skip_special_tokens=True).strip() == "the cat saw the dog"
    # What the first tokenizer cut without appended tokens, it still cuts alike.
    first = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert union("cat mat")["input_ids"] == first("cat mat")["input_ids"]


def unigram(folder):
    path = folder / "tokenizer.json"
    given = json.loads(path.read_text())
    pieces = sorted(given["model"]["vocab"], key=given["model"]["vocab"].__getitem__)
    given["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [[piece, -1.0] for piece in pieces]}
    path.write_text(json.dumps(given))


def test_unigram_vocabularies_are_read_by_place(tmp_path):
    save(tmp_path / "a", WORDS)
    before = read_vocabulary(tmp_path / "a").rows
    unigram(tmp_path / "a")
    assert read_vocabulary(tmp_path / "a").rows == before == {"<s>": 0, **{w: k + 1 for k, w in enumerate(WORDS)}}


def alien(folder):
    save(folder / "b", ["x", "y", "z"], 1)


def missing(folder):
    (folder / "b" / "tokenizer.json").unlink()


def broken(folder):
    (folder / "b" / "tokenizer.json").write_text("{}")


def longer(folder):
    save(folder / "c", [*WORDS, "dog"], 1)
    (folder / "b" / "tokenizer.json").write_bytes((folder / "c" / "tokenizer.json").read_bytes())


def wider(folder):
    state = load_file(folder / "b" / "model.safetensors")
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(25, 16)
    save_file(state, folder / "b" / "model.safetensors", metadata={"format": "pt"})


REFUSED = {
    "alien": (alien, "union", r"^a and b have no token in common"),
    "missing": (missing, "base", r"/b has no tokenizer.json, by which its tokens could be told: save its tokenizer"),
    "broken": (broken, "union", r"/b/tokenizer.json is no tokenizer that can be read: get it again$"),
    "longer": (longer, "union", r"/b: its tokenizer has 7 tokens, the network 6: copy the one that belongs to it$"),
    "elsewhere": (lambda f: save(f / "c", [*WORDS, "a", "b", "c"]), "c", r"for 3 of its tokens, such as 'a': give the"),
    "wider": (wider, "union", r"different architectures.*1 tensors differ: model.layers.0.mlp.up_proj"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_mapped_is_refused_in_one_line(case, tmp_path):
    spoil, tokenizer, line = REFUSED[case]
    save(tmp_path / "a", WORDS[::-1], 0)
    save(tmp_path / "b", WORDS, 1)
    spoil(tmp_path)
    with pytest.raises(UserError, match=line) as refusal:
        load(tmp_path, "ab", str(tmp_path / "c") if tokenizer == "c" else tokenizer)
    assert "\n" not in str(refusal.value) and not Path(tmp_path, "scratch").exists()
