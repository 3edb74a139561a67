"""Read published weights into an OSEDiff model: SD 2.1-base in diffusers' layout, and `osediff.pkl`.

Two files go by that name. OSEDiff's (cswry/OSEDiff, `OSEDiff_gen.save_model`) holds LoRA pairs and a full `conv_in`;
AdcSR's (Guaishou74851/AdcSR) holds the full state dicts "vae" and "unet". Shapes come from the model that is filled.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from compress.core.errors import UserError
from compress.core.tensors import (
    State,
    check_fit,
    few,
    float_tensors,
    kind_of,
    kinds_in,
    plain_name,
    read_pickle,
)
from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import PromptEncoder
from compress.networks.variants import variant_of

SD21 = "SD 2.1-base weights"
PARTS = (
    "unet",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
)  # of a folder in diffusers' layout
# peft's default. The file does not store it.
LORA_ALPHA = 8
MOST_RANK = 4096
LORA_ENTRIES = (
    "state_dict_unet",
    "state_dict_vae",
    "unet_lora_encoder_modules",
    "unet_lora_decoder_modules",
    "unet_lora_others_modules",
    "vae_lora_encoder_modules",
    "rank_unet",
    "rank_vae",
)
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?P<adapter>[^.]+)\.weight")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# diffusers before 0.15 -> now, in the attention of an autoencoder.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def lora_modules(lora: State) -> set[str]:
    """The modules that `lora` has a pair, or half of one, for."""
    return {match["module"] for match in map(_PAIR.fullmatch, lora) if match}


def merge_lora(state: State, lora: State, scale: float, where: str = "the LoRA file") -> State:
    """A copy of `state` with every entry of `lora` used: W + scale * B @ A, and full tensors put in W's place.

    Pairs are `MODULE.lora_A.ADAPTER.weight` [r, in(, k, k)] and `lora_B` [out, r(, 1, 1)]; `MODULE.base_layer.NAME`,
    or a name of `state` itself, is a tensor stored in full. Raises UserError for what fits nothing in `state`.
    """
    merged, pairs, stray = dict(state), {}, []
    for name, tensor in lora.items():
        full = name.replace(".base_layer.", ".")
        if match := _PAIR.fullmatch(name):
            pairs.setdefault((match["module"], match["adapter"]), {})[match["side"]] = tensor
        elif full in state and state[full].shape == tensor.shape:
            merged[full] = tensor.to(state[full].dtype)
        else:
            stray.append(name)
    stray += [
        f"{module}.lora_{side}"
        for (module, _), pair in pairs.items()
        for side in pair
        if f"{module}.weight" not in state
    ]
    if stray:
        raise UserError(
            f"{where}: {len(stray)} entries fit no layer of the base model in name and shape "
            f"({few(stray)}); base and file must be of one architecture"
        )
    for (module, adapter), pair in pairs.items():
        weight = merged[f"{module}.weight"]
        if set(pair) != {"A", "B"}:
            raise UserError(
                f"{where}: {module} has lora_{''.join(pair)} of adapter '{adapter}' without its other "
                "half; the file is incomplete, fetch it again"
            )
        if min(pair["A"].ndim, pair["B"].ndim, weight.ndim) < 2:
            raise UserError(
                f"{where}: the LoRA pair of {module} has tensors of fewer than 2 dimensions; the file is "
                "damaged, fetch it again"
            )
        down, up = (
            pair["A"].double().flatten(1),
            pair["B"].double().flatten(1),
        )  # [r, fan-in], [out, r]
        if (up.shape[0], down.shape[0], down.shape[1]) != (
            weight.shape[0],
            up.shape[1],
            weight[0].numel(),
        ):
            raise UserError(
                f"{where}: the LoRA pair of {module} has shapes {tuple(pair['A'].shape)} and "
                f"{tuple(pair['B'].shape)}, its weight in the base model {tuple(weight.shape)}; "
                "base and file must be of one architecture"
            )
        merged[f"{module}.weight"] = (weight.double() + scale * (up @ down).view_as(weight)).to(
            weight.dtype
        )
    return merged


def _read_file(path: str) -> dict[str, Any]:
    """The entries of either published file: "unet" and "vae" (AdcSR), or LORA_ENTRIES (OSEDiff), of their types."""
    wanted = "osediff.pkl, from OSEDiff or AdcSR"
    entries, where = read_pickle(path, "lora", wanted), f"lora: {path}"
    if isinstance(entries, dict) and "state_dict_unet" in entries:
        if missing := [name for name in LORA_ENTRIES if name not in entries]:
            raise UserError(
                f"{where} lacks the entries {', '.join(missing)}; the file is incomplete, fetch it again"
            )
        return {name: _lora_entry(name, entries[name], where, wanted) for name in LORA_ENTRIES}
    if isinstance(entries, dict) and {"unet", "vae"} <= entries.keys():
        return {
            name: float_tensors(entries[name], f"{where}, {name}", wanted)
            for name in ("unet", "vae")
        }
    found = kinds_in(entries).removeprefix("a mapping with ")
    raise UserError(
        f"{where} holds {found}; expected either 'unet' and 'vae' (AdcSR) or "
        f"{', '.join(LORA_ENTRIES)} (OSEDiff)"
    )


def _lora_entry(name: str, value: Any, where: str, wanted: str) -> Any:
    """One entry of OSEDiff's file: tensors, a rank, or the names of modules. Raises UserError for another type."""
    if name.startswith("state_dict_"):
        return float_tensors(value, f"{where}, {name}", wanted)
    if name.startswith("rank_"):
        if type(value) is not int or not 1 <= value <= MOST_RANK:
            shown = (
                f"{value:.20}"
                if type(value) is str
                else value
                if type(value) is int
                else kind_of(value)
            )
            raise UserError(
                f"{where}: {name} is {shown} instead of a rank from 1 to {MOST_RANK}; give {wanted}"
            )
        return value
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(
        isinstance(item, str) for item in value
    ):
        raise UserError(
            f"{where}: {name} is {kind_of(value)} instead of a list of modules' names; give {wanted}"
        )
    return [plain_name(item) for item in value]


