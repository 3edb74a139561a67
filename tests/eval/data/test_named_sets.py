"""The field's data sets by name.

Layouts, counts, protocols, and what is said of a folder that is something else.
"""

import pytest

from compress.core.errors import UserError
from compress.recipe.recipe import parse_recipe
from eval.data.dataset import open_data
from eval.data.folders import DataSpec
from eval.data.named_sets import full_count, known, listing
from eval.data.protocols import PROTOCOLS
from eval.named_sets import main


def fill(folder, names, size, photo):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        photo(*size).save(folder / name)


def test_the_table_agrees_with_the_protocols():
    assert {"realsr", "drealsr", "div2k", "realset65", "reallr200", "ntire-mobile"} <= set(known())
    for entry in known().values():
        for name, protocol in entry.protocols.items():
            assert (protocol.small, protocol.large) == (PROTOCOLS[name] or (None, None)), (
                entry.name,
                name,
            )
    assert [full_count(n, "crop") for n in ("RealSR", "DRealSR", "DIV2K", "holiday")] == [
        100,
        93,
        3000,
        None,
    ]
    assert full_count("RealSet65", "full") == 65
    assert full_count("RealLR200", "full") == 200


def test_realsr_as_its_authors_lay_it_out(tmp_path, photo):
    """Small and large images of two cameras, side by side in one folder, told apart by the ends of
    their names."""
    for camera in ("Canon", "Nikon"):
        folder = tmp_path / "r" / camera / "Test" / "4"
        fill(folder, [f"{camera}_001_LR4.png", f"{camera}_002_LR4.png"], (40, 32), photo)
        fill(folder, [f"{camera}_001_HR.png", f"{camera}_002_HR.png"], (160, 128), photo)
    data = open_data(f"realsr={tmp_path / 'r'}")
    assert (data.name, data.protocol, data.total) == ("RealSR", "full", 4)
    assert [p.name for p in data.pairs] == ["Canon_001", "Canon_002", "Nikon_001", "Nikon_002"]
    assert data.pairs[2].lr().shape == (1, 3, 32, 40)
    assert data.pairs[2].hr().shape == (
        1,
        3,
        128,
        160,
    )
    assert data.notes == (
        f"{tmp_path / 'r'}: holds 4 images, RealSR has 100 under protocol 'full'; averages are not "
        f"over "
        "the benchmark",
    )


def test_drealsr_whole_and_cropped(tmp_path, photo):
    fill(tmp_path / "d" / "test_LR", ["a_x1.png"], (40, 32), photo)
    fill(tmp_path / "d" / "test_HR", ["a_x4.png"], (160, 128), photo)
    assert open_data(f"drealsr={tmp_path / 'd'}").protocol == "full"
    fill(tmp_path / "c" / "test_LR", ["a.png"], (128, 128), photo)
    fill(tmp_path / "c" / "test_HR", ["a.png"], (512, 512), photo)
    data = open_data(f"DRealSR={tmp_path / 'c'}")
    assert (data.name, data.protocol, [p.name for p in data.pairs]) == ("DRealSR", "crop", ["a"])


def test_sets_without_originals(tmp_path, photo):
    fill(tmp_path / "photos", ["a.png", "b.jpg"], (40, 32), photo)
    data = open_data(f"realset65={tmp_path / 'photos'}")
    assert (data.name, data.protocol, len(data.pairs), data.pairs[0].hr) == (
        "RealSet65",
        "full",
        2,
        None,
    )
    assert "holds 2 images, RealSet65 has 65" in data.notes[0]


def test_shared_sets_are_whole(shared, capsys):
    data = shared / "data"
    with pytest.raises(SystemExit) as end:
        main([f"realsr={data / 'realsr'}", f"realset65={data / 'realset65'}"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "RealSR, protocol crop, 100 of 100 images" in said
    assert "RealSet65, protocol full, 65 of 65 images" in said


def test_mistakes(tmp_path, photo, capsys):
    fill(tmp_path / "p" / "LR", ["a.png"], (40, 32), photo)
    fill(tmp_path / "p" / "HR", ["a.png"], (160, 128), photo)
    fill(tmp_path / "only", ["a.png"], (40, 32), photo)
    for folder, protocol, says in (
        (f"realsrr={tmp_path / 'p'}", None, "data set 'realsrr' is unknown .did you mean 'realsr'"),
        (f"realsr={tmp_path / 'none'}", None, "no such folder"),
        (f"realsr={tmp_path / 'only'}", None, "is not laid out as RealSR; expected LR/ and HR/"),
        (f"realsr={tmp_path / 'p'}", "crop", "protocol 'crop' is 128x128 to 512x512"),
        (f"div2k={tmp_path / 'p'}", None, "the sizes are of no protocol of DIV2K .crop, 64-256"),
        (
            f"realset65={tmp_path / 'only'}",
            "crop",
            "RealSet65 has no protocol 'crop'; choose from full",
        ),
    ):
        with pytest.raises(UserError, match=says):
            open_data(DataSpec(folder, protocol=protocol))
    with pytest.raises(SystemExit) as end:
        main([f"realsr={tmp_path / 'p'}"])
    assert end.value.code == 2
    assert "averages are not over the benchmark" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "p")])
    assert end.value.code == 2
    assert "give NAME=DIR, such as realsr=" in capsys.readouterr().err


