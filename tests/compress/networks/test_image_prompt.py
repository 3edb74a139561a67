"""AddSR's networks: the authors' numbers, published names and counts, LoRA, ONNX."""

import copy
import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from support.addsr_golden import T, addsr_networks, control_of, unet_of
from support.golden import Golden, manifest, recorded
from support.onnx_parity import check_onnx
from torch import nn
from transformers import SwinConfig

from compress.core.errors import UserError
from compress.cost.count import measure_module
from compress.folding.conditions import fold_context, fold_timesteps
from compress.networks.control import split_hint
from compress.networks.image_prompt import (
    PromptedDenoiser,
    load_prompted,
    prompted_names,
)
from compress.networks.sd21 import SD21_UNET
from compress.networks.visual_tokens import (
    BUFFERS,
    VisualTokens,
    load_visual_tokens,
    merged_qkv,
    token_names,
)

STEPS = (999, 749, 499, 249)
HINT_CHANNELS = (16, 32, 96, 256)
NANO = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
NANO_WIDTH = 6  # of an image token
NANO_SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "window_size": 4,
}


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared / "golden", "addsr_pipeline")


@pytest.fixture(scope="module")
def networks(golden) -> dict[str, nn.Module]:
    return addsr_networks(golden)


def own_name(block: str) -> str:
    """Of a module of the authors' UNet."""
    if "image_attentions" in block:
        return re.sub(r"image_attentions\.(\d+)", r"attentions.\1.image", block)
    return re.sub(r"attentions\.(\d+)", r"attentions.\1.text", block)


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b"])
def test_every_step_is_the_authors(golden, networks, case):
    lr = golden[f"inputs.{case}.lr_u8"].permute(2, 0, 1)[None] / 255
    context = golden[f"inputs.{case}.prompt_embeds"]
    for step, timestep in enumerate(STEPS):
        name = f"{case}.step{step}"
        latent, image = (golden[f"outputs.{name}.{k}"] for k in ("latent", "controlnet_cond"))
        see = networks["tokens"] if step == 0 else networks["tokens"].refined
        tokens = see(lr if step == 0 else image)
        golden.check(tokens, f"{name}.ram_embeds")
        t = torch.tensor([timestep])
        *skips, middle = networks["control"](latent, image, context, tokens, t)
        golden.check(middle, f"{name}.controlnet_mid")
        for i, residual in enumerate(skips if step == 0 else ()):
            golden.check(residual, f"{name}.controlnet_down{i}")
        eps = networks["denoiser"](latent, context, tokens, *skips, middle, t)
        golden.check(eps, f"{name}.eps")


@torch.no_grad()
@pytest.mark.parametrize("case", ["a", "b"])
def test_every_block_is_the_authors(golden, networks, case):
    prefix = f"{case}.step0.block."
    names = list(golden.under(f"outputs.{prefix}"))
    embedded = "controlnet.cond_embedding"
    names.remove(embedded)
    latent, image, tokens = (
        golden[f"outputs.{case}.step0.{k}"] for k in ("latent", "controlnet_cond", "ram_embeds")
    )
    context = golden[f"inputs.{case}.prompt_embeds"]
    control, denoiser = networks["control"], networks["denoiser"]
    golden.check(control.controlnet_cond_embedding(image), prefix + embedded)
    residuals = control(latent, image, context, tokens)
    seen = recorded(
        denoiser.unet,
        [own_name(name) for name in names],
        lambda: denoiser(latent, context, tokens, *residuals),
    )
    for name in names:
        golden.check(seen[own_name(name)], prefix + name)


@pytest.fixture(scope="module")
def published() -> dict[str, nn.Module]:
    with torch.device("meta"):
        return {
            "denoiser": PromptedDenoiser(unet_of(SD21_UNET), T),
            "control": control_of(SD21_UNET, HINT_CHANNELS),
            "tokens": VisualTokens(),
        }


def test_names_and_shapes_are_the_published(shared, published):
    for name, network in (
        ("addsr_unet", published["denoiser"].unet),
        ("addsr_controlnet", published["control"]),
    ):
        state = network.state_dict()
        names = prompted_names(network)
        found = {names[own]: list(tensor.shape) for own, tensor in state.items()}
        assert found == manifest(shared, name)["tensors"]


