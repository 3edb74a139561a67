"""Names of the hub, `org/name[@revision][:subfolder]`, wherever a path is taken.

A path that is there wins, and so does one whose folder is there; `hf://org/name` is always of the
hub. What is fetched lies in huggingface_hub's cache, which is all that is asked without a network
or under HF_HUB_OFFLINE. Nothing that is fetched is run: models are read as plain tensors.
"""

import os
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from json import JSONDecodeError
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

from compress.core.errors import UserError, first_line

FORM = "org/name[@revision][:subfolder]"
UNAUTHORIZED, TOO_MANY = 401, 429  # what HTTP says
CONNECT_SECONDS = 5.0  # until a hub that does not answer is taken for none
# A word of two parts that ends so is a file of one's own.
OF_FILES = (
    *(".safetensors", ".pth", ".pt", ".pkl", ".ckpt", ".bin", ".onnx", ".zip"),
    *(".yaml", ".yml", ".json", ".csv", ".html", ".txt", ".md"),
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".svg"),
)
# What huggingface_hub raises where something else than a hub answers.
NO_HUB = (KeyError, TypeError, AttributeError)
# What a run directory is read from; nothing of it is a program.
OF_RUNS = (".json", ".yaml", ".csv", ".safetensors")
_NAME = re.compile(
    r"(?P<scheme>hf:/{1,2})?(?P<kind>datasets/)?"
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[\w./-]+))?(?::(?P<inside>[^:\\]+))?"
)


class HubName(NamedTuple):
    """A repository of the hub, or a place in one.

    Attributes:
        repo: As `org/name`.
        revision: A branch, tag or commit; None is the main branch.
        inside: A folder or file in it; empty for the whole.
    """

    repo: str
    revision: str | None = None
    inside: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{at}" + (f":{self.inside}" if self.inside else "")

    @property
    def label(self) -> str:
        """A word for files that are made from it: its last part."""
        return Path(self.inside or self.repo).stem if self.inside else self.repo.partition("/")[2]


def hub_name(path: str | Path) -> HubName | None:
    """What a user's word names of the hub; None for a path."""
    text = path.as_posix() if isinstance(path, Path) else str(path)
    match = _NAME.fullmatch(text)
    if match is None or (match["kind"] and not match["scheme"]):
        return None
    name = HubName(match["repo"], match["revision"], (match["inside"] or "").strip("/"))
    if match["scheme"]:
        return name
    if os.path.lexists(text) or os.path.isdir(name.repo.partition("/")[0]):
        return None
    of_file = text.lower().endswith(OF_FILES) and not name.inside
    return None if of_file else name


def local_file(path: str | Path, wanted: str = "") -> Path:
    """A file on this machine for a path, or for a name of the hub.

    Args:
        path: A path is returned as it is, whether it is there or not.
        wanted: The file of a repository or folder where the name says none, such as
            `model.safetensors`; empty where the name has to say one.

    Raises:
        UserError: A name of the hub that cannot be had.
    """
    name = hub_name(path)
    if name is None:
        return Path(path)
    if wanted and not name.inside.endswith(Path(wanted).suffix):
        name = name._replace(inside=f"{name.inside}/{wanted}".lstrip("/"))
    if not name.inside:
        raise UserError(
            f"{path}: a file is needed here, and this names a whole repository of the hub; say "
            f"which as {name}:FILE, or give a path that is there"
        )
    return _fetched_file(name)


def local_folder(path: str | Path, suffixes: tuple[str, ...], kind: str = "model") -> Path:
    """A folder on this machine for a path, or for a name of the hub.

    Args:
        path: A path is returned as it is, whether it is there or not.
        suffixes: How the files end that are fetched, such as OF_RUNS.
        kind: `model`, or `dataset` for photographs.

    Raises:
        UserError: A name of the hub that cannot be had, or has no such file.
    """
    name = hub_name(path)
    return Path(path) if name is None else _fetched_folder(name, suffixes, kind)


@cache
def _fetched_file(name: HubName) -> Path:
    from huggingface_hub import constants, hf_hub_download

    with _told(name, "model"):
        found = hf_hub_download(
            name.repo,
            name.inside,
            revision=name.revision,
            endpoint=constants.ENDPOINT,
            local_files_only=not _answers(name.repo, name.revision, "model"),
        )
    return Path(found)


