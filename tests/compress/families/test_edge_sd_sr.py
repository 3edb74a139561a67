"""Edge-SD-SR: counts, parts, save and load, folding, tiles, export, and what SD's UNet leaves."""

import copy
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families import edge_sd_sr
from compress.families.edge_sd_sr import SHAPES, EdgeSDSRSource, Shape
from compress.model.sr_model import SRModel
from compress.networks.edge import LightDecoder, LREncoder
from compress.passes.prune import Prune
from compress.passes.strip import Strip
from compress.recipe.checkpoint import load_model, parse_source, save_model
from compress.training.initialise import initialise
from export.graphs.export_onnx import export_onnx


def nano(seed: int = 0, **config) -> SRModel:
    """Random values, of which none is left at a start of 0 or 1."""
    model = initialise(EdgeSDSRSource(**config).build(), seed).eval().requires_grad_(False)
    model.to(memory_format=torch.contiguous_format)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize(
    ("size", "total", "parts"),
    [
        (
            "default",
            (169.0, 140.7),
            {"denoiser": (157.58, 48.3), "decoder": (9.50, 82.7), "encoder": (1.93, 9.7)},
        ),
        (
            "lite",
            (164.5, 71.3),
            {"denoiser": (157.3, 29.9), "decoder": (5.25, 32.8), "encoder": (1.96, 8.6)},
        ),
    ],
)
def test_counts_of_the_facts(size, total, parts):
    """To the printed digits; the MACs of the facts are those with attention."""
    cost = measure(EdgeSDSRSource(size=size).build())
    assert (round(cost.params / 1e6, 1), round(cost.macs_full / 1e9, 1)) == total
    for name, (params, macs) in parts.items():
        part = cost.component(name)
        digits = 2 if round(params, 1) != params else 1
        assert (round(part.params / 1e6, digits), round(part.macs_full / 1e9, 1)) == (
            params,
            macs,
        ), name


def test_folded_default_and_nano():
    default = EdgeSDSRSource(size="default").build()
    Strip().convert(default)
    assert round(measure(default).component("denoiser").params / 1e6, 1) == 152.6
    cost = measure(EdgeSDSRSource().build())
    assert cost.params <= 4e6
    assert 6e9 <= cost.macs_paper <= 9e9
    assert cost.component("decoder").macs_full > cost.macs_full / 2
    # In fp16 with the noise of the process.
    assert sum(t.numel() for t in EdgeSDSRSource().build().state_dict().values()) * 2 <= 10e6


def test_decoder_splits_into_features_and_tail():
    for shuffle, widths in ((False, (16, 8, 6, 4)), (True, (16, 8, 4))):
        decoder = LightDecoder(widths, (1,) * len(widths), shuffle=shuffle).eval()
        latent = torch.randn(1, 4, 6, 10)
        image, features = decoder(latent), decoder.features(latent)
        assert decoder.scale == 8
        assert image.shape == (1, 3, 48, 80)
        assert features.shape == (1, 16, 6, 10)
        assert torch.equal(decoder.tail(features), image)
    with pytest.raises(UserError, match=r"widths \(16, 8\) and blocks \(1,\)"):
        LightDecoder((16, 8), (1,))


def test_encoder_moments_and_start():
    encoder = LREncoder((8, 16), (1, 2))
    lr = torch.rand(2, 3, 16, 24)
    mean, log_variance = encoder.moments(lr)
    assert mean.shape == log_variance.shape == (2, 4, 8, 12)
    assert torch.equal(encoder(lr), torch.cat([mean, log_variance], dim=1))
    encoder.start_variance(0.3)
    torch.testing.assert_close((0.5 * encoder.moments(lr)[1]).exp(), torch.full((2, 4, 8, 12), 0.3))
    with pytest.raises(UserError, match="target: teacher"):
        encoder.clean(lr)


def test_starts_from_the_identity():
    source = EdgeSDSRSource()
    model = initialise(source.build(), 0).eval()
    source.start(model)
    latent = model.encoder(torch.rand(1, 3, 32, 32))
    assert torch.equal(model.clean_latent(latent), latent[:, :4])