def test_names_of_ram_are_the_published(shared, published):
    file = manifest(shared, "dape_visual")["base"]
    names = token_names(published["tokens"])
    found = {re.sub(r"\.qkv\.[qkv]\.", ".qkv.", name) for name in names.values()}
    assert found == {name for name in file if not name.endswith(BUFFERS)}


@pytest.mark.slow
def test_counts_are_the_published(published):
    latent, tokens = torch.empty(1, 4, 64, 64), torch.empty(1, 145, 512)
    context, image = torch.empty(1, 77, 1024), torch.empty(1, 3, 512, 512)
    inputs = [x.to("meta") for x in (latent, image, context, tokens)]
    residuals = published["control"](*inputs)
    denoiser = measure_module(
        published["denoiser"], latent, context, tokens, *residuals, name="denoiser"
    )
    control = measure_module(published["control"], *inputs, name="control")
    seen = measure_module(published["tokens"], torch.empty(1, 3, 128, 128), name="tokens")
    assert (denoiser.params, denoiser.macs_paper) == (1_126_760_324, 468_881_899_520)
    assert denoiser.macs_full == 596_505_067_520
    assert (control.params, control.macs_paper) == (489_031_440, 169_932_800_000)
    assert control.macs_full == 221_016_473_600
    lora = 577_536  # merged here, and among the parameters of the published count
    assert seen.params == 195_776_052 - lora + 786_944
    assert (seen.macs_paper, seen.macs_full) == (100_082_122_752, 104_031_584_256)
    image_attention = sum(row.params for row in denoiser.layers if ".image." in row.name)
    assert image_attention == 260_849_600


@pytest.fixture(scope="module")
def nano() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    found = {
        "denoiser": PromptedDenoiser(unet_of(NANO, NANO_WIDTH), T),
        "control": control_of(NANO, (4, 4, 6, 8), NANO_WIDTH),
        "tokens": VisualTokens(SwinConfig(**NANO_SWIN), NANO_WIDTH),
    }
    for network in found.values():
        for parameter in network.parameters():  # zero convolutions hide all else
            parameter.data += 0.1 * torch.randn_like(parameter)
        network.eval().requires_grad_(False)
    return found


def nano_inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((1, 4, 4, 8), (1, 3, 32, 64), (1, 7, 12), (1, 5, NANO_WIDTH))
    return tuple(torch.rand(shape, generator=generator) for shape in shapes)


@torch.no_grad()
def test_a_split_hint_changes_nothing(nano):
    latent, image, context, tokens = nano_inputs()
    hint, hinted = split_hint(nano["control"])
    found = hinted(latent, hint(image), context, tokens)
    expected = nano["control"](latent, image, context, tokens)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(TypeError, match="takes a hint already"):
        split_hint(hinted)


@torch.no_grad()
@pytest.mark.parametrize("name", ["control", "denoiser"])
def test_text_and_timestep_fold_and_the_tokens_stay(nano, name):
    latent, image, context, tokens = nano_inputs()
    residuals = nano["control"](latent, image, context, tokens)
    before = (image,) if name == "control" else ()
    after = () if name == "control" else residuals
    folded = copy.deepcopy(nano[name])
    network = folded if name == "control" else folded.unet
    fold_context(network, context)
    fold_timesteps(network, [T])
    found = folded(latent, *before, None, tokens, *after)
    expected = nano[name](latent, *before, context, tokens, *after)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(folded(latent, *before, None, 0 * tokens, *after)[-1], found[-1])


@pytest.mark.slow
def test_onnx_computes_the_same_residuals(nano):
    check_onnx(nano["control"], *nano_inputs())


@pytest.mark.slow
def test_onnx_computes_the_same_tokens(nano):
    check_onnx(nano["tokens"], torch.rand(1, 3, 16, 24))


