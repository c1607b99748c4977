"""A local causal model as the assistant, and the same model behind a real OpenAI-compatible server."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from permlab.data.examples import Example
from permlab.errors import UserError
from permlab.text.assistant_local import LocalAssistant
from permlab.text.assistant_server import ServerAssistant
from permlab.text.prompts import Failure, chat_messages, plain_prompt
from permlab.text.segment import segment_corpus
from permlab.text.segment_llm import LLMSegmenter

CHAT = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}<s>assistant:"
VOCABULARY = 700
TEXTS = ["Ada Roe sings.", "Bo Lind, the baker of Bergen, never rests.", "Cy Moe is tall."]


def byte_tokenizer(chat):
    """Byte-level, with the instruction's words as tokens: prompts of some 270 tokens instead of 1,100."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = {"special_tokens": ["<s>", "</s>"], "initial_alphabet": alphabet}
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, min_frequency=1, show_progress=False, **specials)
    backend.train_from_iterator([plain_prompt("")], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


def tiny_llama(positions=4096):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=positions, **sizes))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: with several threads on a busy machine, waiting for each other costs fifty times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_llama().save_pretrained(folder)
    byte_tokenizer(chat=True).save_pretrained(folder)
    return folder


def greedy(model, tokenizer, prompt, new):
    """Decode without batches, padding, cache or `generate`."""
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.inference_mode():
        for _ in range(new):
            token = model(ids, use_cache=False).logits[0, -1].argmax()
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
            if token == tokenizer.eos_token_id:
                break
    return tokenizer.decode(ids[0, start:], skip_special_tokens=True)


@pytest.mark.parametrize("chat", [True, False])
def test_batched_answers_equal_step_by_step_decoding(chat):
    model, tokenizer = tiny_llama().double(), byte_tokenizer(chat)
    answers = dict(LocalAssistant(model, tokenizer, batch_size=2, max_new_tokens=8).answers(TEXTS))
    assert sorted(answers) == [0, 1, 2]
    assert any(answers.values())
    for index, text in enumerate(TEXTS):
        if chat:
            prompt = tokenizer.apply_chat_template(chat_messages(text), tokenize=False, add_generation_prompt=True)
            assert answers[index] == greedy(model, tokenizer, prompt, 8)
        else:
            answer = greedy(model, tokenizer, plain_prompt(text), 8)
            assert answers[index] == answer.strip().partition("\n")[0]


def test_answer_to_the_plain_prompt_ends_at_the_line_feed():
    model, tokenizer = tiny_llama(), byte_tokenizer(chat=False)
    line_feed = tokenizer("\n")["input_ids"][0]
    with torch.no_grad():  # the model always answers with line feeds
        model.lm_head.weight.zero_()
        model.model.norm.weight.zero_()
    steps = []
    model.register_forward_hook(lambda *args: steps.append(1))
    tokens = torch.full((VOCABULARY,), -1.0)
    tokens[line_feed] = 1.0
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + tokens)
    assert dict(LocalAssistant(model, tokenizer, max_new_tokens=50).answers(TEXTS[:1])) == {0: ""}
    assert len(steps) == 1


def test_random_model_falls_back_and_is_cached(tmp_path, model_folder):
    texts = [Example(text) for text in TEXTS]
    assistant = LocalAssistant.load(str(model_folder), max_new_tokens=8)
    first = segment_corpus(texts, LLMSegmenter(assistant, tmp_path / "c.jsonl"))
    assert (first.fallback, first.extra["asked"]) == (3, 3)
    second = segment_corpus(texts, LLMSegmenter(assistant, tmp_path / "c.jsonl"))
    assert second.extra["asked"] == 0
    assert second.reasons == first.reasons


def test_texts_that_do_not_fit_are_failures():
    assistant = LocalAssistant(tiny_llama(positions=400), byte_tokenizer(chat=True), max_new_tokens=4)
    answers = dict(assistant.answers([*TEXTS[:2], "word " * 300]))
    assert isinstance(answers[2], Failure)
    assert "400 fit" in answers[2].reason
    assert isinstance(answers[0], str)


def test_model_that_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        LocalAssistant.load(str(tmp_path))
    with pytest.raises(UserError, match="batch_size=0"):
        LocalAssistant(tiny_llama(), byte_tokenizer(chat=True), batch_size=0)


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    """Address of `transformers serve` with the tiny model."""
    absent = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"transformers[serving] is not installed ({', '.join(absent)} missing): pip install -e '.[dev]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model_folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    log = home / "serve.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 120
        while True:
            try:
                opener.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"transformers serve did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.mark.slow
def test_transformers_serve_answers_like_the_local_model(served, model_folder, tmp_path, monkeypatch):
    # The answers of a random model are noise with control characters, which a server's are otherwise refused for.
    monkeypatch.setattr("permlab.text.assistant_server._FOREIGN", re.compile(r"(?!)"))
    settings = {"concurrency": 2, "options": {"max_tokens": 12}}
    server = ServerAssistant(served, str(model_folder), **settings)
    local = LocalAssistant.load(str(model_folder), batch_size=1, max_new_tokens=12)
    assert dict(server.answers(TEXTS)) == dict(local.answers(TEXTS))

    texts = [Example(text) for text in TEXTS]
    seen = []
    first = segment_corpus(
        texts, LLMSegmenter(server, tmp_path / "c.jsonl"), progress=lambda done, total: seen.append((done, total))
    )
    assert (first.extra["asked"], first.extra["answered"], first.fallback) == (3, 3, 3)
    assert seen[-1] == (3, 3)
    again = segment_corpus(texts, LLMSegmenter(server, tmp_path / "c.jsonl"))
    assert again.extra["asked"] == 0


@pytest.mark.slow
def test_transformers_serve_refuses_an_unknown_model(served):
    with pytest.raises(UserError, match="HTTP 4"):
        list(ServerAssistant(served, "no-such-model", backoff=0.01).answers(TEXTS[:1]))
