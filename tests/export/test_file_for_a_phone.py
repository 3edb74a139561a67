"""Which file for which phone: the list, the choice, and what is refused."""

import json

import pytest
from support.pages import ROOT, text_of
from support.tiny_model import tiny

from compress.core.errors import UserError
from compress.recipe.export_options import ExportOptions
from export.run import main, options_of, parser
from export.targets.chips import chips
from export.targets.export_folder import export, finish
from export.targets.phones import CHOICES, choice_for, choose_phone, phones, sentences
from export.targets.table import TARGETS, check_options

PHONES = phones()


@pytest.mark.parametrize("phone", PHONES.values(), ids=lambda phone: phone.name)
def test_every_phone_has_a_choice_and_a_source(phone):
    choice = choice_for(phone)
    assert choice.target in TARGETS
    assert choice.dtype is None or choice.dtype in TARGETS[choice.target].dtypes
    assert phone.source.startswith("https://")
    assert phone.kind in CHOICES or phone.kind.removeprefix("v").isdigit()
    assert not phone.also or PHONES[phone.also].also == phone.name
    values = {"target": choice.target, "chip": choice.chip, "phone": phone.name}
    check_options(ExportOptions(**values))


def test_every_phone_is_on_the_page():
    page = text_of(ROOT / "docs" / "phones.md")
    for phone in PHONES.values():
        assert phone.name in page
        assert phone.chip in page


def test_all_chips_of_target_qnn_have_a_phone():
    assert {f"v{chip.htp_arch}" for chip in chips().values()} <= {p.kind for p in PHONES.values()}


@pytest.mark.parametrize(
    "name", ["Galaxy S25", "galaxy s25", "Samsung Galaxy  S25", "SAMSUNG galaxy s25"]
)
def test_a_phone_is_found_by_any_spelling(name):
    assert choose_phone(name).name == "Galaxy S25"


def test_plus_may_be_written_out():
    assert choose_phone("Galaxy S24 Plus").name == "Galaxy S24+"
    assert choose_phone("iPhone 15 Plus").name == "iPhone 15 Plus"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Galaxy S25", "--target qnn --chip snapdragon-8-elite --rewrite qnn"),
        ("iPhone 15 Pro", "--target coreml --dtype fp16"),
        ("Pixel 10", "--target litert --dtype fp16"),
        ("Galaxy S22", "--target litert --dtype fp16"),
        ("vivo X200", "--target litert --dtype fp16"),
        ("Galaxy S26 Exynos", "--target litert --dtype fp16"),
    ],
)
def test_the_choice_is_that_of_these_options(name, words):
    asked = options_of(parser().parse_args(["RUN", "--for", name]))
    same = options_of(parser().parse_args(["RUN", *words.split()]))
    assert asked == same.model_copy(update={"phone": name})


def test_a_dtype_that_was_given_stays():
    words = ["RUN", "--for", "iPhone 15 Pro", "--dtype", "w8"]
    assert options_of(parser().parse_args(words)).dtype == "w8"


def test_without_a_phone_the_target_is_onnx():
    assert options_of(parser().parse_args(["RUN"])).target == "onnx"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--for", "Galaxy S52"], r"phone 'Galaxy S52' is unknown \(near it: Galaxy S2"),
        (["--for", "abacus"], "phone 'abacus' is unknown; give one of export/targets/phones.csv"),
        (["--for", "Galaxy S25", "--target", "onnx"], "--for chooses the target; leave out"),
        (["--for", "Galaxy S25", "--chip", "v75"], "--for chooses the chip; leave out"),
        (["--target", "nnapi"], "target 'nnapi' is not offered: Android has deprecated it"),
    ],
)
def test_refusals(words, told):
    with pytest.raises(UserError, match=told):
        options_of(parser().parse_args(["RUN", *words]))


def test_an_unknown_phone_ends_with_one_sentence_and_code_2(capsys):
    with pytest.raises(SystemExit) as end:
        main(["RUN", "--for", "Pixel 99"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: phone 'Pixel 99' is unknown (near it: Pixel ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("given", [{"target": "onnx"}, {"target": "qnn", "chip": "v75"}])
def test_a_recipe_names_the_phone_that_its_file_is_for(given):
    with pytest.raises(UserError, match="takes target qnn, chip snapdragon-8-elite"):
        check_options(ExportOptions(phone="Galaxy S25", **given))


def test_the_terminal_is_told_the_reason_and_the_other_chip():
    chosen, other = sentences(choose_phone("Galaxy S24"))
    assert chosen.startswith("Galaxy S24 (Snapdragon 8 Gen 3): target qnn, ")
    assert "chip snapdragon-8-gen-3, rewrites for qnn, because a Snapdragon's NPU" in chosen
    assert other == "Galaxy S24 is sold with Exynos 2400 too: --for 'Galaxy S24 Exynos' is for that"
    assert len(sentences(choose_phone("Galaxy S25"))) == 1


def test_the_manifest_keeps_the_reason(tmp_path):
    options = ExportOptions(
        target="qnn",
        dtype="fp16",
        chip="v75",
        phone="Galaxy S24",
        lr_size=(32, 32),
        images=1,
        components=("decoder",),
    )
    export(tiny(), tmp_path / "o", options)
    said = json.loads((finish(tmp_path / "o", None) / "manifest.json").read_text())["for"]
    assert said["phone"] == "Galaxy S24"
    assert said["chip"] == "Snapdragon 8 Gen 3"
    assert said["reason"] == choice_for(choose_phone("Galaxy S24")).reason
    assert said["also"] == "Galaxy S24 Exynos"
