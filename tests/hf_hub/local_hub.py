# SPDX-License-Identifier: Apache-2.0
"""A Hub of one process on 127.0.0.1: enough of its protocol to push a small model and load it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/[^/]+)?/?$")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)$")


class Hub(ThreadingHTTPServer):
    """Models by name, each a dict of files; the requests that it did not understand."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.models: dict[str, dict[str, bytes]] = {}
        self.unknown: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that serves until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Requests(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.models.setdefault(name, {})
            return self.answer({"url": f"{self.server.url}/{name}", "id": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        name, action = found.groups() if (found := MODEL.match(path)) else ("", "")
        if action == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": path, **modes} for path in files]})
        if action == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    content = base64.b64decode(value["content"])
                    self.server.models[name][value["path"]] = content
            url = f"{self.server.url}/{name}/commit/{self.commit(name)}"
            return self.answer({"commitUrl": url, "commitOid": self.commit(name), "success": True})
        return self.missing()

    def do_GET(self):
        path = self.path.partition("?")[0]
        if found := FILE.match(path):
            return self.file(*found.groups())
        name, action = found.groups() if (found := MODEL.match(path)) else ("", "")
        if name not in self.server.models:
            return self.missing()
        files = self.server.models[name]
        if action == "tree":
            entries = {p: {"size": len(c), "oid": _hash(c)} for p, c in files.items()}
            return self.answer([{"type": "file", "path": p, **e} for p, e in entries.items()])
        if action in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            known = {"id": name, "sha": self.commit(name), "siblings": siblings, "private": False}
            return self.answer(known)
        return self.missing()

    do_HEAD = do_GET

    def file(self, name: str, path: str) -> None:
        content = self.server.models.get(name, {}).get(path)
        if content is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": self.commit(name)}
        return self.send(200, content, headers)

    def commit(self, name: str) -> str:
        files = self.server.models[name]
        return _hash("".join(f"{p} {_hash(files[p])}" for p in sorted(files)).encode())

    def answer(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def missing(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        """Nothing: the test looks at `unknown`."""


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
