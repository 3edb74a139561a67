"""Score distillation on latents.

A diffusion model compares noised latents and gives the gradient that improves them. Latents are
scaled ones [B, C, h, w], timesteps integers [B]. Models are callables that predict epsilon.
`fixed(z_t, t, negative)` is the pretrained model under its positive or negative prompt.
`learned(z_t, t)` follows the distribution of the student's latents. Every loss is a scalar. With a
`generator` its timesteps and noise are a function of the seed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import nn

from compress.core.errors import UserError
from compress.networks.osediff_file import LORA_ALPHA
from compress.training.lora import ADAPTER, AdaptedUNet, add_lora, check_prompt, takes_prompt

Fixed = Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]
Learned = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Steps = tuple[int, int]  # the first and the last timestep

GUIDANCE = 7.5  # the weight of the prompt, OSEDiff's
VSD_STEPS = (20, 979)  # OSEDiff's; the noisiest and the cleanest tell little
ALL_STEPS = (0, 999)


def diffuse(
    latent: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    steps: Steps,
    generator: torch.Generator | None = None,
    timesteps: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Add noise to latents: z_t = sqrt(abar_t) * z + sqrt(1 - abar_t) * eps.

    Args:
        latent: z, [B, C, h, w].
        alphas_cumprod: abar of every timestep.
        steps: t is drawn evenly from this range, both ends included, for each sample.
        generator: Draws on its own device; None draws on the latent's.
        timesteps: t, int64 [B], if they are not drawn.

    Returns:
        z_t, t [B], eps and abar_t [B, 1, 1, 1], in float32 or better.
    """
    latent = latent.to(torch.promote_types(latent.dtype, torch.float32))
    device = latent.device if generator is None else generator.device
    if timesteps is None:
        timesteps = draw_steps(latent.shape[0], steps, generator, device)
    timesteps = timesteps.to(latent.device)
    noise = torch.randn(latent.shape, generator=generator, device=device, dtype=latent.dtype).to(
        latent.device
    )
    alpha_bar = alphas_cumprod.to(latent)[timesteps].view(-1, 1, 1, 1)
    return _mix(latent, noise, alpha_bar), timesteps, noise, alpha_bar


def draw_steps(
    count: int,
    steps: Steps,
    generator: torch.Generator | None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Timesteps, int64 [count], drawn evenly from a range with both ends."""
    first, last = steps
    return torch.randint(first, last + 1, (count,), generator=generator, device=device)


def _mix(latent: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    return alpha_bar.sqrt() * latent + (1 - alpha_bar).sqrt() * noise


def _guided(
    fixed: Fixed, noisy: torch.Tensor, timesteps: torch.Tensor, guidance: float
) -> torch.Tensor:
    """Classifier-free guidance with the negative prompt in place of the empty one.

    A `guidance` of 1 is the positive prompt alone.
    """
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
    guidance: float = GUIDANCE,
    steps: Steps = VSD_STEPS,
) -> torch.Tensor:
    """Variational score distillation (arXiv 2406.08177, OSEDiff's `distribution_matching_loss`).

    g = (x0_learned - x0_fixed) / mean|z - x0_fixed|, the mean over each sample. x0 is the clean
    latent of an epsilon prediction; only `fixed` is guided. The loss mean((z - sg(z - g))^2) has
    the gradient 2 g / numel, sg being the stop of gradients.

    Args:
        latent: The student's clean latents z.
        fixed: The pretrained model.
        learned: The model that follows the student's latents.
        alphas_cumprod: abar of every timestep.
        generator: For timesteps and noise.
        guidance: The weight of the positive prompt.
        steps: The range of timesteps.
    """
    with torch.no_grad():
        noisy, timesteps, _, alpha_bar = diffuse(latent, alphas_cumprod, steps, generator)
        signal = alpha_bar.sqrt()
        noise = (1 - alpha_bar).sqrt()
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
    steps: Steps = ALL_STEPS,
) -> torch.Tensor:
    """What `learned` minimises: its mean squared error in epsilon on the student's latents.

    The latents get no gradient. Arguments are those of `vsd`.
    """
    noisy, timesteps, noise, _ = diffuse(latent.detach(), alphas_cumprod, steps, generator)
    return F.mse_loss(learned(noisy, timesteps).to(noise), noise)


def target_score_matching(
    latent: torch.Tensor,
    target: torch.Tensor,
    fixed: Fixed,
    alphas_cumprod: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    guidance: float = GUIDANCE,
    steps: Steps = VSD_STEPS,
) -> torch.Tensor:
    """TSD-SR's target score matching (arXiv 2411.18263).

    It compares the student's latent z_hat and the true latent z under one noise.
    g = w(t) * (eps_fixed(z_hat_t) - eps_fixed(z_t)) is the paper's gradient with respect to z_hat.
    w(t) = 1 - abar_t, for which the released code, a flow model, has sigma_t^2. The loss
    0.5 * mean((z_hat - sg(z_hat - g))^2), as there, has the gradient g / numel. There the timesteps
    are 50 to 949 of SD 3's, and g may be summed over a short trajectory (DASM), which is not done
    here.

    Args:
        latent: The student's, z_hat.
        target: The true one, z, of the same shape.
        fixed: The pretrained model.
        alphas_cumprod: abar of every timestep.
        generator: For timesteps and noise.
        guidance: The weight of the positive prompt.
        steps: The range of timesteps.
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

    Called as a module it is `learned`, for what wraps a forward.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        context: torch.Tensor | None,
        negative_context: torch.Tensor,
        rank: int = 4,
        alpha: float = LORA_ALPHA,
    ):
        """Copy the UNet of a pretrained diffusion model.

        Args:
            denoiser: Must be good at every timestep (SD 2.1-base in OSEDiff), so not the one-step
                model made from it.
            context: The prompt [1, tokens, dim]; None means the denoiser's own.
            negative_context: The negative prompt, of the same shape.
            rank: Of the LoRA.
            alpha: Of the LoRA; it counts alpha / rank.

        Raises:
            UserError: The UNet is stripped of its prompt or its timestep.
        """
        super().__init__(denoiser, context, any_timestep=True)
        if not takes_prompt(self.unet):
            raise UserError(
                "ScorePair: the UNet's prompt is folded into constants, but a negative one is "
                "needed; build it from the source model, before the strip pass"
            )
        check_prompt(self.unet, negative_context, "ScorePair")
        self.register_buffer(
            "negative_context", negative_context.detach().clone(), persistent=False
        )
        self.negative_context: torch.Tensor
        add_lora(self.unet, rank, alpha)
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
        """What the pretrained model predicts, under its positive or its negative prompt."""
        context = self.negative_context if negative else self.denoiser.context
        with self._without_lora():
            return self.predict(noisy, timesteps, context)

    def learned(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the copy with LoRA predicts, under the positive prompt."""
        return self.predict(noisy, timesteps, self.denoiser.context)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The same as `learned`."""
        return self.learned(noisy, timesteps)
