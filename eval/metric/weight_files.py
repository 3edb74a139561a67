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

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from compress.core.errors import UserError
from compress.core.identity import file_digest

TIMEOUT = 10.0  # seconds without an answer before a host counts as out of reach


class WeightsMissingError(Exception):
    """A metric's weights are neither at hand nor to be had; the message says why."""


@dataclass(frozen=True)
class Weight:
    """One weight file.

    Attributes:
        file: Its published name.
        what: What it holds.
        url: Where it is published; "pyiqa" for pyiqa's repository, None for a file that only a
            user's own folder can supply.
        cache: Its folder under torch.hub.get_dir().
        sha256: Its digest, or the first digits; None where none is known.
        licence: Its terms; None where they are not stated.
    """

    file: str
    what: str
    url: str | None = None
    cache: str = "pyiqa"
    sha256: str | None = None
    licence: str | None = None


@cache
def known() -> dict[str, Weight]:
    """The entries of weights.yaml by key."""
    file = Path(__file__).with_name("weights.yaml")
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {key: Weight(**entry) for key, entry in table.items()}


HUBS = ("https://huggingface.co/", "https://hf.co/")
_unreachable: set[str] = set()  # hosts that failed in this process: asked once, not once a metric


def at_hand(weight: Weight, folder: Path | None) -> Path | None:
    """The file in `folder`, else in the cache, else None. Nothing is downloaded."""
    if folder is not None and (folder / weight.file).is_file():
        return folder / weight.file
    cached = _cached(weight)
    return cached if cached.is_file() else None


def _cached(weight: Weight) -> Path:
    """Where a download of the file lies."""
    return Path(torch.hub.get_dir()) / weight.cache / weight.file


def find(weight: Weight, folder: Path | None) -> Path:
    """The file of `weight` in `folder`, else in the cache, else downloaded into the cache.

    An error of any other kind than the network's is not a missing file and passes on.

    Raises:
        WeightsMissingError: The file cannot be had.
    """
    here = at_hand(weight, folder)
    if here is not None:
        return here
    url = address(weight)
    if url is None:
        raise WeightsMissingError(f"{weight.file} was not found")
    cached = _cached(weight)
    if _is_left_alone(url):
        raise WeightsMissingError(f"{weight.file} is not at hand and HF_HUB_OFFLINE is set")
    host = urlparse(url).hostname or url
    if host in _unreachable:
        raise WeightsMissingError(f"{weight.file} is not at hand and {host} cannot be reached")
    try:
        _download(url, cached)
    except urllib.error.HTTPError as error:
        raise WeightsMissingError(f"{url} answered {error.code} {error.reason}") from None
    except (
        urllib.error.URLError,
        TimeoutError,
        ConnectionError,
        http.client.HTTPException,
    ) as error:
        _unreachable.add(host)
        raise WeightsMissingError(
            f"{weight.file} is not at hand and {host} cannot be reached "
            f"({getattr(error, 'reason', error)})"
        ) from None
    return cached


def _is_left_alone(url: str) -> bool:
    """Whether an address is of the hub, which is not asked under HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) and url.startswith((constants.ENDPOINT, *HUBS))


def address(weight: Weight) -> str | None:
    """Where the file can be fetched from; None where nobody publishes it."""
    if weight.url != "pyiqa":
        return weight.url
    from pyiqa.archs.arch_util import get_url_from_name

    return get_url_from_name(weight.file)


def _download(url: str, target: Path) -> None:
    """torch's download, with a time limit on silence, which it does not set."""
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url} to {target}", file=sys.stderr)
    with time_limit():
        torch.hub.download_url_to_file(url, str(target))


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """A host that is silent for TIMEOUT seconds counts as out of reach."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def sound(path: Path) -> Path:
    """`path`, after reading it once.

    Raises:
        UserError: It is cut off, or holds something that runs when it is unpickled.
    """
    import scipy.io  # takes a while, and plans check names of metrics alone

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
    """Let torch.hub find files for a while, so that it downloads nothing.

    Args:
        files: Name under the hub's folder -> file.
    """
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
