"""Which file for which phone: the target, the arithmetic, the chip and the rewrites of each."""

import csv
import difflib
from dataclasses import dataclass
from importlib.resources import files

from compress.core.errors import UserError, shown
from export.targets.chips import chips

MAKERS = ("samsung", "google", "apple")  # words that a phone's name may begin with
MOST_NEAR = 3  # names that a refusal proposes
LEAST_LIKE = 0.5


@dataclass(frozen=True)
class Phone:
    """A phone and its chip.

    Attributes:
        name: Without its maker, where that is plain.
        chip: In words.
        kind: Of its NPU: vNN of a Snapdragon's HTP, apple, mediatek, tensor or exynos.
        also: The row of the same phone with another chip; empty where there is none.
        source: Where that is said.
    """

    name: str
    chip: str
    kind: str
    also: str
    source: str


@dataclass(frozen=True)
class Choice:
    """What to export for a phone.

    Attributes:
        target: The runtime.
        dtype: The arithmetic; None for the target's default, or a quantised model's own codes.
        chip: To compile for, of target qnn.
        rewrite: Of the graphs.
        reason: One sentence.
    """

    target: str
    dtype: str | None
    chip: str | None
    rewrite: str | None
    reason: str


HTP = (
    "a Snapdragon's NPU computes in integers or float16, from a file that was compiled for its "
    "generation"
)
OLD_HTP = "its NPU is of a generation that target qnn does not compile for, so the GPU computes"
GPU = "LiteRT's GPU takes float16 on any recent phone"
CHOICES = {
    "apple": Choice(
        "coreml",
        "fp16",
        None,
        None,
        "Core ML alone reaches the Neural Engine, which computes in float16",
    ),
    "mediatek": Choice(
        "litert",
        "fp16",
        None,
        None,
        f"{GPU}; for the NPU add --npu and the chip, such as mediatek:MT6991",
    ),
    "tensor": Choice(
        "litert",
        "fp16",
        None,
        None,
        f"{GPU}; for the TPU add --npu google_tensor:Tensor_G5, for chips from G5 on",
    ),
    "exynos": Choice(
        "litert",
        "fp16",
        None,
        None,
        f"{GPU}; for the NPU add --npu and the chip, such as samsung:E9965",
    ),
}


def phones() -> dict[str, Phone]:
    """All phones, by name."""
    text = (files("export") / "targets" / "phones.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["phone"]: Phone(row.pop("phone"), **row) for row in rows}


def _plain(name: str) -> str:
    """A name as it is compared: small letters, one space, no maker before it."""
    words = name.casefold().replace("plus", "+").split()
    if words and words[0] in MAKERS:
        words = words[1:]
    return " ".join(words).replace(" +", "+")


def choose_phone(name: str) -> Phone:
    """A phone by its name, with or without its maker.

    Raises:
        UserError: No row has it.
    """
    known = {_plain(phone.name): phone for phone in phones().values()}
    wanted = _plain(name)
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, list(known), MOST_NEAR, LEAST_LIKE)
    like = f" (near it: {', '.join(known[key].name for key in near)})" if near else ""
    raise UserError(
        f"phone {shown(name)} is unknown{like}; give one of export/targets/phones.csv, or --target "
        "as the page of phones says for its chip"
    )


def choice_for(phone: Phone) -> Choice:
    """What to export for a phone."""
    if phone.kind in CHOICES:
        return CHOICES[phone.kind]
    for chip in chips().values():
        if phone.kind == f"v{chip.htp_arch}":
            return Choice("qnn", None, chip.name, "qnn", HTP)
    return Choice("litert", "fp16", None, None, OLD_HTP)


def described(phone: Phone) -> dict[str, str]:
    """What a manifest says of the phone that an export is for."""
    facts = {
        "phone": phone.name,
        "chip": phone.chip,
        "reason": choice_for(phone).reason,
        "source": phone.source,
    }
    return {**facts, "also": phone.also} if phone.also else facts


def sentences(phone: Phone) -> list[str]:
    """The choice and its reason, for the terminal."""
    choice = choice_for(phone)
    chosen = [f"target {choice.target}", choice.dtype or "a quantised run's own codes, or w8a16"]
    if choice.chip:
        chosen.append(f"chip {choice.chip}")
    chosen.append(f"rewrites for {choice.rewrite}" if choice.rewrite else "no rewrites")
    lines = [f"{phone.name} ({phone.chip}): {', '.join(chosen)}, because {choice.reason}"]
    if phone.also:
        other = choose_phone(phone.also)
        lines.append(
            f"{phone.name} is sold with {other.chip} too: --for '{other.name}' is for that"
        )
    return lines
