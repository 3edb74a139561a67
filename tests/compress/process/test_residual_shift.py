"""Residual shifting.

The authors' tables, sampler states after every step, and SinSR from image to image.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.networks.swin_layer import SwinUNetConfig
from compress.networks.swin_unet import SwinUNet
from compress.networks.vq_autoencoder import VQAutoencoder, VQConfig
from compress.process.resample import upsample
from compress.process.residual_shift import ResidualShift

SCHEDULES = ["v1", "v3", "v1_respaced_5"]


def schedule(name: str, capped: bool = False) -> ResidualShift:
    version, *respaced = name.split("_respaced_")
    process = getattr(ResidualShift, version)(capped=capped)
    return process.respaced(int(respaced[0])) if respaced else process


@pytest.fixture(scope="module")
def tables(shared):
    return json.loads((shared / "golden" / "resshift_schedule.json").read_text())


@pytest.fixture(scope="module")
def golden(shared):
    facts = json.loads((shared / "golden" / "resshift_samplers.json").read_text())
    return facts, load_file(shared / "golden" / "resshift_samplers.safetensors")


def check(facts, found, expected, name=""):
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() <= facts["tolerance"]["rel_l2"], name
    assert (found - expected).abs().max() <= facts["tolerance"]["max_abs"], name


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_are_the_authors(tables, name):
    process, expected = schedule(name), tables["schedules"][name]
    steps = range(process.steps)
    assert process.steps == expected["num_timesteps"]
    assert list(process.timesteps) == expected["timestep_map"]
    assert process.kappa == expected["parameters"]["kappa"]
    for key, found in (
        ("sqrt_etas", process.sqrt_etas),
        ("etas", [process.eta(t) for t in steps]),
        ("etas_prev", [process.eta(t - 1) for t in steps]),
        ("alpha", [process.eta(t) - process.eta(t - 1) for t in steps]),
        ("posterior_mean_coef1", [process.posterior(t)[0] for t in steps]),
        ("posterior_mean_coef2", [process.posterior(t)[1] for t in steps]),
        ("posterior_variance", [process.posterior(t)[2] for t in steps]),
        ("input_normaliser", [process.normaliser(t) for t in steps]),
    ):
        assert list(found) == pytest.approx(
            expected[key], rel=tables["tolerance"]["relative"], abs=0
        ), key
    assert process.prior_std == pytest.approx(expected["prior_noise_std"], rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_deterministic_weights_are_the_authors(tables, name):
    expected = tables["sinsr_deterministic"]["schedules"][name]
    process = schedule(name, capped=True)
    for i, key in enumerate("kmj"):
        found = [process.deterministic_weights(t)[i] for t in range(process.steps)]
        assert found == pytest.approx(expected[key], rel=tables["tolerance"]["relative"], abs=0), (
            key
        )
        assert torch.tensor(found).tolist() == pytest.approx(
            expected["float32_as_run"][key], abs=3e-7
        )
    assert (process == schedule(name)) == expected["same_sqrt_etas_as_resshift"]
    if name == "v3":
        assert process.sqrt_etas == pytest.approx(expected["sqrt_etas"], rel=1e-12)


@pytest.mark.parametrize("denoiser", ["half", "mixed"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_samplers_pass_through_the_authors_states(golden, name, denoiser):
    facts, tensors = golden
    noise, y, clean, lq = (tensors[f"inputs.{key}"] for key in ("noise", "z_y", "z_gt", "lq"))
    before = f"outputs.{name}."
    process, capped = (
        schedule(name),
        schedule(name, capped=name in facts["deterministic_on_capped_schedule"]),
    )

    def denoise(x, t):
        assert t.dtype == torch.int64
        assert t.shape == (2,)
        return 0.5 * x if denoiser == "half" else 0.5 * x + 0.25 * lq + 0.01 * t[0].item()

    for kind, chain, start in (
        ("stochastic", process.stochastic(denoise, y, noise), process.start(y, noise[0])),
        ("deterministic", capped.deterministic(denoise, y, noise[0]), capped.start(y, noise[0])),
    ):
        states, predictions = zip(*chain, strict=True)
        check(facts, start, tensors[f"{before}{kind}.{denoiser}.x_start"], kind)
        for key, found in (("x", states), ("pred_x0", predictions)):
            expected = tensors[f"{before}{kind}.{denoiser}.{key}"]
            assert len(found) == len(expected) == process.steps
            for i, state in enumerate(found):
                check(facts, state, expected[i], (kind, key, i))
    check(facts, capped.one_step(denoise, y, noise[0]), tensors[f"{before}one_step.{denoiser}.x"])
    expected = tensors[f"{before}inverse.{denoiser}.x"]
    states = [state for state, _ in capped.inverse(denoise, clean, y)]
    assert len(states) == len(expected) == process.steps - 1
    for i, state in enumerate(states):
        check(facts, state, expected[i], ("inverse", i))


@pytest.mark.parametrize("name", SCHEDULES)
def test_forward_diffusion_is_the_authors(golden, name):
    facts, tensors = golden
    process, expected = schedule(name), tensors[f"outputs.{name}.q_sample"]
    for i, t in enumerate((0, process.steps // 2, process.last)):
        check(
            facts,
            process.diffuse(
                *(tensors[f"inputs.{key}"] for key in ("z_gt", "z_y")),
                tensors["inputs.noise"][0],
                t,
            ),
            expected[i],
        )


def test_steps_agree_with_one_another():
    torch.manual_seed(0)
    process, (x0, y, noise) = ResidualShift.v3(), torch.randn(3, 2, 3, 4, 4, dtype=torch.float64)
    for t in range(1, process.steps):
        state = process.diffuse(x0, y, noise, t)
        before = process.diffuse(x0, y, noise, t - 1)
        # With the true x0 the deterministic step keeps the noise, and the inverse undoes it.
        torch.testing.assert_close(process.deterministic_step(state, x0, y, t), before)
        torch.testing.assert_close(process.inverse_step(before, x0, y, t), state)
        # The stochastic one has the marginal's mean, and its variance adds up to the marginal's.
        mean = process.stochastic_step(
            process.diffuse(x0, y, torch.zeros_like(y), t), x0, torch.zeros_like(y), t
        )
        torch.testing.assert_close(mean, process.diffuse(x0, y, torch.zeros_like(y), t - 1))
        of_x, _, variance = process.posterior(t)
        assert of_x**2 * 4 * process.eta(t) + variance == pytest.approx(4 * process.eta(t - 1))
    torch.testing.assert_close(process.deterministic_step(state, x0, y, 0), x0)
    torch.testing.assert_close(process.stochastic_step(state, x0, None, 0), x0)


def test_what_it_refuses():
    with pytest.raises(UserError, match="at least 2"):
        ResidualShift.exponential(1, 0.04)
    for steps in (0, 16):
        with pytest.raises(UserError, match="choose 1 to 15"):
            ResidualShift.v1().respaced(steps)
    with pytest.raises(UserError, match="cannot be inverted"):
        ResidualShift.v1().inverse_step(*torch.zeros(3, 1, 3, 2, 2), 0)
    assert ResidualShift.v1().respaced(15) == ResidualShift.v1()


@pytest.fixture(scope="module")
def networks(shared) -> tuple[SwinUNet, VQAutoencoder]:
    unet = SwinUNet(SwinUNetConfig(channels=32, embed=32, head_channels=16)).eval()
    autoencoder = VQAutoencoder(VQConfig(channels=32, multipliers=(1, 2, 2), codes=64)).eval()
    for net, name in ((unet, "resshift_swin_unet"), (autoencoder, "resshift_vq")):
        for file in json.loads((shared / "golden" / f"{name}.json").read_text())["files"]:
            weights = load_file(shared / "golden" / file)
            _missing, unexpected = net.load_state_dict(
                {
                    key.removeprefix("weights."): value
                    for key, value in weights.items()
                    if key.startswith("weights.")
                },
                strict=False,
            )
            assert unexpected == []
    return unet, autoencoder


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a", "b"])
def test_sinsr_from_image_to_image(shared, networks, case):
    facts = json.loads((shared / "golden" / "sinsr_pipeline.json").read_text())
    tensors = load_file(shared / "golden" / "sinsr_pipeline.safetensors")
    (unet, autoencoder), process = networks, ResidualShift.v1()
    expected = {
        key.split(".")[-1]: value
        for key, value in tensors.items()
        if key.startswith(f"outputs.{case}.")
    }
    assert set(expected) >= {"unet_input", "z0", "indices", "sr"}
    lr, noise = tensors[f"inputs.{case}.lr"], tensors[f"inputs.{case}.noise"]
    height, width = lr.shape[-2:]
    seen = {}

    def denoise(x, t):
        assert t.tolist() == [facts["config"]["timestep"]]
        seen["unet_input"] = x
        return unet(x, t, padded)

    with torch.no_grad():
        padded = F.pad(lr, (0, -width % 64, 0, -height % 64), mode="reflect")
        seen["z_y"] = autoencoder.encode(upsample(padded))
        seen["z0"] = process.one_step(denoise, seen["z_y"], noise)
        assert torch.equal(autoencoder.quantize.indices(seen["z0"]), expected["indices"])
        seen["sr"] = autoencoder.decode(seen["z0"])[..., : 4 * height, : 4 * width].clamp(-1, 1)
    for key, found in seen.items():
        if key in expected:  # z_y is stored for one case only
            check(facts, found, expected[key], key)
    assert (case == "a") == ("z_y" in expected)


def test_published_totals_of_the_whole_pipeline():
    with torch.device("meta"):
        unet, autoencoder = SwinUNet(), VQAutoencoder()
    parts = {
        "encoder": nn.Sequential(autoencoder.encoder, autoencoder.quant_conv),
        "decoder": nn.Sequential(
            autoencoder.quantize, autoencoder.post_quant_conv, autoencoder.decoder
        ),
    }
    image, latent = torch.empty(1, 3, 256, 256), torch.empty(1, 3, 64, 64)
    around = sum(
        measure_module(parts[name], x, name=name).macs_full
        for name, x in (("encoder", image), ("decoder", latent))
    )
    step = measure_module(
        unet, latent, torch.zeros(1, dtype=torch.int64), latent, name="denoiser"
    ).macs_full
    assert (around + step, around + 15 * step) == (
        558_671_630_336,
        1_267_934_736_384,
    )  # 558.7 and 1267.9 G
    assert sum(p.numel() for net in (unet, autoencoder) for p in net.parameters()) == 173_916_365
