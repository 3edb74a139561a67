"""A quick import of diffusers, for processes that are a command of ours.

Importing a network of diffusers also imports what its other features need: bitsandbytes, torchao,
peft, accelerate, transformers, torchvision, scipy and torch's compiler, some 3 s together. None of
them has a part in building and running our networks; what we use of them, we import ourselves. To
diffusers they are as packages that are not installed. A program that merely imports this package
keeps diffusers as it is.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGE = "diffusers"
# What is imported while the compiler is away: the networks, and with them all that they need.
NETWORKS = (
    f"{PACKAGE}.models.unets.unet_2d_condition",
    f"{PACKAGE}.models.autoencoders.autoencoder_kl",
)
COMPILER = "torch._dynamo"
NOT_NEEDED = (
    "peft",
    "bitsandbytes",
    "torchao",
    "accelerate",
    "transformers",
    "torchvision",
    "scipy",
)


class _Compiler(ModuleType):
    """In place of torch's compiler: the two marks that diffusers sets on what it defines.

    They say how to compile it. Nothing here compiles what they are on. For anything else the real
    one is imported.
    """

    def __init__(self) -> None:
        super().__init__(COMPILER)
        spec = importlib.util.find_spec(COMPILER)  # looks for it, imports nothing
        self.__path__ = [] if spec is None else list(spec.submodule_search_locations or [])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import machinery asks every module for such
            raise AttributeError(name)
        _put_back(self)
        return getattr(importlib.import_module(COMPILER), name)

    @staticmethod
    def allow_in_graph(marked: Any) -> Any:
        """`marked`, as it is."""
        return marked

    @staticmethod
    def disable(marked: Any = None, *_: Any, **__: Any) -> Any:
        """`marked`, or a decorator that leaves what it gets as it is."""
        if marked is None:
            return lambda function: function
        return marked


class _Submodules(MetaPathFinder, Loader):
    """While the stand-in is there: who imports a part of the compiler gets the real whole.

    A part that ran under the stand-in would find it half empty.
    """

    def __init__(self, compiler: _Compiler):
        self.compiler = compiler
        self.loaded: dict[str, ModuleSpec | None] = {}  # what each module says of itself

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a part that importing the compiler has loaded; None for all else."""
        if not name.startswith(f"{COMPILER}."):
            return None
        _put_back(self.compiler)
        importlib.import_module(COMPILER)
        if name not in sys.modules:
            return None  # the usual finders go on
        self.loaded[name] = sys.modules[name].__spec__
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module as it is loaded."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it ran already. The import system has put our spec on it, which goes."""
        module.__spec__ = self.loaded.pop(module.__name__)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let imports find a stand-in for torch's compiler, unless it is imported already.

    Torch's own functions import it as soon as some of them run, on the meta device above all.
    """
    import torch

    if COMPILER in sys.modules:
        yield
        return
    compiler = _Compiler()
    submodules = _Submodules(compiler)
    sys.meta_path.insert(0, submodules)
    sys.modules[COMPILER] = compiler
    vars(torch)["_dynamo"] = compiler  # as importing a submodule does
    try:
        yield
    finally:
        sys.meta_path.remove(submodules)
        _put_back(compiler)


def _put_back(compiler: _Compiler) -> None:
    """Let whoever imports the compiler next have the real one."""
    import torch

    if sys.modules.get(COMPILER) is compiler:
        del sys.modules[COMPILER]
    if vars(torch).get("_dynamo") is compiler:
        del vars(torch)["_dynamo"]


@contextmanager
def _absent(packages: Sequence[str]) -> Iterator[None]:
    """Let packages that nobody has imported seem not to be installed."""
    hidden = [name for name in packages if name not in sys.modules]
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.update(dict.fromkeys(hidden))  # None: the import system raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in hidden:
            if modules.get(name, name) is None:
                del modules[name]


class _QuickLoader(Loader):
    """Runs diffusers' own loader and imports the networks, with what is not needed away."""

    def __init__(self, real: Loader, away: Sequence[str]):
        self.real = real
        self.away = away

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the real loader does."""
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Import diffusers and the networks."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.real
        with without_compiler(), _absent(self.away):
            self.real.exec_module(module)
            for name in NETWORKS:
                importlib.import_module(name)


class _BeforeDiffusers(MetaPathFinder):
    """Finds diffusers as usual, and has it loaded quickly."""

    def __init__(self, away: Sequence[str]):
        self.away = away

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of diffusers; None for all else, so that the usual finders go on."""
        if name != PACKAGE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuickLoader(spec.loader, self.away)
        return spec


def import_quickly(away: Sequence[str] = NOT_NEEDED) -> None:
    """Have diffusers imported without what is not needed, unless it was imported before.

    Args:
        away: The packages that are to diffusers as if they were not installed.
    """
    waiting = any(isinstance(finder, _BeforeDiffusers) for finder in sys.meta_path)
    if PACKAGE not in sys.modules and not waiting:
        sys.meta_path.insert(0, _BeforeDiffusers(away))
