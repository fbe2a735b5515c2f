"""A mock of the Hugging Face Hub, which cannot be reached from the tests: the part of its HTTP protocol that
huggingface_hub uses to push a model and to load it back, on a port of this machine, with the repositories in memory.

    whoami-v2, repos/create, validate-yaml, preupload, LFS batch + upload + verify, commit  (push)
    models/<id>, tree, resolve with ETag, X-Repo-Commit, X-Linked-*, redirect, Range        (load)

Faults can be planned: ``hub.faults.append(Fault("PUT", "/lfs/", "drop"))``. What no handler knows is answered by 501
and kept in ``hub.unknown``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE = 10 * 2**20
"""From this size on a file goes to large file storage; the endings below always do."""
LARGE_ENDINGS = (".safetensors", ".bin", ".tokenizer.model")


@dataclass
class Fault:
    """Requests with this method and a path that holds ``part`` fail ``times`` times."""

    method: str
    part: str
    what: int | str
    """A status, ``drop`` (the connection breaks after half of the body) or ``mute`` (done, but the answer is lost)."""
    times: int = 10**6


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    """(id, all files), oldest first."""


class Hub:
    """``with Hub() as hub``: ``hub.url`` is what HF_ENDPOINT has to be."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        """Large file storage: sha256 -> content."""
        self.users = {"hf_alice": "alice", "hf_reader": "alice", "hf_bob": "bob"}
        """Token -> user. ``hf_reader`` may only read."""
        self.organisations = {"alice": ["team"]}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.unknown: list[str] = []
        hub = self

        class Handler(_Handler):
            def __init__(self, *arguments: Any) -> None:
                self.hub = hub
                super().__init__(*arguments)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}/lfs"
        """Another host, as with the Hub: its answers carry no X-Repo-Commit, and the token is not sent there."""

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo: str) -> dict[str, bytes]:
        """What the main branch holds."""
        return self.repositories[repo].commits[-1][1]

    def count(self, request: str) -> int:
        """How many requests began with ``METHOD /path``."""
        return sum(line.startswith(request) for line in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    # dispatch

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        size = int(self.headers.get("Content-Length") or 0)
        fault = next((f for f in self.hub.faults if f.times and f.method == self.command and f.part in path), None)
        if fault is not None:
            fault.times -= 1
            if fault.what == "drop":
                self.rfile.read(size // 2)
                self._hang_up()
                return
        self.body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(size)
        if fault is not None and isinstance(fault.what, int):
            self._send(fault.what, {"error": "something broke inside the Hub"})
            return
        self._lose_answer = fault is not None and fault.what == "mute"
        for pattern, method, handler in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                handler(self, *match.groups())
                return
        self.hub.unknown.append(f"{self.command} {path}")
        self._send(501, {"error": f"the mock does not know {self.command} {path}"})

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        if getattr(self, "_lose_answer", False):
            self._hang_up()
            return
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _no(self, status: int, error: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._send(status, {"error": error}, {**named, "X-Error-Message": error, **(headers or {})})

    # who asks, and for what

    def _user(self) -> str | None:
        return self.hub.users.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _may_write(self, repo: str) -> bool:
        user = self._user()
        owner = repo.partition("/")[0]
        if self.headers.get("Authorization") == "Bearer hf_reader" or user is None:
            return False
        return owner in (user, *self.hub.organisations.get(user, []))

    def _readable(self, repo: str) -> Repository | None:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not self._may_write(repo)):
            self._no(404 if self._user() else 401, "Repository not found", "RepoNotFound")
            return None
        return found

    def _writable(self, repo: str) -> Repository | None:
        if self._readable(repo) is None:
            return None
        if not self._may_write(repo):
            self._no(403, "you have no write access to this repository")
            return None
        return self.hub.repositories[repo]

    def _commit_of(self, found: Repository, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = {"main": found.commits[-1], **{commit[0]: commit for commit in found.commits}}
        if revision not in commits:
            self._no(404, "Invalid rev id", "RevisionNotFound")
        return commits.get(revision)

    # push

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            self._no(401, "Invalid username or password.")
            return
        role = "read" if self.headers["Authorization"].endswith("hf_reader") else "write"
        orgs = [{"name": name, "type": "org"} for name in self.hub.organisations.get(user, [])]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        self._send(200, {"type": "user", "name": user, "orgs": orgs, "auth": auth})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or self._user()}/{asked['name']}"
        if not self._may_write(repo):
            self._no(403 if self._user() else 401, f"You don't have the rights to create a model under {repo}")
        elif repo in self.hub.repositories:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"})
        else:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            first = _commit_id({}, "initial commit", "")
            attributes = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
            self.hub.repositories[repo] = Repository(private, [(first, attributes)])
            self._send(200, {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        try:
            content = yaml.safe_load(head[1]) if head else {}
        except yaml.YAMLError as error:
            self._send(400, {"errors": [{"message": str(error)}], "warnings": []})
            return
        warnings = [] if content else [{"message": "empty or missing yaml metadata in repo card"}]
        self._send(200, {"errors": [], "warnings": warnings})

    def preupload(self, repo: str, revision: str) -> None:
        found = self._writable(repo)
        if found is None:
            return
        _, files = found.commits[-1]
        answers = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            large = file["size"] > LARGE or path.endswith(LARGE_ENDINGS)
            there = files.get(path)
            oid = None if there is None else _sha256(there) if large else _git_hash(there)
            answers.append(
                {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
            )
        self._send(200, {"files": answers, "commitOid": found.commits[-1][0]})

    def batch(self, repo: str) -> None:
        if self._writable(repo) is None:
            return
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid, answer = asked["oid"], {"oid": asked["oid"], "size": asked["size"]}
            if oid not in self.hub.objects:
                # Signed addresses: no token is asked for there.
                links = {"upload": f"{self.hub.storage}/{oid}", "verify": f"{self.hub.storage}/{oid}/verify"}
                answer["actions"] = {name: {"href": href} for name, href in links.items()}
            objects.append(answer)
        self._send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def store(self, oid: str) -> None:
        if _sha256(self.body) != oid:
            self._no(400, "the content is not what its hash says")
            return
        self.hub.objects[oid] = self.body
        self._send(200, b"", {"ETag": f'"{oid}"'})

    def verify(self, oid: str) -> None:
        stored = self.hub.objects.get(oid)
        good = stored is not None and len(stored) == json.loads(self.body)["size"]
        self._send(200 if good else 404, {} if good else {"error": "no such object"})

    def commit(self, repo: str, revision: str) -> None:
        found = self._writable(repo)
        if found is None:
            return
        parent, files = found.commits[-1]
        files, summary = dict(files), ""
        for line in self.body.splitlines():
            key, value = (json.loads(line)[name] for name in ("key", "value"))
            if key == "header":
                summary = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile" and value["oid"] in self.hub.objects:
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            else:
                self._no(400, f"this operation cannot be done: {line.decode()[:200]}")
                return
        oid = _commit_id(files, summary, parent)
        found.commits.append((oid, files))
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"})

    # load

    def info(self, repo: str, revision: str | None = None) -> None:
        found = self._readable(repo)
        commit = None if found is None else self._commit_of(found, revision or "main")
        if found is None or commit is None:
            return
        oid, files = commit
        head = re.match(r"---\n(.*?)\n---\n", files.get("README.md", b"").decode(), re.DOTALL)
        card = yaml.safe_load(head[1]) if head else None
        siblings = [{"rfilename": name} for name in sorted(files)]
        answer = {"id": repo, "modelId": repo, "sha": oid, "private": found.private, "siblings": siblings}
        tags = (card or {}).get("tags", [])
        self._send(200, {**answer, "tags": tags, "cardData": card, "lastModified": "2026-01-01T00:00:00.000Z"})

    def tree(self, repo: str, revision: str, below: str | None = None) -> None:
        found = self._readable(repo)
        commit = None if found is None else self._commit_of(found, revision)
        if commit is None:
            return
        names = [name for name in sorted(commit[1]) if not below or name.startswith(f"{below}/")]
        if below and not names:
            self._no(404, f"{below} does not exist on {revision}", "EntryNotFound")
            return
        entries = []
        for name in names:
            content = commit[1][name]
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _git_hash(content)}
            if name.endswith(LARGE_ENDINGS):
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._send(200, entries)

    def resolve(self, repo: str, revision: str, name: str) -> None:
        found = self._readable(repo)
        commit = None if found is None else self._commit_of(found, revision)
        if commit is None:
            return
        oid, files = commit
        known = {"X-Repo-Commit": oid}
        if name not in files:
            self._no(404, "Entry not found", "EntryNotFound", known)
        elif name.endswith(LARGE_ENDINGS):
            digest = _sha256(files[name])
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(files[name]))}
            self._send(302, b"", {**known, **linked, "Location": f"{self.hub.storage}/{digest}"})
        else:
            self._content(files[name], {**known, "ETag": f'"{_git_hash(files[name])}"'})

    def stored(self, oid: str) -> None:
        if oid in self.hub.objects:
            self._content(self.hub.objects[oid], {"ETag": f'"{oid}"'})
        else:
            self._no(404, "no such object")

    def harnesses(self) -> None:
        """huggingface_hub asks once which programs count as agents, for its own User-Agent."""
        self._send(200, {})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, content, {**headers, "Accept-Ranges": "bytes"})
            return
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        part = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._send(206, content[first : last + 1], {**headers, **part})


_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"/api/whoami-v2", "GET", _Handler.whoami),
    (r"/api/repos/create", "POST", _Handler.create),
    (r"/api/validate-yaml", "POST", _Handler.validate),
    (rf"/api/models/{_REPO}/preupload/([\w.-]+)", "POST", _Handler.preupload),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", "POST", _Handler.batch),
    (r"/lfs/(\w{64})", "PUT", _Handler.store),
    (r"/lfs/(\w{64})/verify", "POST", _Handler.verify),
    (rf"/api/models/{_REPO}/commit/([\w.-]+)", "POST", _Handler.commit),
    (rf"/api/models/{_REPO}", "GET", _Handler.info),
    (rf"/api/models/{_REPO}/revision/([\w.-]+)", "GET", _Handler.info),
    (rf"/api/models/{_REPO}/tree/([\w.-]+)(?:/(.+))?", "GET", _Handler.tree),
    (rf"/{_REPO}/resolve/([\w.-]+)/(.+)", ("GET", "HEAD"), _Handler.resolve),
    (r"/lfs/(\w{64})", ("GET", "HEAD"), _Handler.stored),
    (r"/api/agent-harnesses", "GET", _Handler.harnesses),
]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _commit_id(files: dict[str, bytes], summary: str, parent: str) -> str:
    listed = sorted((name, _sha256(content)) for name, content in files.items())
    return hashlib.sha1(json.dumps([listed, summary, parent]).encode()).hexdigest()
