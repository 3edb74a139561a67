"""Other libraries' quantisers on small networks: integers in the file, and clear errors."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, PerAxis, quantize_

from compress.core.errors import UserError
from compress.model.sr_model import SRModel
from compress.process.direct import Direct
from export.baselines import methods
from export.baselines.make import make
from export.baselines.methods import METHODS, Job, check, label, parse_bits
from export.baselines.weight_only import converted
from export.graphs.quick_export import quick_export
from export.parity.measure import psnr
from export.parity.session import session

INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Two convolutions with a SiLU between, exported as an encoder, and four images."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 4, 3, padding=1)
    ).eval()
    random = np.random.default_rng(0)
    arrays = [random.random((1, 3, 16, 16), dtype=np.float32) for _ in range(4)]
    file = tmp_path_factory.mktemp("float") / "encoder.onnx"
    torch.onnx.export(
        module,
        (torch.from_numpy(arrays[0]),),
        str(file),
        dynamo=True,
        verbose=False,
        opset_version=20,
        input_names=["lr"],
        output_names=["latent"],
        external_data=False,
    )
    return Job("encoder", ("lr", "latent"), file, module, arrays, 8, 8)


def run(path, x):
    return session(path).run(None, {"lr": x})[0]


def quality(job, path):
    """Least PSNR over the images to the float file's output, for a peak of its range."""
    found = []
    for x in job.arrays:
        expected = run(job.file, x)
        found.append(psnr(run(path, x), expected, float(np.ptp(expected))))
    return min(found)


def integer_weights(path):
    return [
        i for i in onnx.load(path).graph.initializer if len(i.dims) == 4 and i.data_type in INTEGERS
    ]


def at(job, width):
    return Job(job.stem, job.names, job.file, job.module, job.arrays, *parse_bits(width))


LEAST = {"W8A8": 30, "W8A16": 38, "W6A6": 20, "W4A8": 15, "W8": 38, "W4": 15}  # dB


@pytest.mark.parametrize(
    ("name", "width"),
    [(name, width) for name, method in METHODS.items() for width in method.widths],
)
def test_every_method_at_every_width(job, tmp_path, name, width):
    """Weights are stored as integers, once each, and the result is as near as the width allows."""
    method = METHODS[name]
    if method.library == "nncf":
        pytest.importorskip("nncf")
    target = tmp_path / "encoder.onnx"
    method(at(job, width), target)
    assert len(integer_weights(target)) == 2
    assert quality(job, target) > LEAST[width]
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


@pytest.mark.parametrize("name", ["ort-minmax", "ort-qnn", "nncf"])
@quick_export()
def test_constant_keys_of_several_heads_run(tmp_path, name):
    """A product with a constant of four dimensions, as attention to a constant text is."""
    if METHODS[name].library == "nncf":
        pytest.importorskip("nncf")

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.keys = nn.Linear(8, 8), nn.Parameter(torch.randn(1, 2, 4, 5))

        def forward(self, x):
            return self.query(x).unflatten(-1, (2, 4)).transpose(1, 2) @ self.keys

    torch.manual_seed(0)
    module, arrays = (
        Attention().eval(),
        [np.random.default_rng(0).random((1, 6, 8), dtype=np.float32)],
    )
    torch.onnx.export(
        module,
        (torch.from_numpy(arrays[0]),),
        str(tmp_path / "float.onnx"),
        dynamo=True,
        verbose=False,
        opset_version=20,
        input_names=["lr"],
        output_names=["latent"],
        external_data=False,
    )
    job = Job("encoder", ("lr", "latent"), tmp_path / "float.onnx", module, arrays, 8, 8)
    METHODS[name](job, tmp_path / "encoder.onnx")
    assert quality(job, tmp_path / "encoder.onnx") > 30