def test_a_network_with_image_attention_is_read(tmp_path, nano):
    unet = nano["denoiser"].unet
    names = prompted_names(unet)
    state = {names[own]: tensor for own, tensor in unet.state_dict().items()}
    assert any(".image_attentions." in name for name in state)
    save_file(state, tmp_path / "unet.safetensors")
    with torch.device("meta"):
        other = unet_of(NANO, NANO_WIDTH)
    load_prompted(other, str(tmp_path / "unet.safetensors"), "unet", "AddSR's UNet")
    assert all(torch.equal(t, unet.state_dict()[n]) for n, t in other.state_dict().items())


def test_a_unet_without_image_attention_is_named(tmp_path, nano):
    with torch.device("meta"):
        other = unet_of(NANO, NANO_WIDTH)
    plain = UNet2DConditionModel(**NANO)
    save_file(plain.state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(
        UserError, match=r"missing: down_blocks\.1\.image_attentions\.0\.norm\.bias"
    ):
        load_prompted(other, str(tmp_path / "unet.safetensors"), "unet", "AddSR's UNet")


def ram_file(network: VisualTokens) -> dict[str, torch.Tensor]:
    """A file of RAM with the network's values, q, k and v joined, and a tagger beside them."""
    names = token_names(network)
    pieces = {names[own]: tensor for own, tensor in network.state_dict().items()}
    file = {"tagging_head.bias": torch.ones(2)}
    for name, tensor in pieces.items():
        if ".qkv.q." in name:
            sides = [pieces[name.replace(".q.", f".{side}.")] for side in "qkv"]
            file[name.replace(".q.", ".")] = torch.cat(sides)
        elif ".qkv." not in name:
            file[name] = tensor
    index = network.swin.encoder.layers[0].blocks[0].attention.relative_position_bias
    file["visual_encoder.layers.0.blocks.0.attn.relative_position_index"] = (
        index.relative_position_index
    )
    return file


@torch.no_grad()
def test_files_of_ram_and_dape_are_read(tmp_path, nano):
    tokens = nano["tokens"]
    base = ram_file(tokens)
    lora = {"tag_encoder.query.lora_A": torch.ones(1)}
    for name, tensor in base.items():
        if name.endswith("qkv.weight"):
            rows, width = tensor.shape
            stem = name.removesuffix("weight")
            lora[f"{stem}lora_A"] = torch.zeros(4, width)
            lora[f"{stem}lora_B"] = torch.ones(2 * rows // 3, 2)
    torch.save({"model": base}, tmp_path / "ram.pth")
    torch.save(lora, tmp_path / "dape.pth")
    image = torch.rand(1, 3, 8, 8)
    for dape in (None, str(tmp_path / "dape.pth")):  # whose products are 0
        with torch.device("meta"):
            other = VisualTokens(SwinConfig(**NANO_SWIN), NANO_WIDTH).eval()
        load_visual_tokens(other, str(tmp_path / "ram.pth"), dape, "ram")
        assert torch.equal(other(image), tokens(image))


def test_lora_counts_alpha_by_rank_on_q_and_v():
    base = {"x.attn.qkv.weight": torch.zeros(6, 2)}
    lora = {
        "x.attn.qkv.lora_A": torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 2]]),
        "x.attn.qkv.lora_B": torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]]),
    }
    found = merged_qkv(base, lora, 1, "dape: x")["x.attn.qkv.weight"]
    expected = [[0.5, 1], [1.5, 2], [0, 0], [0, 0], [5, 6], [7, 8]]  # x 1 / 2
    assert found.tolist() == expected
    assert torch.equal(merged_qkv(base, lora, 2, "dape: x")["x.attn.qkv.weight"], 2 * found)


def test_lora_that_does_not_fit_is_named():
    base = {"x.attn.qkv.weight": torch.zeros(6, 2)}
    half = {"x.attn.qkv.lora_A": torch.zeros(4, 2)}
    with pytest.raises(UserError, match=r"1 LoRA tensors .*\(x.attn.qkv.lora_B\)"):
        merged_qkv(base, half, 1, "dape: x")
    wide = half | {"x.attn.qkv.lora_B": torch.zeros(5, 2)}
    with pytest.raises(UserError, match=r"x.attn.qkv has shapes \(4, 2\) and \(5, 2\)"):
        merged_qkv(base, wide, 1, "dape: x")
