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
from torch import nn

from compress.networks.control import AddedControl, ControlledDenoiser, control_parts
from compress.networks.ldm_checkpoint import CONTROL, PREPROCESSOR
from compress.networks.ldm_names import unet_names
from compress.networks.rrdbnet import RRDBConfig, RRDBNet
from compress.process.epsilon_chains import LAST
from compress.training.acceleration import accelerator
from compress.training.adversarial import HINGE, Judged
from compress.training.controlled import Draws, Steps, noised, shifted, truncated_terms
from compress.training.session import Adversary, Learning, Result, Session

# One of DoSSR's gradients differs by 1.6e-4 between float32 and float64 here.
OF_FLOAT32 = 3e-4
V2_NAMES = {"noise": "loss_ori", "first": "loss_x0", "jump": "loss_x0_from_tao"}
V1_NAMES = {
    "first": "loss_x0",
    "jump": "loss_x0_from_tao",
    "jump_noise": "loss_noise_from_tao",
}


def double(golden: Golden) -> dict[str, torch.Tensor]:
    """The inputs, floating point in float64."""
    found = golden.under("inputs.")
    return {n: t.double() if t.is_floating_point() else t for n, t in found.items()}


def steps_of(control: Any, denoiser: Any, condition: Any, context: Any, locked: bool) -> Steps:
    """What a training calls, in float64; the control network learns."""
    control.double().requires_grad_(True)
    return Steps(
        control, denoiser.double().requires_grad_(False), condition, context, locked=locked
    )


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
        check_tightly(golden, found, f"{prefix}{name}")


def check_tightly(golden: Golden, found: torch.Tensor, name: str) -> None:
    """Assert that a tensor is the output of that name, within 8 times its rounding, if known."""
    expected = golden[f"outputs.{name}"]
    floors = golden.facts.get("rounding_floor")
    limit = OF_FLOAT32
    if floors is not None:
        limit = max(8 * floors[f"outputs.{name}"]["rel_l2"], 1e-6)
    assert found.shape == expected.shape, name
    assert (found - expected).norm() / expected.norm() <= limit, name


def draws_of(given: dict[str, torch.Tensor]) -> Draws:
    """What a golden of CCSR drew."""
    return Draws(given["t"], given["noise_t"], given["noise_T"], given["noise_tau"])


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
    denoiser, text = ControlledDenoiser(unet, LAST), given["prompt_embeds"]
    steps = steps_of(control, denoiser, condition, text, locked=False)
    begin = latent if start == "gt" else condition
    last = torch.tensor([LAST])
    first = steps.clean(noised(begin, given["noise_T"], last), last)
    golden.check(first.detach(), f"{start}.x0_T")
    wanted = {"noise": 1.0, "first": 1.0, "jump": 1.0}
    terms = truncated_terms(steps, latent, begin, draws_of(given), wanted)
    assert terms.keys() == wanted.keys()
    loss = sum(terms.values())
    terms = {V2_NAMES[name]: term for name, term in terms.items()} | {"loss": loss}
    for name, term in terms.items():
        golden.check(term.detach().view(1), f"{start}.{name}")
    names = {name: name for name in control.state_dict()}
    check_gradients(golden, loss, control, f"{start}.grad.", names)


def ldm_steps(networks: Any, condition: torch.Tensor, context: Any) -> tuple[Steps, dict]:
    """The steps, and the names of the control network's tensors in the golden."""
    steps = steps_of(networks.control, networks.denoiser, condition, context, locked=True)
    names = {f"{CONTROL}{file}": own for own, file in unet_names(networks.control).items()}
    return steps, names


def test_stage_one_of_ccsr_v1(folder):
    golden, weights = Golden(folder, "ccsr_v1_losses"), Golden(folder, "ccsr_v1")
    config = weights.facts["config"]
    networks = ldm_networks(weights, config["network"], config["autoencoder"])
    given = double(golden)
    steps, names = ldm_steps(networks, given["hint"], given["context"])
    latent, draws = given["latent"], draws_of(given)
    of_noise = truncated_terms(steps, latent, latent, draws, {"noise": 1.0})["noise"]
    golden.check(of_noise.detach().view(1), "opt0.loss")
    check_gradients(golden, of_noise, networks.control, "opt0.grad.", names)

    wanted = {"first": 1.0, "jump": 1.0, "jump_noise": 1.0}
    terms = truncated_terms(steps, latent, latent, draws, wanted)
    assert terms.keys() == wanted.keys()
    for name, term in terms.items():
        golden.check(term.detach().view(1), f"opt1.{V1_NAMES[name]}")
    loss = sum(terms.values())
    golden.check(loss.detach().view(1), "opt1.loss")
    check_gradients(golden, loss, networks.control, "opt1.grad.", names)


def test_stage_two_of_ccsr_v1(folder):
    golden, weights = Golden(folder, "ccsr_v1_losses"), Golden(folder, "ccsr_v1")
    config, facts = weights.facts["config"], golden.facts["config"]
    given = double(golden)
    decoder = ldm_networks(weights, config["network"], config["autoencoder"]).decoder.double()
    weight = decoder.decoder.conv_out.weight.requires_grad_(True)
    judge = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 1, 1))
    judge.double().load_state_dict(golden.under("inputs.disc.main."))
    factors = {"l1": 1.0, "lpips": facts["perceptual_weight"], "gan": facts["disc_weight"]}
    learning = Session(
        accelerator("fp32", torch.device("cpu")),
        decoder,
        [weight],
        factors,
        Learning(lr=0.0, ema=0.0),
    )
    seen = Adversary(HINGE, after=facts["disc_start"], balanced=weight)
    learning.add_critic(list(judge.parameters()), 0.0, judge, seen)

    image, target = 2 * decoder(given["hint"]) - 1, given["gt_image"]
    pooled = (F.avg_pool2d(target, 2) - F.avg_pool2d(image, 2)).abs()
    # The stand-in for LPIPS is one value for each image, the same for all of its pixels. The
    # authors divide the mean by the number of images again.
    terms = {"l1": (target - image).abs().mean(), "lpips": pooled.mean()}
    terms = {name: term / len(target) for name, term in terms.items()}
    result = Result(terms, Judged(target, image))
    made = learning._losses([decoder, judge], result, facts["global_step"])
    counts = learning._gan_counts(terms, -judge(image).mean(), facts["global_step"])
    found = {
        "nll": made["l1"] + made["lpips"],
        "g_loss": made["gan"],
        "d_weight": factors["gan"] * torch.tensor(counts),
        "loss": made["loss"],
        "disc_loss": made["critic"],
        "loss_step0": learning._losses([decoder, judge], result, 0)["loss"],
    }
    for name, value in found.items():
        check_tightly(golden, value.detach().view(1), f"dec.{name}")
    check_tightly(golden, image.detach(), "dec.image")
    [gradient] = torch.autograd.grad(made["loss"], [weight])
    check_tightly(golden, gradient, "dec.grad.conv_out.weight")


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
    state = shifted(clean, condition, given["noise"], t)
    golden.check(state, "x_t")
    found = steps.clean(state, t)
    golden.check(found.detach(), "pred_x0")
    loss = F.l1_loss(found, clean)
    golden.check(loss.detach().view(1), "loss")
    check_gradients(golden, loss, networks.control, "grad.", names)
