"""Stages are prepared with crops of the CPU and a model that lies on another device."""

import pytest
import torch
from support.two_devices import OTHER, TwoDevices

from compress.data.presets import PRESETS
from compress.families.edge_sd_sr import EdgeSDSRSource
from compress.families.osediff import OSEDiffSource
from compress.families.resshift import ResShiftSource
from compress.stages.companions import Companions, HREncoder
from compress.stages.latents import latent_pairs, unit_latent
from compress.stages.shift import ShiftStudent, latent_triples, start_codebook

CROPS = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MILD = PRESETS["mild"]


@pytest.fixture(autouse=True)
def two_devices():
    with TwoDevices(), torch.no_grad():
        yield


def built(source):
    return source.build().to(OTHER).eval()


def test_mixing_is_refused_here():
    with pytest.raises(RuntimeError, match="two devices"):
        torch.nn.Conv2d(3, 3, 3).to(OTHER)(CROPS)


def test_latents_of_the_autoencoder():
    model = built(OSEDiffSource())
    assert unit_latent(model, CROPS) == 1.0
    assert latent_pairs(model, [CROPS], MILD, (0,)).device.type == "cpu"


def test_latents_of_resshift(monkeypatch):
    model = built(ResShiftSource())
    # The meta device has neither.
    monkeypatch.setattr(torch, "cov", lambda x: x.new_zeros(len(x), len(x)))
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: (x[0].clone(), torch.zeros_like(x)))
    start_codebook(model, CROPS)
    assert latent_triples(model, [CROPS], MILD, (0,)).device.type == "cpu"
    assert next(ShiftStudent(model, {}).taught_by.module.parameters()).device == OTHER


def test_what_lies_beside_an_edge_model(tmp_path, monkeypatch):
    model = built(EdgeSDSRSource())
    companions = Companions(model, tmp_path)
    monkeypatch.setattr("compress.stages.companions.read_tensors", lambda module, file: None)
    (tmp_path / "hr_encoder.safetensors").touch()
    (tmp_path / "x2_teacher.safetensors").touch()
    encoder = companions.hr_encoder()
    assert isinstance(encoder, HREncoder)
    assert {p.device for p in encoder.parameters()} == {OTHER}
    assert {p.device for p in companions.teacher().parameters()} == {OTHER}
    pool = companions.pool([CROPS], 64, MILD, (0,))
    assert companions.taught(pool).device.type == "cpu"
