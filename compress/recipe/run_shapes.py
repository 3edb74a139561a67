"""The shapes of the files of a run directory, as pydantic checks them.

They hold the keys that something reads; a file may hold more.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Discriminator, Tag
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

Number = int | float
# image -> metric -> value
Scores = dict[str, dict[str, float | None]]


class Totals(TypedDict):
    """compress.cost.count of one model."""

    bytes: Number
    params: Number
    param_equivalents: Number
    macs_paper: Number
    macs_equivalent: Number
    macs_full: NotRequired[Number]
    peak_activation_bytes: NotRequired[Number]
    file_bytes: NotRequired[Number]
    lr_size: NotRequired[list[int]]
    components: NotRequired[list[dict[str, Any]]]


# `pass` is a word of Python, which no class can have as a field.
PassConfig = TypedDict("PassConfig", {"pass": str})
PassEntry = TypedDict(
    "PassEntry",
    {
        "pass": PassConfig,
        "seconds": Number,
        "data": str,
        "before": Totals,
        "after": Totals,
        "figures": NotRequired[Any],
        "cached": NotRequired[bool],
    },
)


class Costs(TypedDict):
    """The cost of the source and of the result."""

    before: Totals
    after: Totals


class Ledger(TypedDict):
    """ledger.json."""

    name: str
    passes: list[PassEntry]
    cost: Costs
    recipe: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, Any]]


class PartCosts(TypedDict):
    """`Costs`, as far as they are there."""

    after: NotRequired[dict[str, Any]]


class PartLedger(TypedDict):
    """What a curve reads of ledger.json."""

    cost: NotRequired[PartCosts]


class Averages(TypedDict):
    """averages.json, without the metrics, which are all its other keys."""

    data: str
    protocol: str
    images: int
    blank: dict[str, str]
    problems: NotRequired[dict[str, str]]
    notes: NotRequired[list[str]]


class Strengths(TypedDict):
    """strength.json: the means of the metrics at each strength, which is one of the keys."""

    rows: list[dict[str, Number | None]]


class Reference(TypedDict):
    """A patch of a photograph that an image was restored with, in pixels."""

    file: str
    top: int
    left: int
    height: int
    width: int
    similarity: Number | None


class Parity(TypedDict):
    """One exported file on one probe; None is an output that is not finite."""

    file: NotRequired[str]
    probe: NotRequired[str]
    psnr_db: NotRequired[Number | None]


class Latency(TypedDict):
    """One row of a measurement of speed; a target's first row is its reference."""

    label: NotRequired[str]
    size_ratio: NotRequired[Number]
    ratio: NotRequired[Number]


class Figures(TypedDict):
    """figures.json of one exported target."""

    parity: list[Parity]
    latency: list[Latency]
    files: list[list[str | int]]


class NamedData(TypedDict):
    """A published data set of a recipe's `eval`."""

    name: str
    path: str
    protocol: NotRequired[str | None]


class EvalPart(TypedDict):
    """`eval` of a recipe."""

    data: list[str | NamedData]


# Entries of `passes` of a recipe. `weights` are bits in the one, and a file in others.
QuantizePart = TypedDict(
    "QuantizePart",
    {"pass": Literal["quantize"], "weights": NotRequired[int], "activations": NotRequired[int]},
)
OtherPart = TypedDict("OtherPart", {"pass": str})


def _kind_of(entry: Any) -> str:
    is_quantize = isinstance(entry, dict) and entry.get("pass") == "quantize"
    return "quantize" if is_quantize else "other"


PassPart = Annotated[
    Annotated[QuantizePart, Tag("quantize")] | Annotated[OtherPart, Tag("other")],
    Discriminator(_kind_of),
]


class SourcePart(TypedDict):
    """`source` of a recipe."""

    family: str
    size: NotRequired[str]


class RecipeFile(TypedDict):
    """recipe.yaml of a run."""

    source: SourcePart
    passes: list[PassPart]
    eval: EvalPart


class Manifest(TypedDict):
    """manifest.json of an exported folder."""

    target: str
    files: dict[str, dict[str, Any]]
    graphs: dict[str, dict[str, Any]]
