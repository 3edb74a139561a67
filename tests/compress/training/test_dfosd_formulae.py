"""DFOSD's formulae (arXiv 2410.04224) against numbers computed from the document."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.networks.osediff_file import merge_lora
from compress.process.one_step import alphas_cumprod
from compress.training.discriminator import mlp_head
from compress.training.losses import gan_discriminator, gan_generator, sobel
from compress.training.score import diffuse


@pytest.fixture(scope="module")
def cases(shared: Path) -> dict[str, Any]:
    facts = json.loads((shared / "golden" / "seeds_formulae.json").read_text())
    return {case["name"]: case for case in facts["cases"]}


def values(numbers: Any) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def close(found: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(found.detach(), values(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["nad_losses_votes", "nad_losses_votes_extreme"])
def test_losses_and_gradients_of_the_discriminator(cases, name):
    given, expected = cases[name]["inputs"], cases[name]["outputs"]
    fake = values(given["fake"]).requires_grad_()
    real = values(given["real"]).requires_grad_()
    generator = gan_generator(fake)
    close(generator, expected["L_G"])
    close(torch.autograd.grad(generator, fake)[0], expected["dL_G/dfake"])
    discriminator = gan_discriminator(real, fake)
    close(discriminator, expected["L_D"])
    of_fake, of_real = torch.autograd.grad(discriminator, (fake, real))
    close(of_fake, expected["dL_D/dfake"])
    close(of_real, expected["dL_D/dreal"])
    close(fake.sigmoid(), expected["D_fake"])


@pytest.mark.parametrize("name", [f"sobel_{number}" for number in range(4)])
def test_edges_are_the_documents(cases, name):
    """Where the document is silent: borders are replicated, and 1e-6 is under the root."""
    image = values(cases[name]["inputs"]["image"])[None, None]
    close(sobel(image)[0, 0], cases[name]["outputs"]["replicate_eps"])


def test_head_is_an_mlp_at_each_position(cases):
    given = cases["nad_head"]["inputs"]
    first, second = values(given["w1"]), values(given["w2"])
    head = mlp_head(first.shape[1], first.shape[0]).double()
    head.load_state_dict(
        {
            "0.weight": first[:, :, None, None],
            "0.bias": values(given["b1"]),
            "2.weight": second[None, :, None, None],
            "2.bias": values([given["b2"]]),
        }
    )
    features = values(given["features_hwc"]).permute(2, 0, 1)[None]
    close(head(features)[0, 0], cases["nad_head"]["outputs"]["votes"])


def test_forward_diffusion(cases):
    case = cases["generator_and_forward_diffusion"]
    given, expected = case["inputs"], case["outputs"]
    clean = values(expected["z_H"]).view(1, -1, 1, 1)
    step = torch.tensor([given["forward_t"]])
    table = alphas_cumprod()
    noisy, _, noise, alpha_bar = diffuse(clean, table, (0, 999), timesteps=step)
    found = noisy + (1 - alpha_bar).sqrt() * (values(given["noise"]).view_as(noise) - noise)
    torch.testing.assert_close(found.flatten(), values(expected["F"]), rtol=0, atol=1e-6)


def test_lora_of_equal_rank_and_alpha_counts_once(cases):
    given, expected = cases["lora_merge"]["inputs"], cases["lora_merge"]["outputs"]
    pair = {
        "layer.lora_A.default.weight": values(given["A"]),
        "layer.lora_B.default.weight": values(given["B"]),
    }
    factor = given["alpha"] / given["rank"]
    assert factor == expected["factor"]
    merged = merge_lora({"layer.weight": values(given["W"])}, pair, factor)
    close(merged["layer.weight"], expected["merged"])
