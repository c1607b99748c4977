"""Servers on this machine that answer as little as a test wants."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

Answers = Callable[[str, str, bytes], "bytes | None"]


@pytest.fixture
def loopback() -> Iterator[Callable[[Answers], str]]:
    """Return a function that serves (method, path, body) -> body, None for no answer at all, and gives its address."""
    over, servers = threading.Event(), []

    def serve(answers: Answers) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                found = answers(self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                if found is None:
                    over.wait(60)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

            do_GET = do_HEAD = do_POST

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()
