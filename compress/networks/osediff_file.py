"""Read `osediff.pkl` into the tensors of SD 2.1-base.

Two files go by that name. OSEDiff's (cswry/OSEDiff, `OSEDiff_gen.save_model`) holds LoRA pairs and
a full `conv_in`; AdcSR's (Guaishou74851/AdcSR) holds the full state dicts "vae" and "unet".
"""

import re
from typing import Any

import torch

from compress.core.errors import UserError
from compress.core.tensors import (
    State,
    few,
    float_tensors,
    kind_of,
    kinds_in,
    plain_name,
    read_pickle,
)

# peft's default, which OSEDiff leaves: at its rank 4 the pairs count 2. The file does not store it.
LORA_ALPHA = 8.0
MOST_RANK = 4096
MOST_SHOWN = 20  # characters of a rank that is none
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
WANTED = "osediff.pkl, from OSEDiff or AdcSR"
Pair = dict[str, torch.Tensor]  # by side, "A" and "B"
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?P<adapter>[^.]+)\.weight")
# diffusers before 0.15 -> now, in the attention of an autoencoder.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def lora_modules(lora: State) -> set[str]:
    """The modules that `lora` has a pair, or half of one, for."""
    matches = map(_PAIR.fullmatch, lora)
    return {match["module"] for match in matches if match}


def merge_lora(state: State, lora: State, scale: float, where: str = "the LoRA file") -> State:
    """Put every entry of a LoRA file into the tensors of its base.

    Args:
        state: The base.
        lora: Pairs `MODULE.lora_A.ADAPTER.weight` [r, in(, k, k)] and `lora_B` [out, r(, 1, 1)],
            and
            tensors stored in full: `MODULE.base_layer.NAME`, or a name of `state` itself.
        scale: Of the products.
        where: What begins the sentence of an error.

    Returns:
        A copy of `state` with W + scale * B @ A, and full tensors in W's place.

    Raises:
        UserError: An entry fits nothing in `state`, or a pair is incomplete.
    """
    merged = dict(state)
    pairs: dict[tuple[str, str], Pair] = {}
    stray = []
    for name, tensor in lora.items():
        full = name.replace(".base_layer.", ".")
        match = _PAIR.fullmatch(name)
        if match is not None:
            pair = pairs.setdefault((match["module"], match["adapter"]), {})
            pair[match["side"]] = tensor
        elif full in state and state[full].shape == tensor.shape:
            merged[full] = tensor.to(state[full].dtype)
        else:
            stray.append(name)
    for (module, _), pair in pairs.items():
        if f"{module}.weight" not in state:
            stray += [f"{module}.lora_{side}" for side in pair]
    if stray:
        raise UserError(
            f"{where}: {len(stray)} entries fit no layer of the base model in name and shape "
            f"({few(stray)}); base and file must be of one architecture"
        )
    for (module, adapter), pair in pairs.items():
        name = f"{module}.weight"
        _check_pair(pair, merged[name], f"{where}: {module}", adapter, where)
        merged[name] = _merged(merged[name], pair, scale)
    return merged


def _check_pair(pair: Pair, weight: torch.Tensor, place: str, adapter: str, where: str) -> None:
    """Raise UserError unless a pair is whole and fits its weight."""
    module = place.removeprefix(f"{where}: ")
    if set(pair) != {"A", "B"}:
        raise UserError(
            f"{place} has lora_{''.join(pair)} of adapter '{adapter}' without its other half; "
            "the file is incomplete, fetch it again"
        )
    if min(pair["A"].ndim, pair["B"].ndim, weight.ndim) < 2:
        raise UserError(
            f"{where}: the LoRA pair of {module} has tensors of fewer than 2 dimensions; "
            "the file is damaged, fetch it again"
        )
    rank, inputs = pair["A"].flatten(1).shape
    outputs, inner = pair["B"].flatten(1).shape
    if (outputs, rank, inputs) != (weight.shape[0], inner, weight[0].numel()):
        raise UserError(
            f"{where}: the LoRA pair of {module} has shapes {tuple(pair['A'].shape)} and "
            f"{tuple(pair['B'].shape)}, its weight in the base model {tuple(weight.shape)}; "
            "base and file must be of one architecture"
        )


def _merged(weight: torch.Tensor, pair: Pair, scale: float) -> torch.Tensor:
    """W + scale * B @ A, computed in float64."""
    down = pair["A"].double().flatten(1)  # [r, fan-in]
    up = pair["B"].double().flatten(1)  # [out, r]
    return (weight.double() + scale * (up @ down).view_as(weight)).to(weight.dtype)


