"""Metrics: parity with pyiqa's golden values and OSEDiff's log.

Blanks and errors that explain themselves.
"""

import json

import pytest
import torch

from compress.core.errors import UserError
from compress.core.image import read_image
from eval.metric import ntire, weight_files
from eval.metric.metrics import METRICS
from eval.metric.scorer import Metrics

GOLDEN = {
    "psnr": "psnr_y",
    "ssim": "ssim_y",
    "psnr-rgb": "psnr_rgb",
    "ssim-rgb": "ssim_rgb",
    "ms_ssim": "ms_ssim",
    "cw_ssim": "cw_ssim",
    "gmsd": "gmsd",
    "nlpd": "nlpd",
    "vif": "vif",
    "fsim": "fsim",
    "vsi": "vsi",
}
TOLERANCE = {
    "psnr": 1e-4,
    "psnr-rgb": 1e-4,
    "nlpd": 1e-4,
}  # the rest 1e-5, as the golden file states


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "pyiqa_metrics.json").read_text())


@pytest.mark.slow
def test_golden_values(golden, shared):
    judges = Metrics(GOLDEN)
    for name, image in golden["images"].items():
        scores, reasons = judges.score(
            read_image(shared / image["restored"]), read_image(shared / image["reference"])
        )
        assert reasons == {}
        for ours, theirs in GOLDEN.items():
            assert scores[ours] == pytest.approx(
                golden["values"][name][theirs], abs=TOLERANCE.get(ours, 1e-5)
            ), ours


def test_directions_agree_with_pyiqa():
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    theirs = {"psnr-rgb": "psnr", "ssim-rgb": "ssimc", "lpips-squeeze": "lpips"}
    for name, metric in METRICS.items():
        if (
            metric.of or metric.features
        ):  # pyiqa has no NTIRE score, and files FID under metrics without reference
            continue
        config = DEFAULT_CONFIGS[theirs.get(name, name)]
        assert metric.higher != config.get("lower_better", False), name
        assert metric.reference == (config["metric_mode"] == "FR"), name


def test_lpips_squeeze_reads_its_weights_and_refuses_others(shared, tmp_path):
    from safetensors.torch import save_file

    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    judges = Metrics(["lpips-squeeze"], shared / "iqa")
    assert judges.score(image, image)[0]["lpips-squeeze"] == 0
    assert judges.score(image, 1 - image)[0]["lpips-squeeze"] > 0.05
    save_file(
        {"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)},
        tmp_path / "lpips_squeeze_v0.1.safetensors",
    )
    with pytest.raises(UserError, match="not the weights of LPIPS-SqueezeNet"):
        Metrics(["lpips-squeeze"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["topiq_nr", "topiq_fr", "ahiq"])
def test_attention_metrics_from_files(name, tmp_path):
    """Random values in files of the published layout: the network is the one of these values."""
    from safetensors.torch import save_file

    from eval.metric.attention_metrics import _random_backbones
    from eval.metric.builders import pyiqa_metric

    torch.manual_seed(0)
    with _random_backbones():
        wanted = pyiqa_metric(name, pretrained=False)()
    net = wanted.get_submodule("net")
    if name == "ahiq":
        heads = {
            "regressor_model_state_dict": net.regressor.state_dict(),
            "deform_net_model_state_dict": net.deform_net.state_dict(),
        }
        torch.save(heads, tmp_path / "AHIQ_vit_p8_epoch33-da3ea303.pth")
        save_file(net.resnet50.state_dict(), tmp_path / "resnet50.a1_in1k.safetensors")
        vit = "vit_base_patch8_224.augreg2_in21k_ft_in1k.safetensors"
        save_file(net.vit.state_dict(), tmp_path / vit)
    else:
        file = METRICS[name].ways[0].weights[0].file
        torch.save({"params": net.state_dict()}, tmp_path / file)
    image, other = torch.rand(2, 1, 3, 224, 224)
    given = (image, other) if METRICS[name].reference else (image,)
    judges = Metrics([name], tmp_path)
    assert judges.blank == {}
    if name != "ahiq":  # 20 crops by a ViT-B/8 take minutes
        with torch.no_grad():
            expected = wanted(*given).item()
        assert judges.score(image, other)[0][name] == pytest.approx(expected, abs=1e-5)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    import pickle

    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    (tmp_path / "brisque_svm_weights.pth").write_bytes(pickle.dumps(Runs(), protocol=2))
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        Metrics(["brisque"], tmp_path)
    assert not (tmp_path / "was_run").exists()


def test_offline_metrics_are_blank_with_the_remedy(offline):
    judges = Metrics(
        [
            "psnr",
            "lpips",
            "dists",
            "musiq",
            "niqe",
            "clipiqa",
            "maniqa-pipal",
            "lpips-squeeze",
            "lpips-vgg",
            "fid",
        ]
    )
    assert set(judges.blank) == set(judges.names) - {"psnr"}
    assert "alexnet-owt-7be5be79.pth and LPIPS_v0.1_alex-df73285e.pth" in judges.blank["lpips"]
    assert all("--iqa-weights" in why for why in judges.blank.values())
    assert len(offline) == 3  # download.pytorch.org, huggingface.co, openai: one question each


def test_an_error_that_is_no_network_failure_is_not_swallowed(offline, monkeypatch):
    def broken(url, target):
        raise ZeroDivisionError

    monkeypatch.setattr(weight_files, "_download", broken)
    with pytest.raises(ZeroDivisionError):
        Metrics(["musiq"])


def test_reasons_for_single_values(shared):
    judges = Metrics(["psnr", "ms_ssim", "niqe", "brisque"], shared / "iqa")
    scores, reasons = judges.score(torch.full((1, 3, 100, 100), 0.5), None)
    assert scores == {"psnr": None, "ms_ssim": None, "niqe": None, "brisque": None}
    assert "original image" in reasons["psnr"]
    assert "original image" in reasons["ms_ssim"]
    assert "undefined" in reasons["niqe"]
    assert "undefined" in reasons["brisque"]
    scores, reasons = judges.score(torch.rand(1, 3, 80, 80), torch.rand(1, 3, 80, 80))
    assert "164 pixels" in reasons["ms_ssim"]
    assert "96 pixels" in reasons["niqe"]
    assert scores["psnr"] is not None


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["psnrr"], "did you mean 'psnr'"),
        (["PSNR"], "did you mean 'psnr'"),
        (["maniqa-pipall"], "did you mean 'maniqa-pipal'"),
        ([], "no metric was asked for"),
    ],
)
def test_unknown_metric(names, says):
    with pytest.raises(UserError, match=says):
        Metrics(names)


