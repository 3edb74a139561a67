"""Serve an exported page on this machine: python -m export.serve DIR [--port 8000]

Only this machine can reach it. The headers make the page cross-origin isolated, so that it may use
threads. A phone on a cable sees it at the same address after adb reverse tcp:8000 tcp:8000.
"""

import argparse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfileobj
from urllib.parse import unquote, urlsplit

from compress.core.arguments import whole_number
from compress.core.errors import UserError, command
from compress.core.program import command_parser
from compress.recipe.run_files import read_manifest

HOST = "127.0.0.1"
PORT = 8000
LAST_PORT = 65535
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; "
    "img-src 'self' blob:; connect-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
LOCAL_NAMES = ("127.0.0.1", "localhost")


def file_of(root: Path, target: str) -> Path | None:
    """The file of a request.

    Args:
        root: The folder that is served.
        target: As it stands in the request, such as /wasm/encoder.onnx?x=1.

    Returns:
        A file within `root`, links followed, of a type in TYPES; None for anything else.
    """
    name = unquote(urlsplit(target).path).lstrip("/") or INDEX
    if "\0" in name or any(part.startswith(".") for part in Path(name).parts):
        return None
    file = (root / name).resolve()
    if not file.is_relative_to(root.resolve()) or file.suffix not in TYPES:
        return None
    return file if file.is_file() else None


class Server(ThreadingHTTPServer):
    """A server of one folder on the loopback address.

    Args:
        root: The folder.
        port: 0 for one that is free.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int):
        self.root = root
        super().__init__((HOST, port), Handler)

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD with files of the folder."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a file."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send what a file's headers are."""
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        # Another site's name that leads here would be that site's origin.
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        file = file_of(self.server.root, self.path) if name in LOCAL_NAMES else None
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file.open("rb") as stream:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", TYPES[file.suffix])
            self.send_header("Content-Length", str(file.stat().st_size))
            for key, value in HEADERS.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                copyfileobj(stream, self.wfile)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests that went well."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = command_parser("export.serve", "Serve an exported page on this machine")
    p.add_argument("folder", type=Path, metavar="DIR", help="what --target web wrote")
    p.add_argument(
        "--port",
        type=whole_number("--port", 0, LAST_PORT),
        default=PORT,
        help=f"default {PORT}; 0 takes a free one",
    )
    return p


def page_of(folder: Path) -> Path:
    """`folder`, where it holds an exported page.

    Raises:
        UserError: It does not.
    """
    if not (folder / "manifest.json").is_file() or not (folder / INDEX).is_file():
        raise UserError(
            f"{folder}: no page here; write one with python -m export.run RUN --target web"
        )
    target = read_manifest(folder)["target"]
    if target != "web":
        raise UserError(f"{folder}: an export for {target}, not for browsers; use --target web")
    return folder


@command
def main(argv: list[str]) -> int:
    """Serve until it is interrupted; returns the exit code."""
    options = parser().parse_args(argv)
    folder = page_of(options.folder)
    try:
        server = Server(folder, options.port)
    except OSError as error:
        raise UserError(
            f"port {options.port} cannot be had ({error.strerror}); choose another --port"
        ) from None
    with server:
        print(f"{folder} is at {server.address} until Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
    return 0


if __name__ == "__main__":
    main()