def test_round_trip_sizes_and_batches(tmp_path):
    model, source = nano(), EdgeSDSRSource()
    lr = torch.rand(2, 3, 41, 24)  # padded to 48 x 24
    image = model(lr)
    assert image.shape == (2, 3, 164, 96)
    assert image.isfinite().all()
    torch.testing.assert_close(model(lr[1:]), image[1:], rtol=1e-4, atol=1e-5)
    Strip().convert(model)
    save_model(model, tmp_path / "m.safetensors", source, [Strip()])
    assert torch.equal(load_model(tmp_path / "m.safetensors")(lr), model(lr))
    weights = EdgeSDSRSource(weights=str(tmp_path / "whole.safetensors"))
    save_model(nano(), tmp_path / "whole.safetensors", source, [])
    loaded = weights.build()
    weights.load(loaded)
    assert torch.equal(loaded(lr), image)
    assert "whole.safetensors" in weights.data_key()


def test_timestep_folds_exactly():
    model = nano()
    folded, latent = copy.deepcopy(model), model.encoder(torch.rand(1, 3, 32, 48))
    Strip(text="constant").convert(folded)
    expected = model.clean_latent(latent)
    assert (folded.clean_latent(latent) - expected).norm() / expected.norm() <= 1.9e-6
    pair = model.process.pair(expected, latent)
    told = model.denoiser(pair, None, torch.tensor([100]))
    assert (told - model.denoiser(pair)).norm() / told.norm() > 1e-4


@pytest.mark.parametrize("switch", ["mean", "variance"])
def test_switches_reach_the_process(switch):
    model, lr = nano(), torch.rand(1, 3, 32, 32)
    off = nano(**{switch: False})
    assert getattr(off.process, switch) is False
    assert not torch.equal(off(lr), model(lr))
    assert measure(off).totals() == measure(model).totals()


def test_512_pixels_are_25_evaluations():
    """512 -> 2048 in tiles of 128 px at a stride of 96; the number is published."""
    model, seen = nano(), []
    model.encoder.forward = lambda x: torch.zeros(1, 8, *(s // 2 for s in x.shape[-2:]))
    model.denoiser.forward = lambda x, *_: seen.append(tuple(x.shape)) or x[:, 4:]
    model.decoder.forward = lambda x: torch.zeros(1, 3, *(8 * s for s in x.shape[-2:]))
    assert model(torch.rand(1, 3, 512, 512)).shape == (1, 3, 2048, 2048)
    assert len(seen) == 25
    assert seen[6] == (1, 8, 64, 64)
    # Those at the image's borders have 8 latent pixels of reflection besides.
    assert seen[0] == seen[24] == (1, 8, 72, 72)
    assert seen[1] == (1, 8, 72, 64)
    assert seen[5] == (1, 8, 64, 72)
    model.tiling, seen[:] = replace(model.tiling, margin=0), []
    model(torch.rand(1, 3, 512, 512))
    assert seen == [(1, 8, 64, 64)] * 25


def test_pruning_knows_the_unet():
    model = nano()
    Prune(channels="l1", ratio=0.75).convert(model)
    assert model(torch.rand(1, 3, 32, 32)).isfinite().all()
    assert (
        measure(model).component("denoiser").params
        < 0.7 * measure(nano()).component("denoiser").params
    )


def test_onnxruntime_computes_the_same(tmp_path, monkeypatch):
    """At another size than that of the trace, so that the noise is repeated by the graph itself."""
    monkeypatch.setitem(
        SHAPES,
        "nano",
        Shape(
            unet=(16, 16),
            unet_blocks=1,
            attention=(1,),
            groups=4,
            head=8,
            shuffle=True,
            decoder=(16, 8, 8),
            decoder_blocks=(1, 1, 1),
            encoder=(8, 16),
            encoder_blocks=(1, 1),
        ),
    )
    model = nano()
    Strip().convert(model)
    [path] = export_onnx(model, tmp_path, lr_size=(32, 48), dynamic=True, per_component=False)
    lr = torch.rand(1, 3, 48, 64)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: lr.numpy()})[0]
    model.tiling = replace(model.tiling, margin=0)  # the graph holds none
    assert -10 * np.log10(np.square(found - model(lr).numpy()).mean()) >= 60


def test_what_it_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(edge_sd_sr, "ASSET", tmp_path / "absent.safetensors")
    for config, words in (
        ({}, "absent.safetensors does not exist; give a weight file that recipes/train/edge_nano"),
        ({"size": "default"}, "no checkpoint of Edge-SD-SR is published"),
        ({"size": "lite", "base": str(tmp_path)}, "cannot read unet/"),
        ({"weights": str(tmp_path / "none")}, "none does not exist; .* or leave it out"),
    ):
        source = EdgeSDSRSource(**config)
        with pytest.raises(UserError, match=words):
            source.load(source.build())
    with pytest.raises(UserError, match="size"):
        parse_source({"family": "edge_sd_sr", "size": "sd21"})
