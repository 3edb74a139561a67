"""The compression techniques.

`PASSES` is the one list of them: name in a recipe -> config class.
"""

from compress.model.passes import Pass
from compress.passes.adaptive_steps import AdaptiveStepsPass
from compress.passes.bidirectional import BidirectionalConditioning
from compress.passes.binarize import Binarize
from compress.passes.decoder import DecoderHalve, DecoderJoin
from compress.passes.decoder_light import DecoderLight
from compress.passes.depth_gates import DepthGates
from compress.passes.depth_prune import DepthPrune
from compress.passes.distill import Distill
from compress.passes.encoder_light import EncoderLight
from compress.passes.encoder_swap import EncoderSwap
from compress.passes.freeze import Freeze
from compress.passes.interpolate import Interpolate
from compress.passes.near_attention import NearAttentionPass
from compress.passes.one_step import OneStep
from compress.passes.pack import Pack
from compress.passes.prune import Prune
from compress.passes.quantize import Quantize
from compress.passes.reference_adapter import ReferenceAdapter
from compress.passes.strip import Strip

PASSES: dict[str, type[Pass]] = {
    "strip": Strip,
    "freeze": Freeze,
    "encoder_swap": EncoderSwap,
    "encoder_light": EncoderLight,
    "prune": Prune,
    "decoder_halve": DecoderHalve,
    "decoder_join": DecoderJoin,
    "decoder_light": DecoderLight,
    "bidirectional": BidirectionalConditioning,
    "depth_prune": DepthPrune,
    "depth_gates": DepthGates,
    "near_attention": NearAttentionPass,
    "binarize": Binarize,
    "one_step": OneStep,
    "adaptive_steps": AdaptiveStepsPass,
    "reference_adapter": ReferenceAdapter,
    "interpolate": Interpolate,
    "distill": Distill,
    "pack": Pack,
    "quantize": Quantize,
}