def test_wider_is_nearer(job, tmp_path):
    found = {}
    for width in ("W4A8", "W6A6", "W8A8", "W8A16"):
        METHODS["torchao-pt2e"](at(job, width), tmp_path / f"{width}.onnx")
        found[width] = quality(job, tmp_path / f"{width}.onnx")
    assert found["W4A8"] < found["W8A8"] < found["W8A16"]
    assert found["W6A6"] < found["W8A8"]


def test_six_bit_codes_saturate_at_six_bits(job, tmp_path):
    """An input beyond the calibrated range reads as its end.

    The exporter would drop the narrower limit.
    """
    METHODS["torchao-pt2e"](at(job, "W6A6"), tmp_path / "encoder.onnx")
    top = np.full((1, 3, 16, 16), max(x.max() for x in job.arrays), np.float32)
    assert np.array_equal(
        run(tmp_path / "encoder.onnx", top), run(tmp_path / "encoder.onnx", 3 * top)
    )


def test_weight_only_carries_torchaos_own_codes(job):
    ours = converted(job.module, 4)
    for number in (0, 2):
        weight = job.module[number].weight.detach()
        theirs = nn.Sequential(nn.Linear(weight[0].numel(), len(weight), bias=False))
        theirs[0].weight = nn.Parameter(weight.flatten(1))
        quantize_(theirs, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerAxis(0)))
        assert torch.equal(ours[number].weight().flatten(1), theirs[0].weight.dequantize())
    assert ours[0].weight_q.abs().max() <= 8
    assert type(job.module[0]) is nn.Conv2d


def test_unknown_names_widths_and_packages(monkeypatch):
    with pytest.raises(UserError, match=r"baseline 'nccf' is unknown \(did you mean 'nncf'\?\)"):
        check("nccf", 8, 8)
    with pytest.raises(UserError, match="ort-qnn has no W6A6; it has W8A8, W8A16, W4A8"):
        check("ort-qnn", 6, 6)
    monkeypatch.setattr(methods.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs the package nncf, which is not .*; run: pip install 'nncf==3.4.0'"
    ):
        check("nncf", 8, 8)


def test_widths_as_text():
    assert parse_bits("w8a16") == (8, 16)
    assert parse_bits("W4") == (4, None)
    assert label(8, None) == "W8"
    assert label(6, 6) == "W6A6"
    for text in ("w8a", "a8", "eight", "w8a8a8"):
        with pytest.raises(UserError, match="is no width"):
            parse_bits(text)


class OfState(nn.Conv2d):
    def forward(self, x, context=None, *step):
        return super().forward(x)


@pytest.fixture
def tiny():
    """A model of three convolutions: [1, 3, h, w] -> [1, 4, h/2, w/2] -> [1, 3, 4h, 4w]."""
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Conv2d(4, 192, 3, padding=1), nn.PixelShuffle(8))
    parts = {
        "encoder": nn.Conv2d(3, 4, 3, 2, 1),
        "denoiser": OfState(4, 4, 3, padding=1),
        "decoder": decoder,
    }
    model = SRModel(parts, Direct())
    return model.eval().requires_grad_(False)


def test_images_must_have_the_exported_size(tiny, tmp_path):
    with pytest.raises(UserError, match="calibrate on images of the exported size, 32x32"):
        make("ort-minmax", tiny, (8, 8), [torch.rand(1, 3, 16, 16)], tmp_path, (32, 32))


def test_a_whole_model_gives_a_file_a_component(tiny, tmp_path):
    """What the components read is what the float ones before them give.

    Chained, the files restore the image.
    """
    images = [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    made = make("torchao-pt2e", tiny, (8, 16), images, tmp_path, (16, 16))
    assert list(made) == ["encoder", "denoiser", "decoder"]
    x = images[0].numpy()
    for path in made.values():
        loaded = session(path)
        x = loaded.run(None, {loaded.get_inputs()[0].name: x})[0]
    expected = tiny.network(images[0]).numpy()
    assert x.shape == (1, 3, 64, 64)
    assert psnr(x, expected, float(np.ptp(expected))) > 35
