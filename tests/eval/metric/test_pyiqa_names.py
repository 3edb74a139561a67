"""Any metric of pyiqa by its name: direction and kind from the package, blanks with a reason."""

import json
from pathlib import Path

import pytest
import torch

from compress.core.errors import UserError
from compress.core.image import write_image
from eval.curve import main as curve_main
from eval.metric import registry, weight_files
from eval.metric.builders import import_clip
from eval.metric.metrics import METRICS
from eval.metric.names import check_names, in_order, metric_of
from eval.metric.registry import ELSEWHERE
from eval.metric.scorer import Metrics
from eval.metric.weight_files import WeightsMissingError
from eval.reporting import pictures
from eval.reporting.spread import spread
from eval.run import main as run_main
from eval.table import main as table_main


@pytest.fixture
def cache(monkeypatch, tmp_path, offline):
    """pyiqa's cache in a folder of the test, without a network; yields the addresses asked."""
    import_clip()
    from pyiqa.archs import liqe_arch
    from pyiqa.utils import download_util

    for module in (download_util, liqe_arch):
        monkeypatch.setattr(module, "DEFAULT_CACHE_DIR", str(tmp_path / "pyiqa"))
    return offline


@pytest.fixture
def random_weights(monkeypatch, cache):
    """pyiqa's networks with random weights: a small CLIP, a small ResNet, no checkpoint."""
    import timm
    from pyiqa.archs import clip_model, clipiqa_arch, liqe_arch, topiq_arch

    def small_clip(name, device="cpu", **_):
        layers, width, patch = ((1, 1, 1, 1), 8, 0) if name == "RN50" else (1, 64, 32)
        vision = (32, 224, layers, width, patch)
        return clip_model.CLIP(*vision, 77, 49408, 64, 1, 1).float()

    class Prompts(torch.nn.Module):
        """The learnt prompts, whose width is written down in pyiqa."""

        def __init__(self, clip):
            super().__init__()
            self.ctx = torch.nn.Parameter(torch.randn(2, 32))

        def forward(self, clip):
            return self.ctx

    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **o: create("resnet18", **o)
    )
    for module in (clipiqa_arch, liqe_arch):
        monkeypatch.setattr(module, "load", small_clip)
    for module in (clipiqa_arch, liqe_arch, topiq_arch):
        monkeypatch.setattr(module, "load_pretrained_network", lambda *_, **__: None)
    monkeypatch.setattr(clipiqa_arch, "PromptLearner", Prompts)
    return cache


def test_direction_and_kind_are_the_packages():
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    for name, config in DEFAULT_CONFIGS.items():
        if name in METRICS or name in ELSEWHERE:
            continue
        metric = metric_of(name)
        assert metric.by_name
        assert metric.higher != config.get("lower_better", False), name
        assert metric.reference == (config["metric_mode"] == "FR"), name
    assert ELSEWHERE.keys() <= DEFAULT_CONFIGS.keys()
    assert not metric_of("pieapp").higher
    assert metric_of("topiq_fr-pipal").reference


def test_listed_metrics_keep_their_protocol():
    assert metric_of("psnr") is METRICS["psnr"]
    assert not any(metric.by_name for metric in METRICS.values())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("topiq_iaaa", "did you mean 'topiq_iaa'"),
        ("liqee", "did you mean 'liqe'"),
        ("lpipss", "did you mean 'lpips'"),
        ("sfid", "compares two sets of images"),
        ("clipscore", "with a caption"),
    ],
)
def test_a_name_that_will_not_do(name, says):
    with pytest.raises(UserError, match=says):
        check_names([name])


def test_listed_names_stand_first():
    keys = ["images", "liqe", "data", "no metric", "psnr", "topiq_iaa"]
    assert in_order(keys) == ["psnr", "liqe", "topiq_iaa"]


@pytest.mark.parametrize("name", ["liqe", "clipiqa+", "topiq_nr-spaq", "topiq_fr-pipal"])
def test_networks_of_the_package(name, random_weights, monkeypatch, tmp_path):
    if name == "clipiqa+":  # whose prompts are read by torch.load
        torch.save(torch.randn(2, 32), tmp_path / "CLIP-IQA+_learned_prompts-603f3273.pth")
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    judges = Metrics([name], tmp_path)
    assert judges.blank == {}
    together, reasons = judges.score_batch(name, images, images.flip(0))
    again, _ = judges.score_batch(name, images[1:], images[:1])
    assert reasons == [None, None]
    assert together[1] == again[0]
    assert random_weights == []  # nothing was asked of the network


def test_an_image_that_the_network_refuses_is_blank(random_weights):
    judges = Metrics(["liqe"])
    values, reasons = judges.score_batch("liqe", torch.rand(1, 3, 64, 64), None)
    assert values == [None]
    assert "pyiqa's liqe refused it: " in reasons[0]


