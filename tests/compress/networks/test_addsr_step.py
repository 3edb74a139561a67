"""AddSR's networks together: a training step of the authors, its predictions, losses, gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from support.addsr_golden import addsr_networks
from support.golden import Golden

from compress.networks.image_prompt import prompted_names
from compress.networks.latent_diffusion import VAEDecoder, VAEEncoder
from compress.networks.token_judge import TokenJudge
from compress.training.adversarial import HINGE
from compress.training.controlled import noised
from compress.training.timestep_adaptive import (
    STATES,
    Prompted,
    adaptive,
    distances,
    lower,
    signals,
)

LOSSES, GRADIENTS = 1e-4, 1e-3  # the golden's relative tolerances


class Step:
    """One case of the golden.

    Args:
        folder: The folder of goldens.
        case: Its letter: `a` has two passes of the student, `b` one.
    """

    def __init__(self, folder: Any, case: str):
        pipeline = Golden(folder, "addsr_pipeline")
        self.golden, self.case = Golden(folder, "addsr_training"), case
        self.given = self.golden.under(f"inputs.{case}.")
        self.networks = addsr_networks(pipeline)
        vae = AutoencoderKL(**pipeline.facts["config"]["vae"]).eval().requires_grad_(False)
        vae.load_state_dict(pipeline.weights("vae."))
        self.encoder, self.decoder = VAEEncoder(vae), VAEDecoder(vae)

        networks = self.networks
        self.steps = Prompted(networks["control"], networks["denoiser"], self.given["text"])

    def clean(
        self, latent: torch.Tensor, t: torch.Tensor, image: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        return self.steps.clean(noised(latent, self.given["noise"], t), t, image, tokens)

    def image(self, latent: torch.Tensor) -> torch.Tensor:
        return (2 * self.decoder(latent) - 1).clamp(-1, 1)

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """Tokens of an image of the data set."""
        return self.networks["tokens"].refined(image, clamp=True)

    def student(self, latent: torch.Tensor) -> torch.Tensor:
        """The last prediction; its condition is the LR image, or what a first pass made of it."""
        lr, t = self.given["lr"], self.given["timesteps_stu"]
        if "x0_first" not in self.golden.under(f"outputs.{self.case}."):
            return self.clean(latent, t, lr, self.seen(lr))
        with torch.no_grad():
            first = self.image(self.clean(latent, t, lr, self.seen(lr)))
        self.golden.check(first, f"{self.case}.x0_first")
        second = self.golden[f"outputs.{self.case}.timesteps_second"]
        assert torch.equal(lower(t), second)
        tokens = self.networks["tokens"].refined(first)
        return self.clean(latent, second, first, tokens)

    def teacher(self, latent: torch.Tensor) -> torch.Tensor:
        """Its predictions [4, B, C, h, w]."""
        hr = self.given["hr"] / 2 + 0.5
        tokens = self.seen(hr)
        steps = self.given["timesteps_tea"].chunk(STATES)
        return torch.stack([self.clean(latent, t, hr, tokens) for t in steps])

    def judge(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Images in [-1, 1] -> logits [B, N], by two projections that stand for a transformer."""
        config = self.golden.facts["config"]["disc"]
        weights = self.golden.weights("dis.")
        judge = TokenJudge(config["channels"], config["c_dim"], config["hooks"])
        judge.load_state_dict({n: t for n, t in weights.items() if n.startswith("heads.")})

        def logits(image: torch.Tensor) -> torch.Tensor:
            layers = []
            for i in range(config["hooks"]):
                projection, bias = weights[f"proj.{i}.weight"], weights[f"proj.{i}.bias"]
                layers.append(F.conv2d(image / 2 + 0.5, projection, bias, stride=8).flatten(2))
            return torch.cat(judge(layers, self.given["cls_lr"]), dim=1)

        return logits

    def close(self, found: torch.Tensor, name: str, limit: float = LOSSES) -> None:
        expected = self.golden[f"outputs.{self.case}.{name}"]
        assert (found.detach() - expected).norm() <= limit * expected.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a", "b"])
def test_a_step_is_the_authors(shared, case):
    step = Step(shared / "golden", case)
    networks = {"unet": step.networks["denoiser"].unet, "controlnet": step.networks["control"]}
    parameters = {}
    for prefix, network in networks.items():
        network.requires_grad_(True)
        own = dict(network.named_parameters())
        names = prompted_names(network)
        parameters |= {f"{prefix}.{names[name]}": tensor for name, tensor in own.items()}
    latent = step.encoder.encode(step.given["hr"], step.given["noise_posterior"])
    step.golden.check(latent, f"{case}.latents")
    student = step.student(latent)
    step.golden.check(student.detach(), f"{case}.z0_stu")
    image = step.image(student)
    step.golden.check(image.detach(), f"{case}.x0_stu")
    with torch.no_grad():
        teacher = step.teacher(student)
        step.golden.check(teacher, f"{case}.z0_tea")
        targets = torch.stack([step.image(z) for z in teacher])
    given = step.golden.under(f"inputs.{case}.")
    signal = signals(given["timesteps_tea"].view(STATES, -1))[:, :, None, None, None]
    factors = adaptive(given["t_TA"])
    assert factors.tolist() == pytest.approx(step.golden.facts["cases"][case]["TA_weights"])
    found = distances(image, targets, signal, factors)
    step.close(found[0].view(1), "dis_loss1")
    step.close(found[1].view(1), "dis_loss2")
    logits = step.judge()  # each call is a step of its spectral norms, in the authors' order
    of_real, of_fake = logits(step.given["hr"]), logits(image.detach())
    step.close(F.relu(1 - of_real).mean().view(1), "loss_real")
    step.close(F.relu(1 + of_fake).mean().view(1), "loss_fake")
    adversarial = HINGE.generator(logits(image), of_real)
    step.close(adversarial.view(1), "gan_loss")
    loss = found.mean() + step.golden.facts["config"]["gan_weight"] * adversarial
    step.close(loss.view(1), "loss")
    names = list(step.golden.under(f"outputs.{case}.grad."))
    gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        step.close(gradient, f"grad.{name}", GRADIENTS)
