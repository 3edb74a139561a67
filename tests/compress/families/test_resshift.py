"""ResShift and SinSR as source models.

Goldens through the parts, counts, released files, tiles, folding, export.
"""

import copy
import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from compress.core.errors import UserError
from compress.cost.count import measure
from compress.families import resshift
from compress.families.resshift import NANO_UNET, ResShiftSource
from compress.folding.film import fold_film
from compress.model.sr_model import SRModel, Tiling
from compress.networks.residual_shift import CodeDecoder, PairDenoiser, PairEncoder
from compress.networks.swin_layer import SwinUNetConfig
from compress.networks.swin_unet import SwinUNet
from compress.networks.vq_autoencoder import VQAutoencoder, VQConfig
from compress.passes.strip import Strip
from compress.pipeline.upscaling import tiling
from compress.process.padding import pad
from compress.process.residual_sampler import ResidualSampler
from compress.process.residual_shift import ResidualShift
from compress.recipe.checkpoint import load_model, parse_source, save_model
from compress.training.initialise import initialise
from export.graphs.export_onnx import export_onnx


def nano(seed: int = 0, **config) -> SRModel:
    """Random values, of which none is left at a start of 0 or 1."""
    model = initialise(ResShiftSource(**config).build(), seed).eval().requires_grad_(False)
    model.to(memory_format=torch.contiguous_format)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def networks(shared) -> tuple[SwinUNet, VQAutoencoder]:
    unet = SwinUNet(SwinUNetConfig(channels=32, embed=32, head_channels=16)).eval()
    autoencoder = VQAutoencoder(VQConfig(channels=32, multipliers=(1, 2, 2), codes=64)).eval()
    for net, name in ((unet, "resshift_swin_unet"), (autoencoder, "resshift_vq")):
        for file in json.loads((shared / "golden" / f"{name}.json").read_text())["files"]:
            weights = load_file(shared / "golden" / file)
            net.load_state_dict(
                {
                    key.removeprefix("weights."): value
                    for key, value in weights.items()
                    if key.startswith("weights.")
                },
                strict=False,
            )
    return unet, autoencoder


@pytest.mark.parametrize("case", ["a", "b"])
@torch.no_grad()
def test_sinsr_through_the_parts(shared, networks, case):
    facts = json.loads((shared / "golden" / "sinsr_pipeline.json").read_text())
    tensors = load_file(shared / "golden" / "sinsr_pipeline.safetensors")
    lr, noise = tensors[f"inputs.{case}.lr"], tensors[f"inputs.{case}.noise"]  # lr in [-1, 1]
    (unet, vq), process = networks, ResidualSampler(ResidualShift.v1(), "one_step")
    process.draws = lambda like: iter([noise])
    model = SRModel(
        {
            "encoder": PairEncoder(vq),
            "denoiser": PairDenoiser(unet, 14),
            "decoder": CodeDecoder(vq),
        },
        process,
        colour_fix="none",
        multiple=64,
        latent_ratio=1.0,
        tiling=Tiling(128, 64),
    )
    found = model(lr * 0.5 + 0.5) * 2 - 1
    expected = tensors[f"outputs.{case}.sr"]
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() <= 2 * facts["tolerance"]["rel_l2"]


@pytest.mark.parametrize(
    ("side", "one", "fifteen"),
    [(64, 558_671_630_336, 1_267_934_736_384), (128, 2_646_969_282_560, 5_483_544_317_952)],
)
def test_counts_at_full_size(side, one, fifteen):
    cost = measure(ResShiftSource(size="full").build(), (side, side))
    assert cost.component("denoiser").params == 118_593_583
    assert cost.component("encoder").params + cost.component("decoder").params == 55_322_782
    assert cost.macs_full == one
    assert one + 14 * cost.component("denoiser").macs_full == fifteen


def test_the_denoiser_is_counted_as_often_as_it_runs():
    source = ResShiftSource(size="full", model="resshift")
    assert measure(source.build(), (64, 64)).macs_full == 1_267_934_736_384


