"""HTTP that ends: `BoundedClient().post(url, body, headers, timeout=60, deadline=180)`.

A server is not trusted to answer: its answer is bounded in bytes, its headers and body together in seconds, and another
thread can break off every request that is under way. Redirects are refused. Only the standard library is used.
"""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

LARGEST_ANSWER = 4 * 2**20
"""Bytes of an answer that are read; a segmented text is a few kilobytes."""
CHUNK = 64 * 1024


class TooLargeError(OSError):
    """The answer has more than `LARGEST_ANSWER` bytes."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: urllib would take the key to the other host and turn the request into a GET."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Exchange:
    """One request under way."""

    def __init__(self) -> None:
        self.late = False
        self.socket: socket.socket | None = None

    def connected(self, connection: socket.socket) -> None:
        """Remember the socket; a request that is late already ends here."""
        self.socket = connection
        if self.late:
            self.end()

    def expire(self) -> None:
        """Called when the time is up."""
        self.late = True
        self.end()

    def end(self) -> None:
        """End the connection under the thread that reads from it: closing alone would leave that waiting."""
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


class BoundedClient:
    """Posts to servers and can be closed from another thread.

    Args:
        proxies: whether the environment's proxies are used.
        largest: bytes of an answer that are read.
    """

    def __init__(self, *, proxies: bool = True, largest: int = LARGEST_ANSWER) -> None:
        self.largest = largest
        self._going: set[_Exchange] = set()
        self._lock = threading.Lock()
        self._own = threading.local()
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect(), *_watching(self)]
        if not proxies:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, timeout: float, deadline: float) -> bytes:
        """Return the body of a 2xx answer.

        Args:
            timeout: seconds without a byte.
            deadline: seconds for the whole answer, headers included.

        Raises:
            urllib.error.HTTPError: another status; its body is not read here.
            TimeoutError: no byte, or not all of them, in time.
            TooLargeError: the answer is larger than `largest`.
            OSError, http.client.HTTPException: no connection, or a broken one; also after `close`.
        """
        request = urllib.request.Request(url, body, dict(headers), method="POST")
        exchange = self._own.exchange = _Exchange()
        with self._lock:
            self._going.add(exchange)
        watch = threading.Timer(deadline, exchange.expire)
        watch.daemon = True
        watch.start()
        try:
            with self._opener.open(request, timeout=min(timeout, deadline)) as response:
                return self._read(response)
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            if exchange.late:
                raise TimeoutError from None
            if isinstance(error, ValueError):  # a length that is no number, a header that is no line
                raise http.client.HTTPException(str(error)) from None
            raise
        finally:
            watch.cancel()
            with self._lock:
                self._going.discard(exchange)

    def close(self) -> None:
        """Break off every request that is under way; its thread gets an error at once."""
        with self._lock:
            for exchange in self._going:
                exchange.end()

    def connected(self, connection: socket.socket) -> None:
        """Take note of the socket of the request that this thread makes."""
        self._own.exchange.connected(connection)

    def _read(self, response: Any) -> bytes:
        stated = response.headers.get("Content-Length")
        if stated and stated.isdigit() and int(stated) > self.largest:
            raise TooLargeError(f"the answer has {int(stated):,} bytes")
        parts: list[bytes] = []
        size = 0
        while part := response.read(CHUNK):
            size += len(part)
            if size > self.largest:
                raise TooLargeError(f"the answer has more than {self.largest:,} bytes")
            parts.append(part)
        if stated and stated.isdigit() and size < int(stated):
            raise http.client.IncompleteRead(b"", int(stated) - size)
        return b"".join(parts)


def _watching(client: BoundedClient) -> list[urllib.request.BaseHandler]:
    """Handlers whose connections the client knows from the moment they are made."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            client.connected(self.sock)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            client.connected(self.sock)

    class HTTP(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class HTTPS(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req)

    return [HTTP(), HTTPS()]
