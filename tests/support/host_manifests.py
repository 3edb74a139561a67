"""Manifests and stand-ins for networks, by which arithmetic in other languages meets run.py's."""

from typing import Any

import numpy as np

SCALE = 4
SIZES = [(2, 3), (7, 5), (31, 33), (32, 32), (40, 97), (61, 64)]
READS = {"encoder": ["lr"], "denoiser": ["latent"], "decoder": ["clean_latent"]}
MAKES = {"encoder": ["latent"], "denoiser": ["prediction"], "decoder": ["image"]}
HINTED_READS = {**READS, "hint": ["latent"], "denoiser": ["latent", "hint"]}
HINTED_MAKES = {**MAKES, "hint": ["hint"]}
REFINED_READS = {**HINTED_READS, "refine": ["decoded", "lr"]}
REFINED_MAKES = {**HINTED_MAKES, "refine": ["refined"]}
INTEGERS = ("timestep",)
STEPS: list[dict[str, Any]] = [
    {"timestep": 500, "factors": {"state": 0.5, "prediction": 0.25, "latent": 0.1}},
    {
        "timestep": 20,
        "factors": {"state": 0.7, "prediction": 0.2, "prediction_0": -0.1, "state_0": 0.05},
    },
]
# Guidance of 3: the first of two calls reads another value, and leaves the state.
GUIDED: list[dict[str, Any]] = [
    {"timestep": 300, "factors": {"state": 1.0}, "instead": {"hint": "latent"}},
    {"timestep": 300, "factors": {"state": 0.8, "prediction": 0.6, "prediction_0": -0.4}},
]
# The hint of each step but the first is made of the image that the step before tells.
REFINED: list[dict[str, Any]] = [
    {
        "timestep": timestep,
        "factors": {"state": 0.5, "prediction": gain, "latent": 0.1},
        "clean": {"state": 0.9, "prediction": -0.2},
        **({"instead": {"hint": "refined_hint"}} if place else {}),
    }
    for place, (timestep, gain) in enumerate([(700, 0.25), (400, 0.5), (100, 0.125)])
]
BETWEEN: list[dict[str, Any]] = [
    {"graph": "decoder", "instead": {"clean_latent": "clean"}, "makes": {"image": "decoded"}},
    {"graph": "refine", "instead": {}, "makes": {}},
    {"graph": "hint", "instead": {"latent": "refined"}, "makes": {"hint": "refined_hint"}},
]


def manifest(
    size: tuple[int, int],
    fix: str,
    steps: bool | list[dict[str, Any]] = False,
    reads: dict[str, list[str]] = READS,
    makes: dict[str, list[str]] = MAKES,
    **host: Any,
) -> dict[str, Any]:
    """As much of one as the arithmetic reads; `steps` are two by default, or those given."""
    if steps:
        reads = {**reads, "denoiser": ["state", "timestep", *reads["denoiser"][1:]]}
    process: dict[str, Any] = {"clean_latent": {"latent": 1.25, "prediction": -0.75}}
    if steps:
        process["each_step"] = ["denoiser"]
        process["start"] = {"latent": 0.9, "prediction": 0.0}
        process["steps"] = STEPS if steps is True else steps
    return {
        "scale": SCALE,
        "lr_size": list(size),
        "dynamic": False,
        "graphs": {
            stem: {
                "file": f"{stem}.onnx",
                "inputs": [_tensor(name, size) for name in reads[stem]],
                "outputs": [_tensor(name, size) for name in makes[stem]],
            }
            for stem in reads
        },
        "host": {
            **process,
            "colour_fix": fix,
            "colour_fix_of_tiles": "wavelet",
            "overlap": 32,
            "align": 8,
            "margin": 8,
            "smallest": 16,
            **host,
        },
    }


def _tensor(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """The entry of a graph's end; these networks keep three channels at the input's size."""
    is_large = name in ("image", "sr", "decoded")
    height, width = (SCALE * side for side in size) if is_large else size
    shape = [1] if name in INTEGERS else [1, 3, height, width]
    kind = "int64" if name in INTEGERS else "float32"
    return {"name": name, "shape": shape, "example_shape": shape, "dtype": kind}


def repeated(latent: np.ndarray) -> np.ndarray:
    """A decoder: pixels repeated, with a pattern."""
    made = latent.repeat(SCALE, axis=2).repeat(SCALE, axis=3)
    rows, columns = np.indices(made.shape[2:])
    return made + ((rows + columns) % 5 / 64).astype(np.float32)


def added(state: np.ndarray, timestep: np.ndarray, *hint: np.ndarray) -> np.ndarray:
    """A denoiser of several steps, with a hint or without."""
    made = state * state + np.float32(timestep[0] / 1024)
    return made + hint[0] / 4 if hint else made


def squared(latent: np.ndarray) -> np.ndarray:
    """A denoiser of one step, and what makes a hint."""
    return latent * latent


def blended(decoded: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """Every fourth pixel of a decoded image, blended with the input."""
    return (decoded[..., ::SCALE, ::SCALE] + lr) / 2


MANIFESTS = {
    "margin": manifest((32, 32), "adain"),
    "no margin": manifest((32, 32), "none", margin=0, overlap=12),
    "oblong": manifest((48, 24), "ycbcr", align=4),
    "steps": manifest((32, 32), "mean_std", steps=True),
    "guided": manifest((32, 32), "none", GUIDED, HINTED_READS, HINTED_MAKES),
    "refined": manifest((32, 32), "none", REFINED, REFINED_READS, REFINED_MAKES, between=BETWEEN),
}


def networks(said: dict[str, Any]) -> dict[str, Any]:
    """The stand-ins of a manifest's graphs."""
    if "model" in said["graphs"]:
        return {"model": repeated}
    made = {
        "encoder": lambda lr, *kept: lr + sum(value.sum() for value in kept),
        "hint": squared,
        "denoiser": added if "steps" in said["host"] else squared,
        "decoder": repeated,
        "refine": blended,
    }
    return {name: made[name] for name in said["graphs"]}