def test_nano_is_small():
    model = ResShiftSource().build()
    cost = measure(model)
    assert cost.params <= 4e6
    assert 15e9 <= cost.macs_full <= 25e9
    assert cost.component("denoiser").macs_full < cost.macs_full / 2
    # In fp16 with all buffers: masks, indices, noise.
    assert (
        sum(t.numel() * (2 if t.is_floating_point() else 8) for t in model.state_dict().values())
        <= 10e6
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {"ema": {f"module.{k}": v for k, v in s.items()}, "step": 3},
    ],
)
def test_released_files_load(tmp_path, monkeypatch, wrap):
    for name, size in (("SwinUNetConfig", NANO_UNET), ("VQConfig", resshift.NANO_VQ)):
        monkeypatch.setattr(resshift, name, lambda size=size: size)
    donor = nano()
    torch.save(wrap(donor.denoiser.unet.state_dict()), tmp_path / "unet.pth")
    torch.save(wrap(donor.encoder.state_dict() | donor.decoder.state_dict()), tmp_path / "vq.pth")
    source = ResShiftSource(
        size="full", unet=str(tmp_path / "unet.pth"), vq=str(tmp_path / "vq.pth")
    )
    model = source.build()
    source.load(model)
    lr = torch.rand(1, 3, 32, 32)
    assert model.colour_fix == "none"
    assert model.tiling.margin == 0  # as released; the nano has both
    donor.colour_fix, donor.tiling = "none", model.tiling
    assert torch.equal(model(lr), donor(lr))
    assert "unet.pth" in source.data_key()
    swapped = source.model_copy(update={"unet": source.vq})
    with pytest.raises(
        UserError, match=r"source.unet: .*another architecture than SinSR_v1.pth .*missing"
    ):
        swapped.load(source.build())
    torch.save([1, 2], tmp_path / "unet.pth")
    with pytest.raises(UserError, match=r"source.unet: .* holds a list"):
        source.load(source.build())


def test_what_it_refuses(tmp_path):
    for config, words in (
        ({"size": "full"}, "source.unet: size 'full' needs SinSR_v1.pth"),
        ({"size": "full", "model": "resshift", "unet": "x"}, "source.vq: .*autoencoder_vq_f4.pth"),
        ({"weights": str(tmp_path / "none")}, "none does not exist"),
    ):
        source = ResShiftSource(**config)
        with pytest.raises(UserError, match=words):
            source.load(source.build())
    with pytest.raises(UserError, match=r"model.*'sinsr' or 'resshift'"):
        parse_source({"family": "resshift", "model": "sinrs"})
    with pytest.raises(UserError, match="one_step, deterministic, stochastic"):
        ResidualSampler(ResidualShift.v3(), "ancestral")


def test_round_trip_and_structure_on_meta(tmp_path):
    model, source = nano(), ResShiftSource()
    Strip().convert(model)
    save_model(model, tmp_path / "m.safetensors", source, [Strip()])
    lr = torch.rand(1, 3, 40, 24)
    assert torch.equal(load_model(tmp_path / "m.safetensors")(lr), model(lr))


@pytest.mark.parametrize(("sampler", "steps"), [("deterministic", 15), ("stochastic", 4)])
def test_many_steps(sampler, steps):
    model = nano(model="resshift", sampler=sampler, steps=steps)
    lr, seen = torch.rand(1, 3, 32, 32), []
    model.denoiser.unet.register_forward_pre_hook(lambda m, args: seen.append(args[1].item()))
    image = model(lr)
    assert seen == list(range(steps))[::-1]
    assert image.shape == (1, 3, 128, 128)
    assert torch.equal(image, model(lr))
    latent, schedule = model.encoder(lr), model.process.schedule
    assert len(model.predictions(latent)) == steps
    y, small = latent.chunk(2, dim=1)

    def denoise(x, t):
        return model.denoiser.unet(x, t, small)

    chain = (
        schedule.deterministic(denoise, y, next(model.process.draws(y)))
        if sampler == "deterministic"
        else schedule.stochastic(denoise, y, model.process.draws(y))
    )
    assert torch.equal(model.clean_latent(latent), [state for state, _ in chain][-1])


def test_noise_belongs_to_the_image():
    process = ResidualSampler(ResidualShift.v1(), "stochastic")
    process.reset_parameters()
    draws = list(process.draws(torch.empty(2, 3, 96, 160)))
    assert len(draws) == 15
    assert draws[0].shape == (1, 3, 96, 160)
    assert torch.equal(draws[0][..., :64, :64], process.noise)
    assert torch.equal(draws[0][..., 64:128], draws[0][..., :64])
    rows, columns = (torch.arange(96) + 27 * 14) % 64, (torch.arange(160) + 37 * 14) % 64
    assert torch.equal(draws[14], process.noise[:, :, rows][..., columns])
    assert draws[0].std().item() == pytest.approx(1, abs=0.02)
    flat = torch.stack([draw[..., :64, :64].flatten() for draw in draws])
    assert (torch.corrcoef(flat) - torch.eye(15)).abs().max() < 0.05
    twin = ResidualSampler(ResidualShift.v1(), "one_step")
    twin.reset_parameters()
    assert torch.equal(twin.noise, process.noise)


