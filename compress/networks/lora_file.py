"""Read LoRA of a network from a file in PEFT's or diffusers' names, and merge it."""

import re

from compress.core.errors import UserError
from compress.core.tensors import State
from compress.networks.osediff_file import merge_lora
from compress.networks.released_file import released_state

LORA = "a LoRA file of the UNet in PEFT's or diffusers' names"
PREFIXES = ("base_model.model.", "unet.", "transformer.")  # of PEFT's files, and of diffusers'
_SIDE = re.compile(r"\.lora_([AB])\.weight$")


def merge_lora_file(base: State, path: str, alpha: float, key: str, wanted: str = LORA) -> State:
    """The base's tensors with W + alpha / rank * B @ A in the place of W.

    Args:
        base: The network's tensors.
        path: The file. Each pair has its own rank.
        alpha: Of all pairs; such files do not store it.
        key: The recipe's key that names the file.
        wanted: What it should be, for the sentence of an error.

    Raises:
        UserError: The file holds no pairs, or an entry that fits nothing in the base.
    """
    where = f"{key}: {path}"
    by_rank: dict[int, State] = {}
    ranks: dict[str, int] = {}
    pairs: State = {}
    for name, tensor in released_state(path, key, wanted).items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        name = _SIDE.sub(r".lora_\1.default.weight", name)
        pairs[name] = tensor
        if ".lora_A." in name and tensor.ndim:
            ranks[name.partition(".lora_")[0]] = tensor.shape[0]
    if not ranks:
        raise UserError(f"{where} holds no pairs of LoRA; give {wanted}")
    for name, tensor in pairs.items():
        rank = ranks.get(name.partition(".lora_")[0], 1)
        by_rank.setdefault(rank, {})[name] = tensor
    merged = base
    for rank, state in by_rank.items():
        merged = merge_lora(merged, state, alpha / max(rank, 1), where)
    return merged
