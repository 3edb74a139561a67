"""A finished run in a few lines of text."""

from compress.recipe.checkpoint import MODEL_FILE
from compress.recipe.recipe import Recipe
from eval.reporting.notes import plural
from export.parity.rows import failures
from export.targets.contract import Row

M, G = 1e6, 1e9
# Rows of parity of the whole model, in one file or in three.
WHOLE = ("model.onnx", "end to end")


def summary(recipe: Recipe, record: dict, exported: dict, results: dict) -> list[str]:
    """The run in a few lines of text.

    Args:
        recipe: Of the run.
        record: Its ledger.
        exported: From `export_all`.
        results: From `evaluate_both`.
    """
    lines = [f"{recipe.name}", *_cost_lines(record["cost"])]
    lines += _speed_lines(exported["latency"])
    lines += _parity_lines(exported["parity"])
    for data, result in results.items():
        lines += _quality_lines(data, result, recipe.eval.metrics)
    return lines


def _cost_lines(cost: dict) -> list[str]:
    before, after = cost["before"], cost["after"]
    height, width = before["lr_size"]
    return [
        f"  weights  {before['bytes'] / M:9.2f} MB -> {after['bytes'] / M:.2f} MB "
        f"({after['bytes'] / before['bytes']:.3f}), packed at their own width; {MODEL_FILE} has "
        f"{after['file_bytes'] / M:.2f} MB",
        f"  params   {before['params'] / M:9.2f} M  -> {after['param_equivalents'] / M:.2f} M "
        "fp32-equivalent",
        f"  MACs     {before['macs_paper'] / G:9.2f} G  -> {after['macs_equivalent'] / G:.2f} G "
        f"fp32-equivalent (paper count, LR {width}x{height}), counted and no speed",
    ]


def pairs_of(rows: list[dict]) -> list[tuple[dict, dict]]:
    """(reference, row) of the latency rows of all targets.

    A target's first row is what its others are measured against, and has the label of the source.
    """
    pairs: list[tuple[dict, dict]] = []
    reference: dict | None = None
    for row in rows:
        if reference is None or row["label"] == reference["label"]:
            reference = row
        else:
            pairs.append((reference, row))
    return pairs


def _speed_lines(rows: list[dict]) -> list[str]:
    lines = []
    for reference, row in pairs_of(rows):
        threads = f"{row['threads']} {plural(row['threads'], 'thread')}"
        lines.append(
            f"  ONNX     {row['size_ratio']:.3f} x the bytes and {row['ratio']:.2f} x the speed of "
            f"{reference['label']}, measured: {threads}, {row['machine']}"
        )
    return lines


def _parity_lines(rows: list[Row]) -> list[str]:
    lines = []
    whole = [f"{row['probe']} {_decibels(row)}" for row in rows if row["file"] in WHOLE]
    if whole:
        lines.append(f"  parity   torch against the runtime, end to end, dB: {', '.join(whole)}")
    problem = failures(rows)
    if problem:
        lines.append(f"  parity   {problem}")
    return lines


def _decibels(row: Row) -> str:
    if row["psnr_db"] is None:
        return "not finite"
    return format(row["psnr_db"], ".1f")


def _quality_lines(data: str, result: dict, metrics: list[str]) -> list[str]:
    """Quality of both models on one data set."""
    source, compressed = result["source"], result["compressed"]
    fidelity = result["fidelity_db"]
    if fidelity is None:
        lines = [f"  {data}: no image was restored by both models"]
    else:
        lines = [f"  {data}: compressed against source {fidelity:.2f} dB PSNR"]
    for metric in metrics:
        before, after = source.get(metric), compressed.get(metric)
        if before is not None and after is not None:
            lines.append(f"    {metric:<14}{before:10.4f} -> {after:.4f}")
    for metric, reason in compressed["blank"].items():
        lines.append(f"    {metric:<14}blank: {reason}")
    for image, reason in compressed["problems"].items():
        lines.append(f"    left out: {image}: {reason}")
    return lines
