"""EA-DISTS by hand and from files, and what is said about files that do not fit."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.core.errors import UserError
from compress.training import losses


@pytest.fixture(scope="module")
def state():
    """Random DISTS tensors under pyiqa's names, the constants left out."""
    from pyiqa.archs.dists_arch import DISTS

    torch.manual_seed(0)
    with losses._without_download():
        metric = DISTS(pretrained=False)
    return {
        k: v
        for k, v in metric.state_dict().items()
        if k not in ("mean", "std") and not k.endswith("filter")
    }


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("dists") / "dists.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def loss(file):
    return losses.ea_dists(file)


def test_sobel_by_hand():
    ramp = torch.arange(5.0).expand(1, 3, 4, 5) * 0.1  # slope 0.1 per pixel across
    edges = losses.sobel(ramp)
    assert edges.shape == (1, 3, 4, 5)
    inside, border = (
        (0.8**2 + 1e-6) ** 0.5,
        (0.4**2 + 1e-6) ** 0.5,
    )  # a replicated border sees half the step
    torch.testing.assert_close(edges[0, 0, :, 1:4], torch.full((4, 3), inside))
    torch.testing.assert_close(edges[0, 2, :, 0], torch.full((4,), border))
    torch.testing.assert_close(losses.sobel(ramp.mT), edges.mT)
    # Both directions at once, and the mean over channels: 8 * (0.2, 0.1) / 3.
    plane = torch.zeros(1, 3, 6, 6)
    plane[:, 1] = 0.2 * torch.arange(6.0)[:, None] + 0.1 * torch.arange(6.0)
    assert losses.sobel(plane)[0, 0, 3, 3].item() == pytest.approx(8 / 3 * 0.05**0.5, rel=1e-4)
    assert losses.sobel(torch.full((1, 3, 4, 4), 0.7)).max().item() == pytest.approx(1e-3, rel=1e-3)


def test_sobel_has_a_gradient_where_it_is_flat():
    image = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    losses.sobel(image).sum().backward()
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_images_plus_edges():
    class Difference(nn.Module):
        def forward(self, x, y):
            return (x - y).abs().mean(dim=(2, 3))[:, :1]

    ramp = torch.arange(8.0).expand(2, 3, 8, 8) * 0.1
    flat = torch.zeros(2, 3, 8, 8)
    edges = 6 / 8 * (0.8**2 + 1e-6) ** 0.5 + 2 / 8 * (0.4**2 + 1e-6) ** 0.5 - 1e-3
    assert losses.EdgeAware(Difference())(ramp, flat).item() == pytest.approx(
        0.35 + edges, rel=1e-5
    )


@pytest.mark.slow
def test_ea_dists_from_a_file(loss, state, tmp_path):
    generator = torch.Generator().manual_seed(1)
    image, other = torch.rand(2, 2, 3, 32, 32, generator=generator)
    image.requires_grad_(True)
    assert loss(image, image.detach()).item() == pytest.approx(0, abs=1e-5)
    value = loss(image, other)
    value.backward()
    assert value.ndim == 0
    assert value.item() > 0.01
    assert image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    assert not loss.metric.training
    expected = (
        loss.metric(image, other).mean()
        + loss.metric(losses.sobel(image), losses.sobel(other)).mean()
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(loss.metric.alpha, state["alpha"])
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(image, other).item() == pytest.approx(value.item(), rel=1e-5)
    torch.save(state, tmp_path / "dists.pth")
    assert losses.ea_dists(tmp_path / "dists.pth")(image, other).item() == pytest.approx(
        value.item(), rel=1e-5
    )


def test_the_value_depends_on_edges(loss):
    generator = torch.Generator().manual_seed(2)
    image, other = torch.rand(2, 1, 3, 32, 32, generator=generator)
    assert (loss(image, other) - loss.metric(image, other).mean()).item() > 0.01


@pytest.mark.slow
def test_files_that_do_not_fit(state, tmp_path):
    with pytest.raises(
        UserError, match=r"DISTS weights .*none\.pth do not exist; set dists_weights"
    ):
        losses.ea_dists(tmp_path / "none.pth")
    # What pyiqa publishes: the two weightings without the backbone.
    torch.save({k: state[k] for k in ("alpha", "beta")}, tmp_path / "published.pth")
    with pytest.raises(
        UserError, match=r"do not fit DISTS with its backbone: missing .'stage1\.0\.weight'"
    ):
        losses.ea_dists(tmp_path / "published.pth")
    torch.save(
        state | {"alpha": torch.zeros(1, 7, 1, 1), "more": torch.zeros(1)}, tmp_path / "other.pth"
    )
    with pytest.raises(UserError, match=r"unfit .'alpha', 'more'"):
        losses.ea_dists(tmp_path / "other.pth")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        losses.ea_dists(tmp_path / "text.safetensors")
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(UserError, match=r"LPIPS weights .* cannot be read"):
        losses.lpips(tmp_path / "text.pth")
    torch.save({"params": state}, tmp_path / "nested.pth")
    with pytest.raises(UserError, match="are not named tensors alone"):
        losses.ea_dists(tmp_path / "nested.pth")


@pytest.mark.slow
def test_latent_lpips_widens_the_red_kernel_and_keeps_the_resolution(tmp_path):
    from pyiqa.archs.lpips_arch import LPIPS

    with losses._without_download():
        image_metric = LPIPS(net="vgg", pretrained=False, pnet_rand=True)
    state = {k: v for k, v in image_metric.state_dict().items() if not k.startswith("lins.")}
    torch.save(state, tmp_path / "vgg.pth")
    metric = losses.latent_lpips(tmp_path / "vgg.pth", 4)
    kernel = metric.metric.net.slice1[0].weight
    assert torch.equal(kernel, state[losses.FIRST_KERNEL][:, :1].expand(-1, 4, -1, -1))
    shapes = [tuple(map_.shape[-2:]) for map_ in metric.metric.net(torch.randn(1, 4, 8, 8))]
    assert shapes == [(8, 8)] * 4 + [(4, 4)]
    latent = torch.randn(2, 4, 8, 8, requires_grad=True)
    assert metric(latent, latent).abs().max() < 1e-9
    metric(latent, torch.randn(2, 4, 8, 8)).sum().backward()
    assert latent.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in metric.parameters())
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "half.pth")
    with pytest.raises(UserError, match="latent LPIPS weights"):
        losses.latent_lpips(tmp_path / "half.pth", 4)