# One step and several: tiles are cut before either.
@pytest.mark.parametrize("model", ["sinsr", pytest.param("resshift", marks=pytest.mark.exhaustive)])
def test_large_images_run_in_tiles(model):
    tiled = nano(model=model, steps=4, sampler="deterministic")
    tiled.tiling = replace(tiling(64, tiled), margin=0)
    sizes = set()
    tiled.denoiser.register_forward_pre_hook(lambda m, args: sizes.add(tuple(args[0].shape[-2:])))
    image = tiled(torch.rand(1, 3, 70, 130))
    assert image.shape == (1, 3, 280, 520)
    assert image.isfinite().all()
    assert sizes == {(64, 64)}
    for tile in (32, 72):
        with pytest.raises(UserError, match="multiple of 32 of at least 64"):
            tiling(tile, tiled)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40)])
def test_small_images_are_padded_again_and_again(height, width):
    x = torch.rand(1, 3, height, width)
    padded = pad(x, -width % 64, -height % 64)
    assert padded.shape[-2:] == (64, 64)
    assert torch.equal(padded[..., :height, :width], x)
    for axis, side in ((2, height), (3, width)):
        period = 2 * (side - 1)  # a reflection of a reflection
        index = torch.arange(64) % period
        mirrored = torch.where(index < side, index, period - index)
        assert torch.equal(padded, padded.index_select(axis, mirrored))
    assert nano()(x).shape == (1, 3, 4 * height, 4 * width)


@pytest.mark.parametrize("film", [True, False])
def test_timestep_folds_exactly(film):
    config = SwinUNetConfig(
        channels=32,
        multipliers=(1, 2),
        size=16,
        attention=(16, 8),
        embed=32,
        head_channels=16,
        film=film,
    )
    torch.manual_seed(0)
    # In float32 the difference is rounding, 1.9e-6 of the output or a little more. That says
    # nothing of exactness.
    unet = SwinUNet(config).eval().requires_grad_(False).double()
    for parameter in unet.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    folded, t, (x, lr) = (
        copy.deepcopy(unet),
        torch.tensor([14]),
        torch.randn(2, 2, 3, 16, 32).double(),
    )
    fold_film(folded, 14)
    expected = unet(x, t, lr)
    assert (folded(x, t, lr) - expected).norm() / expected.norm() <= 1e-12
    assert (unet(x, t - 1, lr) - expected).norm() / expected.norm() > 1e-4
    once = {name: tensor.clone() for name, tensor in folded.state_dict().items()}
    fold_film(folded, 14)
    assert all(torch.equal(tensor, once[name]) for name, tensor in folded.state_dict().items())
    unet.input_blocks[1][0].emb_layers[1] = torch.nn.Identity()
    with pytest.raises(UserError, match=r"emb_layers.1 is a Identity.*list strip before"):
        fold_film(unet, 14)


@pytest.mark.parametrize("text", ["constant", "keep"])
def test_strip(text):
    model = nano().double()
    lr, before = torch.rand(1, 3, 32, 32).double(), copy.deepcopy(model)
    Strip(text=text).convert(model)
    expected = before.clean_latent(before.encoder(lr))
    assert (model.clean_latent(model.encoder(lr)) - expected).norm() / expected.norm() <= 1e-12
    full = ResShiftSource(size="full").build()
    params = measure(full, (64, 64)).params
    Strip(text=text).convert(full)
    assert params - measure(full, (64, 64)).params == 11_384_640
    for step, of, words in (
        (Strip(timestep="remove"), "sinsr", "fold or keep"),
        (Strip(), "resshift", "15 timesteps"),
    ):
        with pytest.raises(UserError, match=words):
            step.convert(ResShiftSource(model=of).build())


def test_onnxruntime_computes_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(resshift, "NANO_UNET", replace(NANO_UNET, multipliers=(1, 2)))
    model = nano()
    Strip().convert(model)
    paths = export_onnx(model, tmp_path, lr_size=(32, 64), stems=("model", "denoiser"))
    lr = torch.rand(1, 3, 32, 64)
    model.tiling = Tiling(128, 32)  # without the margin, which no graph holds
    latent = model.encoder(lr)
    for path, x, expected in (
        (tmp_path / "model.onnx", lr, model(lr)),
        (tmp_path / "denoiser.onnx", latent, model.clean_latent(latent)),
    ):
        assert path in paths
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        mse = np.square(found - expected.numpy()).mean() / expected.abs().max().item() ** 2
        assert -10 * np.log10(mse) >= 60
    with pytest.raises(UserError, match="15 times"):
        export_onnx(nano(model="resshift"), tmp_path, lr_size=(32, 32))
