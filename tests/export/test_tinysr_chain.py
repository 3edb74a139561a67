"""The passes of recipes/tinysr.yaml on the smallest transformer, from strip to ONNX."""

import copy
from pathlib import Path

import pytest
from diffusers import SD3Transformer2DModel
from support.tiny_families import MMDIT, tiny_family
from support.tiny_model import quantised

from compress.model.passes import FitContext
from compress.networks.mmdit import MMDiT
from compress.recipe.checkpoint import parse_pass
from compress.recipe.export_options import ExportOptions
from export.parity.rows import failures
from export.targets.export_folder import export

STEPS = [
    {"pass": "decoder_halve", "ratio": 0.5, "channels": "l1"},
    {"pass": "strip", "text": "remove"},
    {"pass": "depth_gates", "steps": 2, "calibration": {"images": 2, "size": 32}},
    {"pass": "encoder_light", "channels": 8, "blocks": 1},
]


@pytest.mark.slow
def test_every_graph_computes_what_torch_does(tmp_path):
    model = tiny_family("tsdsr")
    network = MMDiT(SD3Transformer2DModel(**MMDIT | {"num_layers": 4}))
    network.pos_embed.reset_parameters()
    model.denoiser.transformer = network.requires_grad_(False)
    source = copy.deepcopy(model)
    for raw in STEPS:
        step = parse_pass(raw, "test")
        before = copy.deepcopy(model)
        step.convert(model)
        context = FitContext(source=source, before=lambda _, before=before: before)
        step.fit(model.eval().requires_grad_(False), context)
        model.eval().requires_grad_(False)
    assert len(model.denoiser.transformer.transformer_blocks) == 2
    quantised(model)
    graphs = ("encoder", "denoiser", "decoder")
    options = ExportOptions(
        target="onnx",
        lr_size=(32, 32),
        images=1,
        probes=("textured", "photo 1"),
        threads=1,
        components=graphs,
    )
    made = export(model, tmp_path / "onnx", options)
    assert failures(made.rows) is None, made.rows
    assert {Path(row["file"]).stem for row in made.rows} == set(graphs)
