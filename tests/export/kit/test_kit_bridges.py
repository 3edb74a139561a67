"""The kit from C and from Java, on this machine: what goes through is what run.py makes."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.compiled_kit import COMPILER, compile_cpp
from support.host_manifests import MANIFESTS, SCALE, networks

from compress.process import strength
from export.kit import write as kit
from export.kit.header import kit_header
from export.targets.host import strips, tiles

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++ or clang++")

JAVAC = shutil.which("javac")
JDK = None if JAVAC is None else Path(JAVAC).resolve().parents[1]
HERE = Path(__file__).parent
HEIGHT, WIDTH = 37, 45
STRIDE = 4 * WIDTH + 12  # rows of a phone's bitmap may be padded
QUIET = "-Wno-unused-parameter"
FAST = ("-O1", "-ffp-contract=off", "-shared", "-fPIC")


def write_kit(name: str, made: Path) -> Path:
    """A kit for a manifest."""
    said = {**MANIFESTS[name], "target": "onnx", "dtype": "fp32", "needs": {}}
    kit.write(said, made)
    return made / "kit"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A kit for the manifest with steps."""
    return write_kit("steps", tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def photograph() -> tuple[bytes, np.ndarray]:
    """Stored rows of red, green, blue and alpha, and the same as float32 [3, h, w]."""
    random = np.random.default_rng(3)
    rows = random.integers(0, 256, (HEIGHT, STRIDE), np.uint8)
    pixels = rows[:, : 4 * WIDTH].reshape(HEIGHT, WIDTH, 4)
    lr = (pixels[..., :3] / np.float32(255)).transpose(2, 0, 1)
    return rows.tobytes(), np.ascontiguousarray(lr)


def expected(lr: np.ndarray, share: float, name: str = "steps") -> np.ndarray:
    said = MANIFESTS[name]
    result = tiles.upscale_bytes(said, networks(said), lr[None])
    return strength.blended(result, lr, share, SCALE)


def check_pixels(found: bytes, wanted: np.ndarray) -> None:
    pixels = np.frombuffer(found, np.uint8).reshape(*wanted.shape[:2], 4)
    assert (pixels[..., 3] == 255).all()
    differing = np.abs(pixels[..., :3].astype(int) - wanted)
    assert differing.max() <= 1  # where a float is beside a half
    assert differing.mean() < 1e-4


class Input(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int),
        ("floats", ctypes.POINTER(ctypes.c_float)),
        ("integers", ctypes.POINTER(ctypes.c_int64)),
    )


class Output(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int),
        ("floats", ctypes.POINTER(ctypes.c_float)),
        ("count", ctypes.c_size_t),
    )


RUN = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.POINTER(Input),
    ctypes.c_int,
    ctypes.POINTER(Output),
    ctypes.c_int,
)
WATCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)


def compile_c(folder: Path, made: Path) -> ctypes.CDLL:
    source = folder / "bridge" / "sr_kit_c.cpp"
    # g++ would let two libraries of one process share what their inline functions hold.
    apart = ("-fno-gnu-unique",) if Path(str(COMPILER)).name == "g++" else ()
    compile_cpp(*FAST, *apart, f"-I{folder}", source, "-o", "c.so", folder=made)
    library = ctypes.CDLL(str(made / "c.so"))
    library.sr_kit_graph_name.restype = library.sr_kit_graph_file.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="module")
