"""What python -m eval.weights says: present, missing, spoilt.

Where from; and what can be computed with it.
"""

import json
import shutil

import pytest

from eval.metric.metrics import METRICS
from eval.metric.survey import ready, survey
from eval.metric.weight_files import known
from eval.weights import main


def call(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code


def test_what_is_here(shared, offline, capsys):
    assert call("--iqa-weights", shared / "iqa") == 0
    said = capsys.readouterr().out
    first = said.splitlines()[0]
    assert all(name in first for name in ("psnr", "niqe", "brisque", "lpips-squeeze", "vif"))
    assert not any(f"{name}," in first for name in ("musiq", "dists", "fid", "lpips"))
    assert "musiq          needs musiq_koniq_ckpt-e95806b9.pth" in said
    place = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"
    assert f"{place}/musiq_koniq_ckpt-e95806b9.pth" in said
    assert said.count("SHA-256 as expected") == 3
    assert offline == []  # nothing is downloaded to find out


def test_a_spoilt_file_is_told(shared, tmp_path, offline, capsys):
    shutil.copy(shared / "iqa" / "niqe_modelparameters.mat", tmp_path)
    with (tmp_path / "niqe_modelparameters.mat").open("ab") as stream:
        stream.write(b"x")
    assert call("--iqa-weights", tmp_path, "--json") == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["files"]["niqe_modelparameters.mat"]["state"] == "differs"
    assert "niqe_modelparameters.mat: the SHA-256 is not the published one" in said.err


def test_missing_folder(tmp_path, capsys):
    assert call("--iqa-weights", tmp_path / "none") == 2
    assert "no such folder" in capsys.readouterr().err


def test_every_weight_has_a_use_and_every_metric_its_weights(offline):
    files = survey()
    assert all(row["metrics"] for row in files.values())
    assert set(ready(files)) == set(METRICS)
    lacks = ready(files)
    assert lacks["psnr"] == []
    assert lacks["lpips-squeeze"] == ["lpips_squeeze_v0.1.safetensors"]
    assert lacks["ntire-final"] == [
        "alexnet-owt-7be5be79.pth",
        "LPIPS_v0.1_alex-df73285e.pth",
        "vgg16-397923af.pth",
        "DISTS_weights-f5e65c96.pth",
        "RN50.pt",
        "MANIQA_PIPAL-ae6d356b.pth",
        "musiq_koniq_ckpt-e95806b9.pth",
        "niqe_modelparameters.mat",
    ]
    for weight in known().values():  # torchvision puts the digest into the name
        if weight.cache == "checkpoints":
            assert weight.sha256 in weight.file
