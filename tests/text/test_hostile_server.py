"""A server that never ends, never begins, drips, or answers with what is no text: bounded, and it can be stopped."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from permlab.errors import UserError
from permlab.text.assistant_server import ServerAssistant, completions_url
from permlab.text.bounded_http import BoundedClient
from permlab.text.prompts import Failure

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def server(play):
    """A loopback server that reads one request per connection and then does `play(connection, gone)`."""
    door = socket.create_server(("127.0.0.1", 0))
    gone = threading.Event()

    def answer(connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                part = connection.recv(65536)
                if not part:
                    return
                data += part
            with suppress(OSError):
                play(connection, gone)

    def accept():
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"
    finally:
        gone.set()
        door.close()


def asked(url, **settings):
    assistant = ServerAssistant(url, "m", retries=0, **{"timeout": 0.3, "concurrency": 1, **settings})
    return [answer for _, answer in assistant.answers(["A text."])]


def endless(connection, gone):
    connection.sendall(HEAD + b"\r\n")
    while not gone.is_set():
        connection.sendall(b"x" * 65536)


def huge(connection, gone):
    connection.sendall(HEAD + b"Content-Length: 999999999999\r\n\r\n{")
    gone.wait(20)


def silent(connection, gone):
    gone.wait(20)


def dripping_body(connection, gone):
    connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
    while not gone.wait(0.05):
        connection.sendall(b" ")


def dripping_head(connection, gone):
    connection.sendall(HEAD)
    while not gone.wait(0.05):
        connection.sendall(b"x-more: 1\r\n")


def bad_length(connection, gone):
    connection.sendall(HEAD + b"Content-Length: 12; drop\r\n\r\n{}")


@pytest.mark.parametrize("play", [endless, huge, silent, dripping_body, dripping_head, bad_length])
def test_every_request_ends_in_bounded_time_and_memory(play):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with server(play) as url:
        (answer,) = asked(url)
    assert isinstance(answer, Failure) and time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("play", [silent, dripping_body, dripping_head])
def test_a_run_that_is_to_stop_does_not_wait_for_the_server(play):
    with server(play) as url:
        assistant = ServerAssistant(url, "m", timeout=60, concurrency=4)
        answers = assistant.answers([f"Text {n}." for n in range(8)])
        threading.Timer(0.3, assistant._client.close).start()
        stopper = threading.Timer(0.3, assistant._stop.set)
        stopper.start()
        began = time.monotonic()
        for _ in answers:
            break
        answers.close()
        assert time.monotonic() - began < 5


def completion(content):
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        completion("a\x00b"),
        completion("\x1b[31mred"),
        b'{"choices": [{"message": {"content": "half \\ud800"}}]}',
        b"[" * 100_000,
        b'{"choices": ' + b"[" * 50_000,
        completion("\x9b2J"),
    ],
)
def test_what_is_no_text_is_malformed(body):
    def play(connection, gone):
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with server(play) as url:
        (answer,) = asked(url)
    assert isinstance(answer, Failure) and "malformed" in str(answer.reason if hasattr(answer, "reason") else answer)


def test_line_ends_tabs_and_every_script_are_text():
    content = "Anna [SEP] 中文 [SEP] naïve\ttab\nline é 🙂"

    def play(connection, gone):
        body = completion(content)
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with server(play) as url:
        assert asked(url) == [content]


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "ftp://x/y", "http://", "http://:80", "localhost:8000", "http://[::1", "http://a:b/"],
)
def test_addresses_that_are_none_are_refused_before_anything_runs(address):
    with pytest.raises(UserError, match=r"task\.segmenter\.base_url=.* is not an address"):
        completions_url(address, "task.segmenter.base_url")


def test_a_client_can_be_closed_twice_and_used_again():
    with server(lambda connection, gone: connection.sendall(HEAD + b"Content-Length: 2\r\n\r\nok")) as url:
        client = BoundedClient(proxies=False)
        client.close()
        assert client.post(url, b"{}", {}, timeout=5, deadline=5) == b"ok"
        client.close()