def test_listing_names_counts_and_layouts():
    text = listing()
    assert "crop    93 images, 128 -> 512" in text
    assert "Canon/Test/4/*_LR4.png and Canon/Test/4/*_HR.png" in text
    assert "unstated number of images" in text  # what no source states is not invented


def recipe(data):
    return parse_recipe(
        {
            "name": "x",
            "source": {"family": "osediff"},
            "passes": [],
            "export": [],
            "eval": {"data": data, "metrics": ["psnr"]},
        },
        "r.yaml",
    )


def test_recipes_name_data_sets_beside_plain_folders():
    from compress.recipe.recipe import resolved

    plain, named = (
        recipe(["embedded", "photos"]),
        recipe([{"name": "realsr", "path": "DIR"}, "embedded"]),
    )
    assert resolved(plain)["eval"]["data"] == ["embedded", "photos"]
    assert resolved(named)["eval"]["data"] == [
        {"name": "realsr", "path": "DIR", "protocol": None},
        "embedded",
    ]
    with pytest.raises(UserError, match=r"eval\.data\.0"):
        recipe([{"name": "realsr", "folder": "DIR"}])


def test_a_named_set_in_folders_of_other_names(tmp_path, photo):
    root = tmp_path / "r"
    fill(root / "small", ["a.png", "b.png"], (128, 128), photo)
    fill(root / "large", ["a.png", "b.png"], (512, 512), photo)
    for data, lr, hr in (
        ("realsr", root / "small", root / "large"),
        (f"realsr={root}", "small", "large"),
        (f"realsr={root}", root / "small", root / "large"),
    ):
        found = open_data(DataSpec(data, lr, hr))
        assert (found.name, found.protocol, [p.name for p in found.pairs]) == (
            "RealSR",
            "crop",
            ["a", "b"],
        )
        assert "holds 2 images, RealSR has 100" in found.notes[0]
        assert found.pairs[0].hr().shape == (
            1,
            3,
            512,
            512,
        )
    fill(root / "ends", ["a_LR4.png"], (40, 32), photo)
    fill(root / "starts", ["a_HR.png"], (160, 128), photo)
    assert [p.name for p in open_data(DataSpec(f"realsr={root}", "ends", "starts")).pairs] == ["a"]
    fill(root / "photos", ["a.png"], (40, 32), photo)
    assert open_data(DataSpec("realset65", root / "photos")).name == "RealSet65"


def test_mistakes_with_two_folders(tmp_path, photo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("r/small", "r/large", "small"):
        fill(tmp_path / folder, ["a.png"], (128, 128), photo)
    for data, lr, hr, says in (
        ("realsr", "r/small", None, "give both --lr and --hr"),
        ("realsr=r", "small", "large", "--lr small: is a folder here and under r"),
        ("realsrr=r", "r/small", "r/large", "data set 'realsrr' is unknown"),
        ("r", "r/small", "r/large", "give one or the other, or a published data set's name"),
        ("realsr=r", "none", "large", "none: no such folder"),
        ("realsr=r", "r/small", "large", "is not x4 of"),
    ):
        with pytest.raises(UserError, match=says):
            open_data(DataSpec(data, lr, hr))


def test_only_results_of_our_own_are_replaced(tmp_path):
    from eval.run import check_results

    check_results(tmp_path)
    (tmp_path / "metrics.csv").write_text("image,data,protocol,psnr\n")
    (tmp_path / "averages.json").write_text(
        '{\n "psnr": 30.1, "images": 1, "data": "a", "protocol": "full", "blank"'
    )
    check_results(tmp_path)
    (tmp_path / "averages.json").write_text('{"protocol": "https", "images": 3}')
    with pytest.raises(UserError, match=r"averages\.json: exists and was not written by eval\.run"):
        check_results(tmp_path)
