"""Training steps of the authors through control networks: losses and gradients.

They are computed in float64: the smallest gradients are known to four digits in float32.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from support.golden import Golden
from support.ldm_golden import ldm_networks

from compress.networks.control import AddedControl, ControlledDenoiser, control_parts
from compress.networks.ldm_checkpoint import CONTROL, PREPROCESSOR
from compress.networks.ldm_names import unet_names
from compress.networks.rrdbnet import RRDBConfig, RRDBNet
from compress.process.one_step import alphas_cumprod

# One of DoSSR's gradients differs by 1.6e-4 between float32 and float64 here.
OF_FLOAT32 = 3e-4
LAST, TAU = 999, 667  # timesteps of CCSR: the first call and the one after the jump


def signal_and_noise(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    table = alphas_cumprod()[t].view(-1, 1, 1, 1)
    return table.sqrt(), (1 - table).sqrt()


def double(golden: Golden) -> dict[str, torch.Tensor]:
    """The inputs, floating point in float64."""
    found = golden.under("inputs.")
    return {n: t.double() if t.is_floating_point() else t for n, t in found.items()}


class Steps:
    """What a training calls: a prediction of noise, and clean latents of it.

    Args:
        control: Learns.
        denoiser: Is frozen.
        condition: The condition latent.
        context: The text.
        locked: Whether the UNet's encoder runs without gradient.
    """

    def __init__(self, control: Any, denoiser: Any, condition: Any, context: Any, locked: bool):
        self.control = control.double().requires_grad_(True)
        self.denoiser = denoiser.double().requires_grad_(False)
        self.condition, self.context, self.locked = condition, context, locked

    def eps(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        residuals = self.control(x, self.condition, self.context, t)
        seen = x.detach() if self.locked else x
        return self.denoiser(seen, self.context, *residuals, t)

    def clean(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, noise = signal_and_noise(t)
        return (x - noise * self.eps(x, t)) / signal


def noised(clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    signal, strength = signal_and_noise(t)
    return signal * clean + strength * noise


def check_gradients(
    golden: Golden, loss: torch.Tensor, control: Any, prefix: str, names: dict[str, str]
) -> None:
    """Within 8 times the golden's own rounding, if it is known.

    Args:
        golden: Has the gradients.
        loss: Of the step.
        control: The network.
        prefix: Of their names.
        names: From the golden's names to the network's.
    """
    parameters = dict(control.named_parameters())
    wanted = list(golden.under(f"outputs.{prefix}"))
    assert wanted
    gradients = torch.autograd.grad(loss, [parameters[names[name]] for name in wanted])
    for name, found in zip(wanted, gradients, strict=True):
        expected = golden[f"outputs.{prefix}{name}"]
        floors = golden.facts.get("rounding_floor")
        limit = OF_FLOAT32
        if floors is not None:
            limit = max(8 * floors[f"outputs.{prefix}{name}"]["rel_l2"], 1e-6)
        assert (found - expected).norm() / expected.norm() <= limit, name


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "golden"


@pytest.mark.parametrize("start", ["gt", "lr"])
def test_stage_one_of_ccsr_v2(folder, start):
    golden = Golden(folder, "ccsr_v2_losses")
    networks, unets = Golden(folder, "ccsr_v2"), Golden(folder, "invsr_pipeline")
    config = networks.facts["config"]["controlnet"]
    control = AddedControl(control_parts(config, config["in_channels"]), LAST)
    control.load_state_dict(networks.weights())
    unet = UNet2DConditionModel(**unets.facts["config"]["unet"])
    unet.load_state_dict(unets.weights("unet."))
    given = double(golden)
    latent, condition = given["latent"], given["cond_latent"]
    steps = Steps(
        control,
        ControlledDenoiser(unet, LAST),
        condition,
        given["prompt_embeds"],
        locked=False,
    )
    t, last, tau = given["t"], torch.tensor([LAST]), torch.tensor([TAU])
    noise = given["noise_t"]
    of_noise = F.mse_loss(steps.eps(noised(latent, noise, t), t), noise)
    begin = latent if start == "gt" else condition
    first = steps.clean(noised(begin, given["noise_T"], last), last)
    second = steps.clean(noised(first, given["noise_tau"], tau), tau)
    golden.check(first.detach(), f"{start}.x0_T")
    golden.check(second.detach(), f"{start}.x0_tmax")
    terms = {
        "loss_ori": of_noise,
        "loss_x0": F.mse_loss(first, latent),
        "loss_x0_from_tao": F.mse_loss(second, latent),
    }
    terms["loss"] = sum(terms.values())
    for name, term in terms.items():
        golden.check(term.detach().view(1), f"{start}.{name}")
    names = {name: name for name in control.state_dict()}
    check_gradients(golden, terms["loss"], control, f"{start}.grad.", names)


def ldm_steps(networks: Any, condition: torch.Tensor, context: Any) -> tuple[Steps, dict]:
    """The steps, and the names of the control network's tensors in the golden."""
    steps = Steps(networks.control, networks.denoiser, condition, context, locked=True)
    names = {f"{CONTROL}{file}": own for own, file in unet_names(networks.control).items()}
    return steps, names


