"""Reading SD 2.1-base and both kinds of osediff.pkl.

End to end on a tiny model, names and shapes on the real one.
"""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from support.sd_folder import TEXT, TOKENS, UNET, VAE, save_pipeline
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from compress.core.errors import UserError
from compress.families.osediff import OSEDiffSource
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import PromptEncoder, UNetDenoiser, VAEDecoder, VAEEncoder
from compress.networks.osediff_file import lora_modules, merge_lora, modern_names
from compress.networks.sd21_checkpoint import load_sd21
from compress.process.one_step import OneStep

# The layers with LoRA, as OSEDiff's initialize_unet and initialize_vae choose them.
UNET_LAYERS = (
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_in",
    "conv_shortcut",
    "conv_out",
    "proj_out",
    "proj_in",
    "ff.net.2",
    "ff.net.0.proj",
)
VAE_LAYERS = (
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_in",
    "conv_shortcut",
    "conv_out",
)


def tiny(**unet) -> SRModel:
    """A model like `OSEDiffSource(size="sd21").build()`, on the meta device."""
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE)
        text = PromptEncoder(
            CLIPTextModel(CLIPTextConfig(**TEXT)), torch.empty(1, TOKENS, dtype=torch.int64)
        )
        parts = {
            "text_encoder": text,
            "encoder": VAEEncoder(vae),
            "denoiser": UNetDenoiser(UNet2DConditionModel(**{**UNET, **unet}), 999),
            "decoder": VAEDecoder(vae),
        }
        return SRModel(parts, OneStep())


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny SD-like model in diffusers' layout."""
    return save_pipeline(tmp_path_factory.mktemp("sd") / "base")


@pytest.fixture
def copied(base, tmp_path) -> Path:
    """The same in a folder that a test may change."""
    return Path(shutil.copytree(base, tmp_path / "copy"))


@pytest.fixture(scope="module")
def adapted(base) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """UNet and autoencoder with peft's LoRA as OSEDiff applies it.

    Rank 4, three adapters, random B, new conv_in.
    """
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")

    def layers(
        network: nn.Module, names: tuple[str, ...], keep: Callable[[str], bool]
    ) -> list[str]:
        return [
            name
            for name, _ in network.named_modules()
            if keep(name) and (name in names or name.endswith(tuple(f".{n}" for n in names)))
        ]

    parts = {
        "default_encoder": lambda n: n.startswith("down_blocks") or n == "conv_in",
        "default_decoder": lambda n: n.startswith("up_blocks"),
        "default_others": lambda n: n.startswith("mid_block") or n == "conv_out",
    }
    for adapter, keep in parts.items():
        unet.add_adapter(
            LoraConfig(r=4, target_modules=layers(unet, UNET_LAYERS, keep)), adapter_name=adapter
        )
    unet.set_adapter(list(parts))
    targets = [*layers(vae, VAE_LAYERS, lambda n: n.startswith("encoder.")), "quant_conv"]
    vae.add_adapter(LoraConfig(r=4, target_modules=targets), adapter_name="default_encoder")
    with torch.no_grad():
        for network in (unet, vae):
            for name, parameter in network.named_parameters():
                if "lora_B" in name or ("conv_in.base_layer" in name and network is unet):
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
    return unet.eval(), vae.eval()


def osediff_entries(unet: nn.Module, vae: nn.Module) -> dict:
    """What OSEDiff_gen.save_model writes; its list of VAE modules has repetitions."""
    entries = {
        "state_dict_unet": {
            k: v for k, v in unet.state_dict().items() if "lora" in k or "conv_in" in k
        },
        "state_dict_vae": {k: v for k, v in vae.state_dict().items() if "lora" in k},
        "rank_unet": 4,
        "rank_vae": 4,
    }
    for part in ("encoder", "decoder", "others"):
        names = {k: v for k, v in entries["state_dict_unet"].items() if f"default_{part}" in k}
        entries[f"unet_lora_{part}_modules"] = sorted(lora_modules(names))
    entries["vae_lora_encoder_modules"] = 2 * sorted(lora_modules(entries["state_dict_vae"]))
    return entries


@pytest.fixture
def entries(adapted) -> dict:
    return copy.deepcopy(osediff_entries(*adapted))


def saved(entries, folder: Path) -> str:
    torch.save(entries, folder / "osediff.pkl")
    return str(folder / "osediff.pkl")


