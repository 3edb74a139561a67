"""References of photographs: which patches, the file of what is kept, compress.upscale."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.referring import SIDE, adapter_pass, referring_nano
from support.tiny_model import tiny

from compress import api, upscale
from compress import references as command
from compress.core.errors import UserError
from compress.core.image import read_image
from compress.data.references import Bank, files_of, places, read, write
from compress.families.osediff import OSEDiffSource
from compress.model.references import fingerprint, remember
from compress.model.sr_model import SRModel
from compress.photographs import kept as files
from compress.photographs.problem import PhotographError
from compress.pipeline.evaluations import check_references, evaluate_both
from compress.recipe.checkpoint import save_model
from compress.recipe.recipe import load_recipe
from compress.recipe.run_files import read_references

RECIPE = "recipes/osediff_reference_nano.yaml"


@pytest.fixture(scope="module")
def model() -> SRModel:
    return referring_nano()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    """The model, a small photograph, and what to refer to: a larger one that holds it."""
    path = tmp_path_factory.mktemp("references")
    save_model(model, path / "model.safetensors", OSEDiffSource(), [adapter_pass()])
    random = np.random.default_rng(0)
    whole = Image.fromarray(random.integers(0, 256, (24, 40, 3), np.uint8)).resize((256, 192))
    (path / "others").mkdir()
    whole.save(path / "others" / "whole.png")
    flat = Image.new("RGB", (160, 96), (90, 120, 60))
    flat.save(path / "others" / "flat.png")
    whole.crop((64, 64, 192, 128)).resize((32, 16), Image.Resampling.BICUBIC).save(path / "a.png")
    return path


def run(main, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return ended.value.code


def test_patches_lie_on_a_grid():
    assert places(64, 128, (64, 64), 64) == [(0, 0), (0, 32), (0, 64)]
    many = places(1000, 3000, (64, 64), 64)
    assert len(many) <= 64
    assert many[0] == (0, 0)
    assert many[-1] == (1000 - 64, 3000 - 64)


def test_the_patches_most_like_the_photograph_are_taken(model, folder):
    bank = Bank(model, files_of([folder / "others"]))
    chosen = bank.like(read_image(folder / "a.png"))
    assert {patch.file.name for patch in chosen.patches} == {"whole.png"}
    similarities = [patch.similarity for patch in chosen.patches]
    assert similarities == sorted(similarities, reverse=True)
    cut = []
    for patch in chosen.patches:
        image = read_image(patch.file)
        cut.append(image[..., patch.top : patch.top + SIDE, patch.left : patch.left + SIDE])
    with torch.no_grad():
        expected = remember(model, cut)
    for name, value in expected.items():
        torch.testing.assert_close(chosen.kept[name], value)


def test_without_a_question_the_middles_are_taken(model, folder):
    bank = Bank(model, files_of([folder / "others"]))
    assert [(p.file.name, p.top, p.left) for p in bank.first().patches] == [
        ("flat.png", 16, 48),
        ("whole.png", 64, 96),
    ]
    bank.files = bank.files * 2
    with pytest.raises(UserError, match="give --like PHOTO"):
        bank.first()


@pytest.mark.slow
def test_the_command_writes_what_upscale_takes(folder, tmp_path, capsys):
    kept = str(tmp_path / "kept.safetensors")
    small = str(folder / "a.png")
    others = str(folder / "others")
    assert run(command.main, str(folder), others, "--like", small, "-o", kept) == 0
    assert "similarity" in capsys.readouterr().out
    assert run(command.main, str(folder), others, "--like", small, "-o", kept) == 0  # once more
    for name, given in (("file", [kept]), ("photographs", [others]), ("none", [])):
        words = ["--references", *given] if given else []
        out = str(tmp_path / name)
        assert run(upscale.main, str(folder), small, "-o", out, "--device", "cpu", *words) == 0
    file, computed, none = (
        np.asarray(Image.open(tmp_path / name / "a_x4.png")).astype(int)
        for name in ("file", "photographs", "none")
    )
    assert np.abs(file - computed).max() <= 1
    assert np.abs(file - none).max() > 2


def test_a_file_is_read_as_it_was_written(model, folder, tmp_path):
    chosen = Bank(model, files_of([folder / "others"])).first()
    file = tmp_path / "kept.safetensors"
    write(model, chosen, file)
    found = read(model, file)
    for name, value in chosen.kept.items():
        assert np.array_equal(found[name], value.numpy())


def test_a_file_that_does_not_fit_is_refused(model, folder, tmp_path):
    shapes, made_by = model.wiring.references.shapes, fingerprint(model)
    file = tmp_path / "kept.safetensors"
    write(model, Bank(model, files_of([folder / "others"])).first(), file)
    content = file.read_bytes()

    def said(changed: bytes, shapes=shapes, made_by=made_by) -> str:
        file.write_bytes(changed)
        with pytest.raises(PhotographError) as caught:
            files.read(file, shapes, made_by)
        return str(caught.value)

    assert "another model" in said(content, made_by="0")
    assert "no float32 of [1, 2]" in said(content, shapes={"keys_1": (1, 2)})
    assert "no float32" in said(content[:-8])
    assert "holds nothing of references" in said(content[:5])
    assert "holds nothing of references" in said((folder / "model.safetensors").read_bytes())
    broken = content.replace(b'"format"', b'"formax"')
    assert "holds nothing of references" in said(broken)
    header = int.from_bytes(content[:8], "little")
    bad = bytearray(content)
    bad[8 + header : 12 + header] = np.float32("nan").tobytes()
    assert "is not finite" in said(bytes(bad))
    entries = json.loads(content[8 : 8 + header])
    assert entries["__metadata__"]["patches"].startswith("flat.png 48,16")


def test_the_fingerprint_is_of_the_reference_encoder_alone(model):
    other = referring_nano()
    assert fingerprint(other) == fingerprint(model)
    with torch.no_grad():
        next(other.decoder.parameters()).add_(1)
    assert fingerprint(other) == fingerprint(model)
    with torch.no_grad():
        next(other.reference_encoder.parameters()).add_(1)
    assert fingerprint(other) != fingerprint(model)


def test_mistakes_get_a_sentence(model, folder, tmp_path, capsys):
    with pytest.raises(UserError, match="is no photograph and no folder"):
        files_of([folder / "model.safetensors"])
    Image.new("RGB", (SIDE - 1, 200)).save(tmp_path / "small.png")
    with pytest.raises(UserError, match="smaller than a reference"):
        Bank(model, [tmp_path / "small.png"])
    with pytest.raises(UserError, match="no photograph to refer to"):
        Bank(model, [])
    assert run(command.main, str(folder), str(folder / "others"), "-o", "kept.bin") == 2
    assert "must end with .safetensors" in capsys.readouterr().err
    file = folder / "model.safetensors"
    before = file.read_bytes()
    assert run(command.main, str(folder), str(folder / "others"), "-o", str(file)) == 2
    assert "is also an input of this command" in capsys.readouterr().err
    assert file.read_bytes() == before
    (tmp_path / "mine.safetensors").write_text("mine")
    words = ["-o", str(tmp_path / "mine.safetensors")]
    assert run(command.main, str(folder), str(folder / "others"), *words) == 2
    assert "was not written by this toolkit" in capsys.readouterr().err
    words = ["--references", str(folder / "others"), "--route", "router"]
    assert run(upscale.main, str(folder), str(folder / "a.png"), *words) == 2


def test_from_python_photographs_and_their_file_are_one(model, folder, tmp_path):
    bank = Bank(model, files_of([folder / "others"]))
    write(model, bank.like(read_image(folder / "a.png")), tmp_path / "kept.safetensors")
    by_photographs = api.upscale(model, folder / "a.png", references=[folder / "others"])
    by_file = api.upscale(model, folder / "a.png", references=[tmp_path / "kept.safetensors"])
    np.testing.assert_array_equal(by_photographs, by_file)
    assert (by_photographs != api.upscale(model, folder / "a.png")).any()


def test_from_python_mistakes_are_sentences(model, folder, tmp_path):
    with pytest.raises(UserError, match="no photograph and no folder"):
        api.upscale(model, folder / "a.png", references=[tmp_path / "none.png"])
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(UserError, match=r"bad\.safetensors"):
        api.upscale(model, folder / "a.png", references=[tmp_path / "bad.safetensors"])
    with pytest.raises(UserError, match="references"):
        api.upscale(tiny(), folder / "a.png", references=[folder / "others"])


def test_a_run_is_evaluated_with_the_references_of_its_recipe(model, folder, tmp_path):
    words = [f"eval.references=[{folder / 'others'}]", "eval.metrics=[psnr]", "eval.limit=1"]
    recipe = load_recipe(RECIPE, words)
    check_references(recipe, model)
    source = OSEDiffSource().build()
    OSEDiffSource().load(source)
    shutil.copy(folder / "model.safetensors", tmp_path)
    results = evaluate_both(recipe, source, model, tmp_path)["embedded"]
    (note,) = results["compressed"]["notes"]
    assert note.startswith("evaluated with references")
    assert results["source"]["notes"] == []
    assert read_references(tmp_path / "eval" / "embedded")


def test_a_recipe_with_references_and_a_model_without(model, folder, tmp_path):
    recipe = load_recipe(RECIPE, [f"eval.references=[{folder / 'others'}]"])
    with pytest.raises(UserError, match=r"eval\.references: .* takes no references"):
        check_references(recipe, tiny())
    recipe = load_recipe(RECIPE, [f"eval.references=[{tmp_path / 'nowhere'}]"])
    with pytest.raises(UserError, match="nowhere: is no photograph"):
        check_references(recipe, model)


def test_a_folder_of_folders_gives_each_photograph_its_own(folder, tmp_path):
    small = folder / "a.png"
    own = tmp_path / "of_each" / "a"
    own.mkdir(parents=True)
    shutil.copy(folder / "others" / "whole.png", own)
    found = api.upscale(folder, small, references=[tmp_path / "of_each"])
    np.testing.assert_array_equal(found, api.upscale(folder, small, references=[own]))
