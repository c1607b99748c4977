"""An assistant behind HTTP: `ServerAssistant("http://127.0.0.1:8000", "qwen2.5-7b", api_key_env="MY_KEY")`.

Any server with OpenAI's `/v1/chat/completions` will do (vLLM, llama.cpp, Ollama, `transformers serve`, hosted ones).
Only the standard library is used. The key is read from an environment variable, sent in one header, never followed by a
redirect, and blotted out of messages that come back.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from permlab.errors import UserError
from permlab.text.bounded_http import BoundedClient, TooLargeError
from permlab.text.prompts import Failure, chat_messages

_LONGEST_WAIT = 300.0  # seconds; a server that asks for more is asked again then
_LONGEST_BACKOFF = 60.0
_WHOLE = 3.0  # times `timeout`: seconds for a whole answer, however slowly it drips
_FOREIGN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class _Transient(Exception):
    """A failure that may pass: 429, 5xx, a time-out, a broken connection or answer.

    `wait`: seconds that the server asked for. `unreachable`: no connection was made at all.
    """

    def __init__(self, reason: str, wait: float | None = None, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.unreachable = wait, unreachable


class _Stopped(Exception):
    """The run ended while this text was waiting."""


def completions_url(base_url: str, key: str = "base_url") -> str:
    """Return the address of the chat completions under `base_url`, with or without its `/v1`.

    Raises:
        UserError: when `base_url` is not an http(s) address; it is called `key` there.
    """
    try:
        parts = urllib.parse.urlsplit(base_url.strip())
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        known = False
    if not known:
        shown = base_url.strip()[:100]
        raise UserError(f"{key}={shown} is not an address: give something like http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UserError(
            f"{key} holds more than an address (a user, password, ?query or #fragment), and configurations are written "
            f"down: leave that out, and name an environment variable with the key by {key[:-8]}api_key_env=NAME"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    versioned = any(piece[:1] == "v" and piece[1:2].isdigit() for piece in path.split("/"))
    path += "/chat/completions" if versioned else "/v1/chat/completions"
    return urllib.parse.urlunsplit(parts._replace(path=path, query="", fragment=""))


def segmentation_tokens(text: str) -> int:
    """Return how long the marked copy of a text may be."""
    return 64 + 6 * len(text.split()) + len(text) // 2


class ServerAssistant:
    """Asks an OpenAI-compatible server, several texts at a time, and repeats what may pass.

    429, 5xx, time-outs, broken connections and malformed answers are asked again, after `Retry-After` or an exponential
    back-off with jitter; any other status stops at once with the server's message. A text that is still without an
    answer is a `Failure`; `give_up_after` of them in a row, or no connection before the first answer, stop the run.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 0.5,
        give_up_after: int = 16,
        options: Mapping[str, Any] | None = None,
        messages: Callable[[str], list[dict[str, str]]] = chat_messages,
        max_tokens: Callable[[str], int] = segmentation_tokens,
    ) -> None:
        """Check the settings; no request is made.

        Args:
            base_url: address of the server, with or without `/v1`.
            model: name of the model there.
            api_key_env: name of the environment variable with the key; None or empty sends none.
            concurrency: requests at a time.
            timeout: seconds without a byte from the server.
            retries: how often one text is asked again.
            backoff: seconds before the first repetition, doubled each time (at most 60), times 0.5 to 1.5.
            give_up_after: texts in a row without an answer after which the run stops.
            options: more fields of the request body; a value of None takes a field out (`{"temperature": None}`).
            messages: the conversation that asks about a text; by default for its semantic units.
            max_tokens: the longest answer to a text.

        Raises:
            UserError: for a bad address or number, and an environment variable that is not set.
        """
        self.url = completions_url(base_url)
        if not model:
            raise UserError("model is empty: name the model that the server offers (see its /v1/models)")
        if concurrency < 1 or timeout <= 0 or retries < 0 or give_up_after < 1:
            raise UserError("concurrency, timeout and give_up_after must be above 0, and retries 0 or more")
        key = os.environ.get(api_key_env, "") if api_key_env else ""
        if api_key_env and not key:
            raise UserError(f"environment variable {api_key_env} is not set: export {api_key_env}=... with the key")
        self.name = self.model = model
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries
        self.backoff, self.give_up_after, self.options = backoff, give_up_after, dict(options or {})
        self.messages, self.max_tokens = messages, max_tokens
        self.retries_made = 0
        self._key = key
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # A proxy cannot reach this machine's loopback.
        local = urllib.parse.urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        self._client = BoundedClient(proxies=not local)

    def answers(self, texts: Sequence[str]) -> Generator[tuple[int, str | Failure], None, None]:
        """Yield (index, answer or failure) as answers come; closing the iterator cancels what has not been asked.

        Raises:
            UserError: for a status that a repetition would not mend, and when the server does not answer.
        """
        self._stop.clear()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="assistant")
        futures: dict[Future[str], int] = {pool.submit(self._ask, text): index for index, text in enumerate(texts)}
        failed_in_a_row, reached = 0, False
        try:
            for future in as_completed(futures):
                try:
                    answer: str | Failure = future.result()
                    failed_in_a_row, reached = 0, True
                except _Stopped:
                    continue  # the error that stopped it comes with another text
                except _Transient as error:
                    answer = Failure(str(error))
                    failed_in_a_row += 1
                    if failed_in_a_row >= self.give_up_after or (error.unreachable and not reached):
                        raise UserError(
                            f"{self.url} gave no answer for {failed_in_a_row} text(s) in a row, last: {error}. "
                            "See that the server runs, then start again: answers so far are kept"
                        ) from None
                yield futures[future], answer
        finally:
            self._stop.set()
            self._client.close()  # a server that hangs must not keep a run that is to stop
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, text: str) -> str:
        """Return the answer for one text; repeats transient failures and raises the last one."""
        for attempt in range(self.retries + 1):
            if self._stop.is_set():
                raise _Stopped
            try:
                return self._request(text)
            except UserError:
                self._stop.set()  # here, so that no other thread asks in vain before the caller has heard of it
                raise
            except _Transient as error:
                if attempt == self.retries:
                    raise _Transient(f"{error} ({attempt + 1} attempts)", unreachable=error.unreachable) from None
                pause = min(self.backoff * 2**attempt, _LONGEST_BACKOFF) * random.uniform(0.5, 1.5)
                with self._lock:
                    self.retries_made += 1
                self._stop.wait(pause if error.wait is None else min(error.wait, _LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _request(self, text: str) -> str:
        """Make one request."""
        body = {
            "model": self.model,
            "messages": self.messages(text),
            # What is asked has one right answer: drawing improves none, and caches and tests need repeatable ones.
            "temperature": 0,
            "max_tokens": self.max_tokens(text),
            "stream": False,
            **self.options,
        }
        body = {field: value for field, value in body.items() if value is not None}
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "permlab"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            data = json.dumps(body).encode()
            return _content(
                self._client.post(self.url, data, headers, timeout=self.timeout, deadline=_WHOLE * self.timeout)
            )
        except urllib.error.HTTPError as error:
            raise self._status_error(error) from None
        except TimeoutError:
            raise _Transient(f"no answer within {self.timeout:g} s, or not all of it in time") from None
        except TooLargeError as error:
            raise _Transient(f"malformed answer: {error}") from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _Transient(f"no answer within {self.timeout:g} s") from None
            unreachable = isinstance(reason, (ConnectionRefusedError, socket.gaierror, ssl.SSLError))
            said = self._clean(str(reason) or type(reason).__name__)
            raise _Transient(f"connection failed: {said}", unreachable=unreachable) from None

    def _status_error(self, error: urllib.error.HTTPError) -> Exception:
        """Return what an HTTP status means: to be asked again, or the user's to mend."""
        try:
            said = self._clean(_message(error.read(20_000)))
        except (OSError, http.client.HTTPException):
            said = ""
        what = f"HTTP {error.code}" + (f": {said}" if said else "")
        if error.code in (408, 409, 425, 429) or error.code >= 500:
            return _Transient(what, _retry_after(error.headers.get("Retry-After")))
        remedy = "check base_url, model and options"
        if error.code in (401, 403):
            remedy = (
                "check the key in the variable that api_key_env names"
                if self._key
                else "name its key's variable in api_key_env"
            )
        elif error.code < 400:
            remedy = "it redirects: give the address it points to as base_url"
        return UserError(f"{self.url} refused the request ({what}): {remedy}")

    def _clean(self, text: str) -> str:
        """Return a server's words on one line, cut, and without the key."""
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:300]


def _content(raw: bytes) -> str:
    """Return the text of a chat completion; a body that is none may be a passing failure of a proxy.

    Control characters (but line ends and tabs) and halves of surrogate pairs are in no text that people write: they
    would reach files and the terminal.
    """
    try:
        content = json.loads(raw)["choices"][0]["message"].get("content") or ""
        if isinstance(content, list):  # content parts
            content = "".join(part.get("text", "") for part in content)
        text = str(content)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _Transient("malformed answer, not a chat completion") from None
    if _FOREIGN.search(text):
        raise _Transient("malformed answer, it holds control characters or halves of surrogate pairs")
    return text


def _message(raw: bytes) -> str:
    """Return the message in an error body: OpenAI's form, FastAPI's, or the text itself."""
    text = raw.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(body, dict):
        return text
    said = body.get("error", body.get("detail", body.get("message", text)))
    return str(said.get("message", said) if isinstance(said, dict) else said)


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, as a number or a date; None when there is none."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
