"""The table that bench_quantisation.py prints."""

METRICS = ("psnr", "lpips-squeeze", "niqe")
NONE = "\N{EN DASH}"  # where there is no figure


def table(rows: list[dict]) -> str:
    """The table of `rows` as the files in DIR/rows hold them; a row that failed says why."""
    head = (
        f"{'method':<22}{'width':<8}{'placement':<11}{'to fp32 dB':>11}"
        + "".join(f"{m:>15}" for m in METRICS)
        + (f"{'KiB':>9}{'size':>7}{'speed':>8}")
    )
    lines = [head]
    for row in rows:
        start = f"{row['method']:<22}{row['width']:<8}{row['placement']:<11}"
        if "error" in row:
            lines.append(f"{start}  failed: {row['error'][:100]}")
            continue
        cells = "".join(
            f"{row['metrics'][m]:>15.4f}" if m in row["metrics"] else f"{NONE:>15}" for m in METRICS
        )
        to_float = f"{row['to_fp32']:>11.2f}" if row["to_fp32"] is not None else f"{NONE:>11}"
        lines.append(
            f"{start}{to_float}{cells}{row['bytes'] / 1024:>9.0f}{row['size_ratio']:>7.3f}"
            f"{row['speed']['ratio']:>7.2f}x"
        )
    return "\n".join(lines)
