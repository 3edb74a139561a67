"""Fixtures that several test files share."""

# First: it lets torchvision load beside a torch without CUDA.
import compress  # noqa: F401  # isort: skip

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.shared_files import folder_of_run

from compress.core.memory import LARGEST_BUFFER, keep_freed_memory
from compress.core.quick_start import import_quickly

if TYPE_CHECKING:  # the process that only hands out tests needs no torch
    from compress.model.sr_model import SRModel

# No test asks the hub; those of tests/support/hub.py have one of their own.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
keep_freed_memory()
# No test quantises by them, and importing them takes a fifth of the start of each process.
import_quickly(away=("bitsandbytes",))
gc.set_threshold(50_000)  # new objects until the collector looks for cycles; it takes 10 % at 700
# The same in the processes that tests start.
for _option in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
    os.environ.setdefault(_option, str(LARGEST_BUFFER))

# Files whose tests compress, train or export whole models. `make test-fast` leaves them out, and
# does not even import them. In other files, such tests are marked one by one.
SLOW = (
    "test_notebooks.py",
    "compress/families/test_adcsr.py",
    "compress/families/test_adcsr_source.py",
    "compress/families/test_addsr.py",
    "compress/families/test_bidirectional.py",
    "compress/families/test_ccsr.py",
    "compress/families/test_dfosd.py",
    "compress/families/test_dossr.py",
    "compress/families/test_edge_inherit.py",
    "compress/families/test_edge_sd_sr.py",
    "compress/families/test_embedded_models.py",
    "compress/families/test_resshift.py",
    "compress/passes/test_decoder_light.py",
    "compress/passes/test_depth_prune.py",
    "compress/passes/test_binarize.py",
    "compress/pipeline/test_backends.py",
    "compress/pipeline/test_run.py",
    "compress/quant/test_points.py",
    "compress/routing/test_adaptive.py",
    "compress/routing/test_router.py",
    "compress/stages/test_addsr_training.py",
    "compress/stages/test_control_training.py",
    "compress/stages/test_devices.py",
    "compress/stages/test_dfosd_training.py",
    "compress/stages/test_edge_stages.py",
    "compress/stages/test_invsr_training.py",
    "compress/stages/test_shift_stages.py",
    "compress/stages/test_taught_training.py",
    "compress/stages/test_train.py",
    "compress/stages/test_tsdsr_training.py",
    "compress/training/test_several_processes.py",
    "eval/score/test_benchmark.py",
    "export/rewrites/test_whole_models.py",
    "export/test_adaptive_export.py",
    "export/test_graph.py",
    "export/test_baselines.py",
    "export/test_manifest.py",
    "export/test_onnx.py",
    "export/test_parted.py",
    "export/test_qnn.py",
    "export/test_storage.py",
    "export/test_targets.py",
    "export/test_web.py",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what a run without slow tests would only import."""
    wanted = config.getoption("markexpr")
    without = "not slow" in wanted and " or " not in wanted
    return True if without and _is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow."""
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)


def _is_slow(path: Path) -> bool:
    here = Path(__file__).parent
    return path.is_relative_to(here) and path.relative_to(here).as_posix().startswith(SLOW)


def pytest_collection_finish() -> None:
    """Hide from the garbage collector what lives as long as the process.

    Each training and each export collects. Going through all modules and tests takes half a second.
    """
    _freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """The same after each file, for the modules that its tests were the first to import."""
    yield
    if nextitem is not None and nextitem.path != item.path:
        _freeze()


def _freeze() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for this run of tests, which its processes share, in place of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder_of_run(tmp_path_factory) / "cache"))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors beside the repository.

    Tests that need it are skipped where it is absent.
    """
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no golden vectors at {folder}")
    return folder


@pytest.fixture
def random_nano() -> "SRModel":
    """The nano model with random weights."""
    from bench.random_weights import randomise

    from compress.families.osediff import OSEDiffSource

    return randomise(OSEDiffSource().build())
