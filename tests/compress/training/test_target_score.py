"""TSD-SR's losses against the authors' lines."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from support.golden import Golden
from support.tsdsr_golden import published, write_release

from compress.networks.mmdit import MMDiT
from compress.networks.osediff_file import merge_lora
from compress.training.target_score import (
    BIASES,
    INDICES,
    STEPS,
    Point,
    Start,
    Velocity,
    distillation_loss,
    gradient,
    guided,
    noise_levels,
    path,
    score_loss,
)

CASES = ("one", "dasm", "dasm_end")


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "tsdsr_losses")


@pytest.fixture(scope="module")
def base(shared) -> Golden:
    return Golden(shared / "golden", "tsdsr_mmdit")


def network(golden: Golden, base: Golden, lora: str) -> MMDiT:
    """The base with a LoRA of the golden, merged."""
    made = SD3Transformer2DModel(**base.facts["config"]["transformer"])
    pairs = {
        name.removeprefix("transformer.").replace(".weight", ".default.weight"): tensor
        for name, tensor in golden.weights(f"{lora}.").items()
    }
    made.load_state_dict(merge_lora(base.weights("transformer."), pairs, 1.0))
    return MMDiT(made).requires_grad_(False)


def velocity(model: MMDiT, context: torch.Tensor, pooled: torch.Tensor) -> Velocity:
    def run(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        count = len(noisy)
        return model(noisy, context.expand(count, -1, -1), pooled.expand(count, -1), timesteps)

    return run


def recorded(run: Velocity, seen: list[torch.Tensor]) -> Velocity:
    """The same, with each velocity kept in `seen`."""

    def watched(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append(run(noisy, timesteps))
        return seen[-1]

    return watched


def both(golden: Golden, model: MMDiT) -> tuple[Velocity, Velocity]:
    """With guidance, and with the prompt alone."""
    prompts = [
        velocity(model, golden[f"inputs.{name}prompt_embeds"], golden[f"inputs.{name}pooled"])
        for name in ("", "null_")
    ]
    return guided(*prompts), prompts[0]


@pytest.fixture(scope="module")
def networks(golden, base) -> tuple[MMDiT, MMDiT]:
    return network(golden, base, "teacher_lora"), network(golden, base, "reg_lora")


def start_of(golden: Golden, case: str, common: bool = True) -> Start:
    facts = golden.facts["config"]["cases"][case]
    points = 4 if facts["use_dasm"] else 1
    bias = int(golden[f"inputs.{case}.random_bias"]) if facts["use_random_bias"] else 0
    index, noise = golden[f"inputs.{case}.index"], golden[f"inputs.{case}.noise"]
    return Start(index, noise, points, bias, common)


def test_the_schedule_is_the_authors(golden):
    levels = noise_levels()
    facts = golden.facts["schedule"]
    assert len(levels) == facts["length"]
    for place, sigma in facts["sigma"].items():
        assert levels[int(place)].item() == pytest.approx(sigma, abs=1e-7)
        assert 1000 * levels[int(place)].item() == pytest.approx(facts["timestep"][place], abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_paths_are_the_authors(golden, case):
    start = start_of(golden, case)
    found = path(start.place[0], start.points, start.bias)
    assert found.tolist() == golden[f"outputs.{case}.path_index"].tolist()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_the_students_latent_is_the_authors(golden, base, shared, tmp_path, case):
    pipeline = Golden(shared / "golden", "tsdsr_pipeline")
    student = published(write_release(tmp_path / "files", base, pipeline), base, pipeline)
    noise = golden[f"inputs.{case}.posterior_noise"]
    latent = student.encoder.encode(golden["inputs.lr"], noise)
    golden.check(latent, f"{case}.z")
    found = student.process.clean_latent(latent, student.denoiser(latent, *student.text_encoder()))
    golden.check(found, f"{case}.latent_student")
    loss = F.mse_loss(found, golden["inputs.latent_hr"])
    golden.check(loss[None], f"{case}.mse_loss")


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_the_authors(golden, networks, case):
    teacher, _ = both(golden, networks[0])
    score, _ = both(golden, networks[1])
    student = golden[f"outputs.{case}.latent_student"].clone().requires_grad_(True)
    points: list[Point] = []
    taught: list[torch.Tensor] = []
    followed: list[torch.Tensor] = []
    found = gradient(
        student,
        golden["inputs.latent_hr"],
        recorded(teacher, taught),
        recorded(score, followed),
        start_of(golden, case),
        points.append,
    )
    assert len(points) == len(golden[f"outputs.{case}.path_index"]) - 1
    for step, point in enumerate(points):
        golden.check(taught[2 * step], f"{case}.step{step}.teacher_student")
        golden.check(taught[2 * step + 1], f"{case}.step{step}.teacher_hr")
        golden.check(followed[step], f"{case}.step{step}.reg_student")
        golden.check(point.timesteps, f"{case}.step{step}.timestep")
        golden.check(point.student, f"{case}.step{step}.noisy_student")
        golden.check(point.photograph, f"{case}.step{step}.noisy_hr")
    golden.check(found.vsd, f"{case}.grad_vsd")
    golden.check(found.tsm, f"{case}.grad_tsm")
    golden.check(found.total, f"{case}.grad")
    loss = distillation_loss(student, found.total)
    golden.check(loss.detach()[None], f"{case}.tsd_loss")
    loss.backward()
    golden.check(student.grad, f"{case}.intended_gradient")


@pytest.mark.parametrize("case", CASES)
def test_the_score_networks_update_is_the_authors(golden, base, case):
    """One pair of matrices gets the authors' gradient; the latents get none."""
    made = SD3Transformer2DModel(**base.facts["config"]["transformer"])
    made.load_state_dict(base.weights("transformer."))
    model = MMDiT(made)
    state = golden.weights("reg_lora.transformer.")
    modules = sorted({name.partition(".lora_")[0] for name in state})
    rank = next(t.shape[0] for n, t in state.items() if ".lora_A." in n)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=modules), model)
    pairs = {n.replace(".weight", ".default.weight"): t for n, t in state.items()}
    assert not model.load_state_dict(pairs, strict=False).unexpected_keys
    _, alone = both(golden, model)
    student = golden[f"outputs.{case}.latent_student"].clone().requires_grad_(True)
    drawn = {name: golden[f"inputs.{case}.reg_{name}"] for name in ("index", "noise", "normal")}
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        found = alone(noisy, timesteps)
        seen.append((noisy, noisy - timesteps.view(-1, 1, 1, 1) / STEPS * found))
        return found

    loss = score_loss(student, watched, **drawn)
    (noisy, clean), *others = seen
    assert not others
    golden.check(noisy, f"{case}.reg_noisy")
    golden.check(clean.detach(), f"{case}.reg_x0")
    golden.check(loss.detach()[None], f"{case}.reg_loss")
    loss.backward()
    assert student.grad is None
    name = "transformer_blocks.1.attn.to_q.lora_B"
    layer = model.get_submodule(name)
    golden.check(layer["default"].weight.grad, f"{case}.reg_gradient.{name}")


def test_each_sample_follows_its_own_path():
    levels = noise_levels()
    index = torch.tensor(INDICES)
    zeros = torch.zeros(2, 1, 2, 2)
    seen: list[Point] = []
    still: Callable = lambda noisy, timesteps: torch.zeros_like(noisy)  # noqa: E731
    start = Start(index, zeros, points=4, bias=BIASES[1])
    gradient(zeros, zeros, still, still, start, seen.append)
    for step, point in enumerate(seen):
        places = path(index, 4, BIASES[1])[:, step]
        assert torch.equal(point.timesteps, 1000 * levels[places])
    gradient(zeros, zeros, still, still, start._replace(common=True), seen.append)
    assert (seen[-1].timesteps == seen[-1].timesteps[0]).all()


def test_guidance_of_one_asks_once():
    def never(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    assert guided(never, never, 1) is never