@cache
def _fetched_folder(name: HubName, suffixes: tuple[str, ...], kind: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    below = f"{name.inside}/*" if name.inside else "*"
    with _told(name, kind):
        found = snapshot_download(
            name.repo,
            repo_type=kind,
            revision=name.revision,
            endpoint=constants.ENDPOINT,
            allow_patterns=[below + suffix for suffix in suffixes],
            local_files_only=not _answers(name.repo, name.revision, kind),
        )
    folder = Path(found) / name.inside
    if not folder.is_dir():
        raise UserError(
            f"{name}: this repository of the hub has no such folder with {', '.join(suffixes)} "
            "files; look at its files, or give a path that is there"
        )
    return folder


def is_answering(name: HubName) -> bool:
    """Whether the hub can be asked for files of a model; where not, its cache has some.

    Raises:
        UserError: There is no such repository or revision for this user, nor in the cache.
    """
    from huggingface_hub import snapshot_download

    with _told(name, "model"):
        if _answers(name.repo, name.revision, "model"):
            return True
        snapshot_download(name.repo, revision=name.revision, local_files_only=True)
    return False


@cache
def _answers(repo: str, revision: str | None, kind: str) -> bool:
    """Whether the hub can be asked for files; without it its cache has to do.

    It is asked for the repository once, without the retries that its library makes for each file.

    Raises:
        HfHubHTTPError: It answers that there is no such repository or revision for this user.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if not can_reach_hub():
        return False
    try:
        HfApi(endpoint=constants.ENDPOINT).repo_info(
            repo, repo_type=kind, revision=revision, timeout=2 * CONNECT_SECONDS
        )
    except HfHubHTTPError as error:
        if error.response.status_code < 500 and error.response.status_code != TOO_MANY:
            raise
        return False
    # A connection that broke, an answer that did not come in time, and no answer of a hub, such as
    # the page by which a network in a hotel asks for a name.
    except (HTTPError, JSONDecodeError, KeyError, TypeError, AttributeError):
        return False
    return True


def can_reach_hub() -> bool:
    """Whether the hub may be asked, and answers; false at once under HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and can_reach(constants.ENDPOINT)


@cache
def can_reach(address: str) -> bool:
    """Whether a host answers; taken for granted where a proxy stands between."""
    if urllib.request.getproxies():
        return True
    url = urlparse(address)
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or address, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def repository(name: str) -> str:
    """The repository `org/name` that a word names whole.

    Raises:
        UserError: It names none, or a revision or a place in one.
    """
    target = hub_name(f"hf://{name.removeprefix('hf://')}")
    if target is None or target.revision or target.inside:
        raise UserError(f"'{name}' names no repository; give one as org/name")
    return target.repo


@contextmanager
def publishing(repo: str) -> Iterator[None]:
    """Turn what keeps the hub from taking a repository into one sentence.

    Raises:
        UserError: The hub may not be asked, does not answer, or refuses.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError

    if not can_reach_hub():
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it does not answer"
        raise UserError(
            f"{repo}: nothing was published at {constants.ENDPOINT}, because {why}; try again "
            "with a network"
        )
    try:
        yield
    except NO_HUB:
        raise UserError(
            f"{repo}: nothing was published, because {constants.ENDPOINT} does not answer as a "
            "hub does; look at HF_ENDPOINT and the network, and try again"
        ) from None
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise UserError(
            f"{repo}: the hub took nothing ({first_line(error)}); log in with `hf auth login` as "
            "somebody who may write there, or give another name"
        ) from None


@contextmanager
def _told(name: HubName, kind: str) -> Iterator[None]:
    """Turn what the hub's library raises into one sentence with both remedies."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    remedy = f"give a path that is there, or the name of a {kind} as {FORM}"
    try:
        yield
    except LocalEntryNotFoundError:
        why = f"{constants.ENDPOINT} gives no answer"
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set"
        reason = f"no such path is here, nor that of the hub in its cache, and {why}"
        remedy = "give a path that is there, or fetch it once with a network"
    except GatedRepoError:
        reason = "the hub shows this repository to those alone who took its terms"
        remedy = "take them on its page and log in with `hf auth login`, or give a path"
    except RepositoryNotFoundError:
        reason = f"no such path is here, and no {kind} of that name that the hub shows to you"
    except RevisionNotFoundError:
        reason = f"that {kind} of the hub has no revision '{name.revision or 'main'}'"
    except EntryNotFoundError:
        reason = f"that {kind} of the hub has no file '{name.inside}'"
    except (OSError, ValueError, HTTPError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == UNAUTHORIZED:
            remedy = f"log in with `hf auth login`, or {remedy}"
        reason = f"cannot be had from the hub ({first_line(error)})"
    else:
        return
    raise UserError(f"{name}: {reason}; {remedy}")
