"""Parity of exported files with the torch model, as PSNR on images that are hard in different ways.

A quantised network is discontinuous: a last-bit difference flips a code, and flips spread until they are noise of
about the quantiser's own size. `self_db` measures that on the torch model alone, with the output of every layer
disturbed by 1e-6 of its value, about what another order of summation does. On an image of one colour whole maps hold
one value, and where that lies between two codes a whole map flips or none of it: a few draws of noise need not show it.
`own_db`, the model against itself with no activation rounded, is the size of what all flips together can do: two
equally right roundings differ by no more. No runtime need come nearer to the simulation than `self_db`, nor on an image
of one colour than `own_db`, so they bound the default tolerance.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from compress.core.errors import UserError, nearest
from compress.core.files import write_text
from compress.data.calibration import calibration_images
from compress.model.sr_model import SCALE, SRModel
from compress.quant.calls import paused
from compress.quant.layers import TensorQuantiser
from export.graphs.export_onnx import GRAPHS, check_size, low_bit_layers
from export.targets.host.processor import session_entries

if TYPE_CHECKING:
    from export.targets import Target
    from export.targets.parts import Exported, Options, Parts

FLOAT_DB, QUANTISED_DB = 80.0, 40.0
JITTER = 1e-6
MARGIN_DB = 3.0  # a runtime's noise and the simulation's own, as independent noises of one size


def session_options(threads: int | None = None, exact: bool | None = None) -> ort.SessionOptions:
    """Quiet, with `threads` threads (None: one per core).

    `exact` asks for kernels that cannot overflow, whatever the processor (True), or leaves onnxruntime its fast ones
    (False); None asks for them where the processor needs them, so that integers are exact everywhere.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    for key, value in session_entries(exact).items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def session(model: Path | bytes, threads: int | None = None) -> ort.InferenceSession:
    """An onnxruntime session on the CPU of a file, or of its bytes, with `session_options(threads)`."""
    options = session_options(threads)
    if isinstance(model, bytes):
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if not Path(model).is_file():
        raise UserError(f"{model}: no such ONNX file; export it first with python -m export.run")
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise UserError(
            f"{model}: onnxruntime cannot load this file ({str(error).splitlines()[0]}); "
            "export it again"
        ) from error


def static_size(loaded: ort.InferenceSession) -> tuple[int, int] | None:
    """The lr size (height, width) that a file was exported for, or None if it takes any."""
    notes = loaded.get_modelmeta().custom_metadata_map
    if "lr_size" not in notes:
        raise UserError(
            "the ONNX file was not written by this toolkit: it does not say its lr_size"
        )
    height, width = map(int, notes["lr_size"].split("x"))
    return None if notes["dynamic"] == "true" else (height, width)


def probes(lr_size: tuple[int, int], seed: int = 0) -> dict[str, torch.Tensor]:
    """Deterministic images [1, 3, h, w] in [0, 1]: flat, dark, bright, textured.

    Texture is noise whose amplitude falls as 1/frequency, as in photographs, with edges laid over it.
    """
    height, width = lr_size
    generator = torch.Generator().manual_seed(seed)
    radius = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    spectrum = torch.fft.rfft2(
        torch.randn(1, 3, height, width, generator=generator)
    ) / radius.clamp(min=1 / width)
    noise = torch.fft.irfft2(spectrum, s=(height, width))
    noise = noise / noise.abs().amax()
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    edges = torch.where((x * 3 + y).sin() > 0.3, 0.2, -0.1) + torch.where(
        x**2 + y**2 < 0.3, 0.15, 0.0
    )
    colour = torch.tensor([0.55, 0.42, 0.30]).view(1, 3, 1, 1)
    return {
        "flat": colour.expand(1, 3, height, width).clone(),
        "dark": (0.04 + 0.03 * noise).clamp(0, 1),
        "bright": (0.95 + 0.06 * noise).clamp(0, 1),
        "textured": (0.45 + 0.35 * noise + edges).clamp(0, 1),
    }


def psnr(value: np.ndarray, reference: np.ndarray, peak: float) -> float:
    """PSNR in dB for the given peak; infinite for equal arrays, NaN where `value` is not finite."""
    error = float(np.mean((value.astype(np.float64) - reference) ** 2))
    return (
        math.inf
        if error == 0
        else 10 * math.log10(peak**2 / error)
        if math.isfinite(error)
        else math.nan
    )


