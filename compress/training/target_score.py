"""TSD-SR's target score distillation on flow matching (arXiv 2411.18263): VSD, TSM and DASM.

Three networks see the same noised latents: the teacher T, a score network R that follows the
student, and of both the guided velocities. The student's clean latent z0 and that of the photograph
get the same noise. From there a path leads towards the clean latents (DASM): each point moves by
the score network, that of the photograph by the teacher. Summed over its points,

    g = 0.7 sum w s^2 (T(z^) - R(z^)) + 0.3 sum w s^2 (T(z^) - T(z)),      s the noise level,

and the loss 0.5 mean((z0 - sg(z0 - g))^2) has the gradient g / numel.

The authors' program computes that loss without gradient, so that it never reaches their student;
here it does, as the paper has it. Their batch follows the path of its first sample, from noise
levels of each sample's own (`common`); by default here each sample follows its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

# (noisy latents [B, C, h, w], timesteps [B]) -> velocities.
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

STEPS = 1000
SHIFT = 3.0  # of SD 3's schedule
GUIDANCE = 7.5
VSD_SHARE = 0.7  # of the gradient; the rest is TSM's
STRIDE = 50  # places of the schedule between two points of a path
WEIGHTS = (1.0, 0.3, 0.3, 0.3)  # of the points
INDICES = (50, 949)  # the first and the last place from which a path starts
BIASES = (-25, 24)  # added to the end of a path of several points


def noise_levels(steps: int = STEPS, shift: float = SHIFT) -> torch.Tensor:
    """Sigma at each place of the schedule, from 1 downwards, float32 [steps]; timestep / 1000."""
    even = torch.linspace(1, steps, steps, dtype=torch.float32).flip(0) / steps
    return shift * even / (1 + (shift - 1) * even)


def path(index: torch.Tensor, points: int, bias: int = 0) -> torch.Tensor:
    """Places of the schedule that a path visits, and where it ends: int64 [..., points + 1].

    Args:
        index: Where it starts, int64 [...].
        points: How many are visited.
        bias: Added to its end, which is the last place at most.
    """
    end = (index + STRIDE * points + bias).clamp(max=STEPS - 1)
    share = torch.linspace(0, 1, points + 1, dtype=torch.float64, device=index.device)
    # In float64 a place that is met exactly may lie a rounding below.
    places = index[..., None] + (end - index)[..., None] * share + 1e-9
    return places.floor().long()


class Gradient(NamedTuple):
    """What moves the student's latent, [B, C, h, w] each.

    Attributes:
        vsd: Towards where the teacher and the score network differ.
        tsm: Towards where the teacher sees the photograph's latent otherwise.
        total: 0.7 of the first and 0.3 of the second.
    """

    vsd: torch.Tensor
    tsm: torch.Tensor
    total: torch.Tensor


class Point(NamedTuple):
    """One point of a path.

    Attributes:
        timesteps: [B].
        student: The student's noised latent.
        photograph: The photograph's.
    """

    timesteps: torch.Tensor
    student: torch.Tensor
    photograph: torch.Tensor


class Start(NamedTuple):
    """Where a path starts.

    Attributes:
        place: Of the schedule, of each sample, int64 [B].
        noise: Standard normal, of both latents.
        points: How many the path has: 1, or 4 with DASM.
        bias: Of its end.
        common: Whether all follow the first sample's path, as the authors' program.
    """

    place: torch.Tensor
    noise: torch.Tensor
    points: int = 1
    bias: int = 0
    common: bool = False


def noised(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Latents at noise levels [B]."""
    level = sigma.view(-1, 1, 1, 1)
    return level * noise + (1 - level) * clean


@torch.no_grad()
def gradient(
    student: torch.Tensor,
    photograph: torch.Tensor,
    teacher: Velocity,
    score: Velocity,
    start: Start,
    watch: Callable[[Point], None] | None = None,
) -> Gradient:
    """The gradient of target score distillation with respect to the student's clean latent.

    Args:
        student: The student's clean latent, [B, C, h, w].
        photograph: The photograph's, scaled as well.
        teacher: Guided.
        score: Guided.
        start: Where the path starts.
        watch: Told of each point.
    """
    levels = noise_levels().to(student)
    places = path(start.place, start.points, start.bias)
    if start.common:
        places = places[:1].expand_as(places)
    sigmas = levels[places]
    begin = levels[start.place]
    made, real = (noised(clean, start.noise, begin) for clean in (student, photograph))
    vsd, tsm = torch.zeros_like(student), torch.zeros_like(student)
    for step, weight in zip(range(start.points), WEIGHTS, strict=False):
        sigma = sigmas[:, step].view(-1, 1, 1, 1)
        timesteps = STEPS * sigmas[:, step]
        if watch is not None:
            watch(Point(timesteps, made, real))
        on_made, on_real = teacher(made, timesteps), teacher(real, timesteps)
        followed = score(made, timesteps)
        vsd += weight * sigma**2 * (on_made - followed)
        tsm += weight * sigma**2 * (on_made - on_real)
        stride = sigma - sigmas[:, step + 1].view(-1, 1, 1, 1)
        made, real = made - stride * followed, real - stride * on_real
    vsd, tsm = vsd.nan_to_num(), tsm.nan_to_num()
    return Gradient(vsd, tsm, VSD_SHARE * vsd + (1 - VSD_SHARE) * tsm)


def distillation_loss(student: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """The loss whose gradient is `direction` by the number of its elements."""
    moved = (student - direction).detach()
    return 0.5 * F.mse_loss(student, moved)


def guided(positive: Velocity, negative: Velocity, guidance: float = GUIDANCE) -> Velocity:
    """Classifier-free guidance; with a guidance of 1 the positive prompt alone."""
    if guidance == 1:
        return positive

    def velocity(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        away = negative(noisy, timesteps)
        return away + guidance * (positive(noisy, timesteps) - away)

    return velocity


def score_loss(
    student: torch.Tensor,
    score: Velocity,
    index: torch.Tensor,
    noise: torch.Tensor,
    normal: torch.Tensor,
) -> torch.Tensor:
    """What the score network minimises: its error in the student's clean latents.

    Args:
        student: The student's clean latents, which get no gradient.
        score: Not guided.
        index: Places of the schedule, int64 [B].
        noise: Standard normal.
        normal: [B], from N(0, 1); a batch counts 0.5 sigmoid of it, drawn whatever the place.
    """
    clean = student.detach()
    sigma = noise_levels().to(clean)[index]
    noisy = noised(clean, noise, sigma)
    found = noisy - sigma.view(-1, 1, 1, 1) * score(noisy, STEPS * sigma)
    return (0.5 * normal.sigmoid()).mean() * F.mse_loss(found, clean)
