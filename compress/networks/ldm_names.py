"""How CompVis' latent-diffusion calls the tensors of networks that are diffusers' here.

Each function returns, for every tensor of a network, the name in a checkpoint of latent-diffusion.
They are read off the network, so they hold for any number of levels and blocks. Verified with the
authors' numbers.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

Names = dict[str, str]  # a network's own name of a tensor -> the name in the file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# The attention in the middle of an autoencoder. Its projections are 1x1 convolutions in the file.
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_VAE_LEVEL = re.compile(r"(?:down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.")
TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
TEXT_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def unet_names(network: nn.Module) -> Names:
    """Of a UNet, or of a control network (compress/networks/control.py).

    Args:
        network: Has diffusers' blocks.

    Raises:
        KeyError: It has a layer that latent-diffusion's does not have.
    """
    places = dict(_places(network))
    names = {}
    for name in network.state_dict():
        place = next(p for p in _prefixes(name) if p in places)
        rest = name[len(place) + 1 :]
        if ".resnets." in f".{place}":
            part, _, kind = rest.partition(".")
            rest = f"{RESNET[part]}.{kind}"
        names[name] = f"{places[place]}.{rest}"
    return names


def _prefixes(name: str) -> Iterator[str]:
    """The modules around a tensor, the innermost first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
    raise KeyError(f"no place in latent-diffusion's network is known for {name}")


def _places(network: Any) -> Iterator[tuple[str, str]]:
    """Modules and their places in latent-diffusion's."""
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "conv_in", "input_blocks.0.0"
    index = 0
    for level, block in enumerate(network.down_blocks):
        yield from _blocks(f"down_blocks.{level}", block, "input_blocks", index + 1)
        index += len(block.resnets)
        if block.downsamplers:
            index += 1
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{index}.0.op"
    yield "mid_block.resnets.0", "middle_block.0"
    yield "mid_block.attentions.0", "middle_block.1"
    yield "mid_block.resnets.1", "middle_block.2"
    if hasattr(network, "up_blocks"):
        yield from _up_places(network)
    else:
        for i in range(len(network.controlnet_down_blocks)):
            yield f"controlnet_down_blocks.{i}", f"zero_convs.{i}.0"
        yield "controlnet_mid_block", "middle_block_out.0"


def _up_places(network: Any) -> Iterator[tuple[str, str]]:
    """Those of a decoder and of the output."""
    index = 0
    for level, block in enumerate(network.up_blocks):
        yield from _blocks(f"up_blocks.{level}", block, "output_blocks", index)
        index += len(block.resnets)
        if block.upsamplers:
            behind = 2 if hasattr(block, "attentions") else 1
            yield (
                f"up_blocks.{level}.upsamplers.0.conv",
                f"output_blocks.{index - 1}.{behind}.conv",
            )
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"


def _blocks(own: str, block: Any, file: str, first: int) -> Iterator[tuple[str, str]]:
    """The residual blocks of a level, each with its transformer."""
    for i in range(len(block.resnets)):
        yield f"{own}.resnets.{i}", f"{file}.{first + i}.0"
        if hasattr(block, "attentions"):
            yield f"{own}.attentions.{i}", f"{file}.{first + i}.1"


def vae_names(network: nn.Module) -> Names:
    """Of a KL autoencoder, or of one half of it with its 1x1 convolution.

    A decoder's levels count from the image in latent-diffusion, and from the latent in diffusers.
    """
    state = network.state_dict()
    levels = 1 + max(
        (int(m[1]) for name in state if (m := _VAE_LEVEL.search(name)) is not None), default=0
    )
    return {name: _vae_name(name, levels) for name in state}


def _vae_name(name: str, levels: int) -> str:
    def level(match: re.Match[str]) -> str:
        number, kind, block = match.groups()
        if match[0].startswith("up"):
            number = levels - 1 - int(number)
        side = match[0].partition("_")[0]
        if kind == "resnets":
            return f"{side}.{number}.block.{block}."
        return f"{side}.{number}.{kind.removesuffix('rs')}."  # downsample, upsample

    name = _VAE_LEVEL.sub(level, name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for own, file in VAE_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{own}.", f"mid.attn_1.{file}.")
    name = name.replace("conv_norm_out.", "norm_out.")
    return name.replace(".conv_shortcut.", ".nin_shortcut.")


def text_names(network: nn.Module) -> Names:
    """Of transformers' CLIP text model, in the file of open_clip's.

    There q, k and v are one tensor; `compress.networks.ldm_checkpoint` splits it under these names.
    """
    names = {}
    for name, _ in network.named_parameters():  # position ids are in no file
        if name in TEXT:
            names[name] = TEXT[name]
            continue
        _, _, layer, rest = name.split(".", 3)  # encoder.layers.0.REST
        part, _, kind = rest.rpartition(".")
        names[name] = f"transformer.resblocks.{layer}.{TEXT_LAYER[part]}.{kind}"
    return names
