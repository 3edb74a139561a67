"""Routed tiles: 25 for 512 -> 2048, no seams, and a router trained."""

import json

import pytest
import torch
import torch.nn.functional as F
from support.tiny_families import MODELS as FAMILY_WIRINGS
from support.tiny_families import tiny_family

from compress import route, upscale
from compress.core.errors import UserError
from compress.core.image import read_image, write_image
from compress.cost.count import measure
from compress.data.folder import find_images
from compress.families.adcsr import ASSET
from compress.model.sr_model import Tiling
from compress.process.resample import upsample
from compress.recipe.checkpoint import load_model
from compress.routing import gains, training
from compress.routing.config import RouterConfig
from compress.routing.networks import PATHS, GainRegressor, TileCNN
from compress.routing.router import Router


@pytest.fixture(scope="module")
def model():
    return load_model(ASSET)


class FixedGain(torch.nn.Module):
    """Predicts that a tile gains by how bright it is.

    Dark goes to bicubic, grey to the CNN, bright to the model.
    """

    def forward(self, lr):
        level = lr.mean((1, 2, 3))
        return torch.stack([(level > 0.3).float(), 2 * (level > 0.6).float() - 1], dim=1)


@pytest.fixture
def router():
    torch.manual_seed(0)
    made = Router(tile=32, overlap=16).eval().requires_grad_(False)
    made.regressor = FixedGain()
    return made


def test_512_takes_25_tiles_of_128():
    pieces, columns = Router().pieces(torch.rand(1, 3, 512, 512), 16)
    assert len(pieces) == 25
    assert columns == 5
    assert all(p.shape == (1, 3, 128, 128) for p in pieces)


def test_sizes_of_the_networks():
    cnn, regressor = TileCNN(), GainRegressor()
    assert (
        sum(p.numel() for p in cnn.parameters())
        == 75 * 24 + 24 + 3 * (9 * 24**2 + 24) + 9 * 24 * 48 + 48
    )
    assert sum(p.numel() for p in regressor.parameters()) < 7000
    lr = torch.rand(2, 3, 20, 28)
    assert torch.equal(cnn(lr), upsample(lr))
    assert regressor(lr).shape == (2, 2)


@torch.no_grad()
def test_tiles_go_where_they_should_and_cost_what_they_should(model, router):
    lr = torch.full((1, 3, 32, 64), 0.1)
    lr[..., 16:32], lr[..., 32:] = 0.6, 0.9  # means of the tiles: 0.35, 0.75, 0.9
    router.regressor.forward = lambda piece: torch.stack(
        [(piece.mean((1, 2, 3)) > 0.4).float(), 2 * (piece.mean((1, 2, 3)) > 0.8).float() - 1],
        dim=1,
    )
    found = router.upscale(model, lr)
    assert found.columns == 3
    assert found.paths == ["bicubic", "cnn", "diffusion"]
    cnn = 32 * 32 * (75 * 24 + 3 * 9 * 24**2 + 9 * 24 * 48)
    assert found.macs_diffusion == 3 * measure(model, (32, 32)).macs_paper
    assert found.macs == cnn + measure(model, (32, 32)).macs_paper  # FixedGain multiplies nothing
    assert found.shares() == {"bicubic": 1, "cnn": 1, "diffusion": 1}
    assert set(router.upscale(model, lr, budget=0.1).paths) <= {"bicubic", "cnn"}
    assert router.upscale(model, lr, threshold=100.0).paths == ["bicubic"] * 3
    assert router.upscale(model, lr, path="diffusion").macs == found.macs_diffusion