def test_missing_weight_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Metrics(["psnr"], tmp_path / "nowhere")


BATCHED = [
    name
    for name in METRICS
    if METRICS[name].batch
    and not METRICS[name].of
    and name
    not in ("lpips", "lpips-vgg", "dists", "musiq", "clipiqa", "fid", "topiq_nr", "topiq_fr")
]  # whose weights are not at hand


@pytest.mark.slow
def test_a_batch_gives_what_its_images_give(shared):
    """Images of very different quality in one batch: no metric lets one look at another."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.nn.functional.interpolate(
        torch.rand(2, 3, 28, 28, generator=generator), scale_factor=6, mode="bicubic"
    )
    clean = (clean.clamp(0, 1) * 255).round() / 255
    noise = torch.tensor([0.02, 0.2]).view(2, 1, 1, 1) * torch.randn(
        clean.shape, generator=generator
    )
    noisy = ((clean + noise).clamp(0, 1) * 255).round() / 255
    judges = Metrics(BATCHED, shared / "iqa")
    assert judges.blank == {}
    for name in BATCHED:
        together, reasons = judges.score_batch(name, noisy, clean)
        alone = [
            judges.score_batch(name, noisy[i : i + 1], clean[i : i + 1])[0][0] for i in range(2)
        ]
        assert reasons == [None] * 2
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-5), name
        assert len({round(v, 4) for v in alone}) == 2, name


def test_one_undefined_image_spoils_no_batch(shared):
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    images[0] = 0.5
    values, reasons = Metrics(["niqe"], shared / "iqa").score_batch("niqe", images, None)
    assert values[0] is None
    assert "texture" in reasons[0]
    assert values[1] > 0
    assert reasons[1] is None


def test_lpips_squeeze_from_backbone_and_heads(shared, tmp_path, offline):
    """The two files that can be downloaded give the same metric as the whole one."""
    from safetensors.torch import load_file

    whole = load_file(shared / "iqa" / "lpips_squeeze_v0.1.safetensors")
    trunk = {
        "features." + k.split(".", 2)[2]: v for k, v in whole.items() if k.startswith("net.slice")
    }
    torch.save(trunk, tmp_path / "squeezenet1_1-b8a52dc0.pth")
    torch.save(
        {k: v for k, v in whole.items() if k.startswith("lin")},
        tmp_path / "LPIPS_v0.1_squeeze-4a5350f2.pth",
    )
    image, other = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    one, two = (
        Metrics(["lpips-squeeze"], folder).score(image, other)[0]
        for folder in (shared / "iqa", tmp_path)
    )
    assert one == two
    assert one["lpips-squeeze"] > 0.05


def test_a_composed_score_brings_its_parts(offline):
    judges = Metrics(["ntire-score"])
    assert judges.names == [*ntire.INGREDIENTS, "ntire-score"]
    assert (
        "lpips, dists, clipiqa, maniqa-pipal, musiq, niqe cannot be had here"
        in judges.blank["ntire-score"]
    )
