"""Every table of docs/results is registered, is as its data says, and its commands parse."""

import json
import re
import sys
from pathlib import Path

import pytest
from support.parsers import Parsers

from eval.results import __main__ as command
from eval.results import datafile
from eval.results.measurement import NEEDS, Short
from eval.results.pages import TEMPLATES, Pages, differing
from eval.results.places import WORD
from eval.results.provenance import RESULTS
from eval.results.registry import MEASUREMENTS
from eval.results.staleness import unmeasured

ROOT = Path(__file__).parents[3]
# Measurements that no command has made yet. Their figures, where there are any, are typed in the
# templates. Whoever measures one deletes its name here and what was typed: the list only shrinks.
TYPED = {
    "adaptive_steps",
    "adaptive_steps_large",
    "backends",
    "bits",
    "branches",
    "conditioning",
    "distillation",
    "full_size",
    "full_size_executorch",
    "full_size_ncnn",
    "full_size_openvino",
    "full_size_qnn",
    "gpu",
    "htp_full_size",
    "int8",
    "large_photograph",
    "methods",
    "near_attention",
    "openvino_speed",
    "parity_executorch",
    "parity_litert",
    "parity_qnn",
    "reduce_range",
    "references",
    "router_large",
    "scoring",
    "sweep",
    "torch_speed",
}


def called(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        command.main(list(arguments))
    return end.value.code


def test_every_page_has_a_measurement_and_a_template():
    pages = {path.stem for path in (ROOT / RESULTS).glob("*.md")} - {"index"}
    assert {measurement.page for measurement in MEASUREMENTS.values()} == pages
    templates = {path.stem for path in TEMPLATES.glob("*.md")}
    assert pages | {"index"} == {name for name in templates if not name.startswith("README.")}


def test_every_measurement_is_on_its_page():
    for name, measurement in MEASUREMENTS.items():
        template = (TEMPLATES / f"{measurement.page}.md").read_text(encoding="utf-8")
        assert re.search(rf'(result|made)\("{name}"', template), name


def test_pages_are_what_the_results_say():
    texts = Pages(MEASUREMENTS, ROOT, ROOT / RESULTS).texts()
    assert len(texts) > len(TYPED) / 4
    assert differing(ROOT, texts) == [], "run python -m eval.results --render"


def test_what_is_typed_is_listed():
    files = {path.stem for path in (ROOT / RESULTS).glob("*.json")}
    assert files <= set(MEASUREMENTS)
    assert set(MEASUREMENTS) - files == TYPED


def test_results_name_nobody_s_folders():
    for path in (ROOT / RESULTS).glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"[\"' =](/(?! )|~|[A-Z]:\\)", text), path.name
        assert str(ROOT) not in text


def test_keys_of_jobs_are_unique():
    for name, measurement in MEASUREMENTS.items():
        keys = [job.key for job in measurement.jobs(Short())]
        assert keys, name
        assert len(set(keys)) == len(keys), name
        assert all(
            (ROOT / file).is_file() for job in measurement.jobs(Short()) for file in job.inputs
        )


def test_words_in_braces_are_places_and_needs_are_declared():
    inside = {"out", "new", "work", "run", "skimage"}
    for name, measurement in MEASUREMENTS.items():
        words = [
            word for job in measurement.jobs(Short()) for line in job.commands for word in line
        ]
        kinds = {found[1] for word in words for found in WORD.finditer(word)}
        assert kinds - inside == set(measurement.needs), name


@pytest.fixture
def parse(monkeypatch):
    """Has the real parser of a command parse its words; the command does not run."""
    parsers = Parsers(monkeypatch)

    def parsed(words: tuple[str, ...]) -> None:
        module, *arguments = [WORD.sub("place", word) for word in words[1:] if word != "-m"]
        parsers.parse(module, arguments)

    return parsed


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("short", [Short(), Short(1, 2)], ids=["whole", "short"])
def test_commands_parse(name, short, parse):
    measurement = MEASUREMENTS[name]
    for package in measurement.packages:
        pytest.importorskip(package)
    lines = {line for job in measurement.jobs(short) for line in job.commands}
    for line in lines:
        if not line[1].startswith("{"):  # a program that an export wrote
            parse(line)


