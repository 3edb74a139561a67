"""The small UNet of Edge-SD-SR from one of Stable Diffusion: what it keeps, what does not fit."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel

from compress.core.errors import UserError
from compress.families.edge_inherit import inherit
from compress.families.edge_sd_sr import SHAPES, EdgeSDSRSource, Shape, small_unet

# A base of SD's shape, small: two levels equally wide at the bottom, attention in all but the last.
BASE = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 96, 96),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
}
SMALL = Shape(
    unet=(16, 32, 40, 64),
    unet_blocks=2,
    attention=(1, 2),
    groups=8,
    decoder=(8,),
    decoder_blocks=(1,),
    encoder=(8, 8),
    encoder_blocks=(1, 1),
)


def base_unet(folder, **config) -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**(BASE | config)).eval().requires_grad_(False)
    unet.save_pretrained(folder / "unet")
    return unet


def small(shape: Shape = SMALL, heads: int = 8) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return small_unet(shape, (heads,) * 4).eval().requires_grad_(False)


@pytest.mark.parametrize("linear", [False, True])
def test_unet_inherits(tmp_path, linear):
    base, unet = base_unet(tmp_path, use_linear_projection=linear), small()
    inherit(unet, str(tmp_path))
    # z_t reads the base's weights, mu_L none.
    rows = [
        [(row == other).all() for other in base.conv_in.weight.flatten(1)]
        for row in unet.conv_in.weight[:, :4].flatten(1)
    ]
    chosen = torch.tensor(rows).float().argmax(1)
    assert torch.tensor(rows).any(1).all()
    assert (unet.conv_in.weight[:, 4:] == 0).all()
    assert torch.equal(unet.conv_out.bias, base.conv_out.bias)
    # The same channels stay wherever the sum of the first level is read.
    norm, origin = (net.down_blocks[0].resnets[1].conv1.weight for net in (unet, base))
    middle = [next(j for j in range(32) if torch.equal(origin[j][chosen], row)) for row in norm]
    assert sorted(set(middle)) == middle
    # A shortcut that the base does without is the identity on what both levels keep.
    shortcut = unet.down_blocks[3].resnets[0].conv_shortcut.weight[..., 0, 0]
    assert shortcut.shape == (64, 40)
    assert (shortcut.sum(0) == 1).all()
    assert shortcut.count_nonzero() == 40
    assert unet(torch.randn(1, 8, 16, 16), 999, None).sample.isfinite().all()


def test_inherits_all_of_a_base_of_its_own_size(tmp_path):
    """Nothing is cut and nothing lacks: the small UNet computes what the base does.

    That is without text, at t = 999.
    """
    shape = Shape(
        unet=(32, 64, 96, 96),
        unet_blocks=2,
        attention=(0, 1, 2),
        groups=8,
        decoder=(8,),
        decoder_blocks=(1,),
        encoder=(8, 8),
        encoder_blocks=(1, 1),
    )
    base, unet = base_unet(tmp_path), small(shape)
    inherit(unet, str(tmp_path))
    for attention in (m for m in base.modules() if getattr(m, "attn2", None) is not None):
        attention.attn2 = attention.norm2 = None
    z = torch.randn(1, 4, 16, 16)
    expected = base(z, 999, None).sample
    torch.testing.assert_close(
        unet(torch.cat([z, torch.randn_like(z)], dim=1), 999, None).sample,
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


def test_blocks_and_attentions_that_the_base_lacks(tmp_path):
    """Lite's layout: one block a level, attention where the base has none."""
    base_unet(tmp_path)
    shape = Shape(
        unet=(16, 32, 48, 64),
        unet_blocks=1,
        attention=(2, 3),
        groups=8,
        decoder=(8,),
        decoder_blocks=(1,),
        encoder=(8, 8),
        encoder_blocks=(1, 1),
    )
    unet = small(shape)
    inherit(unet, str(tmp_path))
    assert (unet.down_blocks[3].attentions[0].proj_out.weight == 0).all()
    assert (unet.down_blocks[2].attentions[0].proj_out.weight != 0).any()
    assert unet(torch.randn(1, 8, 16, 16), 999, None).sample.isfinite().all()


def test_source_inherits_and_is_deterministic(tmp_path, monkeypatch):
    base_unet(tmp_path)
    shape = Shape(**{**SMALL.__dict__, "decoder": (8, 8, 8, 8), "decoder_blocks": (1, 1, 1, 1)})
    monkeypatch.setitem(SHAPES, "default", shape)
    source = EdgeSDSRSource(size="default", base=str(tmp_path))
    models = [source.build(), source.build()]
    for i, model in enumerate(models):
        torch.manual_seed(i)
        source.load(model)
    lr = torch.rand(1, 3, 64, 64)
    assert shape.unet == (16, 32, 40, 64)
    assert torch.equal(*(model(lr) for model in models))
    latent = models[0].encoder(lr)
    assert torch.equal(models[0].clean_latent(latent), latent[:, :4])
    assert json.loads(source.data_key())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {
                "block_out_channels": (32, 64, 96),
                "down_block_types": ("CrossAttnDownBlock2D",) * 3,
                "up_block_types": ("CrossAttnUpBlock2D",) * 3,
            },
            "3 levels instead of 4",
        ),
        ({"layers_per_block": 1}, "2 residual blocks of the 3|1 residual blocks of the 2"),
        ({"block_out_channels": (8, 64, 96, 96)}, "16 channels cannot be cut from 8"),
        (
            {"attention_head_dim": 4},
            "8 heads of 4 channels cannot be cut from 4 of 16; set source.heads",
        ),
    ],
)
def test_bases_that_do_not_fit(tmp_path, config, words):
    base_unet(tmp_path, **config)
    with pytest.raises(UserError, match=words):
        inherit(small(), str(tmp_path))
