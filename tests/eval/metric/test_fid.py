"""FID.

The same resizing and distance as pyiqa's clean-fid, and features that are taken once an image.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from eval.metric import fid


def test_distance_is_the_definition():
    """Against the root of the covariances' product, where there are more images than features."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    a, b = (
        rng.normal(size=(80, 12)),
        rng.normal(0.3, 1.4, size=(50, 12)) @ rng.normal(size=(12, 12)),
    )
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    gap = a.mean(0) - b.mean(0)
    expected = gap @ gap + np.trace(c) + np.trace(d) - 2 * np.trace(sqrtm(c @ d)).real
    assert fid.frechet(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(
        expected, rel=1e-5
    )


def test_distance_of_few_images_with_many_features():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(6, 300)).astype(np.float32)
    assert fid.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert fid.frechet(a, a + 2) == pytest.approx(
        4 * 300, rel=1e-6
    )  # a shift of every feature by 2
    assert fid.frechet(a, rng.permutation(a)) == pytest.approx(0, abs=1e-9)


def test_resized_as_clean_fid_does(tmp_path, photo):
    from pyiqa.archs.fid_arch import ResizeDataset

    photo(200, 120).save(tmp_path / "a.png")
    theirs = ResizeDataset([tmp_path / "a.png"], mode="clean")[0]
    image = (
        torch.from_numpy(np.asarray(Image.open(tmp_path / "a.png")).copy()).permute(2, 0, 1).float()
        / 255
    )
    torch.testing.assert_close(fid._resize(image), theirs, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_the_whole_way_with_random_weights(tmp_path, realsr_like, monkeypatch):
    """Inception's real structure with random weights, read from a folder.

    Pyiqa's own features, and a distance.
    """
    from pyiqa.archs import fid_arch, inception

    from eval.metric.scorer import Metrics
    from eval.score.benchmark import evaluate
    from eval.score.options import EvaluateOptions

    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(inception, "load_pretrained_network", lambda net, path: None)
        torch.save(
            inception.fid_inception_v3().state_dict(),
            tmp_path / "pt_inception-2015-12-05-6726825d.pth",
        )
    judges = Metrics(["fid"], tmp_path)
    assert judges.blank == {}
    assert judges.of_sets == ["fid"]
    assert judges.per_image == []
    folders = [realsr_like / "HR", tmp_path / "blurred"]
    folders[1].mkdir()
    for path in folders[0].iterdir():
        Image.open(path).resize((32, 24)).resize((128, 96)).save(folders[1] / path.name)
    theirs = [
        fid_arch.get_folder_features(
            f, judges._nets["fid"].net, num_workers=0, batch_size=2, device="cpu", verbose=False
        )
        for f in folders
    ]
    images = [
        torch.from_numpy(np.asarray(Image.open(p)).copy()).permute(2, 0, 1)[None].float() / 255
        for p in sorted(folders[1].iterdir())
    ]
    ours = np.stack([np.frombuffer(judges.features("fid", x)[0], np.float32) for x in images])
    np.testing.assert_allclose(ours, theirs[1], rtol=1e-4, atol=1e-5)
    result = evaluate(
        folders[1],
        realsr_like,
        EvaluateOptions(
            ["fid", "psnr"],
            tmp_path,
            tmp_path / "out",
            progress=False,
            cache=tmp_path / "c.sqlite",
        ),
    )
    assert result["fid"] == pytest.approx(fid.frechet(theirs[1], theirs[0]), rel=1e-3)
    assert result["fid"] > 0
    assert (tmp_path / "out" / "metrics.csv").read_text().startswith("image,data,protocol,psnr\n")
    assert evaluate(
        folders[1], realsr_like, EvaluateOptions(["fid"], tmp_path, progress=False, limit=1)
    )["blank"]["fid"].startswith("it is a distance of two sets")
