"""Score distillation against values worked by hand with linear stand-ins for the denoisers."""

import pytest
import torch

from compress.core.errors import UserError
from compress.families.osediff import OSEDiffSource
from compress.passes.strip import Strip
from compress.process.one_step import alphas_cumprod
from compress.training.lora import lora_modules
from compress.training.score import ScorePair, diffuse, regulariser_loss, target_score_matching, vsd

LATENT = OSEDiffSource().latent_channels

TABLE = alphas_cumprod()
STEP = 600  # one timestep, so that the draw leaves only the noise


@pytest.fixture(autouse=True)
def seed():
    """LoRA starts from random numbers."""
    torch.manual_seed(0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_of(latent: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """What a loss draws after its timesteps."""
    generator = seeded(seed)
    torch.randint(0, 10, latent.shape[:1], generator=generator)
    return torch.randn(latent.shape, generator=generator, dtype=latent.dtype)


@pytest.fixture
def latents():
    """The student's latent and the true one: [3, 4, 2, 2] in float64."""
    return torch.randn(2, 3, 4, 2, 2, generator=seeded(9), dtype=torch.float64).unbind()


def fixed(noisy, timesteps, negative):
    return 0.2 * noisy if negative else 0.5 * noisy


def learned(noisy, timesteps):
    return 0.3 * noisy


def gradient(loss: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, latent)[0]


def test_diffusion_by_hand():
    latent = torch.randn(2000, 1, 1, 1, dtype=torch.float64)
    noisy, timesteps, noise, abar = diffuse(latent, TABLE, (20, 979), seeded())
    assert timesteps.min() >= 20
    assert timesteps.max() <= 979
    assert noisy.dtype == torch.float64
    assert timesteps.float().mean().item() == pytest.approx(499.5, abs=20)
    assert diffuse(latent, TABLE, (20, 22))[1].unique().tolist() == [20, 21, 22]
    assert torch.equal(abar.flatten(), TABLE[timesteps])
    torch.testing.assert_close(noisy, abar**0.5 * latent + (1 - abar) ** 0.5 * noise)
    assert diffuse(latent.half(), TABLE, (0, 999))[0].dtype == torch.float32


def test_vsd_by_hand(latents):
    latent = latents[0].requires_grad_(True)
    loss = vsd(latent, fixed, learned, TABLE, generator=seeded(), steps=(STEP, STEP))
    abar = TABLE[STEP].item()
    signal, noise = abar**0.5, (1 - abar) ** 0.5
    z_t = signal * latent.detach() + noise * noise_of(latent)
    clean_learned = (1 - noise * 0.3) / signal * z_t
    clean_fixed = (1 - noise * (0.2 + 7.5 * 0.3)) / signal * z_t  # guidance 7.5 between 0.2 and 0.5
    for sample in range(3):
        distance = (latent[sample] - clean_fixed[sample]).abs().sum() / 16
        expected = (clean_learned[sample] - clean_fixed[sample]) / distance
        torch.testing.assert_close(
            gradient(
                vsd(latent, fixed, learned, TABLE, generator=seeded(), steps=(STEP, STEP)), latent
            )[sample],
            2 * expected / 48,
        )
    assert loss.item() == pytest.approx((gradient(loss, latent) * 48 / 2).square().mean().item())


def test_vsd_moves_towards_the_fixed_model():
    # Epsilon models of two Gaussians of small width: x0 is always the centre.
    def model(centre):
        def predict(noisy, timesteps, negative=False):
            abar = TABLE[timesteps].to(noisy).view(-1, 1, 1, 1)
            return (noisy - abar.sqrt() * centre) / (1 - abar).sqrt()

        return predict

    latent = torch.zeros(2, 4, 2, 2, requires_grad=True)
    direction = gradient(vsd(latent, model(1.0), model(0.0), TABLE, generator=seeded()), latent)
    # g = (0 - 1) / |0 - 1| at any timestep: a step against it goes to 1.
    torch.testing.assert_close(
        direction, torch.full_like(direction, -2 / direction.numel()), rtol=1e-3, atol=1e-5
    )
    same = vsd(latent, model(1.0), model(1.0), TABLE, generator=seeded())
    assert same.item() == pytest.approx(0, abs=1e-6)


def test_guidance_of_one_needs_no_negative_prompt(latents):
    def positive_only(noisy, timesteps, negative):
        assert not negative
        return 0.5 * noisy

    once = vsd(latents[0], positive_only, learned, TABLE, generator=seeded(), guidance=1)
    assert once.item() == pytest.approx(
        vsd(latents[0], fixed, learned, TABLE, generator=seeded(), guidance=1 + 1e-12).item()
    )


def test_regulariser_by_hand(latents):
    latent = latents[0].requires_grad_(True)
    factor = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = regulariser_loss(
        latent, lambda z, t: factor * z, TABLE, generator=seeded(), steps=(STEP, STEP)
    )
    abar, noise = TABLE[STEP].item(), noise_of(latent)
    z_t = abar**0.5 * latent.detach() + (1 - abar) ** 0.5 * noise
    assert loss.item() == pytest.approx((0.3 * z_t - noise).square().mean().item())
    loss.backward()
    assert factor.grad.item() == pytest.approx((2 * (0.3 * z_t - noise) * z_t).mean().item())
    assert latent.grad is None
    drawn = []
    regulariser_loss(
        torch.zeros(3000, 4, 1, 1), lambda z, t: drawn.append(t) or z, TABLE, generator=seeded()
    )
    assert drawn[0].min() < 10
    assert drawn[0].max() > 989


@pytest.mark.parametrize(("guidance", "slope"), [(1.0, 0.5), (7.5, 0.2 + 7.5 * 0.3)])
def test_target_score_matching_by_hand(latents, guidance, slope):
    latent, target = latents[0].requires_grad_(True), latents[1]
    loss = target_score_matching(
        latent, target, fixed, TABLE, generator=seeded(), guidance=guidance, steps=(STEP, STEP)
    )
    # One noise for both: with a linear model it cancels.
    abar = TABLE[STEP].item()
    stated = (1 - abar) * slope * abar**0.5 * (latent.detach() - target)
    torch.testing.assert_close(gradient(loss, latent), stated / stated.numel())
    assert loss.item() == pytest.approx(0.5 * stated.square().mean().item())
    assert target_score_matching(target, target, fixed, TABLE).item() == 0


def test_timesteps_differ_within_a_batch_and_are_shared_with_the_target():
    seen = []

    def records(noisy, timesteps, negative):
        seen.append(timesteps)
        return noisy

    latent = torch.randn(8, 4, 2, 2)
    target_score_matching(
        latent, torch.randn_like(latent), records, TABLE, generator=seeded(), guidance=1
    )
    assert torch.equal(seen[0], seen[1])
    assert len(seen[0].unique()) > 4


def test_a_seed_decides(latents):
    latent, target = latents
    for loss in (
        lambda g: vsd(latent, fixed, learned, TABLE, generator=g),
        lambda g: regulariser_loss(latent, learned, TABLE, generator=g),
        lambda g: target_score_matching(latent, target, fixed, TABLE, generator=g),
    ):
        assert loss(seeded(1)).item() == loss(seeded(1)).item() != loss(seeded(2)).item()


def test_half_precision_latents(latents):
    latent = latents[0].half().requires_grad_(True)
    loss = vsd(latent, fixed, learned, TABLE, generator=seeded())
    loss.backward()
    assert loss.dtype == torch.float32
    assert latent.grad.dtype == torch.float16


@pytest.mark.slow
def test_pair_at_sd21():
    context = torch.empty(1, 77, 1024, device="meta")
    pair = ScorePair(OSEDiffSource(size="sd21").build().denoiser, context, context)
    assert sum(p.numel() for p in pair.trainable_parameters()) == 4_055_712
    assert (
        sum(p.requires_grad for p in pair.parameters())
        == len(pair.trainable_parameters())
        == 2 * 258
    )


@pytest.fixture
def pair(random_nano):
    return ScorePair(random_nano.denoiser, None, torch.randn(1, 77, 64, generator=seeded()))


@pytest.mark.slow
@torch.no_grad()
def test_pair_is_the_unet_at_any_timestep_and_prompt(random_nano, pair):
    latent, unet = torch.randn(2, LATENT, 16, 16), random_nano.denoiser.unet
    for timesteps in (torch.tensor([999, 999]), torch.tensor([20, 700])):
        for negative, context in (
            (False, random_nano.denoiser.context),
            (True, pair.negative_context),
        ):
            expected = unet(
                latent, timesteps, encoder_hidden_states=context.expand(2, -1, -1)
            ).sample
            torch.testing.assert_close(pair.fixed(latent, timesteps, negative), expected)
        torch.testing.assert_close(
            pair.learned(latent, timesteps), pair.fixed(latent, timesteps, False)
        )
    torch.testing.assert_close(
        pair.learned(latent, torch.tensor([999, 999])), random_nano.denoiser(latent)
    )
    assert (
        pair.fixed(latent, timesteps, True) - pair.fixed(latent, timesteps, False)
    ).abs().max() > 1e-3


@pytest.mark.slow
def test_only_lora_learns_and_the_fixed_side_stays(random_nano, pair):
    latent, timesteps = torch.randn(2, LATENT, 16, 16), torch.tensor([20, 700])
    before = pair.fixed(latent, timesteps, False)
    frozen = {n: p.clone() for n, p in pair.named_parameters() if not p.requires_grad}
    source = {n: p.clone() for n, p in random_nano.denoiser.named_parameters()}
    optimizer = torch.optim.SGD(pair.trainable_parameters(), lr=1e-3)
    values = []
    for _ in range(4):
        loss = regulariser_loss(latent, pair, TABLE, generator=seeded())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    assert len(pair.trainable_parameters()) == 2 * len(lora_modules(random_nano.denoiser.unet))
    assert all(p.grad.abs().sum() > 0 for p in pair.trainable_parameters())
    assert all(
        torch.equal(p, frozen[n]) and p.grad is None
        for n, p in pair.named_parameters()
        if n in frozen
    )
    assert all(torch.equal(p, source[n]) for n, p in random_nano.denoiser.named_parameters())
    assert torch.equal(pair.fixed(latent, timesteps, False), before)
    assert (pair.learned(latent, timesteps) - before).abs().max() > 1e-3


@pytest.mark.slow
def test_weights_of_sixteen_bits(random_nano):
    pair = ScorePair(
        random_nano.denoiser.bfloat16(), None, torch.zeros(1, 77, 64, dtype=torch.bfloat16)
    )
    latent = torch.randn(1, LATENT, 16, 16, requires_grad=True)
    loss = vsd(latent, pair.fixed, pair.learned, TABLE) + regulariser_loss(latent, pair, TABLE)
    loss.backward()
    assert loss.dtype == torch.float32
    assert latent.grad.isfinite().all()
    assert {p.dtype for p in pair.trainable_parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_distillation_through_a_pair(pair):
    latent = torch.randn(1, LATENT, 16, 16, requires_grad=True)
    assert vsd(latent, pair.fixed, pair.learned, TABLE, guidance=1).item() == pytest.approx(
        0, abs=1e-6
    )
    gradient_vsd = gradient(
        vsd(latent, pair.fixed, pair.learned, TABLE, generator=seeded()), latent
    )
    gradient_tsm = gradient(
        target_score_matching(
            latent, torch.randn_like(latent), pair.fixed, TABLE, generator=seeded()
        ),
        latent,
    )
    assert gradient_vsd.abs().sum() > 0
    assert gradient_tsm.abs().sum() > 0
    assert all(p.grad is None for p in pair.parameters())


def test_switched_off_for_the_student_s_step_it_stays_off(pair):
    pair.requires_grad_(False)
    pair.fixed(torch.randn(1, LATENT, 16, 16), torch.tensor([20]), False)
    assert not any(p.requires_grad for p in pair.parameters())
    assert all(p.requires_grad for p in pair.requires_grad_(True).trainable_parameters())


@pytest.mark.parametrize(
    ("strip", "said"), [({}, "timestep is folded"), ({"timestep": "keep"}, "prompt is folded")]
)
def test_a_stripped_unet_is_refused(random_nano, strip, said):
    Strip(**strip).convert(random_nano)
    with pytest.raises(UserError, match=said):
        ScorePair(random_nano.denoiser, None, torch.zeros(1, 77, 64))


def test_a_prompt_of_another_encoder_is_refused(random_nano):
    with pytest.raises(UserError, match="has 768 features, the UNet takes 64"):
        ScorePair(random_nano.denoiser, None, torch.zeros(1, 77, 768))
