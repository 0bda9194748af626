"""A double of the Hugging Face Hub on loopback: of its API as much as repositories of plain files need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Repositories = dict[str, dict[str, bytes]]
COMMIT = "0" * 40


@contextmanager
def hub(token: str) -> Iterator[tuple[str, Repositories]]:
    """Its address, and the files of each repository; only who has the ``token`` may write."""
    repositories: Repositories = {}

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def answer(self, value: Any, status: int = 200, **headers: str) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            names = {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT}
            for name, text in (names | {key.replace("_", "-"): text for key, text in headers.items()}).items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def lost(self, code: str = "RepoNotFound") -> None:
            self.answer({"error": "not found"}, 404, X_Error_Code=code)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                files = repositories.get(found[1], {})
                if found[2] not in files:
                    return self.lost("EntryNotFound")
                return self.answer(files[found[2]], ETag=f'"{_id(files[found[2]])}"', Accept_Ranges="bytes")
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(tree|revision)/[^/]+(?:/(.+))?)?", path)
            if found is None or found[1] not in repositories:
                return self.lost()
            if found[2] == "tree":
                return self.tree(repositories[found[1]], (found[3] or "").strip("/"))
            return self.answer({"id": found[1], "sha": COMMIT, "private": False, "tags": [], "siblings": []})

        do_HEAD = do_GET  # noqa: N815

        def tree(self, files: dict[str, bytes], folder: str) -> None:
            inside = [name for name in files if not folder or name.startswith(f"{folder}/")]
            if folder and not inside:
                return self.lost("EntryNotFound")
            return self.answer([_entry(name, files[name]) for name in inside])

        def do_POST(self) -> None:
            path, sent = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|paths-info)/[^/]+", path)
            if found and found[2] == "paths-info":
                files = repositories.get(found[1], {})
                names = json.loads(sent)["paths"]
                return self.answer([_entry(name, files[name]) for name in names if name in files])
            if self.headers.get("Authorization") != f"Bearer {token}":
                return self.answer({"error": "you may not write here"}, 403)
            if path == "/api/repos/create":
                values = json.loads(sent)
                name = "/".join(filter(None, (values.get("organization"), values["name"])))
                repositories.setdefault(name, {})
                return self.answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
            assert found is not None, path
            if found[2] == "preupload":
                modes = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(sent)["files"]]
                return self.answer({"files": [each | {"shouldIgnore": False} for each in modes]})
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    repositories[found[1]][line["value"]["path"]] = content
                elif line["key"] == "deletedFile":
                    del repositories[found[1]][line["value"]["path"]]
            address = f"http://{self.headers['Host']}/{found[1]}/commit/{COMMIT}"
            self.answer({"commitUrl": address, "commitOid": COMMIT, "success": True})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repositories
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _id(content)}


def _id(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
