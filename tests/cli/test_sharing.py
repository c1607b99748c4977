"""`permlab push` and `permlab fetch` with the hub's own client against a hub on 127.0.0.1; cards of trained models."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import yaml
from hub_standin import Hub

TOKEN = "hf_" + "x" * 20
# Without the storage of the hub itself, which has a protocol of its own: weights go up as LFS.
SENDING = {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "", "HF_HUB_DISABLE_XET": "1"}
CARD = "---\nlibrary_name: transformers\n---\n\n# A model\n"


def finished(tmp_path: Path, kind: str = "model", **result: object) -> Path:
    """A run directory as a done run leaves it."""
    folder = tmp_path / "run" / "artifacts" / kind
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (folder / "README.md").write_text(CARD)
    (tmp_path / "run" / "result.json").write_text(json.dumps({"status": "done", **result}))
    (tmp_path / "run" / "environment.json").write_text('{"host": "secret-host"}')
    return folder


def test_push_uploads_the_model_and_nothing_else(installed, tmp_path: Path):
    folder = finished(tmp_path)
    with Hub() as hub:
        done = installed("push", "run", "me/model", "--private", HF_ENDPOINT=hub.url, **SENDING)
        assert done.returncode == 0, done.stderr
        assert hub.repositories["me/model"] == {p.name: p.read_bytes() for p in folder.iterdir()}
        assert hub.private["me/model"] and hub.authorised - {""} == {f"Bearer {TOKEN}"}
    assert f"uploaded to {hub.url}/me/model" in done.stdout
    assert "README.md" in done.stdout and "3 files" in done.stdout and TOKEN not in done.stdout


def test_a_dry_run_needs_no_token_and_sends_nothing(permlab, tmp_path: Path):
    finished(tmp_path, "adapter")
    done = permlab("push", "--dry-run", "run", "me/model")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in done.stdout and "dry run: nothing was sent" in done.stdout


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line(installed, tmp_path: Path):
    finished(tmp_path)
    keys = SENDING
    with Hub(refuse=403) as hub:
        done = installed("push", "run", "me/model", HF_ENDPOINT=hub.url, **keys)
    assert done.returncode == 2 and "token of the role write" in done.stderr and done.stderr.count("\n") == 1
    with Hub({"me/model": {}}) as hub:
        done = installed("push", "run", "me/model", "--private", HF_ENDPOINT=hub.url, **keys)
    assert done.returncode == 2 and "is there already and public" in done.stderr
    assert hub.repositories == {"me/model": {}}
    done = installed("push", "run", "me/model", HF_ENDPOINT=hub.url, **keys)
    assert done.returncode == 2 and "does not answer" in done.stderr and done.stderr.count("\n") == 1


def test_without_a_token_the_remedy_is_named(installed, tmp_path: Path):
    finished(tmp_path)
    done = installed("push", "run", "me/model", HF_HUB_OFFLINE="", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2 and "`hf auth login`" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "result.json").write_text('{"status": "interrupted"}'), "`permlab resume run` finishes it"),
        (lambda run: (run / "result.json").write_text('{"status": "failed"}'), "is failed and is not shared"),
        (lambda run: (run / "result.json").write_text('{"status": "done", "debug": "fast"}'), "debug=fast"),
        (lambda run: (run / "result.json").unlink(), "is not a run directory"),
        (lambda run: (run / "artifacts/model/training_args.bin").write_bytes(pickle.dumps(1)), "is a pickle"),
        (lambda run: (run / "artifacts/model/x.json").symlink_to(run / "environment.json"), "is a link"),
        (lambda run: (run / "artifacts/model/.env").write_text("A=1"), "is no part of a model"),
        (lambda run: (run / "artifacts/model/run.log").write_text("..."), "is no part of a model"),
        (lambda run: (run / "artifacts/model/README.md").unlink(), "has no README.md"),
        (lambda run: (run / "artifacts/model/model.safetensors").unlink(), "has no safetensors"),
        (lambda run: (run / "artifacts/model/config.json").write_text(f'{{"a": "{TOKEN}"}}'), "like a key"),
        (lambda run: (run / "artifacts/model/config.json").write_text('{"a": "Hunter-2-Hunter"}'), "$MY_SECRET"),
        (lambda run: (run / "artifacts/model").rename(run / "artifacts/table"), "nothing to share"),
    ],
)
def test_what_must_not_go_up_is_refused_before_anything_is_sent(permlab, tmp_path: Path, spoil, said: str):
    finished(tmp_path)
    spoil(tmp_path / "run")
    done = permlab("push", "run", "me/model", "--dry-run", MY_SECRET="Hunter-2-Hunter")
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and "Hunter-2" not in done.stderr


@pytest.mark.parametrize("words", [("run",), ("run", "model"), ("run", "me/model", "--privat"), ("run", "a/b/c")])
def test_wrong_words_are_one_line(permlab, tmp_path: Path, words: tuple[str, ...]):
    finished(tmp_path)
    done = permlab("push", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_path_of_this_machine_is_noted(permlab, tmp_path: Path):
    folder = finished(tmp_path)
    (folder / "config.json").write_text(json.dumps({"base": f"{tmp_path}/base"}))
    done = permlab("push", "run", "me/model", "--dry-run")
    assert "note: config.json names a folder of this machine" in done.stdout


@pytest.mark.slow
def test_fetch_downloads_what_loading_needs_and_then_nothing(installed, tmp_path: Path):
    files = {
        "config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": b"1234567",
        "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"other",
    }  # fmt: skip
    (tmp_path / "my" / "model").mkdir(parents=True)
    (tmp_path / "my" / "model" / "mine.yaml").write_text(
        "# permlab model=mine      mine\ndefaults:\n  - /schema/model/causal_lm@_here_\n  - _self_\n"
        "name: mine\npath: me/tiny\nweights: pretrained\ntokenizer: pretrained\n"
    )
    with Hub({"me/tiny": files}) as hub:
        keys = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "", "HF_HOME": str(tmp_path / "hf")}
        first = installed("--config-dir", "my", "fetch", "model=mine", **keys)
        assert first.returncode == 0, first.stderr
        got = [call for call in hub.calls if call.startswith("GET /me/tiny/resolve")]
        assert sorted(call.rsplit("/", 1)[1] for call in got) == ["config.json", "model.safetensors", "tokenizer.json"]
        assert "3 of 3 files downloaded" in first.stdout and str(tmp_path / "hf") in first.stdout
        hub.calls.clear()
        again = installed("--config-dir", "my", "fetch", "model=mine", **keys)
        assert "already in the cache, nothing downloaded" in again.stdout, again.stderr
        assert not [call for call in hub.calls if call.startswith("GET /me/tiny/resolve")]
    offline = installed("--config-dir", "my", "fetch", "model=mine", **{**keys, "HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 0 and "already in the cache" in offline.stdout, offline.stderr


@pytest.mark.slow
def test_fetch_prepares_a_data_set_that_is_then_read_offline(installed, tmp_path: Path):
    words = ["dataset=hub", "dataset.path=me/texts"]
    with Hub({"me/texts": {"train.jsonl": b'{"text": "Daphne wrote it."}\n' * 5, "README.md": b"---\n---\n"}}) as hub:
        keys = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "", "HF_HOME": str(tmp_path / "hf")}
        done = installed("fetch", *words, **keys)
        assert done.returncode == 0 and "1 of 1 files downloaded" in done.stdout, done.stderr
    again = installed("fetch", *words, **{**keys, "HF_HUB_OFFLINE": "1"})
    assert again.returncode == 0 and "already in the cache" in again.stdout, again.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["model=local", "model.path=."], 2, "nothing to fetch"),
        (["model=local"], 2, "nothing to fetch"),
        (["model=tiny-llama", "dataset=people"], 0, "built here, nothing to fetch"),
        (["model=gpt3"], 2, "gpt3"),
        (["seed=1"], 2, "usage: permlab fetch"),
        ([], 2, "usage: permlab fetch"),
        (["dataset=hub"], 2, "dataset.path=ID"),
        (["model=gpt2"], 2, "HF_HUB_OFFLINE=1"),
        (["task=ntk"], 0, "nothing to fetch"),
    ],
)
def test_what_needs_no_download_is_said(permlab, words: list[str], code: int, said: str):
    done = permlab("fetch", *words)
    assert done.returncode == code and said in done.stdout + done.stderr, done.stderr
    assert done.stderr.count("\n") == (1 if code else 0)


def test_help_lists_both_verbs(permlab):
    text = permlab("--help").stdout
    assert "permlab fetch" in text and "permlab push" in text
    assert "hf auth login" in permlab("push", "--help").stdout
    assert "HF_HUB_OFFLINE" in permlab("fetch", "--help").stdout


@pytest.mark.slow
@pytest.mark.parametrize("keys", [[], ["model.lora.rank=2"]])
def test_a_trained_model_has_a_card_and_can_be_shared(permlab, tmp_path: Path, tiny: list[str], keys: list[str]):
    done = permlab("task=spt", "tracker=none", *tiny, *keys, "run.dir=run")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "run" / "artifacts" / "model" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert head["library_name"] == ("peft" if keys else "transformers") and "permlab" in head["tags"]
    assert f"| final_loss | {metrics['final_loss']:.4g} |" in text
    assert "from_pretrained" in text and "task=spt" in text and str(tmp_path) not in text
    shown = permlab("push", "run", "me/model", "--dry-run")
    assert shown.returncode == 0, shown.stderr
