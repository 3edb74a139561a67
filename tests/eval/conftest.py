"""Small folders of images, and a world without network."""

import json
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.metric import weight_files

torch.set_num_threads(1)


def make_photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth coloured image with some grain, uint8 RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack(
        [
            120 + 90 * np.sin(x / 17 + seed),
            120 + 90 * np.cos(y / 13),
            120 + 60 * np.sin((x + y) / 23),
        ],
        -1,
    )
    return Image.fromarray(np.uint8(np.clip(base + rng.normal(0, 6, base.shape), 0, 255)))


@pytest.fixture
def photo():
    """`make_photo`, for tests."""
    return make_photo


@pytest.fixture
def realsr_like(tmp_path) -> Path:
    """A folder with LR/ (32x24) and HR/ (128x96), two images."""
    root = tmp_path / "photos"
    for i, name in enumerate(("a", "b")):
        for folder, size in (("LR", (32, 24)), ("HR", (128, 96))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            make_photo(*size, seed=i).save(root / folder / f"{name}.png")
    return root


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No weights in the cache, and every download fails as it does without a network.

    Yields the addresses asked.
    """
    asked = []

    def refuse(url, target):
        asked.append(url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(weight_files, "_download", refuse)
    monkeypatch.setattr(weight_files, "_unreachable", set())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return asked


@pytest.fixture
def run(tmp_path):
    """Makes a run directory: run(name, musiq=…, protocol=…, data=…)."""

    def make(name="nano", data="RealSR", protocol="crop", images=100, blank=None, **metrics):
        folder = tmp_path / name
        (folder / "eval" / data).mkdir(parents=True)
        (folder / "eval" / data / "averages.json").write_text(
            json.dumps(
                metrics
                | {"images": images, "data": data, "protocol": protocol, "blank": blank or {}}
            )
        )
        (folder / "ledger.json").write_text(
            json.dumps(
                {
                    "cost": {
                        "after": {
                            "bytes": 1_400_000,
                            "params": 1_300_000,
                            "param_equivalents": 325_000,
                            "macs_paper": 5e9,
                            "macs_full": 6e9,
                            "macs_equivalent": 1.25e9,
                        }
                    }
                }
            )
        )
        return folder

    return make
