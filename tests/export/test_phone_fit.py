"""Which recipe fits which phone: sizes as exported, limits, and where nothing is predicted."""

from dataclasses import replace

import pytest

from compress.cost import operators
from compress.cost.cost import Arithmetic, Cost, Layer
from export.targets.chips import chips
from export.targets.file_limits import file_limits, too_large
from export.targets.phone_fit import (
    as_computed,
    exported_bytes,
    outcome,
    own_codes,
    part_sizes,
    phone_kinds,
)
from export.targets.phones import phones
from export.targets.table import TARGETS

KINDS = {kind.name: kind for kind in phone_kinds()}
LIKE = operators.networks()["Real-ESRGAN x4plus"]  # counts of a network that was published
FLOAT = Arithmetic(32, 32, floating=True)
CODES = Arithmetic(8, 8, floating=False)


def layer(arithmetic: Arithmetic = FLOAT, **more) -> Layer:
    counts = {"params": 100, "stored_bits": 100 * arithmetic.weight_bits, "macs_conv": 1000}
    return Layer("denoiser.a", "Conv2d", arithmetic=arithmetic, **{**counts, **more})


def like(arithmetic: Arithmetic = FLOAT) -> Cost:
    """A cost with the counts of a network that was published."""
    return cost(
        layer(
            arithmetic,
            macs_conv=int(LIKE["macs"]),
            params=int(LIKE["weights"]),
            activation_bytes=int(4 * LIKE["values"]),
        )
    )


def cost(*layers: Layer) -> Cost:
    return Cost((128, 128), layers)


def test_every_phone_is_of_one_kind_and_every_chip_has_a_column():
    named = [chip for kind in KINDS.values() for chip in kind.chips]
    assert {phone.chip for phone in phones().values()} == set(named)
    assert len(named) == len(set(named))
    assert {f"v{chip.htp_arch}" for chip in chips().values()} < set(KINDS)


def test_a_kind_is_predicted_by_a_device_of_its_own():
    devices = [kind.device for kind in KINDS.values() if kind.device]
    assert sorted(devices) == sorted(operators.fitted().slowness)
    assert KINDS["v75"].device == operators.REFERENCE
    assert KINDS["coreml"].device is None


def test_every_limit_is_of_a_target_and_has_a_source():
    for name, limit in file_limits().items():
        assert name in TARGETS
        assert limit.bytes > 0
        assert limit.source.startswith("https://")


@pytest.mark.parametrize(
    ("arithmetic", "size"),
    [
        (FLOAT, 200),
        (Arithmetic(16, 16, floating=True), 200),
        (CODES, 100),
        (Arithmetic(4, 8, floating=False), 50),
        (Arithmetic(1, 1, floating=False), 200),
    ],
)
def test_floats_are_exported_in_16_bits_and_codes_as_they_are(arithmetic, size):
    assert exported_bytes(cost(layer(arithmetic))) == size


def test_a_part_is_its_component_and_one_alone_is_all():
    whole = cost(layer(), replace(layer(CODES), name="decoder.a"))
    assert part_sizes(whole, ("denoiser", "decoder")) == {"denoiser": 200, "decoder": 100}
    assert part_sizes(whole, ("model",)) == {"model": 300}


def test_the_largest_part_is_held_against_the_limit():
    most = file_limits()["qnn"].bytes
    assert too_large({"denoiser": most, "decoder": 1}, "qnn") is None
    told = too_large({"denoiser": most + 10**6, "decoder": 1}, "qnn")
    assert told == "too large: denoiser 3,501 MB, at most 3,500"
    assert too_large({"denoiser": 10**12}, "onnx") is None


def test_attention_of_a_quantised_model_is_counted_in_its_codes():
    attention = replace(layer(), macs_conv=0, macs_attention=100)
    left_in_float = replace(layer(), macs_conv=10)
    model = cost(layer(CODES), attention, left_in_float)
    assert own_codes(model) == "W8A8"
    table = operators.by_precision(as_computed(model))
    assert table["W8A8"]["macs_attention"] == 100
    assert table["fp16"]["macs"] == 10
    wide = cost(layer(Arithmetic(8, 16, floating=False)), attention)
    assert set(operators.by_precision(as_computed(wide))) == {"W8A16"}
    floats = cost(layer(), attention)
    assert own_codes(floats) is None
    assert as_computed(floats) == floats


def test_what_is_like_a_published_network_is_predicted_with_an_interval():
    found = outcome(like(), {"model": 1}, KINDS["v75"])
    assert found.fits
    assert found.low < 48.9 < found.high
    assert found.verdict == f"{found.ms:.0f} ({found.low:.0f} to {found.high:.0f})"
    assert found.reason == ""


@pytest.mark.parametrize(
    ("model", "sizes", "kind", "fits", "verdict"),
    [
        (like(), {"model": 1}, "coreml", True, "fits, nothing published"),
        (like(), {"model": 2 * 10**9}, "coreml", False, "too large: model 2,000 MB, at most 1,000"),
        (like(CODES), {"model": 1}, "litert", False, "takes float alone"),
        (like(CODES), {"model": 1}, "v73", True, "no ground: chip"),
        (cost(layer()), {"model": 1}, "v75", True, "no ground: bytes, size"),
    ],
)
def test_what_is_missing_is_said(model, sizes, kind, fits, verdict):
    found = outcome(model, sizes, KINDS[kind])
    assert (found.fits, found.verdict) == (fits, verdict)
    assert found.low is None
    assert found.high is None
    assert found.reason


def test_codes_are_known_where_they_are_published():
    assert outcome(like(CODES), {"model": 1}, KINDS["v79"]).high is not None
