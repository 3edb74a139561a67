"""Costs as tables in a terminal."""

from collections.abc import Iterable

from compress.cost.cost import Cost

_HEAD = ("params M", "as fp32 M", "MB", "GMACs", "with attn", "as fp32", "peak MB")


def _figures(cost: Cost) -> tuple[str, ...]:
    return (
        f"{cost.params / 1e6:,.3f}",
        f"{cost.param_equivalents / 1e6:,.3f}",
        f"{cost.bytes / 1e6:,.3f}",
        f"{cost.macs_paper / 1e9:,.3f}",
        f"{cost.macs_full / 1e9:,.3f}",
        f"{cost.macs_equivalent / 1e9:,.3f}",
        f"{cost.peak_activation_bytes / 1e6:,.1f}",
    )


def table(rows: Iterable[tuple[str, Cost]], first: str = "after") -> str:
    """A table of (label, cost) rows, for instance the model after each pass.

    M is 1e6, MB 1e6 bytes packed. "as fp32" scales parameters and MACs by their bits / 32.

    Args:
        rows: In the order of the lines.
        first: The title of the column with the labels.
    """
    lines = [[first, *_HEAD]]
    for label, cost in rows:
        lines.append([label, *_figures(cost)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [_aligned(line, widths) for line in lines]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])


def _aligned(cells: list[str], widths: list[int]) -> str:
    """A line of the table: the label at the left, numbers at the right of their columns."""
    label, *numbers = cells
    aligned = [label.ljust(widths[0])]
    for number, width in zip(numbers, widths[1:], strict=True):
        aligned.append(number.rjust(width))
    return "  ".join(aligned)


def component_table(cost: Cost) -> str:
    """The same columns for each component, with the sum below."""
    height, width = cost.lr_size
    return table([*cost.components().items(), ("sum", cost)], first=f"at {width}x{height}")
