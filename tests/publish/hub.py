"""A stand-in of the hub's API: the requests that huggingface_hub makes to publish a model, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "standin" * 5
USER = "me"


@dataclass
class Repo:
    """A repository: its files by branch, and what was said with each commit."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Hub:
    """What the server holds.

    Attributes:
        url: Where it is.
        repos: Repositories by name.
        objects: Large files by their SHA-256.
        requests: ``METHOD path`` of each request.
        fail: Status to answer to each path that contains the key.
        before: Called before each request is answered.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fail: dict[str, int] = field(default_factory=dict)
    before: Callable[[str], None] = lambda path: None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        url = urlsplit(self.path)
        path = unquote(url.path)
        hub = self.hub
        hub.requests.append(f"{method} {path}")
        hub.before(path)
        for part, status in hub.fail.items():
            if part in path:
                return self._send(status, {"error": f"refused with {status}"})
        if path.startswith("/objects/"):
            hub.objects[path.removeprefix("/objects/")] = body
            return self._send(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid credentials"})
        status, value = self._route(method, path, url.query, body)
        return self._send(status, value)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, method: str, path: str, query: str, body: bytes) -> tuple[int, Any]:
        hub = self.hub
        if path == "/api/whoami-v2":
            return 200, {"name": USER, "type": "user", "orgs": []}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or USER}/{given['name']}"
            if not name.startswith(f"{USER}/"):
                return 403, {"error": "You don't have the rights to create a model under this namespace"}
            if name in hub.repos:
                return 409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}
            hub.repos[name] = Repo(private=given.get("visibility") == "private" or bool(given.get("private")))
            return 200, {"url": f"{hub.url}/{name}", "name": name}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{hub.url}/objects/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        _, _, _, owner, name, *rest = path.split("/")
        repo = hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return 404, {"error": "Repository not found"}
        return self._of_repo(repo, f"{owner}/{name}", method, rest, query, body)

    def _of_repo(self, repo: Repo, name: str, method: str, rest: list[str], query: str, body: bytes) -> tuple[int, Any]:
        what, branch = (rest or [""])[0], "/".join(rest[1:]) or "main"
        if what in ("", "revision"):
            files = repo.branches.get(branch)
            if files is None:
                return 404, {"error": "Invalid rev id"}
            siblings = [{"rfilename": path} for path in files]
            return 200, {"id": name, "sha": "0" * 40, "private": repo.private, "siblings": siblings, "tags": []}
        if what == "branch":
            if branch in repo.branches:
                return 409, {"error": "Reference already exists"}
            repo.branches[branch] = dict(repo.branches["main"])
            return 200, {}
        if what == "tree":
            return 200, [
                {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                for path, content in repo.branches[branch].items()
            ]
        if branch not in repo.branches:
            return 404, {"error": "Invalid rev id"}
        if what == "preupload":
            return 200, {
                "files": [
                    {
                        "path": item["path"],
                        "uploadMode": "lfs" if item["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for item in json.loads(body)["files"]
                ]
            }
        assert (method, what) == ("POST", "commit"), (method, rest)
        files, said = {}, {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                said = value
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.objects[value["oid"]]
                assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
        is_pr = "create_pr=1" in query
        if is_pr:
            repo.branches["refs/pr/1"] = {**repo.branches[branch], **files}
        else:
            repo.branches[branch].update(files)
        repo.commits.append({**said, "branch": "refs/pr/1" if is_pr else branch})
        answer = {"commitUrl": f"{self.hub.url}/{name}/commit/{'a' * 40}", "commitOid": "a" * 40, "success": True}
        return 200, {**answer, "pullRequestUrl": f"{self.hub.url}/{name}/discussions/1"} if is_pr else answer

    def _send(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running() -> Iterator[Hub]:
    """A hub on a free port of the loopback interface."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
