"""What stages say of themselves, and what recipes are refused by it."""

import pytest

from compress.core.config import validate
from compress.core.errors import UserError
from compress.stages.recipe import StageConfig
from compress.stages.registry import STAGES, stages_of, stages_that_freeze, taught_stages

STAGE = {
    "stage": "end_to_end",
    "steps": 1,
    "batch": 1,
    "crop": 64,
    "lr": 1e-3,
    "losses": {"l1": 1.0},
}


def refused(**changes):
    with pytest.raises(UserError) as error:
        validate(StageConfig, STAGE | changes, "r.yaml")
    return str(error.value)


def test_stages_of_every_family():
    first = ["autoencoder", "pixel_blocks", "latent", "hr_encoder", "dfosd"]
    assert stages_of("osediff") == stages_of("dfosd") == [*first, "end_to_end", "decoder"]
    assert stages_of("invsr") == ["hr_encoder", "invsr", "end_to_end", "decoder"]
    assert stages_of("addsr") == ["hr_encoder", "addsr", "end_to_end", "decoder"]
    assert stages_of("ccsr") == ["hr_encoder", "ccsr", "end_to_end", "decoder"]
    assert stages_of("dossr") == ["hr_encoder", "preprocessor", "dossr", "end_to_end", "decoder"]
    assert stages_of("resshift") == ["vq_autoencoder", "resshift", "sinsr", "end_to_end"]
    assert stages_of("tsdsr") == [
        "autoencoder",
        "pixel_blocks",
        "hr_encoder",
        "flow_teacher",
        "tsdsr",
        "end_to_end",
    ]
    assert len(stages_of("edge_sd_sr")) == 7
    assert stages_of("adcsr") == ["end_to_end"]
    by_teacher = {name for name in STAGES if STAGES[name].takes_teacher}
    assert set(taught_stages()) == by_teacher
    assert {"end_to_end", "invsr", "decoder"} <= by_teacher
    assert "dfosd" not in by_teacher


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_says_what_it_is(name):
    stage = STAGES[name]
    assert stage.name == name
    assert stage.families
    assert stage.losses
    assert stage.__doc__


def test_an_unknown_stage_is_told_all_names():
    message = refused(stage="end_to_ent")
    assert message.startswith("r.yaml: stage: Input should be 'autoencoder', 'pixel_blocks'")
    assert "got 'end_to_ent'" in message
    assert all(f"'{name}'" in message for name in STAGES)


def test_frozen_parts_are_those_that_a_stage_names():
    config = validate(StageConfig, STAGE | {"encoder": "frozen", "decoder": "frozen"}, "r.yaml")
    assert config.frozen == ["encoder", "decoder"]
    assert stages_that_freeze("encoder") == [
        "tsdsr",
        "edge_joint",
        "edge_one_step",
        "end_to_end",
    ]
    message = refused(stage="autoencoder", encoder="frozen")
    assert message.endswith("still; tsdsr, edge_joint, edge_one_step, end_to_end can")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"losses": {"kl": 1.0}},
            "has no loss 'kl'; choose from l1, mse, frequency, texture, lpips, ea_lpips",
        ),
        ({"losses": {"l1": 0.0}}, "has no loss above 0"),
        ({"losses": {"l3": 1.0}}, "Input should be 'l1', 'mse'"),
        ({"stage": "latent", "soften": 0.1}, "makes no image, and has no soften"),
        (
            {"stage": "edge_joint", "losses": {"distill": 1.0, "mse": 1.0}},
            "precomputed latents only; leave out mse, or distill",
        ),
        ({"lr": 0}, "greater than 0"),
    ],
)
def test_what_does_not_fit_a_stage(changes, said):
    assert said in refused(**changes)


def test_the_schema_lists_the_stages():
    schema = StageConfig.model_json_schema()
    assert schema["properties"]["stage"]["enum"] == list(STAGES)
    assert all("description" in field for field in schema["properties"].values())
