"""A hub on the loopback address: the routes of huggingface_hub that the toolkit comes by."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from compress.core import hub as names

REPO = r"(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Hub:
    """What the server holds and was asked.

    Attributes:
        repos: (kind, repo) -> commits, each the files by path; the last is `main`.
        asked: Method and path of every request.
        broken: What every request is answered with, such as 503; 0 where the server works.
    """

    repos: dict[tuple[str, str], list[dict[str, bytes]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    broken: int = 0
    address: str = ""

    def put(self, repo: str, files: dict[str, bytes], kind: str = "models") -> str:
        """Add a commit with these files alone; returns its name."""
        self.repos.setdefault((kind, repo), []).append(files)
        return sha(repo, len(self.repos[kind, repo]))

    def files(self, kind: str, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Commit and files of a revision. Raises KeyError with the hub's word for what lacks."""
        if (kind, repo) not in self.repos:
            raise KeyError("RepoNotFound")
        commits = self.repos[kind, repo]
        for number in range(1, len(commits) + 1):
            if revision == sha(repo, number):
                return revision, commits[number - 1]
        if revision != "main":
            raise KeyError("RevisionNotFound")
        return sha(repo, len(commits)), commits[-1]


def sha(repo: str, number: int) -> str:
    return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()


def of_hub(kind: str | None) -> str:
    return "datasets" if kind else "models"


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def answer(self, code: int = 200, body: Any = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.broken:
            self.answer(self.hub.broken, {"error": "down"})
            return
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                try:
                    method(self, body, **match.groupdict())
                except KeyError as error:
                    self.answer(404, {"error": str(error)}, X_Error_Code=error.args[0])
                return
        self.answer(404)

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        self.hub.repos.setdefault((f"{asked.get('type') or 'model'}s", repo), [{}])
        self.answer(body={"url": f"{self.hub.address}/{repo}"})

    def validate(self, body: bytes) -> None:
        assert json.loads(body)["content"].startswith("---\n")
        self.answer(body={"errors": [], "warnings": []})

    def info(self, _: bytes, kind: str, repo: str, revision: str | None = None) -> None:
        commit, files = self.hub.files(kind, repo, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        self.answer(body={"id": repo, "sha": commit, "siblings": siblings})

    def tree(self, _: bytes, kind: str, repo: str, revision: str) -> None:
        _, files = self.hub.files(kind, repo, revision)
        rows = [
            {"type": "file", "path": path, "size": len(content), "oid": etag(content)}
            for path, content in files.items()
        ]
        self.answer(body=rows)

    def preupload(self, body: bytes, **_: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.answer(body={"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self.answer(body={"objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self.answer()

    def commit(self, body: bytes, kind: str, repo: str, revision: str) -> None:
        files = dict(self.hub.files(kind, repo, revision)[1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = self.hub.put(repo, files, kind)
        self.answer(
            body={"commitUrl": f"{self.hub.address}/{repo}/commit/{commit}", "commitOid": commit}
        )

    def resolve(self, _: bytes, kind: str | None, repo: str, revision: str, path: str) -> None:
        commit, files = self.hub.files(of_hub(kind), repo, revision)
        if path not in files:
            raise KeyError("EntryNotFound")
        self.answer(body=files[path], X_Repo_Commit=commit, ETag=f'"{etag(files[path])}"')


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


ROUTES = [
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/{REPO}", Handler.info),
    (rf"/api/{REPO}/revision/(?P<revision>.+)", Handler.info),
    (rf"/api/{REPO}/tree/(?P<revision>[^/]+)", Handler.tree),
    (rf"/api/{REPO}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    (rf"/api/{REPO}/commit/(?P<revision>[^/]+)", Handler.commit),
    (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    (r"/lfs/(?P<oid>\w+)", Handler.upload),
    (
        r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        Handler.resolve,
    ),
]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    handler = type("OfHub", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fresh(patch: pytest.MonkeyPatch, address: str, cache: object) -> None:
    """Let this process take `address` for the hub, with a cache of its own."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", address)
    files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr("huggingface_hub.hf_api.constants.HF_TOKEN_PATH", str(cache))
    patch.setenv("HF_TOKEN", "hf_test")
    forget()


def forget() -> None:
    """What was asked before in this process is asked again."""
    for remembered in (
        names._fetched_file,
        names._fetched_folder,
        names._answers,
        names.can_reach,
    ):
        remembered.cache_clear()