def _merge_osediff(base: State, entries: dict[str, Any], network: str, path: str) -> State:
    """OSEDiff's format for one `network`, "unet" or "vae": every module that the file lists must come with a pair."""
    lora, rank, where = (
        entries[f"state_dict_{network}"],
        entries[f"rank_{network}"],
        f"lora: {path}, {network}",
    )
    listed = {
        module
        for name in LORA_ENTRIES
        if name.startswith(f"{network}_lora")
        for module in entries[name]
    }
    if differing := listed ^ lora_modules(lora):
        raise UserError(
            f"{where}: {len(differing)} entries are modules listed without tensors, or tensors of "
            f"unlisted modules ({few(differing)}); the file is incomplete, fetch it again"
        )
    if wrong := [k for k, v in lora.items() if ".lora_A." in k and v.shape[:1] != (rank,)]:
        raise UserError(
            f"{where}: states rank {rank}, which {len(wrong)} tensors do not have ({few(wrong)}); "
            "the file is inconsistent, fetch it again"
        )
    return merge_lora(base, lora, LORA_ALPHA / rank, where)


def modern_names(state: State) -> State:
    """Rename an autoencoder's attention from diffusers' old names, and its 1x1 convolutions to linear layers."""
    result = {}
    for name, tensor in state.items():
        head, _, tail = name.rpartition(".attentions.")
        parts = tail.split(".")  # "0", layer, "weight"
        if head and len(parts) == 3 and parts[1] in _OLD_ATTENTION:
            name = f"{head}.attentions.{parts[0]}.{_OLD_ATTENTION[parts[1]]}.{parts[2]}"
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        result[name] = tensor
    return result


def _pretrained(kind: type, base: str, part: str) -> Any:
    """`kind.from_pretrained` of one subfolder, complete, in float32; a UserError for all that can go wrong."""
    is_model = issubclass(kind, nn.Module)
    options = {
        "dtype" if kind is CLIPTextModel else "torch_dtype": torch.float32,
        "output_loading_info": True,
    }
    if is_model and (variant := variant_of(base, part)):
        options["variant"] = variant
    try:
        result = kind.from_pretrained(base, subfolder=part, **(options if is_model else {}))
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"base '{base}': cannot read {part}/ ({reason}); give a folder of SD 2.1-base in diffusers' "
            "layout (unet/, vae/, text_encoder/, tokenizer/, scheduler/), or the id of a hub repository "
            "that can be reached and holds them"
        ) from None
    if not is_model:
        return result
    network, report = result
    if absent := report["missing_keys"]:
        raise UserError(
            f"base '{base}': {part}/ lacks {len(absent)} weights ({few(absent)}); fetch it again"
        )
    return network


