"""A stand-in for the part of Hugging Face's HTTP interface by which a folder is uploaded."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Files of more bytes than this go the way of large ones.
LARGE = 2000


def git_number(content: bytes) -> str:
    """Of a file in a repository of git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """What it holds, and what it was sent.

    Attributes:
        files: path -> content.
        created: what was asked for when the repository was made.
        tokens: the `Authorization` of each request.
        spoil: of this file another content is stored than was sent.
        refuses: answered with 403.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.created: dict[str, Any] = {}
        self.tokens: set[str | None] = set()
        self.address = ""
        self.spoil = ""
        self.refuses = False

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:  # noqa: PLR0911  one for each kind of request
        """Status and JSON for a request."""
        if self.refuses:
            return 403, {"error": "You don't have the rights to create a model under the namespace bank"}
        if path.startswith("/object/"):
            self.objects[path.removeprefix("/object/")] = body
            return 200, {}
        if "/tree/" in path:
            return 200, [self._entry(name, content) for name, content in self.files.items()]
        if path.endswith("/commit/main"):
            return 200, self._commit([json.loads(line) for line in body.splitlines()])
        asked = json.loads(body) if body else {}
        if path == "/api/repos/create":
            self.created = asked
            return 200, {"url": f"{self.address}/{asked.get('organization', 'me')}/{asked['name']}", "id": "bank/model"}
        if "/preupload/" in path:
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if one["size"] > LARGE else "regular", "shouldIgnore": False}
                for one in asked["files"]
            ]
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.address}/object/{one['oid']}", "header": {}}}}
                for one in asked["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        return 200, {"id": "bank/model", "sha": "0" * 40, "siblings": [], "private": True}

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        known = {"type": "file", "path": name, "size": len(content), "oid": git_number(content)}
        large = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
        return known | (large if len(content) > LARGE else {})

    def _commit(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                self.files[value["path"]] = content + b" " if self.spoil == value["path"] else content
            elif line["key"] == "lfsFile":
                content = self.objects[value["oid"]]
                self.files[value["path"]] = content[:-1] + b"!" if self.spoil == value["path"] else content
        return {"commitUrl": f"{self.address}/bank/model/commit/{'0' * 40}", "commitOid": "0" * 40}


@contextmanager
def served() -> Iterator[Hub]:
    """A hub on the loopback interface while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.tokens.add(self.headers.get("Authorization"))
            status, answer = hub.answer(self.path.partition("?")[0], body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _respond  # noqa: N815  as the base class calls them

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