def read_osediff(path: str) -> dict[str, Any]:
    """The entries of either published file, of their types.

    Returns:
        "unet" and "vae" (AdcSR), or LORA_ENTRIES (OSEDiff).

    Raises:
        UserError: It is neither, incomplete, or an entry has another type.
    """
    entries = read_pickle(path, "lora", WANTED)
    where = f"lora: {path}"
    if isinstance(entries, dict) and "state_dict_unet" in entries:
        missing = [name for name in LORA_ENTRIES if name not in entries]
        if missing:
            raise UserError(
                f"{where} lacks the entries {', '.join(missing)}; "
                "the file is incomplete, fetch it again"
            )
        return {name: _lora_entry(name, entries[name], where) for name in LORA_ENTRIES}
    if isinstance(entries, dict) and {"unet", "vae"} <= entries.keys():
        return {
            "unet": float_tensors(entries["unet"], f"{where}, unet", WANTED),
            "vae": float_tensors(entries["vae"], f"{where}, vae", WANTED),
        }
    content = kinds_in(entries).removeprefix("a mapping with ")
    raise UserError(
        f"{where} holds {content}; expected either 'unet' and 'vae' (AdcSR) or "
        f"{', '.join(LORA_ENTRIES)} (OSEDiff)"
    )


def _lora_entry(name: str, value: Any, where: str) -> Any:
    """One entry of OSEDiff's file: tensors, a rank, or the names of modules."""
    if name.startswith("state_dict_"):
        return float_tensors(value, f"{where}, {name}", WANTED)
    if name.startswith("rank_"):
        if type(value) is not int or not 1 <= value <= MOST_RANK:
            raise UserError(
                f"{where}: {name} is {_shown_rank(value)} instead of a rank from 1 to {MOST_RANK}; "
                f"give {WANTED}"
            )
        return value
    is_list = isinstance(value, (list, tuple, set, frozenset))
    if not is_list or not all(isinstance(item, str) for item in value):
        raise UserError(
            f"{where}: {name} is {kind_of(value)} instead of a list of modules' names; "
            f"give {WANTED}"
        )
    return [plain_name(item) for item in value]


def _shown_rank(value: Any) -> str:
    if type(value) is str:
        return value[:MOST_SHOWN]
    if type(value) is int:
        return str(value)
    return kind_of(value)


def merge_osediff(
    base: State, entries: dict[str, Any], network: str, path: str, alpha: float = LORA_ALPHA
) -> State:
    """OSEDiff's format for one network: every module that the file lists must come with a pair.

    Args:
        base: The network's tensors.
        entries: From `read_osediff`.
        network: "unet" or "vae".
        path: Of the file, for the sentence of an error.
        alpha: The pairs count alpha / rank.

    Raises:
        UserError: The file is incomplete or inconsistent, or does not fit the base.
    """
    lora = entries[f"state_dict_{network}"]
    rank = entries[f"rank_{network}"]
    where = f"lora: {path}, {network}"
    listed: set[str] = set()
    for name in LORA_ENTRIES:
        if name.startswith(f"{network}_lora"):
            listed.update(entries[name])
    differing = listed ^ lora_modules(lora)
    if differing:
        raise UserError(
            f"{where}: {len(differing)} entries are modules listed without tensors, or tensors of "
            f"unlisted modules ({few(differing)}); the file is incomplete, fetch it again"
        )
    wrong = []
    for name, tensor in lora.items():
        if ".lora_A." in name and tensor.shape[:1] != (rank,):
            wrong.append(name)
    if wrong:
        raise UserError(
            f"{where}: states rank {rank}, which {len(wrong)} tensors do not have ({few(wrong)}); "
            "the file is inconsistent, fetch it again"
        )
    return merge_lora(base, lora, alpha / rank, where)


def modern_names(state: State) -> State:
    """An autoencoder's tensors under today's names of attention.

    Its 1x1 convolutions, as diffusers had them before 0.15, become linear layers.
    """
    renamed = {}
    for name, tensor in state.items():
        head, _, tail = name.rpartition(".attentions.")
        parts = tail.split(".")  # "0", layer, "weight"
        if head and len(parts) == 3 and parts[1] in _OLD_ATTENTION:
            number, layer, kind = parts
            new = f"{head}.attentions.{number}.{_OLD_ATTENTION[layer]}.{kind}"
            renamed[new] = tensor.flatten(1) if tensor.ndim == 4 else tensor
        else:
            renamed[name] = tensor
    return renamed
