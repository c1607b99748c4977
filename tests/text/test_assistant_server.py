"""The server path against a loopback server that plays recorded answers, good and bad."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from permlab.data.examples import Example
from permlab.errors import UserError
from permlab.text.assistant_server import ServerAssistant, completions_url
from permlab.text.segment import segment_corpus
from permlab.text.segment_llm import LLMSegmenter

TEXTS = [f"Person number {n} sings in Oslo." for n in range(8)]
KEY = "secret-key-12345"


def marked(text):
    head, tail = text.split(" sings ")
    return f"{head} [SEP] sings [SEP] {tail}"


def completion(content, **fields):
    message = {"role": "assistant", "content": content, **fields}
    return 200, {}, json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


def good(text):
    return completion(marked(text))


def status(code, body=b"", **headers):
    return lambda text: (code, {key.replace("_", "-"): value for key, value in headers.items()}, body)


class Player:
    """Plays `script[n]` for the n-th request (the last one for ever); records the requests."""

    def __init__(self, *script):
        self.script, self.requests, self.times, self.busy, self.most_busy = script, [], [], 0, 0
        self.lock = threading.Lock()
        player = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with player.lock:
                    number = len(player.requests)
                    player.requests.append((self.path, dict(self.headers), body))
                    player.times.append(time.monotonic())
                    player.busy += 1
                    player.most_busy = max(player.most_busy, player.busy)
                try:
                    play = player.script[min(number, len(player.script) - 1)]
                    code, headers, content = play(body["messages"][-1]["content"])
                finally:
                    with player.lock:
                        player.busy -= 1
                self.send_response(code)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *args: None  # clients that gave up waiting
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()


def ask(player, texts=TEXTS[:1], cache=None, **settings):
    settings = {"backoff": 0.01, "timeout": 5.0, "concurrency": 1, **settings}
    segmenter = LLMSegmenter(ServerAssistant(player.url, "tiny", **settings), cache)
    return segment_corpus([Example(text) for text in texts], segmenter)


def test_good_answers_and_the_request(monkeypatch):
    monkeypatch.setenv("TEST_ASSISTANT_KEY", KEY)
    with Player(good) as player:
        result = ask(player, TEXTS, api_key_env="TEST_ASSISTANT_KEY", options={"temperature": None, "seed": 1})
    assert result.counts == {"texts": 8, "ok": 8, "repaired": 0, "merged": 0, "fallback": 0, "dropped": 0}
    assert result.examples[3].units == ("Person number 3", "sings", "in Oslo.")
    path, headers, body = player.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["seed"], "temperature" in body) == ("tiny", 1, False)
    assert body["max_tokens"] > 64
    assert result.extra["answers_per_second"] > 0


def test_second_run_makes_no_request(tmp_path):
    with Player(good) as player:
        ask(player, TEXTS, tmp_path / "c.jsonl")
        assert len(player.requests) == 8
        again = ask(player, TEXTS, tmp_path / "c.jsonl")
        assert len(player.requests) == 8
    assert again.ok == 8


def test_key_is_in_no_file_and_no_message(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_ASSISTANT_KEY", KEY)
    said = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}.\nSee the docs", "code": 401}}).encode()
    with Player(good, good, status(401, said)) as player:
        with pytest.raises(UserError) as caught:
            ask(player, TEXTS, tmp_path / "c.jsonl", api_key_env="TEST_ASSISTANT_KEY")
        assert len(player.requests) == 3
    message = str(caught.value)
    assert "HTTP 401: Incorrect API key provided: ***. See the docs" in message
    assert "api_key_env" in message
    assert KEY not in message
    kept = (tmp_path / "c.jsonl").read_text()
    assert kept.count("\n") == 2
    assert KEY not in kept


def test_variable_without_a_key(monkeypatch):
    monkeypatch.delenv("TEST_ASSISTANT_KEY", raising=False)
    with pytest.raises(UserError, match="TEST_ASSISTANT_KEY is not set"):
        ServerAssistant("http://127.0.0.1:1", "tiny", api_key_env="TEST_ASSISTANT_KEY")


@pytest.mark.parametrize("code", [429, 500, 503])
def test_passing_failures_are_asked_again(code):
    with Player(status(code, b"busy"), status(code), good) as player:
        result = ask(player)
    assert result.ok == 1
    assert len(player.requests) == 3
    assert result.extra["retries"] == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form):
    wait = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    with Player(status(429, Retry_After=wait), good) as player:
        assert ask(player).ok == 1
    assert player.times[1] - player.times[0] >= 0.9


def test_backoff_grows():
    with Player(status(500), status(500), status(500), good) as player:
        assert ask(player, backoff=0.05).ok == 1
    first, second, third = (after - before for before, after in zip(player.times, player.times[1:]))
    assert first >= 0.025
    assert second >= 0.05
    assert third >= 0.1


def test_slow_answers_time_out_and_are_asked_again():
    def slow(text):
        time.sleep(1.2)
        return good(text)

    with Player(slow, good) as player:
        result = ask(player, timeout=0.5)
    assert result.ok == 1
    assert result.extra["retries"] == len(player.requests) - 1 >= 1


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>busy</html>", b'{"choices": []}', b'{"choices": [{"message": null}]}', b'{"object": "list"}', b"[1]"],
)
def test_malformed_bodies_are_asked_again(body):
    with Player(status(200, body), good) as player:
        assert ask(player).ok == 1
    assert len(player.requests) == 2


def test_truncated_body_is_asked_again():
    def truncated(text):
        _, headers, body = good(text)
        return 200, {**headers, "Content-Length": str(len(body) + 50)}, body

    with Player(truncated, good) as player:
        assert ask(player).ok == 1
    assert len(player.requests) == 2


def test_truncated_and_wrong_content_falls_back():
    with Player(lambda text: completion("Person [SEP] number"), lambda text: completion(None), good) as player:
        result = ask(player, TEXTS[:3])
    assert result.reasons == {"words lost, added or moved": 1, "empty answer": 1}
    assert (result.ok, result.fallback) == (1, 2)


def test_content_parts():
    with Player(lambda text: completion([{"type": "text", "text": marked(text)}])) as player:
        assert ask(player).ok == 1


def test_500_for_one_text_is_counted_and_for_ever_stops():
    with Player(good, status(500, b'{"detail": "out of memory"}'), status(500), good) as player:
        result = ask(player, TEXTS[:3], retries=1)
    assert result.reasons == {"no answer from the assistant": 1}
    assert "HTTP 500 (2 attempts)" in result.failures[0]
    with Player(status(500, b'{"detail": "out of memory"}')) as player:
        with pytest.raises(UserError, match=r"no answer for 3 text\(s\) in a row, last: HTTP 500: out of memory"):
            ask(player, TEXTS, retries=1, give_up_after=3)
        assert len(player.requests) <= 8  # three texts twice, and what was under way


@pytest.mark.parametrize("code", [400, 403, 404, 422])
def test_other_4xx_stops_at_once_with_the_servers_words(code):
    with Player(status(code, b'{"error": "no such model: tiny"}')) as player:
        with pytest.raises(UserError, match=f"HTTP {code}: no such model: tiny"):
            ask(player, TEXTS)
        assert len(player.requests) <= 2


def test_redirects_are_not_followed(monkeypatch):
    monkeypatch.setenv("TEST_ASSISTANT_KEY", KEY)
    with Player(good) as other, Player(status(302, Location=other.url)) as player:
        with pytest.raises(UserError, match="it redirects"):
            ask(player, api_key_env="TEST_ASSISTANT_KEY")
        assert other.requests == []


def test_nobody_listens():
    with Player(good) as player:
        pass
    with pytest.raises(UserError, match=r"connection failed: .*See that the server runs"):
        ask(player, TEXTS, retries=1)


def test_concurrency_is_used_and_limited():
    def wait_for_four(text):
        deadline = time.monotonic() + 5
        while player.most_busy < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        return good(text)

    with Player(wait_for_four) as player:
        result = ask(player, TEXTS, concurrency=4, timeout=10)
    assert player.most_busy == 4
    assert [example.units[0] for example in result.examples] == [f"Person number {n}" for n in range(8)]


def test_stopping_cancels_what_was_not_asked(tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with Player(good) as player:
        segmenter = LLMSegmenter(ServerAssistant(player.url, "tiny", concurrency=1), tmp_path / "c.jsonl")
        texts = [Example(f"{n} {text}") for n in range(50) for text in TEXTS]
        with pytest.raises(KeyboardInterrupt):
            segment_corpus(texts, segmenter, progress=stop)
        time.sleep(1)  # what was on its way arrives
        asked = len(player.requests)
        time.sleep(0.3)
        assert len(player.requests) == asked < 40
    assert (tmp_path / "c.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1/chat/completions"),
        ("https://host/v1beta/openai", "https://host/v1beta/openai/chat/completions"),
        ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
        ("https://host/proxy", "https://host/proxy/v1/chat/completions"),
    ],
)
def test_addresses(base, url):
    assert completions_url(base) == url


@pytest.mark.parametrize("base", ["127.0.0.1:8000", "ftp://host", "", "http://"])
def test_bad_addresses(base):
    with pytest.raises(UserError, match="is not an address"):
        completions_url(base)


@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"timeout": 0}, {"retries": -1}, {"give_up_after": 0}])
def test_bad_numbers(settings):
    with pytest.raises(UserError, match="must be above 0"):
        ServerAssistant("http://host", "tiny", **settings)
