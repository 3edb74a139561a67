"""All stages of training, by name."""

from compress.stages.addsr import AddSR
from compress.stages.base import Stage
from compress.stages.clean import HREncoderStage
from compress.stages.controlled import CCSR, Decoder, DoSSR, Preprocessor
from compress.stages.dfosd import DFOSD
from compress.stages.edge_images import EdgeAutoencoder, EdgeDecoder, EdgeOneStep
from compress.stages.edge_latents import EdgeEncoder, EdgeJoint, EdgeTeacher
from compress.stages.images import Autoencoder, EndToEnd
from compress.stages.invsr import InvSR
from compress.stages.latents import Latent
from compress.stages.pixel_blocks import PixelBlocks
from compress.stages.shift import ShiftStudent, ShiftTeacher, VQAutoencoderStage
from compress.stages.tsdsr import TSDSR, FlowTeacher

# In the order in which a model of each family is trained.
_ALL: tuple[type[Stage], ...] = (
    Autoencoder,
    PixelBlocks,
    Latent,
    HREncoderStage,
    DFOSD,
    InvSR,
    Preprocessor,
    CCSR,
    DoSSR,
    AddSR,
    FlowTeacher,
    TSDSR,
    VQAutoencoderStage,
    ShiftTeacher,
    ShiftStudent,
    EdgeAutoencoder,
    EdgeEncoder,
    EdgeTeacher,
    EdgeJoint,
    EdgeOneStep,
    EdgeDecoder,
    EndToEnd,
    Decoder,
)
STAGES: dict[str, type[Stage]] = {stage.name: stage for stage in _ALL}


def stages_of(family: str) -> list[str]:
    """Names of the stages that train sources of `family`, in order; none for an unknown one."""
    return [name for name, stage in STAGES.items() if family in stage.families]


def taught_stages() -> list[str]:
    """Names of the stages that take their images from a teacher, if there is one."""
    return [name for name, stage in STAGES.items() if stage.takes_teacher]


def stages_that_freeze(part: str) -> list[str]:
    """Names of the stages that may hold `part`, encoder or decoder, still."""
    return [name for name, stage in STAGES.items() if part in stage.may_freeze]


def stages_with_lora() -> list[str]:
    """Names of the stages in which a part of the model may learn by LoRA."""
    return [name for name, stage in STAGES.items() if stage.takes_lora]
