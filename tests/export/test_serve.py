"""The server of an exported page: its headers and types, and what it does not give away."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.serve import Server, file_of, main


@pytest.fixture
def page(tmp_path) -> Path:
    """A folder as --target web writes it, and a secret beside it."""
    folder = tmp_path / "web"
    (folder / "engine").mkdir(parents=True)
    (folder / "index.html").write_text("<html>")
    (folder / "manifest.json").write_text(json.dumps({"target": "web", "files": {}, "graphs": {}}))
    for name in ("app.js", "manifest.webmanifest", "engine/a.mjs", "engine/a.wasm", "m.onnx"):
        (folder / name).write_text("x")
    (folder / ".hidden.json").write_text("{}")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    return folder


@pytest.fixture
def server(page) -> Iterator[Server]:
    with Server(page, 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def ask(
    server: Server, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html?engine=wasm", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/manifest.webmanifest", "application/manifest+json"),
        ("/manifest.json?latest", "application/json"),
        ("/engine/a.mjs", "text/javascript; charset=utf-8"),
        ("/engine/a.wasm", "application/wasm"),
        ("/m.onnx", "application/octet-stream"),
    ],
)
def test_types_and_isolation(server, path, kind):
    status, headers, body = ask(server, path)
    assert status == 200
    assert headers["Content-Type"] == kind
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert int(headers["Content-Length"]) == len(body) > 0
    assert "connect-src 'self'" in headers["Content-Security-Policy"]


def test_head_has_no_body(server):
    status, headers, body = ask(server, "/app.js", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "1", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.json",
        "/%2e%2e/secret.json",
        "/engine/..%2f../../secret.json",
        "//etc/hostname.json",
        "/link.json",
        "/.hidden.json",
        "/engine",
        "/none.js",
        "/a%00.js",
    ],
)
def test_what_is_not_of_the_page_is_not_found(server, path):
    status, _, body = ask(server, path)
    assert status == 404
    assert b"{}" not in body


def test_another_name_of_this_machine_is_refused(server):
    assert ask(server, "/app.js", host="evil.example:80")[0] == 404
    assert ask(server, "/app.js", host="localhost:8000")[0] == 200


def test_it_listens_to_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.address.startswith("http://127.0.0.1:")


def test_only_files_of_the_page_have_a_type(page):
    (page / "notes.txt").write_text("x")
    assert file_of(page, "/notes.txt") is None
    assert file_of(page, "/app.js") == page / "app.js"


@pytest.mark.parametrize(
    ("target", "port", "words"),
    [
        (None, "0", "no page here; write one with python -m export.run RUN --target web"),
        ("onnx", "0", "an export for onnx, not for browsers"),
        ("web", "70000", "choose a whole number from 0 to 65,535"),
    ],
)
def test_refusals(page, capsys, target, port, words):
    if target is None:
        (page / "manifest.json").unlink()
    else:
        (page / "manifest.json").write_text(
            json.dumps({"target": target, "files": {}, "graphs": {}})
        )
    with pytest.raises(SystemExit) as end:
        main([str(page), "--port", port])
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken(page, server, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(page), "--port", str(server.server_address[1])])
    assert end.value.code == 2
    assert "choose another --port" in capsys.readouterr().err
