"""Metrics: parity with pyiqa's golden values and OSEDiff's log; blanks and errors that explain themselves."""

import json

import pytest
import torch

from compress.errors import UserError
from compress.image import read_image
from eval import weights
from eval.metrics import METRICS, Metrics

GOLDEN = {"psnr": "psnr_y", "ssim": "ssim_y", "psnr-rgb": "psnr_rgb", "ssim-rgb": "ssim_rgb", "ms_ssim": "ms_ssim",
          "cw_ssim": "cw_ssim", "gmsd": "gmsd", "nlpd": "nlpd", "vif": "vif", "fsim": "fsim", "vsi": "vsi"}
TOLERANCE = {"psnr": 1e-4, "psnr-rgb": 1e-4, "nlpd": 1e-4}  # the rest 1e-5, as the golden file states


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "pyiqa_metrics.json").read_text())


def test_golden_values(golden, shared):
    judges = Metrics(GOLDEN)
    for name, image in golden["images"].items():
        scores, reasons = judges.score(read_image(shared / image["restored"]), read_image(shared / image["reference"]))
        assert reasons == {}
        for ours, theirs in GOLDEN.items():
            assert scores[ours] == pytest.approx(golden["values"][name][theirs], abs=TOLERANCE.get(ours, 1e-5)), ours


def test_directions_agree_with_pyiqa():
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    theirs = {"psnr-rgb": "psnr", "ssim-rgb": "ssimc", "lpips-squeeze": "lpips"}
    for name, metric in METRICS.items():
        config = DEFAULT_CONFIGS[theirs.get(name, name)]
        assert metric.higher != config.get("lower_better", False), name
        assert metric.reference == (config["metric_mode"] == "FR"), name


def test_lpips_squeeze_reads_its_weights_and_refuses_others(shared, tmp_path):
    from safetensors.torch import save_file

    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    judges = Metrics(["lpips-squeeze"], shared / "iqa")
    assert judges.score(image, image)[0]["lpips-squeeze"] == 0
    assert judges.score(image, 1 - image)[0]["lpips-squeeze"] > 0.05
    save_file({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "lpips_squeeze_v0.1.safetensors")
    with pytest.raises(UserError, match="not the weights of LPIPS-SqueezeNet"):
        Metrics(["lpips-squeeze"], tmp_path)


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
    judges = Metrics(["psnr", "lpips", "dists", "musiq", "niqe", "clipiqa", "maniqa-pipal", "lpips-squeeze"])
    assert set(judges.blank) == set(judges.names) - {"psnr"}
    assert "alexnet-owt-7be5be79.pth and LPIPS_v0.1_alex-df73285e.pth" in judges.blank["lpips"]
    assert all("--iqa-weights" in why for why in judges.blank.values())
    assert len(offline) == 3  # download.pytorch.org, huggingface.co, openai: one question each


def test_an_error_that_is_no_network_failure_is_not_swallowed(offline, monkeypatch):
    def broken(url, target):
        raise ZeroDivisionError

    monkeypatch.setattr(weights, "_download", broken)
    with pytest.raises(ZeroDivisionError):
        Metrics(["musiq"])


def test_reasons_for_single_values(shared):
    judges = Metrics(["psnr", "ms_ssim", "niqe", "brisque"], shared / "iqa")
    scores, reasons = judges.score(torch.full((1, 3, 100, 100), 0.5), None)
    assert scores == {"psnr": None, "ms_ssim": None, "niqe": None, "brisque": None}
    assert "original image" in reasons["psnr"]
    assert "original image" in reasons["ms_ssim"]
    assert "undefined" in reasons["niqe"] and "undefined" in reasons["brisque"]
    scores, reasons = judges.score(torch.rand(1, 3, 80, 80), torch.rand(1, 3, 80, 80))
    assert "164 pixels" in reasons["ms_ssim"] and "96 pixels" in reasons["niqe"]
    assert scores["psnr"] is not None


@pytest.mark.parametrize("names, says", [(["psnrr"], "did you mean 'psnr'"), (["maniqa"], "did you mean 'maniqa-pipal'"),
                                         ([], "no metric was asked for")])
def test_unknown_metric(names, says):
    with pytest.raises(UserError, match=says):
        Metrics(names)


def test_missing_weight_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Metrics(["psnr"], tmp_path / "nowhere")