@torch.no_grad()
def test_small_images_and_uneven_sides(model, router):
    lr = torch.rand(1, 3, 21, 30)
    whole = router.upscale(model, lr, path="diffusion")
    assert whole.paths == ["diffusion"]
    assert whole.image.shape == (1, 3, 84, 120)
    torch.testing.assert_close(
        whole.image, model(lr), rtol=0, atol=1e-4
    )  # one tile: the model itself
    assert router.upscale(model, torch.rand(1, 3, 37, 70)).image.shape == (1, 3, 148, 280)
    plain = router.upscale(model, torch.full((1, 3, 48, 48), 0.5), path="bicubic").image
    torch.testing.assert_close(plain, torch.full_like(plain, 0.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILY_WIRINGS)
@torch.no_grad()
def test_every_wiring_is_routed(family, router):
    """Chains, control networks and predicted noise: a tile is one run of the whole model."""
    model = tiny_family(family, 1 if family == "dfosd" else 2, autoencoder=False)
    lr = torch.full((1, 3, 32, 64), 0.1)
    lr[..., 32:] = 0.9
    found = router.upscale(model, lr)
    assert found.image.shape == (1, 3, 128, 256)
    assert {"bicubic", "diffusion"} <= set(found.paths)
    assert found.macs_diffusion == len(found.paths) * measure(model, (32, 32)).macs_paper


def sky(height: int, width: int) -> torch.Tensor:
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    return torch.stack(
        [0.35 + 0.2 * y + 0.02 * x, 0.5 + 0.2 * y + 0.02 * x, 0.75 + 0.15 * y + 0 * x]
    )[None]


def largest_step(image: torch.Tensor, columns: list[int]) -> float:
    """In 8-bit units, over the given columns of [1, 3, H, W]."""
    return max((image[..., c] - image[..., c - 1]).abs().max().item() for c in columns) * 255


@torch.no_grad()
@pytest.mark.parametrize("mixed", [False, True], ids=["all by the model", "by three paths"])
def test_no_seams_on_a_sky(model, router, mixed, monkeypatch):
    """Steps across the borders of tiles, against the model run on the whole image."""
    lr, router.tile, router.overlap = sky(96, 128), 64, 32
    # Latent pixels: the reference is one piece. The fixture is shared: others have the model's own.
    monkeypatch.setattr(model, "tiling", Tiling(tile=96, overlap=32))
    reference = model(lr)
    if mixed:
        # The first is for counting the regressor's MACs.
        ways = iter(
            [
                [0.0, 0.0],
                [-1.0, -1.0],
                [1.0, -1.0],
                [1.0, 1.0],
                [1.0, 1.0],
                [-1.0, -1.0],
                [1.0, -1.0],
            ]
        )
        router.regressor.forward = lambda piece: torch.tensor([next(ways)])
    found = router.upscale(model, lr, path=None if mixed else "diffusion")
    assert len(found.paths) == 6
    assert len(set(found.paths)) == (3 if mixed else 1)
    columns, rows = [4 * x for x in (32, 64, 96)], [4 * y for y in (32, 64)]
    across = largest_step(found.image, columns) - largest_step(reference, columns)
    flipped, whole = (x.transpose(-1, -2) for x in (found.image, reference))
    down = largest_step(flipped, rows) - largest_step(whole, rows)
    assert across < 0.5
    assert down < 0.5


def test_the_choice_of_kept_tiles_runs_none_twice(model, router, monkeypatch):
    calls, real = [], Router.run
    monkeypatch.setattr(
        Router, "run", lambda self, m, path, tile: calls.append(path) or real(self, m, path, tile)
    )
    kept, lr = {}, torch.rand(1, 3, 32, 48)
    router.upscale(model, lr, path="cnn", kept=kept)
    router.upscale(model, lr, path="cnn", kept=kept)
    assert calls == ["cnn", "cnn"]
    assert set(kept) == {(0, "cnn"), (1, "cnn")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A router from a few steps on the embedded photographs, by psnr, which needs no file."""
    folder = tmp_path_factory.mktemp("router")
    with pytest.raises(SystemExit) as ended:
        route.main(
            [
                "train",
                str(ASSET),
                "--data",
                "embedded",
                "-o",
                str(folder / "router.safetensors"),
                "--metric",
                "psnr",
                "--tiles",
                "20",
                "--crop",
                "128",
                "--cnn-steps",
                "8",
                "--steps",
                "40",
                "--batch",
                "4",
                "--tile",
                "48",
                "--overlap",
                "16",
            ]
        )
    assert ended.value.code == 0
    return folder


def test_a_trained_router_is_small_and_says_what_it_is(trained, model):
    file = trained / "router.safetensors"
    figures = json.loads((trained / "router.json").read_text())
    router = Router.load(file)
    assert file.stat().st_size < 150_000
    assert router.tile == 48
    assert router.threshold == figures["threshold"]
    assert router.notes == {"model": "adcsr nano", "metric": "psnr"}
    assert figures["held_out"] == 4
    assert sum(figures["shares"].values()) == 4
    assert figures["loss"] <= 0.005
    rows = [
        json.loads(line)
        for line in (trained / "router.work" / "gains.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 20
    assert all(len(row) == 3 for row in rows)
    smooth = F.interpolate(
        torch.rand(1, 3, 8, 8, generator=torch.manual_seed(0)), size=32, mode="bicubic"
    ).clamp(0, 1)
    assert not torch.equal(router.cnn(smooth), upsample(smooth))


def test_the_cnn_learns_what_the_model_makes(model):
    """A network that makes the same has nothing left to learn; one that enlarges has."""
    images = find_images(("embedded",))
    config = RouterConfig(("embedded",), "psnr", crop=128, batch=2)
    job = training._cnn_job(config, Router(48, 16), model, images, torch.device("cpu"))
    hr = next(iter(job.loader))
    assert job.loss(model, 0, hr).item() == 0
    assert job.loss(upsample, 0, hr).item() > 0.02
    job.loss(job.module, 0, hr).backward()
    assert all(p.grad is None for p in model.parameters())


def test_it_goes_on_where_it_was_killed(trained, model, tmp_path, monkeypatch):
    """The rows that were measured are read, the rest are the same as in one go."""
    work = tmp_path / "work"
    work.mkdir()
    rows = (trained / "router.work" / "gains.jsonl").read_text().splitlines()
    (work / "gains.jsonl").write_text("\n".join(rows[:15]) + "\n")
    config = RouterConfig(("embedded",), "psnr", tiles=20, crop=128, cnn_steps=8, steps=40, batch=4)
    made, seen, real = Router(48, 16), [], gains.tile_pair
    monkeypatch.setattr(gains, "tile_pair", lambda c, crops, i: seen.append(i) or real(c, crops, i))
    figures = training.train_router(config, model, made, work, torch.device("cpu"))
    assert seen[:5] == list(range(15, 20))
    saved = Router.load(trained / "router.safetensors")
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert figures["threshold"] == pytest.approx(saved.threshold, rel=1e-3)
    with pytest.raises(UserError, match="unfinished router of other settings"):
        training.train_router(
            RouterConfig(("embedded",), "psnr", tiles=30, crop=128),
            model,
            made,
            work,
            torch.device("cpu"),
        )


def test_from_the_command_line(trained, model, tmp_path, capsys):
    coarse = torch.rand(1, 3, 12, 16, generator=torch.manual_seed(0))
    photograph = F.interpolate(coarse, scale_factor=16.0, mode="bicubic")
    write_image(photograph.clamp(0, 1), tmp_path / "hr" / "a.png")
    write_image(
        F.interpolate(photograph, scale_factor=0.25, mode="area").clamp(0, 1),
        tmp_path / "lr" / "a.png",
    )
    file = str(trained / "router.safetensors")
    with pytest.raises(SystemExit) as ended:
        upscale.main(
            [
                str(ASSET),
                str(tmp_path / "lr" / "a.png"),
                "-o",
                str(tmp_path / "out"),
                "--route",
                file,
                "--budget",
                "0.5",
            ]
        )
    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert "2 tiles: " in printed
    assert "of the model on every tile" in printed
    assert read_image(tmp_path / "out" / "a_x4.png").shape == (1, 3, 192, 256)
    with pytest.raises(SystemExit) as ended:
        route.main(
            [
                "eval",
                str(ASSET),
                file,
                "--data",
                str(tmp_path / "hr"),
                "--lr",
                str(tmp_path / "lr"),
                "-o",
                str(tmp_path / "figures.json"),
            ]
        )
    printed, figures = capsys.readouterr().out, json.loads((tmp_path / "figures.json").read_text())
    assert ended.value.code == 0
    assert "x fewer MACs" in printed
    assert set(figures) == {"made_by", *PATHS, "routed"}
    assert figures["diffusion"]["macs"] == 1
    assert figures["bicubic"]["macs"] == 0
    assert figures["routed"]["tiles"] == 2
    assert figures["routed"]["macs"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "0.5"], "add --route"),
        (["--route", "R", "--budget", "1", "--threshold", "1"], "exclude each other"),
        (["--route", "R", "--tile", "64"], "--tile and --route"),
        (["--route", "nowhere"], "no router here"),
        (["--route", str(ASSET)], "is not a router"),
    ],
)
def test_mistakes_in_the_command(arguments, said, tmp_path, capsys):
    write_image(torch.rand(1, 3, 16, 16), tmp_path / "a.png")
    with pytest.raises(SystemExit) as ended:
        upscale.main([str(ASSET), str(tmp_path / "a.png"), *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert error.count("\n") == 1


def test_mistakes_in_training(model, tmp_path):
    def train(**options):
        training.train_router(
            RouterConfig(("embedded",), **options),
            model,
            Router(),
            tmp_path,
            torch.device("cpu"),
        )

    with pytest.raises(UserError, match="needs --lpips-weights"):
        train()
    with pytest.raises(UserError, match="multiple of 64"):
        train(metric="psnr", crop=100)
    with pytest.raises(UserError, match="at least 10"):
        train(metric="psnr", tiles=3)
    with pytest.raises(UserError, match="do not fit this model"):
        Router(tile=40).upscale(model, torch.rand(1, 3, 32, 32))
