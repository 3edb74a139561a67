"""Tiles of a chain with noise: those smaller than the period of its map leave no gaps."""

import pytest
from support.tiny_families import tiny_family

from compress.recipe.export_options import ExportOptions
from export.targets.host.tiles import grid
from export.targets.manifest import OVERLAP
from export.targets.parts import choose_parts
from export.targets.table import choose_target


@pytest.mark.parametrize("side", [32, 64, 128, 256])
def test_tiles_cover_the_photograph(side):
    model = tiny_family("ccsr", 1, autoencoder=False)
    options = ExportOptions(target="onnx", lr_size=(side, side))
    parts = choose_parts(model, choose_target("onnx"), options)
    host = {"align": parts.align, "overlap": OVERLAP, "margin": 16}
    where = grid({"lr_size": [side, side], "dynamic": False, "host": host}, 300, 450)
    assert where.several
    assert max(where.step) <= side
    reaches = [(n - 1) * step + side for n, step in zip(where.count, where.step, strict=True)]
    assert reaches[0] >= 300 + 32
    assert reaches[1] >= 450 + 32


def test_tiles_of_a_period_see_the_noise_of_the_whole():
    model = tiny_family("ccsr", 1, autoencoder=False)
    period = round(model.process.period / model.latent_ratio)
    options = ExportOptions(target="onnx", lr_size=(period, period))
    assert choose_parts(model, choose_target("onnx"), options).align == period