@contextmanager
def rounding_noise(module: nn.Module, seed: int) -> Iterator[None]:
    """Within, every layer of `module` that has weights answers with relative noise of JITTER."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(layer: nn.Module, inputs: tuple, y: torch.Tensor) -> torch.Tensor:
        with paused():  # the noise is no operator of the network
            return y * (1 + JITTER * torch.randn(y.shape, generator=generator))

    handles = [
        layer.register_forward_hook(disturb)
        for layer in module.modules()
        if hasattr(layer, "weight") or hasattr(layer, "weight_q")
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def unrounded(module: nn.Module) -> Iterator[None]:
    """Within, activations pass through `module` without being rounded or clipped; weights stay as they are."""

    def through(
        quantiser: TensorQuantiser, args: tuple, kwargs: dict, y: torch.Tensor
    ) -> torch.Tensor:
        return args[0] * kwargs.get("gain", 1.0)

    handles = [
        quantiser.register_forward_hook(through, with_kwargs=True)
        for quantiser in module.modules()
        if isinstance(quantiser, TensorQuantiser)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def verify(
    model: SRModel,
    onnx_dir: Path,
    *,
    tolerance: float | None = None,
    threads: int | None = None,
    lr_size: tuple[int, int] = (128, 128),
    seed: int = 0,
    images: dict[str, torch.Tensor] | None = None,
) -> list[dict]:
    """Compare every exported file in `onnx_dir` with `model` on `images` [1, 3, h, w] by name, None for the probes;
    also written there as parity.json.

    Each row: file, probe, psnr_db (peak 1 for images, max |reference| for latents), self_db and own_db (None for a
    float model, see above), tolerance_db, passed. Components get the torch model's own intermediate results.
    `tolerance` in dB: None takes 80 for float files and min(40, self_db - 3) for quantised ones, on images of one colour
    min(40, self_db - 3, own_db - 3). Only dynamic files use `lr_size`.
    """
    onnx_dir = Path(onnx_dir)
    stems = [stem for stem in GRAPHS if (onnx_dir / f"{stem}.onnx").is_file()]
    if not stems:
        raise UserError(
            f"{onnx_dir}: holds none of {', '.join(s + '.onnx' for s in GRAPHS)}; export first"
        )
    rows = []
    for stem in stems:
        loaded = session(onnx_dir / f"{stem}.onnx", threads)
        size = static_size(loaded) or lr_size
        check_size(model, size)
        build, source, result = GRAPHS[stem]
        module = build(model).eval()
        quantised = bool(low_bit_layers(module))
        for probe, lr in (probes(size, seed) if images is None else images).items():
            x = lr if source == "lr" else model.encoder(lr)
            if source == "clean_latent":
                x = model.clean_latent(x)
            reference = module(x).numpy()
            if not np.isfinite(reference).all():
                raise UserError(
                    f"{stem}: the torch model itself gives values that are not finite on the {probe} "
                    "probe, so there is nothing to compare with; calibrate or train it again"
                )
            peak = 1.0 if result in ("sr", "image") else float(np.abs(reference).max()) or 1.0
            db = psnr(loaded.run(None, {source: x.numpy()})[0], reference, peak)
            self_db = own_db = None
            limit = FLOAT_DB
            if quantised:
                with rounding_noise(module, seed):
                    self_db = _finite(psnr(module(x).numpy(), reference, peak))
                with unrounded(module):
                    own_db = _finite(psnr(module(x).numpy(), reference, peak))
                flat = torch.equal(lr, lr[..., :1, :1].expand_as(lr))
                bounds = [
                    noise - MARGIN_DB
                    for noise in (self_db, own_db if flat else None)
                    if noise is not None
                ]
                limit = min([QUANTISED_DB, *bounds])
            limit = limit if tolerance is None else tolerance
            rows.append(
                {
                    "file": f"{stem}.onnx",
                    "probe": probe,
                    "psnr_db": _finite(db),
                    "self_db": self_db,
                    "own_db": own_db,
                    "tolerance_db": round(limit, 2),
                    "passed": db >= limit,
                }
            )
    write_rows(onnx_dir, rows)
    return rows


def photographs(
    lr_size: tuple[int, int], count: int = 2, seed: int = 1000
) -> dict[str, torch.Tensor]:
    """Crops [1, 3, h, w] of degraded embedded photographs, others than a calibration with a small seed sees."""
    height, width = lr_size
    crops = calibration_images("embedded", count, max(lr_size), seed)
    return {f"photo {i + 1}": x[..., :height, :width].contiguous() for i, x in enumerate(crops)}


def check_probes(names: tuple[str, ...]) -> None:
    known = (*probes((16, 16)), *photographs((16, 16)))
    for name in names:
        if name not in known:
            raise UserError(
                f"probe '{name}' is unknown{nearest(name, known)}; choose from {', '.join(known)}"
            )


@torch.no_grad()
def verify_exported(
    parts: "Parts", made: "Exported", folder: Path, options: "Options", target: "Target"
) -> list[dict]:
    """Run what a target wrote in its runtime and compare it with torch; also written there as parity.json.

    Rows are those of `verify`. Every graph is given torch's own intermediate results; `end to end` is the whole chain
    in the runtime, host arithmetic and colour correction included. Floats must reach the threshold on every probe.
    Codes must on photographs, end to end or, where not all parts were exported, graph by graph; elsewhere they must be
    finite and nearer to torch than nothing.
    """
    images = probes(options.lr_size, options.seed) | photographs(options.lr_size)
    if options.probes is not None:
        check_probes(options.probes)
        images = {name: images[name] for name in options.probes}
    if parts.target == "onnx" and (parts.dtype == "fp32" or parts.quantised):
        return verify(
            parts.model,
            folder,
            tolerance=options.tolerance,
            threads=options.threads,
            lr_size=options.lr_size,
            seed=options.seed,
            images=images,
        )
    run = made.runner or host_runner(folder, parts.stems, options.threads)
    whole = next((s for s in parts.stems if s == "model"), None)
    chained = whole is None and set(parts.stems) == {"encoder", "denoiser", "decoder"}
    threshold = target.dtypes[parts.dtype] if options.tolerance is None else options.tolerance
    coded, rows = parts.dtype.startswith(("w", "fp8")), []

    def row(
        file: str, probe: str, value: np.ndarray, reference: np.ndarray, peak: float, counts: bool
    ) -> None:
        db = psnr(value, reference, peak)
        limit = threshold if counts and (not coded or probe.startswith("photo")) else 0.0
        rows.append(
            {
                "file": file,
                "probe": probe,
                "psnr_db": _finite(db),
                "self_db": None,
                "own_db": None,
                "tolerance_db": limit,
                "passed": db >= limit,
            }
        )

    for stem in parts.stems:
        module, (source, result) = parts.module(stem), parts.names(stem)
        inputs = {}
        for probe, lr in images.items():
            x = lr if source == "lr" else parts.model.encoder(lr)
            inputs[probe] = parts.model.clean_latent(x) if source == "clean_latent" else x
        for probe, value in run(stem, {probe: x.numpy() for probe, x in inputs.items()}).items():
            reference = module(inputs[probe]).numpy()
            peak = 1.0 if result in ("sr", "image") else float(np.abs(reference).max()) or 1.0
            row(stem, probe, value, reference, peak, stem == whole or not chained)
    if chained:
        from export.targets.host.arithmetic import FIXES
        from export.targets.host.tiles import clean_latent

        latent = run("encoder", {probe: lr.numpy() for probe, lr in images.items()})
        prediction = run("denoiser", latent)
        summed = {p: clean_latent(parts.clean_latent, latent[p], prediction[p]) for p in latent}
        reference = GRAPHS["model"][0](parts.model).eval()
        for probe, image in run("decoder", summed).items():
            lr = images[probe]
            if np.isfinite(image).all():  # else the row says that it is not
                image = FIXES[parts.model.colour_fix](image, lr.numpy(), SCALE).clip(0, 1)
            row("end to end", probe, image, reference(lr).numpy(), 1.0, True)
    write_rows(folder, rows)
    return rows


def host_runner(
    folder: Path, stems: tuple[str, ...], threads: int | None
) -> Callable[[str, dict], dict]:
    """Runs the graphs of a folder as its run.py does, in this process."""
    from export.targets.host.runtimes import load

    graphs = load(folder, list(stems), threads)
    return lambda stem, arrays: {
        label: np.asarray(graphs[stem](array)) for label, array in arrays.items()
    }


def write_rows(folder: Path, rows: list[dict]) -> None:
    """parity.json, complete or not there."""
    write_text(folder / "parity.json", json.dumps(rows, indent=1) + "\n")


def _finite(db: float) -> float | None:
    """JSON has no infinity or NaN: equality is written as 999 dB, an output that is not finite as None."""
    return None if math.isnan(db) else round(min(db, 999.0), 2)


def failures(rows: list[dict]) -> str | None:
    """One sentence about the rows that failed, or None."""
    failed = [row for row in rows if not row["passed"]]
    if not failed:
        return None
    worst = min(failed, key=lambda row: -math.inf if row["psnr_db"] is None else row["psnr_db"])
    found = (
        "an output that is not finite" if worst["psnr_db"] is None else f"{worst['psnr_db']:.1f} dB"
    )
    floor = (
        ""
        if None in (worst["self_db"], worst["own_db"])
        else (
            f" (the torch simulation agrees with itself to {worst['self_db']:.1f} dB under rounding noise, and to "
            f"{worst['own_db']:.1f} dB without rounding)"
        )
    )
    return (
        f"{len(failed)} of {len(rows)} parity checks are below tolerance; the worst is {worst['file']} on the "
        f"{worst['probe']} probe with {found} of {worst['tolerance_db']:.1f} dB{floor}"
    )


def table(rows: list[dict]) -> str:
    """The rows as text: one line a file, one column a probe."""
    names = list(dict.fromkeys(row["probe"] for row in rows))
    lines = [f"{'parity, dB':16}" + "".join(f"{name:>12}" for name in names)]
    for file in dict.fromkeys(row["file"] for row in rows):
        cells = {row["probe"]: row for row in rows if row["file"] == file}
        shown = (
            "not finite"
            if cells[n]["psnr_db"] is None
            else f"{cells[n]['psnr_db']:.1f}" + ("" if cells[n]["passed"] else " !")
            for n in names
        )
        lines.append(f"{file:16}" + "".join(f"{cell:>12}" for cell in shown))
    return "\n".join(lines)
