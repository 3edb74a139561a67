"""The recipe of a training: a source model, photographs, perhaps a teacher, and stages."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticKnownError

from compress.core.config import Strict
from compress.core.files import FileName
from compress.data.presets import PresetName
from compress.stages.registry import STAGES, stages_that_freeze, stages_with_lora
from compress.stages.settings import ON_IMAGES, Loss, StageSettings
from compress.stages.taught import TeacherConfig
from compress.training.config import BLENDED_LORA

MOST_SEED = 2**31 - 1
OF_GAN = ("gan_form", "gan_after", "gan_balance")  # keys that mean nothing without the loss gan


def _known_stage(name: str) -> str:
    """`name`, if a stage has it; the error is that of a `Literal`."""
    if name in STAGES:
        return name
    *most, last = [repr(known) for known in STAGES]
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(most)} or {last}"})


StageName = Annotated[
    str,
    AfterValidator(_known_stage),
    WithJsonSchema({"type": "string", "enum": list(STAGES)}),
]


class StageConfig(StageSettings):
    """One stage of the recipe, with the losses and the frozen parts that this stage may have."""

    stage: StageName = Field(description="The name of the stage.")

    @model_validator(mode="after")
    def _check(self) -> "StageConfig":
        self._check_losses()
        self._check_frozen()
        self._check_lora()
        self._check_gan()
        return self

    def _check_losses(self) -> None:
        legal = STAGES[self.stage].losses
        wrong = [name for name in self.losses if name not in legal]
        if wrong:
            raise ValueError(
                f"stage '{self.stage}' has no loss '{wrong[0]}'; choose from {', '.join(legal)}"
            )
        if not any(self.losses.values()):
            raise ValueError(
                f"stage '{self.stage}' has no loss above 0; name one of {', '.join(legal)}"
            )
        on_images = [name for name in ON_IMAGES if self.losses.get(name)]
        if self.losses.get("distill") and on_images:
            raise ValueError(
                f"stage '{self.stage}' has the loss distill on precomputed latents only; leave out "
                f"{', '.join(on_images)}, or distill"
            )
        makes_images: Loss = "gan"  # what a discriminator judges here are images
        if self.soften and makes_images not in legal:
            raise ValueError(f"stage '{self.stage}' makes no image, and has no soften")

    def _check_frozen(self) -> None:
        for part in self.frozen:
            if part not in STAGES[self.stage].may_freeze:
                raise ValueError(
                    f"stage '{self.stage}' cannot hold the {part} still; "
                    f"{', '.join(stages_that_freeze(part))} can"
                )

    def _check_lora(self) -> None:
        if self.lora is None:
            return
        if not STAGES[self.stage].takes_lora:
            raise ValueError(
                f"stage '{self.stage}' trains nothing by lora; {', '.join(stages_with_lora())} can"
            )
        if self.blend != 1:
            raise ValueError(BLENDED_LORA)

    def _check_gan(self) -> None:
        given = [key for key in OF_GAN if getattr(self, key)]
        if given and not self.losses.get("gan"):
            raise ValueError(f"{given[0]} is of the loss gan, which stage '{self.stage}' lacks")
        if not self.gan_balance:
            return
        if not STAGES[self.stage].balances:
            raise ValueError(f"stage '{self.stage}' has no gan_balance; decoder has")
        if not any(factor for loss, factor in self.losses.items() if loss != "gan"):
            raise ValueError("gan_balance compares the loss gan with others; name one")


class Data(Strict):
    """The photographs of a training."""

    folders: list[str] = Field(
        [],
        description=(
            "Folders of photographs; none are needed where a folder of pairs teaches all stages."
        ),
    )
    degradation: PresetName = Field(
        "mild", description="How low-resolution images are made from the photographs."
    )


class TrainRecipe(Strict):
    """What `python -m compress.train` reads."""

    name: FileName = Field(description="The name of the training, of its folder and its result.")
    source: dict[str, Any] = Field(
        description="The model to train: a source as in recipes of compression."
    )
    data: Data = Field(Data(), description="The photographs to train on.")
    teacher: TeacherConfig | None = Field(
        None,
        description=(
            "Whose output the stages autoencoder, pixel_blocks and end_to_end make, instead of "
            "photographs."
        ),
    )
    stages: list[StageConfig] = Field(min_length=1, description="The stages, in order.")
    start: str | None = Field(
        None,
        description=(
            "Weight file whose values the training begins with instead of random ones. It is of "
            "the same source; or of another nano on Stable Diffusion's UNet, whose networks are "
            "taken over. `osediff_nano` is the embedded one."
        ),
    )
    lpips_weights: str | None = Field(
        None,
        description="File with the weights of LPIPS under pyiqa's names, or its name on the hub, "
        "for the losses lpips and ea_lpips.",
    )
    lpips_net: Literal["squeeze", "alex", "vgg"] = Field(
        "squeeze", description="The network of the losses lpips and ea_lpips."
    )
    dists_weights: str | None = Field(
        None,
        description="File with the weights of DISTS under pyiqa's names, for the loss ea_dists.",
    )
    latent_lpips_weights: str | None = Field(
        None,
        description="File with the weights of LPIPS of vgg under pyiqa's names, for the loss "
        "latent_lpips; its first convolution may take three channels.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Number format of the arithmetic."
    )
    shard: bool = Field(
        False,
        description=(
            "Whether several processes spread weights, gradients and averages over themselves "
            "(FSDP 2), for a model that one device's memory does not hold."
        ),
    )
    seed: int = Field(
        0, ge=0, le=MOST_SEED, description="What all random draws of the training come from."
    )

    @model_validator(mode="after")
    def _check_shard(self) -> "TrainRecipe":
        """Refuse what a network that is spread over processes cannot be trained with."""
        if self.shard and any(stage.lora is not None for stage in self.stages):
            raise ValueError("shard trains whole weights, and lora pairs; leave one out")
        return self
