"""Read a checkpoint of latent-diffusion, one file with all networks, into diffusers' networks.

CCSR v1 and DoSSR publish such files. The authors' loaders take some of them without a word where
names do not fit; here each name is accounted for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from compress.core.tensors import State, check_fit
from compress.networks.ldm_names import Names, text_names, unet_names, vae_names

# Tables of the diffusion, which the process computes itself.
SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
TABLES = (
    *SCHEDULE,
    *(f"{name}_inter" for name in SCHEDULE),
    "logvar",
    "lambdas",
    "one_minus_lambdas",
)
# Prefixes of the networks in a file of Stable Diffusion 2, of CCSR v1 and of DoSSR.
UNET, CONTROL = "model.diffusion_model.", "control_model."
AUTOENCODER, CONDITION = "first_stage_model.", "cond_encoder."
TEXT, PREPROCESSOR = "cond_stage_model.model.", "preprocess_model."
LOSS = "decoder_loss."  # of CCSR v1's training
# What SD 2 leaves out of the text encoder: its last layer, and what compares texts with images.
BEHIND_TEXT = (
    f"{TEXT}transformer.resblocks.23.",
    f"{TEXT}text_projection",
    f"{TEXT}logit_scale",
)
IN_PROJ = ".attn.in_proj_"  # of open_clip: q, k and v in one
SIDES = ("q", "k", "v")


class Part(NamedTuple):
    """One network of the file.

    Attributes:
        prefix: Before its names in the file, with the last dot.
        network: What is filled; it may be on the meta device.
        names: Its tensors' names in the file (compress/networks/ldm_names.py).
    """

    prefix: str
    network: nn.Module
    names: Names


def same_part(prefix: str, network: nn.Module) -> Part:
    """A network that is called the same in the file, such as DoSSR's preprocessor."""
    return Part(prefix, network, {name: name for name in network.state_dict()})


def unet_part(prefix: str, network: nn.Module) -> Part:
    """A UNet or a control network of the file."""
    return Part(prefix, network, unet_names(network))


def vae_part(prefix: str, network: nn.Module) -> Part:
    """An autoencoder of the file, or a half of one."""
    return Part(prefix, network, vae_names(network))


def text_part(network: nn.Module, prefix: str = TEXT) -> Part:
    """The text encoder of the file, which is open_clip's, for transformers' CLIP text model."""
    return Part(prefix, network, text_names(network))


def load_parts(
    parts: Sequence[Part], state: State, where: str, wanted: str, unused: tuple[str, ...] = ()
) -> None:
    """Assign the tensors of a file to its networks.

    Args:
        parts: The networks that are needed.
        state: The file's tensors, in float32.
        where: What begins the sentence of an error.
        wanted: Whose tensors are expected.
        unused: Prefixes of names that no part has and that may be there.

    Raises:
        UserError: Names, shapes or types differ, or a value is not finite. It tells the names that
            the file should have.
    """
    expected: State = {}
    for part in parts:
        own = part.network.state_dict()
        expected |= {part.prefix + file: own[name] for name, file in part.names.items()}
    found: State = {}
    for name, tensor in split_projections(state).items():
        if name in expected:
            found[name] = _as_linear(tensor, expected[name])
        elif name not in TABLES and not name.startswith(unused):
            found[name] = tensor
    check_fit(expected, found, where, wanted)
    for part in parts:
        tensors = {name: found[part.prefix + file] for name, file in part.names.items()}
        # Their names were compared above; position ids are in no file (`set_prompt`).
        part.network.load_state_dict(tensors, assign=True, strict=False)


def _as_linear(tensor: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution's weight as that of a linear layer, where that is wanted."""
    return tensor.flatten(1) if (tensor.ndim, want.ndim) == (4, 2) else tensor


def split_projections(state: State) -> State:
    """`state` with open_clip's joint projections of attention under three names each."""
    split: State = {}
    for name, tensor in state.items():
        before, joint, kind = name.partition(IN_PROJ)
        if not joint:
            split[name] = tensor
            continue
        for side, piece in zip(SIDES, tensor.chunk(len(SIDES)), strict=True):
            split[f"{before}.attn.{side}_proj.{kind}"] = piece
    return split