def _refuse_sd21_768(base: str, unet: UNet2DConditionModel) -> None:
    """SD 2.1 (768 pixels, v-prediction) has the tensors of SD 2.1-base; only its configs tell them apart."""
    local = Path(base)
    if local.is_dir() and not (local / "scheduler").is_dir():
        wrong = unet.config.sample_size == 96
    else:
        try:
            wrong = (
                DDPMScheduler.load_config(base, subfolder="scheduler").get("prediction_type")
                == "v_prediction"
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"base '{base}': cannot read scheduler/scheduler_config.json "
                f"({str(error).splitlines()[0][:160]}); fetch the folder again"
            ) from None
    if wrong:
        raise UserError(
            f"base '{base}': this is SD 2.1 (768 pixels, v-prediction); OSEDiff needs SD 2.1-base "
            "(512 pixels, epsilon prediction), give the folder or hub id of that"
        )


def token_ids(tokenizer: CLIPTokenizer, prompt: str, length: int) -> torch.Tensor:
    """The prompt as int64 [1, length], padded. Raises UserError for a longer prompt, which would lose its end."""
    ids = tokenizer(prompt, padding="max_length", max_length=length, return_tensors="pt").input_ids
    if ids.shape[1] > length:
        raise UserError(
            f"prompt: has {ids.shape[1]} tokens with its start and end, the text encoder takes {length}; "
            "shorten it"
        )
    return ids


def _read_text(encoder: PromptEncoder, base: str, prompt: str) -> PromptEncoder:
    """The encoder with values, as a new one: its position ids are in no state dict."""
    loaded = _pretrained(CLIPTextModel, base, "text_encoder")
    check_fit(
        dict(encoder.text_model.named_parameters()),
        dict(loaded.named_parameters()),
        f"base '{base}', text_encoder",
        SD21,
    )
    length = encoder.token_ids.shape[1]
    return PromptEncoder(
        loaded, token_ids(_pretrained(CLIPTokenizer, base, "tokenizer"), prompt, length)
    ).eval()


def _part(state: State, prefixes: tuple[str, ...]) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


def load_sd21(model: SRModel, base: str, lora: str | None, prompt: str = "") -> None:
    """Fill a model from `OSEDiffSource(size="sd21").build()` with weights.

    `base` is SD 2.1-base, a folder in diffusers' layout or a hub id; `lora` is either published `osediff.pkl`, merged
    into the base, or None for the base alone; `prompt` is the constant text. Raises UserError for a wrong, incomplete
    or unreachable source, naming the first keys that do not fit.
    """
    if not Path(base).is_dir() and not _HUB_ID.fullmatch(base):
        raise UserError(
            f"base '{base}' is neither a folder nor a hub id (owner/name); give SD 2.1-base in diffusers' "
            "layout (unet/, vae/, text_encoder/, tokenizer/, scheduler/)"
        )
    entries = None if lora is None else _read_file(lora)
    unet, vae = (
        _pretrained(UNet2DConditionModel, base, "unet"),
        _pretrained(AutoencoderKL, base, "vae"),
    )
    _refuse_sd21_768(base, unet)
    if vae.config.scaling_factor != model.decoder.scaling_factor:
        raise UserError(
            f"base '{base}': its VAE has a scaling factor of {vae.config.scaling_factor} instead of "
            f"{model.decoder.scaling_factor}; give SD 2.1-base weights"
        )
    expected = {
        "unet": model.denoiser.unet.state_dict(),
        "vae": model.encoder.state_dict() | model.decoder.state_dict(),
    }
    states = {"unet": unet.state_dict(), "vae": vae.state_dict()}
    for network, state in states.items():
        check_fit(expected[network], state, f"base '{base}', {network}", SD21)
    if entries is not None and "state_dict_unet" in entries:
        states = {
            network: _merge_osediff(state, entries, network, lora)
            for network, state in states.items()
        }
    elif entries is not None:
        states = {
            network: {
                name: tensor.float() for name, tensor in modern_names(entries[network]).items()
            }
            for network in states
        }
        for network, state in states.items():
            check_fit(expected[network], state, f"lora: {lora}, {network}", SD21)
    if model.text_encoder is not None:
        model.text_encoder = _read_text(model.text_encoder, base, prompt)
    model.denoiser.unet.load_state_dict(states["unet"], assign=True)
    model.encoder.load_state_dict(_part(states["vae"], ("encoder.", "quant_conv.")), assign=True)
    model.decoder.load_state_dict(
        _part(states["vae"], ("decoder.", "post_quant_conv.")), assign=True
    )