@torch.no_grad()
def expected(
    unet: nn.Module, vae: AutoencoderKL, base: Path, prompt: str, lr: torch.Tensor
) -> tuple:
    """Latent, prediction and image by diffusers' and transformers' own objects."""
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    ids = tokenizer(prompt, padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    context = (
        CLIPTextModel.from_pretrained(base, subfolder="text_encoder").eval()(ids).last_hidden_state
    )
    image = nn.functional.interpolate(lr, scale_factor=4, mode="bicubic") * 2 - 1
    latent = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
    prediction = unet(latent, 999, encoder_hidden_states=context).sample
    return latent, prediction, vae.decode(latent / vae.config.scaling_factor).sample * 0.5 + 0.5


@torch.no_grad()
def assert_equal_outputs(model: SRModel, reference: tuple, lr: torch.Tensor) -> None:
    latent = model.encoder(lr)
    found = latent, model.denoiser(latent, model.context()), model.decoder(latent)
    for name, a, b in zip(("latent", "prediction", "image"), found, reference, strict=True):
        assert (a - b).abs().max() <= 1e-5, name


LR = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_base_alone(base):
    unet, vae = (
        UNet2DConditionModel.from_pretrained(base / "unet"),
        AutoencoderKL.from_pretrained(base / "vae"),
    )
    model = tiny()
    load_sd21(model, str(base), None, "a photo")
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    assert model.text_encoder.token_ids[0, 0] == 256
    assert 257 in model.text_encoder.token_ids
    assert_equal_outputs(model, expected(unet.eval(), vae.eval(), base, "a photo", LR), LR)


@pytest.mark.slow
def test_osediff_file_equals_peft(base, adapted, entries, tmp_path):
    model = tiny()
    load_sd21(model, str(base), saved(entries, tmp_path))
    assert_equal_outputs(model, expected(*adapted, base, "", LR), LR)
    plain = tiny()
    load_sd21(plain, str(base), None)
    with torch.no_grad():
        for part in ("encoder", "denoiser"):
            x = LR if part == "encoder" else torch.ones(1, 4, 8, 8)
            args = (x,) if part == "encoder" else (x, model.context())
            assert (getattr(plain, part)(*args) - getattr(model, part)(*args)).abs().max() > 1e-3


def test_alpha_of_the_file_is_the_recipe_s(base, entries, tmp_path):
    path = saved(entries, tmp_path)
    models = [tiny() for _ in range(3)]
    for model, lora, alpha in zip(models, (None, path, path), (8, 4, 8), strict=True):
        load_sd21(model, str(base), lora, lora_alpha=alpha)
    name = "mid_block.resnets.0.conv1.weight"
    plain, once, twice = (m.denoiser.unet.state_dict()[name].double() for m in models)
    assert (once - plain).abs().max() > 1e-3
    torch.testing.assert_close(twice - plain, 2 * (once - plain), rtol=0, atol=1e-6)


def test_nano_has_no_alpha():
    with pytest.raises(ValueError, match="lora_alpha is of size 'sd21'"):
        OSEDiffSource(lora_alpha=16)
    assert OSEDiffSource(size="sd21", lora_alpha=16).lora_alpha == 16


def test_adcsr_file_with_old_and_new_names(base, adapted, entries, tmp_path):
    merged = tiny()
    load_sd21(merged, str(base), saved(entries, tmp_path))
    vae = merged.encoder.state_dict() | merged.decoder.state_dict()
    old = {}
    for name, tensor in vae.items():
        for before, now in (
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("proj_attn", "to_out.0"),
        ):
            if f".{now}." in name:
                name = name.replace(f".{now}.", f".{before}.")
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        old[name] = tensor
    assert old.keys() != vae.keys()
    assert modern_names(old).keys() == vae.keys()
    for state in (vae, old):
        model = tiny()
        load_sd21(
            model,
            str(base),
            saved({"vae": state, "unet": merged.denoiser.unet.state_dict()}, tmp_path),
        )
        assert all(
            torch.equal(a, b)
            for a, b in zip(model.state_dict().values(), merged.state_dict().values(), strict=True)
        )


def test_bin_weights_and_old_text_names(copied):
    files = {
        "unet/diffusion_pytorch_model": "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model": "vae/diffusion_pytorch_model.bin",
        "text_encoder/model": "text_encoder/pytorch_model.bin",
    }
    for name, other in files.items():
        state = load_file(copied / f"{name}.safetensors")
        if "text" in name:  # as Stability published it, before transformers 5
            state = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in state.items()}
            state["text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
        (copied / f"{name}.safetensors").unlink()
        torch.save(state, copied / other)
    model, again = tiny(), tiny()
    load_sd21(model, str(copied), None)
    shutil.rmtree(copied / "scheduler")
    load_sd21(again, str(copied), None)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])


