"""Where a metric's network weights come from: a folder of the user's, a cache, or a download."""

import contextlib
import http.client
import pickle
import socket
import sys
import tempfile
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

import scipy.io
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from compress.core.errors import UserError
from compress.core.identity import file_digest

TIMEOUT = 10.0  # seconds without an answer before a host counts as out of reach


class WeightsMissing(Exception):
    """A metric's weights are neither at hand nor to be had; the message says why."""


@dataclass(frozen=True)
class Weight:
    """One weight file by its published name; `cache` is its folder under torch.hub.get_dir().

    `url` is None for files that only a user's own folder can supply, "pyiqa" for pyiqa's repository. `sha256` may be
    the first digits only, and is None where no digest is known.
    """

    file: str
    what: str
    url: str | None = None
    cache: str = "pyiqa"
    sha256: str | None = None
    licence: str | None = None


@cache
def known() -> dict[str, Weight]:
    """The entries of weights.yaml."""
    table = yaml.safe_load(Path(__file__).with_name("weights.yaml").read_text(encoding="utf-8"))
    return {key: Weight(**entry) for key, entry in table.items()}


_unreachable: set[str] = set()  # hosts that failed in this process: asked once, not once a metric


def at_hand(weight: Weight, folder: Path | None) -> Path | None:
    """The file in `folder`, else in the cache, else None. Nothing is downloaded."""
    cached = Path(torch.hub.get_dir()) / weight.cache / weight.file
    places = ([folder / weight.file] if folder is not None else []) + [cached]
    return next((path for path in places if path.is_file()), None)


def find(weight: Weight, folder: Path | None) -> Path:
    """The file of `weight` in `folder`, else in the cache, else downloaded into the cache.

    Raises WeightsMissing when it cannot be had; an error of any other kind is not a missing file and passes on.
    """
    here = at_hand(weight, folder)
    if here is not None:
        return here
    if weight.url is None:
        raise WeightsMissing(f"{weight.file} was not found")
    cached = Path(torch.hub.get_dir()) / weight.cache / weight.file
    url = address(weight)
    host = urlparse(url).hostname
    if host in _unreachable:
        raise WeightsMissing(f"{weight.file} is not at hand and {host} cannot be reached")
    try:
        _download(url, cached)
    except urllib.error.HTTPError as error:
        raise WeightsMissing(f"{url} answered {error.code} {error.reason}") from None
    except (
        urllib.error.URLError,
        TimeoutError,
        ConnectionError,
        http.client.HTTPException,
    ) as error:
        _unreachable.add(host)
        raise WeightsMissing(
            f"{weight.file} is not at hand and {host} cannot be reached "
            f"({getattr(error, 'reason', error)})"
        ) from None
    return cached


def address(weight: Weight) -> str | None:
    """Where the file can be fetched from; None where nobody publishes it."""
    if weight.url != "pyiqa":
        return weight.url
    from pyiqa.archs.arch_util import get_url_from_name

    return get_url_from_name(weight.file)


def _download(url: str, target: Path) -> None:
    """pyiqa's own download, with a time limit on silence, which it does not set."""
    from pyiqa.utils.download_util import load_file_from_url

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            load_file_from_url(url, model_dir=str(target.parent), file_name=target.name)
    finally:
        socket.setdefaulttimeout(before)


def sound(path: Path) -> Path:
    """`path`, after reading it once: whole, and a .pth holding tensors only, nothing that runs when unpickled."""
    try:
        if path.suffix == ".mat":
            scipy.io.loadmat(path)
        elif path.suffix == ".safetensors":
            load_file(path)
        else:
            torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: the weight file cannot be read as plain tensors ({why}); "
            "fetch it again from its publisher"
        ) from None
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's content; read again only where the file may have changed."""
    return file_digest(path)


@contextlib.contextmanager
def as_hub(files: dict[str, Path]) -> Iterator[None]:
    """For a while let torch.hub find `files` (name under the hub folder -> file), so that nothing is downloaded."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as hub:
        for name, path in files.items():
            link = Path(hub) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        torch.hub.set_dir(hub)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