def test_without_network_they_are_blank_with_the_remedy(cache):
    judges = Metrics(["psnr", "paq2piq", "liqe"])
    assert set(judges.blank) == {"paq2piq", "liqe"}
    assert "resnet18-f37072fd.pth is not at hand" in judges.blank["paq2piq"]
    assert "ViT-B-32.pt is not at hand" in judges.blank["liqe"]
    assert all("--iqa-weights" in why for why in judges.blank.values())


def test_the_hub_is_not_asked_again_and_again(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    offline = []

    def ask(*_):
        offline.append(constants.HF_HUB_OFFLINE)
        raise FileNotFoundError("not in the cache of the hub")

    monkeypatch.setattr(registry, "pyiqa_metric", lambda name: ask)
    monkeypatch.setattr(registry, "can_reach", lambda address: False)
    assert "not in the cache of the hub" in Metrics(["arniqa"]).blank["arniqa"]
    assert offline == [True]
    monkeypatch.setattr(registry, "can_reach", lambda address: True)
    assert "not in the cache of the hub" in Metrics(["arniqa"]).blank["arniqa"]
    assert offline == [True, True, False]


def test_a_file_that_would_run_code_is_not_read(cache, tmp_path):
    import pickle

    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    name = "CLIP-IQA+_learned_prompts-603f3273.pth"
    (tmp_path / name).write_bytes(pickle.dumps(Runs(), protocol=2))
    with registry._tensors_alone(), pytest.raises(WeightsMissingError, match="plain tensors"):
        torch.load(tmp_path / name, weights_only=False)
    assert not (tmp_path / "was_run").exists()


def test_another_clip_than_the_published_is_refused(cache, tmp_path):
    (tmp_path / "ViT-B-32.pt").write_bytes(b"something else")
    assert "is not OpenAI's ViT-B-32.pt" in Metrics(["liqe"], tmp_path).blank["liqe"]


def test_other_errors_pass_on(cache, monkeypatch):
    def broken(url, target):
        raise ZeroDivisionError

    monkeypatch.setattr(weight_files, "_download", broken)
    with pytest.raises(ZeroDivisionError):
        Metrics(["paq2piq"])


def test_pyiqa_has_its_loader_back():
    from pyiqa.archs import arch_util, clip_model
    from pyiqa.utils import download_util

    before = (download_util.load_file_from_url, arch_util.load_file_from_url, clip_model._download)
    with registry._files_by(lambda weight: Path(weight.file)):
        assert arch_util.load_file_from_url("https://nowhere.example/a.pth") == "a.pth"
    after = (download_util.load_file_from_url, arch_util.load_file_from_url, clip_model._download)
    assert before == after


def test_evaluation_writes_them(tmp_path, capsys):
    """`entropy` and `psnry` need no weights."""
    generator = torch.Generator().manual_seed(0)
    for folder in ("restored", "photos/HR"):
        (tmp_path / folder).mkdir(parents=True)
        write_image(torch.rand(1, 3, 64, 64, generator=generator), tmp_path / folder / "a.png")
    (tmp_path / "photos/LR").mkdir()
    write_image(torch.rand(1, 3, 16, 16, generator=generator), tmp_path / "photos/LR/a.png")
    out = tmp_path / "out"
    arguments = [tmp_path / "restored", "--data", tmp_path / "photos", "-o", out, "--no-cache"]
    with pytest.raises(SystemExit) as end:
        run_main([*map(str, arguments), "--metrics", "entropy,psnry,psnr"])
    assert end.value.code == 0
    averages = json.loads((out / "averages.json").read_text())
    assert averages["psnry"] > 0
    assert averages["entropy"] > 7
    assert (out / "metrics.csv").read_text().startswith("image,data,protocol,entropy,psnry,psnr\n")
    assert "entropy       ↑" in capsys.readouterr().out


def test_curve_and_table_take_them(run, tmp_path, capsys):
    folder = run(psnr=25.0, liqe=3.25, pieapp=1.5)
    with pytest.raises(SystemExit) as end:
        curve_main([str(folder), "-o", str(tmp_path / "c.svg"), "--metric", "pieapp"])
    assert end.value.code == 0
    assert "pieapp" in (tmp_path / "c.html").read_text()
    with pytest.raises(SystemExit) as end:
        curve_main([str(folder), "-o", str(tmp_path / "c.svg"), "--metric", "pieap"])
    assert end.value.code == 2
    assert "did you mean 'pieapp'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        curve_main([str(folder), "-o", str(tmp_path / "p.svg"), "--x", "psnr", "--metric", "liqe"])
    assert end.value.code == 0
    assert "LIQE  (higher is better)" in (tmp_path / "p.svg").read_text()
    with pytest.raises(SystemExit) as end:
        table_main([str(folder), "--metrics", "liqe,pieapp", "--published", "none"])
    assert end.value.code == 0
    assert "liqe ↑  pieapp ↓" in capsys.readouterr().out


def test_report_takes_them():
    scores = {"compressed": {"a": {"pieapp": 1.0}, "b": {"pieapp": 2.0}}}
    assert pictures.worst_first(scores["compressed"]) == ["b", "a"]
    assert [one["metric"] for one in spread(scores)] == ["pieapp"]