def test_stage_one_of_ccsr_v1(folder):
    golden, weights = Golden(folder, "ccsr_v1_losses"), Golden(folder, "ccsr_v1")
    config = weights.facts["config"]
    networks = ldm_networks(weights, config["network"], config["autoencoder"])
    given = double(golden)
    steps, names = ldm_steps(networks, given["hint"], given["context"])
    latent, t, noise = given["latent"], given["t"], given["noise_t"]
    of_noise = F.mse_loss(steps.eps(noised(latent, noise, t), t), noise)
    golden.check(of_noise.detach().view(1), "opt0.loss")
    check_gradients(golden, of_noise, networks.control, "opt0.grad.", names)

    last, tau = torch.tensor([LAST]), torch.tensor([TAU])
    first = steps.clean(noised(latent, given["noise_T"], last), last)
    noise = given["noise_tau"]
    state = noised(first, noise, tau)
    eps = steps.eps(state, tau)
    signal, strength = signal_and_noise(tau)
    terms = {
        "loss_x0": F.mse_loss(first, latent),
        "loss_x0_from_tao": F.mse_loss((state - strength * eps) / signal, latent),
        "loss_noise_from_tao": F.mse_loss(eps, noise),
    }
    for name, term in terms.items():
        golden.check(term.detach().view(1), f"opt1.{name}")
    loss = sum(terms.values())
    golden.check(loss.detach().view(1), "opt1.loss")
    check_gradients(golden, loss, networks.control, "opt1.grad.", names)


def test_a_step_of_dossr(folder):
    golden, weights = Golden(folder, "dossr_training"), Golden(folder, "dossr_pipeline")
    config = weights.facts["config"]
    given = double(golden)
    networks = ldm_networks(
        weights, config["unet_config"]["params"], config["first_stage_config"]["params"]["ddconfig"]
    )
    sizes = config["preprocess_config"]["params"]
    preprocessor = RRDBNet(
        RRDBConfig(sizes["num_feat"], sizes["num_block"], sizes["num_grow_ch"])
    ).double()
    preprocessor.load_state_dict(weights.weights(PREPROCESSOR))
    encoder = networks.encoder.double()
    with torch.no_grad():
        small = F.interpolate(given["hint"].permute(0, 3, 1, 2), scale_factor=0.25, mode="bicubic")
        condition = encoder.encode(2 * preprocessor.unclamped(small) - 1)
    golden.check(condition, "z_lr")
    steps, names = ldm_steps(networks, condition, given["context"])
    clean, t = golden["outputs.z0"].double(), given["t"]
    # The mean goes from the HR latent to the LR latent on the way to step 499 (`dossr_schedule`).
    along = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    shift = torch.ones(1000, dtype=torch.float64)
    shift[:500] = (1 - torch.cos(torch.pi * along)) / 2
    eta = shift[t].view(-1, 1, 1, 1)
    state = noised(eta * condition + (1 - eta) * clean, given["noise"], t)
    golden.check(state, "x_t")
    found = steps.clean(state, t)
    golden.check(found.detach(), "pred_x0")
    loss = F.l1_loss(found, clean)
    golden.check(loss.detach().view(1), "loss")
    check_gradients(golden, loss, networks.control, "grad.", names)