def test_a_listed_measurement_says_what_it_needs(capsys):
    assert called("--list", "--only", "models,pruning") == 0
    models, pruning = capsys.readouterr().out.splitlines()
    assert models.startswith("models")
    assert models.endswith("needs --realsr --iqa-weights")
    assert "needs" not in pruning


def test_what_cannot_be_run_is_told(tmp_path, capsys):
    out, work = tmp_path / "out", tmp_path / "work"
    assert called("--only", "models", "-o", str(out), "--workdir", str(work)) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"models: not run: needs --realsr REALSR ({NEEDS['realsr'].text}), ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "prunning"], "no measurement is called 'prunning' (did you mean 'pruning'?)"),
        (["--jobs", "adcsr"], "--jobs: are jobs of one measurement; name it by --only NAME"),
        (["--limit", "1"], "--limit and --steps try a measurement and give no result; add -o DIR"),
        (["--realsr", "nowhere"], "--realsr nowhere: is not there"),
    ],
)
def test_mistakes_are_told(arguments, told, capsys):
    assert called(*arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_a_measurement_from_end_to_end(tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    only = ("--only", "plans", "--limit", "1", "-o", str(out), "--workdir", str(work))
    assert called(*only) == 0
    data = json.loads((out / "plans.json").read_text())
    assert len(data["rows"]) == 1
    assert data["rows"][0]["params_m"] > 400
    lacking = unmeasured(data, MEASUREMENTS["plans"])
    assert len(lacking) == len(MEASUREMENTS["plans"].jobs(Short())) - 1


def name_of(measurement, job) -> dict:
    """The columns that tell a job's row from others, as the readers of rows write them."""
    key = job.key if measurement.name in ("plans", "published") else f"`{job.key}`"
    if job.key == "bicubic":
        key = "bicubic (Pillow)"
    return {
        "recipe": key,
        "model": key,
        "way": "routed",
        "width": "W8A8",
        "picture": "a.png",
        **dict.fromkeys(("part", "form", "dtype", "phase", "backend", "photograph"), "one"),
        **dict.fromkeys(("denoiser", "conditioning", "method", "placement", "target"), "one"),
        **dict.fromkeys(("component", "rules", "budget", "parity_db"), "one"),
    }


def test_every_page_renders_with_every_result(tmp_path):
    """So that a night of measuring ends with pages, and not with a mistake in a template."""
    beside = ("to_source_db", "weights_ratio", "bytes_ratio", "source_psnr", "equivalents_m")
    columns = (*beside, "compressed_psnr", "source_ssim", "compressed_ssim", "lpips_more")
    session = {
        "commit": "1234567",
        "code": "12",
        "versions": {},
        "machine": {"cores": 2, "threads": 1, "features": ["avx2"], "processor": "one"},
    }
    for measurement in MEASUREMENTS.values():
        pieces = []
        for job in measurement.jobs(Short()):
            numbers = dict.fromkeys((*columns, *(c.key for c in measurement.columns)), 1.5)
            record = {
                "key": job.key,
                "commands": [],
                "inputs": dict.fromkeys(job.inputs, ""),
                "date": "2026-11-29",
                "seconds": 1.0,
                "load": [0.0, 0.0],
                "other_work": 0.0,
                "session": 0,
            }
            row = numbers | name_of(measurement, job)
            pieces.append({"record": record, "session": session, "edition": 1, "rows": [row]})
        datafile.write(
            datafile.assemble(measurement, pieces), tmp_path / f"{measurement.name}.json"
        )
    texts = Pages(MEASUREMENTS, ROOT, tmp_path).texts()
    without_weights = ("README.md", "index.md", "evaluation.md")
    for path, text in texts.items():
        assert "ot measured yet" not in text, path
        assert path.name in without_weights or "**Stale:** made with other" in text, path
    assert "| `bimacosr` | 1.5 | 1.5 | 1.500 | 1.5000 |" in texts[Path("README.md")]


def test_needs_have_options_of_their_own():
    options = [need.option for need in NEEDS.values()]
    assert len(set(options)) == len(options)
    assert all(option in sys.modules[command.__name__].parser().format_help() for option in options)
