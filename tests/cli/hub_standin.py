"""A hub on 127.0.0.1 that speaks what huggingface_hub needs: create, preupload, LFS, commit; revisions and files.

with Hub({"me/tiny": {"config.json": b"{}"}}) as hub:
    installed("push", "RUN", "me/model", HF_ENDPOINT=hub.url, HF_TOKEN="hf_test")
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories as {name: {path: bytes}}; `calls` lists what was asked."""

    def __init__(self, repositories: dict[str, dict[str, bytes]] | None = None, refuse: int = 0) -> None:
        self.repositories = repositories or {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.authorised: set[str] = set()
        self.refuse = refuse

    def __enter__(self) -> Hub:
        hub = self

        class Handler(Answers):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


class Answers(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Be silent."""

    def answer(self, value: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value if value is not None else {}).encode()
        self.send_response(status)
        for key, text in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def asked(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.calls.append(f"{self.command} {path}")
        self.hub.authorised.add(self.headers.get("Authorization", ""))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return path

    def do_POST(self) -> None:
        path = self.asked()
        if self.hub.refuse:
            return self.answer({"error": "no"}, self.hub.refuse)
        if path.endswith("/commit/main"):
            return self.commit(path.split("/")[3] + "/" + path.split("/")[4])
        asked = json.loads(self.body or b"{}")
        if path == "/api/repos/create":
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            if name in self.hub.repositories:
                return self.answer({"error": "exists", "url": f"{self.hub.url}/{name}"}, 409)
            self.hub.repositories[name] = {}
            self.hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return self.answer({"url": f"{self.hub.url}/{name}", "name": name})
        if path.endswith("/preupload/main"):
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False} for f in asked["files"]
            ]  # fmt: skip
            return self.answer({"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/blob/{o['oid']}"}}} for o in asked["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        return self.answer({"errors": [], "warnings": []})

    def do_PUT(self) -> None:
        path = self.asked()
        self.hub.blobs[path.rsplit("/", 1)[1]] = self.body
        self.answer()

    def commit(self, name: str) -> None:
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repositories[name][value["path"]] = self.hub.blobs[value["oid"]]
        self.answer({"success": True, "commitOid": SHA, "commitUrl": f"{self.hub.url}/{name}/commit/{SHA}"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.asked()
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            name = "/".join(parts[2:4])
            if parts[4:5] == ["resolve"]:
                return self.answer({"error": "no"}, 404, {"X-Error-Code": "EntryNotFound"})
            files = self.hub.repositories.get(name)
            if files is None:
                return self.answer({"error": "no"}, 404, {"X-Error-Code": "RepoNotFound"})
            if parts[4:5] == ["tree"]:
                rows = [{"type": "file", "path": p, "size": len(b), "oid": digest(b)} for p, b in files.items()]
                return self.answer(rows)
            found = {"id": name, "sha": SHA, "private": self.hub.private.get(name, False)}
            return self.answer(found | {"siblings": [{"rfilename": path} for path in files]})
        parts = parts[1:] if parts[0] == "datasets" else parts
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        content = self.hub.repositories.get(name, {}).get(file)
        if name not in self.hub.repositories or content is None:
            code = "EntryNotFound" if name in self.hub.repositories else "RepoNotFound"
            return self.answer({"error": "no"}, 404, {"X-Error-Code": code, "X-Repo-Commit": SHA})
        headers = {"X-Repo-Commit": SHA, "ETag": f'"{digest(content)}"', "Content-Type": "application/octet-stream"}
        return self.answer(content, headers=headers)


def digest(content: bytes) -> str:
    """Return a name for a content."""
    return hashlib.sha1(content).hexdigest()