def c_library(folder, tmp_path_factory) -> ctypes.CDLL:
    return compile_c(folder, tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def refined_library(tmp_path_factory) -> ctypes.CDLL:
    """Of the manifest with graphs between its steps."""
    made = tmp_path_factory.mktemp("refined")
    return compile_c(write_kit("refined", made), made)


def array(entry: Any) -> np.ndarray:
    shape = tuple(entry.shape[i] for i in range(entry.rank))
    has_integers = isinstance(entry, Input) and bool(entry.integers)
    return np.ctypeslib.as_array(entry.integers if has_integers else entry.floats, shape)


def runner(name: str):
    """Runs the graphs of a manifest."""
    graphs = networks(MANIFESTS[name])

    def run(_context, graph: bytes, inputs, count: int, outputs, _count: int) -> int:
        given = [array(inputs[i]) for i in range(count)]
        array(outputs[0])[...] = graphs[graph.decode()](*given)
        return 0

    return run


def names_of(library: ctypes.CDLL) -> list[bytes | None]:
    """Of its graphs, and of one more."""
    return [library.sr_kit_graph_name(i) for i in range(library.sr_kit_graph_count() + 1)]


STEPS = runner("steps")


def upscale(library: ctypes.CDLL, rows: bytes, network=STEPS, goes_on: bool = True):
    result = ctypes.create_string_buffer(HEIGHT * WIDTH * SCALE**2 * 4)
    message = ctypes.create_string_buffer(200)
    watch = WATCH(lambda _context, done, _all: int(goes_on or done < 1))
    stride = ctypes.c_size_t(STRIDE)
    sizes = (HEIGHT, WIDTH, stride)
    code = library.sr_kit_upscale(
        rows, *sizes, RUN(network), watch, None, result, message, ctypes.c_size_t(200)
    )
    return code, result, message.value.decode()


def test_c(c_library, photograph):
    rows, lr = photograph
    code, result, message = upscale(c_library, rows)
    assert (code, message) == (0, "")
    check_pixels(result.raw, expected(lr, 1.0))
    mixed = ctypes.create_string_buffer(len(result))
    sizes = (HEIGHT, WIDTH, ctypes.c_size_t(STRIDE))
    share = ctypes.c_double(0.4)
    assert c_library.sr_kit_blend(rows, *sizes, result, share, mixed, None, 0) == 0
    check_pixels(mixed.raw, expected(lr, 0.4))


def test_c_lists_the_graphs(c_library):
    assert names_of(c_library) == [b"encoder", b"denoiser", b"decoder", None]
    assert c_library.sr_kit_graph_file(2) == b"decoder.onnx"
    assert c_library.sr_kit_graph_file(-1) is None
    assert c_library.sr_kit_scale() == SCALE


def test_c_runs_graphs_between_steps(refined_library, photograph):
    names = names_of(refined_library)
    assert names == [b"encoder", b"hint", b"denoiser", b"decoder", b"refine", None]
    rows, lr = photograph
    code, result, message = upscale(refined_library, rows, runner("refined"))
    assert (code, message) == (0, "")
    check_pixels(result.raw, expected(lr, 1.0, "refined"))


def test_c_tells_why_there_is_no_picture(c_library, photograph):
    code, _, message = upscale(c_library, photograph[0], lambda *_: 7)
    assert (code, message) == (2, "graph encoder failed with code 7")
    code, _, message = upscale(c_library, photograph[0], goes_on=False)
    assert (code, message) == (1, "cancelled")


@pytest.fixture(scope="module")
def java(folder, photograph, tmp_path_factory) -> Path:
    """Classes, and the bridge against the JDK's own jni.h."""
    if JDK is None or not (JDK / "include" / "jni.h").is_file():
        pytest.skip("needs a JDK with jni.h")
    made = tmp_path_factory.mktemp("java")
    main = folder / "android" / "app" / "src" / "main"
    includes = [f"-I{path}" for path in (folder, JDK / "include", JDK / "include" / "linux")]
    source = main / "cpp" / "sr_kit_jni.cpp"
    compile_cpp(*FAST, QUIET, *includes, source, "-o", "libsr_kit.so", folder=made)
    sources = [main / "java" / "sr" / "kit" / "Kit.java", HERE / "java" / "Desktop.java"]
    command = [str(JAVAC), "-Xlint:all", "-Werror", "-d", str(made), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made / "lr.rgba").write_bytes(photograph[0])
    return made


def run_java(folder: Path, share: float, fault: str = "") -> str:
    java = str(Path(str(JDK)) / "bin" / "java")
    options = ["-Xcheck:jni", f"-Djava.library.path={folder}", "-cp", str(folder), "Desktop"]
    values = [folder, HEIGHT, WIDTH, STRIDE, share, fault]
    done = subprocess.run([java, *options, *map(str, values)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_java(java, photograph, share):
    assert run_java(java, share) == ""
    check_pixels((java / "sr.rgba").read_bytes(), expected(photograph[1], share))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("throw", "UnsupportedOperationException: the NPU is away"),
        ("cancel", "CancellationException: cancelled"),
        ("small", "IllegalStateException: a buffer is too small for the pixels"),
    ],
)
def test_java_tells_why_there_is_no_picture(java, fault, said):
    assert run_java(java, 1.0, fault).strip() == said


def test_the_header_has_every_correction():
    text = kit_header()
    assert all(f'name == "{name}"' in text or name == "none" for name in strips.CORRECTIONS)
    assert 'name != "none"' in text