def refused(
    words: str,
    base: Path | str,
    lora: str | None = None,
    model: SRModel | None = None,
    prompt: str = "",
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_sd21(model or tiny(), str(base), lora, prompt)
    assert "\n" not in str(caught.value)


def test_wrong_bases(copied):
    refused(
        r"unet: another architecture than SD 2.1-base weights .*instead of",
        copied,
        model=tiny(block_out_channels=(8, 24)),
    )
    refused(r"unet: another architecture.*missing: .* more", copied, model=tiny(layers_per_block=2))
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(copied / "scheduler")
    refused("needs SD 2.1-base", copied)
    shutil.rmtree(copied / "scheduler")
    config = json.loads((copied / "unet/config.json").read_text())
    (copied / "unet/config.json").write_text(json.dumps(config | {"sample_size": 96}))
    refused("needs SD 2.1-base", copied)


def test_incomplete_bases(copied, tmp_path, monkeypatch):
    refused("nowhere' is neither a folder nor a hub id", tmp_path / "nowhere")
    weights = copied / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state.pop("conv_in.weight")
    save_file(state, weights)
    refused("unet/ .*conv_in.weight", copied)
    weights.write_bytes(b"no safetensors file")
    refused("cannot read unet/", copied)
    shutil.rmtree(copied / "vae")
    weights.unlink()
    refused("cannot read unet/", copied)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(
        "nobody/no-such-model: .*cache, and HF_HUB_OFFLINE is set; give", "nobody/no-such-model"
    )


def test_prompt_too_long(base):
    refused(
        f"prompt: has .* takes {TOKENS}; shorten it",
        base,
        prompt="a photo of a very sharp building",
    )


def test_wrong_lora_files(base, entries, tmp_path):
    refused("is no file", base, str(tmp_path / "absent.pkl"))
    (tmp_path / "text.pkl").write_text("no pickle")
    refused("cannot be read", base, str(tmp_path / "text.pkl"))
    refused("holds weight; expected", base, saved({"weight": torch.ones(1)}, tmp_path))
    refused("holds a list; expected", base, saved([1], tmp_path))
    unranked = {k: v for k, v in entries.items() if k != "rank_unet"}
    refused("lacks the entries rank_unet", base, saved(unranked, tmp_path))
    refused("states rank 8", base, saved(entries | {"rank_unet": 8}, tmp_path))
    refused(
        "lora: .*unet: another architecture.*207 missing: .* and 204 more",
        base,
        saved({"unet": {"conv_in.weight": torch.ones(1)}, "vae": {}}, tmp_path),
    )


def test_wrong_lora_tensors(base, entries, tmp_path):
    unet, pair = entries["state_dict_unet"], "conv_in.lora_B.default_encoder.weight"
    b = unet.pop(pair)
    refused(
        "conv_in has lora_A of adapter 'default_encoder' without", base, saved(entries, tmp_path)
    )
    unet[pair] = b[:-1]
    refused("LoRA pair of conv_in has shapes", base, saved(entries, tmp_path))
    unet[pair] = b
    unet["conv_in.base_layer.weight"] = unet["conv_in.base_layer.weight"][:-1]
    refused("1 entries fit no layer .*conv_in.base_layer.weight", base, saved(entries, tmp_path))
    for name in [k for k in unet if k.startswith("conv_in.")]:
        unet.pop(name)
    refused("1 entries are modules listed without tensors.*conv_in", base, saved(entries, tmp_path))
    entries["unet_lora_encoder_modules"].remove("conv_in")
    unet |= {
        "up.lora_A.default_decoder.weight": torch.ones(4, 8),
        "up.lora_B.default_decoder.weight": torch.ones(8, 4),
    }
    entries["unet_lora_decoder_modules"].append("up")
    refused("2 entries fit no layer .*up.lora_A", base, saved(entries, tmp_path))


def test_merge_by_hand():
    state = {
        "conv.weight": torch.zeros(2, 1, 1, 2),
        "conv.bias": torch.ones(2),
        "fc.weight": torch.eye(2),
    }
    lora = {
        "conv.lora_A.x.weight": torch.tensor([1.0, 2.0]).view(1, 1, 1, 2),
        "conv.lora_B.x.weight": torch.tensor([3.0, 4.0]).view(2, 1, 1, 1),
        "fc.lora_A.x.weight": torch.ones(1, 2),
        "fc.lora_B.x.weight": torch.tensor([[1.0], [0.0]]),
        "fc.lora_A.y.weight": torch.ones(1, 2),
        "fc.lora_B.y.weight": torch.tensor([[0.0], [1.0]]),
        "conv.base_layer.bias": torch.zeros(2),
    }
    merged = merge_lora(state, lora, 2.0)
    assert merged["conv.weight"].flatten(1).tolist() == [[6, 12], [8, 16]]
    assert merged["conv.bias"].tolist() == [0, 0]
    assert merged["fc.weight"].tolist() == [[3, 2], [2, 3]]  # two adapters on one layer add up
    assert state["fc.weight"].equal(torch.eye(2))
    assert not state["conv.weight"].any()


def test_published_file_fits_the_real_structure(shared):
    """Every tensor of osediff.pkl finds its place in SD 2.1.

    On meta tensors, so no weights are needed.
    """
    manifest = json.loads((shared / "golden/manifests/osediff_pkl.json").read_text())
    entries = manifest["entries"]
    loras: dict[str, dict] = {"unet": {}, "vae": {}}
    for key, shape in manifest["tensors"].items():
        network, name = key.removeprefix("state_dict_").split("/")
        loras[network][name] = torch.empty(shape, device="meta")
    model = OSEDiffSource(size="sd21").build()
    states = {
        "unet": model.denoiser.unet.state_dict(),
        "vae": model.encoder.state_dict() | model.decoder.state_dict(),
    }
    for network, state in states.items():
        merged = merge_lora(state, loras[network], 2.0)
        assert {k: v.shape for k, v in merged.items()} == {k: v.shape for k, v in state.items()}
        listed = {
            m for key, names in entries.items() if key.startswith(f"{network}_lora") for m in names
        }
        assert lora_modules(loras[network]) == listed
    count = {n: sum(t.numel() for k, t in lora.items() if "lora" in k) for n, lora in loras.items()}
    full = sum(t.numel() for k, t in loras["unet"].items() if "lora" not in k)
    assert (count["unet"], count["vae"], full) == (4_055_712, 369_356, 11_840)
    assert [
        len(entries[f"unet_lora_{part}_modules"]) for part in ("encoder", "decoder", "others")
    ] == [94, 148, 16]
    assert len(entries["vae_lora_encoder_modules"]) == 65
    assert len(set(entries["vae_lora_encoder_modules"])) == 32


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_training_in_either_file(base, adapted, entries, tmp_path, prefix):
    def prefixed(value):
        if isinstance(value, dict):
            return {f"{prefix}{name}": tensor for name, tensor in value.items()}
        return [f"{prefix}{name}" for name in value] if isinstance(value, list) else value

    unet, vae = adapted
    for number, content in enumerate(
        (entries, {"unet": unet.state_dict(), "vae": vae.state_dict()})
    ):
        models = []
        for name, found in (
            ("plain", content),
            ("prefixed", {k: prefixed(v) for k, v in content.items()}),
        ):
            if number:
                found = {
                    k: {
                        n.replace(".base_layer.", "."): t for n, t in v.items() if ".lora_" not in n
                    }
                    for k, v in found.items()
                }
            torch.save(found, tmp_path / f"{name}.pkl")
            models.append(tiny())
            load_sd21(models[-1], str(base), str(tmp_path / f"{name}.pkl"))
        one, two = (model.state_dict() for model in models)
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_base_of_named_variants_alone(copied):
    plain, named = tiny(), tiny()
    load_sd21(plain, str(copied), None)
    for part in ("unet", "vae", "text_encoder"):
        for file in list((copied / part).glob("*.safetensors")):
            half = {
                name: t.half() if t.is_floating_point() else t
                for name, t in load_file(file).items()
            }
            save_file(
                half, file.with_name(f"{file.stem}.fp16.safetensors"), metadata={"format": "pt"}
            )
            file.unlink()
    load_sd21(named, str(copied), None)
    for (name, a), b in zip(plain.state_dict().items(), named.state_dict().values(), strict=True):
        assert torch.equal(
            a.half() if a.is_floating_point() else a, b.half() if b.is_floating_point() else b
        ), name


def test_a_base_that_is_not_finite_is_named(copied):
    file = next((copied / "vae").glob("*.safetensors"))
    state = load_file(file)
    name = sorted(state)[0]
    state[name].view(-1)[0] = float("nan")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="holds NaN or infinity"):
        load_sd21(tiny(), str(copied), None)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("rank_unet", 0, "rank_unet is 0 instead of a rank"),
        ("rank_unet", True, "is a truth value"),
        ("rank_vae", 4.0, "is a number instead of a rank"),
        ("rank_vae", None, "is nothing"),
        ("state_dict_unet", [1], "holds a list instead of named tensors"),
        ("state_dict_unet", {"a.lora_A.x.weight": "text"}, "is text instead of a tensor"),
        ("state_dict_vae", {"a": torch.ones(2, dtype=torch.int64)}, "is stored as int64"),
        ("state_dict_vae", {"a": torch.tensor([float("nan")])}, "holds NaN"),
        ("unet_lora_encoder_modules", 3, "is a number instead of a list"),
        ("vae_lora_encoder_modules", [3], "is a list instead of a list of modules' names"),
        ("unet_lora_others_modules", "down_blocks", "is text instead of a list"),
    ],
)
def test_wrong_types_in_a_lora_file(base, entries, tmp_path, entry, value, said):
    torch.save(entries | {entry: value}, tmp_path / "wrong.pkl")
    with pytest.raises(UserError, match=said) as told:
        load_sd21(tiny(), str(base), str(tmp_path / "wrong.pkl"))
    assert "Inert" not in str(told.value)
