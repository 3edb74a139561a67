"""Score distillation on latents: a diffusion model compares noised latents and gives the gradient that improves them.

Latents are scaled ones [B, C, h, w], timesteps integers [B]. Models are callables that predict epsilon:
`fixed(z_t, t, negative)`, the pretrained model under its positive or negative prompt, and `learned(z_t, t)`, which
follows the distribution of the student's latents. Every loss is a scalar; with a `generator` its timesteps and
noise are a function of the seed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer

from compress.core.errors import UserError
from compress.networks.latent_diffusion import UNetDenoiser
from compress.training.lora import ADAPTER, AdaptedUNet, add_lora, check_prompt, takes_prompt

Fixed = Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]
Learned = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Steps = tuple[int, int]


def diffuse(
    latent: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    steps: Steps,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """z_t = sqrt(abar_t) * z + sqrt(1 - abar_t) * eps with t uniform over the inclusive range, one a sample.

    Returns z_t, t [B], eps and abar_t [B, 1, 1, 1], in float32 or better. Draws on the generator's device.
    """
    latent = latent.to(torch.promote_types(latent.dtype, torch.float32))
    where = latent.device if generator is None else generator.device
    timesteps = torch.randint(
        steps[0], steps[1] + 1, latent.shape[:1], generator=generator, device=where
    )
    noise = torch.randn(latent.shape, generator=generator, device=where, dtype=latent.dtype)
    timesteps, noise = timesteps.to(latent.device), noise.to(latent.device)
    alpha_bar = alphas_cumprod.to(latent)[timesteps].view(-1, 1, 1, 1)
    return _mix(latent, noise, alpha_bar), timesteps, noise, alpha_bar


def _mix(latent: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    return alpha_bar.sqrt() * latent + (1 - alpha_bar).sqrt() * noise


def _guided(
    fixed: Fixed, noisy: torch.Tensor, timesteps: torch.Tensor, guidance: float
) -> torch.Tensor:
    """Classifier-free guidance with the negative prompt in place of the empty one; at 1 the positive prompt alone."""
    positive = fixed(noisy, timesteps, False)
    if guidance == 1:
        return positive
    negative = fixed(noisy, timesteps, True)
    return negative + guidance * (positive - negative)


def vsd(
    latent: torch.Tensor,
    fixed: Fixed,
    learned: Learned,
    alphas_cumprod: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    guidance: float = 7.5,
    steps: Steps = (20, 979),
) -> torch.Tensor:
    """Variational score distillation as OSEDiff trains it (arXiv 2406.08177, `distribution_matching_loss`).

    g = (x0_learned - x0_fixed) / mean|z - x0_fixed|, the mean over each sample, where x0 is the clean latent of an
    epsilon prediction and only `fixed` is guided. The loss mean((z - sg(z - g))^2) has the gradient 2 g / numel.
    """
    with torch.no_grad():
        noisy, timesteps, _, alpha_bar = diffuse(latent, alphas_cumprod, steps, generator)
        signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        clean_learned = (noisy - noise * learned(noisy, timesteps)) / signal
        clean_fixed = (noisy - noise * _guided(fixed, noisy, timesteps, guidance)) / signal
        distance = (latent - clean_fixed).abs().mean(dim=(1, 2, 3), keepdim=True)
        target = latent - (clean_learned - clean_fixed) / distance
    return F.mse_loss(latent.to(target), target)


def regulariser_loss(
    latent: torch.Tensor,
    learned: Learned,
    alphas_cumprod: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    steps: Steps = (0, 999),
) -> torch.Tensor:
    """What `learned` trains on: its mean squared error in epsilon on the student's latents, which get no gradient."""
    noisy, timesteps, noise, _ = diffuse(latent.detach(), alphas_cumprod, steps, generator)
    return F.mse_loss(learned(noisy, timesteps).to(noise), noise)


def target_score_matching(
    latent: torch.Tensor,
    target: torch.Tensor,
    fixed: Fixed,
    alphas_cumprod: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    guidance: float = 7.5,
    steps: Steps = (20, 979),
) -> torch.Tensor:
    """TSD-SR's target score matching (arXiv 2411.18263): the student's and the true latent under one noise.

    g = w(t) * (eps_fixed(z_hat_t) - eps_fixed(z_t)), the paper's gradient with respect to z_hat; `target` is z.
    w(t) = 1 - abar_t, for which the released code, a flow model, has sigma_t^2. The loss 0.5 * mean((z_hat -
    sg(z_hat - g))^2), as there, has the gradient g / numel. There the timesteps are 50 to 949 of SD 3's, and g may
    be summed over a short trajectory (DASM), which is not done here.
    """
    with torch.no_grad():
        noisy, timesteps, noise, alpha_bar = diffuse(latent, alphas_cumprod, steps, generator)
        noisy_target = _mix(target.to(noisy), noise, alpha_bar)
        gradient = (1 - alpha_bar) * (
            _guided(fixed, noisy, timesteps, guidance)
            - _guided(fixed, noisy_target, timesteps, guidance)
        )
        moved = latent - gradient
    return 0.5 * F.mse_loss(latent.to(moved), moved)


class ScorePair(AdaptedUNet):
    """`fixed` and `learned` from one UNet: its frozen weights, without and with LoRA.

    `denoiser` must be the pretrained diffusion model, good at every timestep (SD 2.1-base in OSEDiff), not the
    one-step model made from it. `context` None means the denoiser's own. Raises UserError for a stripped UNet.
    Called as a module it is `learned`, for what wraps a forward.
    """

    def __init__(
        self,
        denoiser: UNetDenoiser,
        context: torch.Tensor | None,
        negative_context: torch.Tensor,
        rank: int = 4,
    ):
        super().__init__(denoiser, context, any_timestep=True)
        if not takes_prompt(self.unet):
            raise UserError(
                "ScorePair: the UNet's prompt is folded into constants, but a negative one is needed; "
                "build it from the source model, before the strip pass"
            )
        check_prompt(self.unet, negative_context, "ScorePair")
        self.register_buffer(
            "negative_context", negative_context.detach().clone(), persistent=False
        )
        add_lora(self.unet, rank)
        self.requires_grad_(True)

    @contextmanager
    def _without_lora(self) -> Iterator[None]:
        # A scale of 0, because peft's own switch would also switch requires_grad, and back to True.
        layers = [m for m in self.unet.modules() if isinstance(m, LoraLayer)]
        try:
            for layer in layers:
                layer.set_scale(ADAPTER, 0.0)
            yield
        finally:
            for layer in layers:
                layer.set_scale(ADAPTER, 1.0)

    @torch.no_grad()
    def fixed(self, noisy: torch.Tensor, timesteps: torch.Tensor, negative: bool) -> torch.Tensor:
        with self._without_lora():
            return self.predict(
                noisy, timesteps, self.negative_context if negative else self.denoiser.context
            )

    def learned(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.predict(noisy, timesteps, self.denoiser.context)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.learned(noisy, timesteps)
