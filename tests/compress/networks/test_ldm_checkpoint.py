"""Checkpoints of latent-diffusion: every name of CCSR v1's and DoSSR's has its place."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from support.golden import manifest
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from compress.core.errors import UserError
from compress.networks.control import JoinedControl, control_parts
from compress.networks.controlled import set_prompt
from compress.networks.latent_diffusion import PromptEncoder, VAEDecoder, VAEEncoder
from compress.networks.ldm_checkpoint import (
    AUTOENCODER,
    BEHIND_TEXT,
    CONDITION,
    CONTROL,
    LOSS,
    PREPROCESSOR,
    TABLES,
    UNET,
    Part,
    load_parts,
    split_projections,
    text_part,
    unet_part,
    vae_part,
)
from compress.networks.ldm_names import text_names
from compress.networks.sd21 import SD21_TEXT, SD21_UNET, SD21_VAE


@pytest.fixture(scope="module")
def parts() -> list[Part]:
    """The networks at full size, on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD21_UNET)
        control = JoinedControl(control_parts(SD21_UNET, 8), 999)
        vae = AutoencoderKL(**SD21_VAE)
        decoder = VAEDecoder(vae)
        encoder = VAEEncoder(vae)
        condition = VAEEncoder(AutoencoderKL(**SD21_VAE))
        text = CLIPTextModel(CLIPTextConfig(**SD21_TEXT))
    return [
        unet_part(UNET, unet),
        unet_part(CONTROL, control),
        vae_part(AUTOENCODER, encoder),
        vae_part(AUTOENCODER, decoder),
        vae_part(CONDITION, condition),
        text_part(text),
    ]


@pytest.mark.parametrize(("name", "others"), [("ccsr_v1_ckpt", LOSS), ("dossr_ckpt", PREPROCESSOR)])
def test_every_published_name_has_its_place(shared, parts, name, others):
    file = {
        n: torch.empty(shape, device="meta")
        for n, shape in manifest(shared, name)["tensors"].items()
    }
    found = {
        n: t
        for n, t in split_projections(file).items()
        if n not in TABLES and not n.startswith((*BEHIND_TEXT, others))
    }
    expected = {}
    for part in parts:
        state = part.network.state_dict()
        expected |= {part.prefix + n: state[own] for own, n in part.names.items()}
    assert found.keys() == expected.keys()
    for n, tensor in found.items():
        shape = tensor.flatten(1).shape if expected[n].ndim == 2 else tensor.shape
        assert shape == expected[n].shape, n


class Layer(nn.Module):
    """Stands for a network."""

    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(3, 3)


def test_a_wrong_file_is_named_by_its_own_names():
    part = Part("cond.", Layer(), {"to_q.weight": "q.weight", "to_q.bias": "q.bias"})
    state = {
        "cond.q.weight": torch.ones(3, 2, 1, 1),
        "cond.k.bias": torch.ones(3),
        "loss.weight": torch.ones(1),
        "betas": torch.ones(1000),
    }
    with pytest.raises(UserError) as caught:
        load_parts([part], state, "checkpoint: x.ckpt", "DoSSR's file", unused=("loss.",))
    assert str(caught.value) == (
        "checkpoint: x.ckpt: another architecture than DoSSR's file (1 missing: cond.q.bias; "
        "1 unexpected: cond.k.bias; 1 of another shape: cond.q.weight (3, 2) instead of (3, 3)); "
        "give DoSSR's file"
    )


def test_a_projection_is_read_as_convolution_or_linear_layer():
    weight = torch.randn(3, 3)
    for stored in (weight, weight[:, :, None, None]):
        layer = Layer()
        part = Part("cond.", layer, {"to_q.weight": "q.weight", "to_q.bias": "q.bias"})
        load_parts([part], {"cond.q.weight": stored, "cond.q.bias": weight[0]}, "w", "x")
        assert torch.equal(layer.to_q.weight, weight)


def test_joint_projections_are_split_in_the_order_q_k_v():
    joint = torch.arange(6.0)
    split = split_projections({"a.attn.in_proj_bias": joint, "b": joint})
    assert {name: tensor.tolist() for name, tensor in split.items()} == {
        "a.attn.q_proj.bias": [0, 1],
        "a.attn.k_proj.bias": [2, 3],
        "a.attn.v_proj.bias": [4, 5],
        "b": [0, 1, 2, 3, 4, 5],
    }


def test_a_text_encoder_is_read_with_its_prompt():
    """Built on the meta device, as a source builds it: no buffer may stay without a value."""
    config = CLIPTextConfig(
        vocab_size=50000,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=7,
    )
    torch.manual_seed(0)
    plain = CLIPTextModel(config).eval()
    with torch.device("meta"):
        text = PromptEncoder(CLIPTextModel(config), torch.empty(1, 7, dtype=torch.int64)).eval()
    names = text_names(text.text_model)
    own = plain.state_dict()
    state = {"text." + file: own[name] for name, file in names.items()}
    load_parts([Part("text.", text.text_model, names)], state, "x", "x")
    set_prompt(text, (3, 4))
    assert text.token_ids.tolist() == [[49406, 3, 4, 49407, 0, 0, 0]]
    assert not [name for name, tensor in text.state_dict().items() if tensor.is_meta]
    with torch.no_grad():
        assert torch.equal(text(), plain(text.token_ids)[0])
