"""Published latencies of phones beside what is predicted for them; nothing is run.

    python tests/bench/bench_phones.py fit|edge [--json FILE]

`fit` has a row for each published latency: what the table of operators (compress/cost/operators.py)
says of it, and what it says where the fit has not seen that network. `edge` takes Edge-SD-SR apart
at each precision. Its paper has 38 ms on a Galaxy S24, of which the decoder takes 59 %.
"""

import argparse

from rows import add_json, write_rows

from compress.core.errors import command
from compress.cost import operators, phones
from compress.cost.count import measure
from compress.families.edge_sd_sr import EdgeSDSRSource

PHONE = operators.REFERENCE
DECODER_SHARE = 0.59


def fit() -> list[dict]:
    """A row for each published latency."""
    rows = []
    for point in operators.published():
        table = {point.kind: operators.networks()[point.network]}
        rest = operators.fit(p for p in operators.published() if p.network != point.network)
        predicted = operators.fitted().ms(table, point.device)
        unseen = rest.ms(table, point.device) if point.device in rest.slowness else None
        rows.append(
            {
                "network": point.network,
                "precision": point.kind,
                "device": point.device,
                "published_ms": point.ms,
                "predicted_ms": predicted,
                "ratio": predicted / point.ms,
                "unseen_ratio": None if unseen is None else unseen / point.ms,
                "factor": operators.factor(),
            }
        )
    return rows


def edge() -> list[dict]:
    """Edge-SD-SR at each precision, whole and its decoder."""
    source = EdgeSDSRSource(size="default")
    cost = measure(source.build(), phones.PUBLISHED_SIZE)
    [published] = [ms for _, device, ms in phones.published(source) if device == PHONE]
    parts = {
        "whole": (cost, published),
        "decoder": (cost.component("decoder"), published * DECODER_SHARE),
    }
    rows = []
    for kind in phones.PRECISIONS:
        for name, (part, ms) in parts.items():
            table = {kind: operators.counts(part)}
            [one] = [one for one in operators.estimates(table) if one.device == PHONE]
            rows.append(
                {
                    "precision": kind,
                    "part": name,
                    "gmacs": table[kind]["macs"] / 1e9,
                    "gigabytes": operators.moved_gb(table[kind], kind),
                    "by_rate_ms": part.macs_full / 1e9 / phones.rates()[PHONE][kind].gmacs_per_ms,
                    "predicted_ms": one.ms,
                    "low_ms": one.low,
                    "high_ms": one.high,
                    "published_ms": ms,
                    "ratio": ms / one.ms,
                    "no_ground": "; ".join(operators.gaps(table)),
                }
            )
    return rows


@command
def main(argv: list[str]) -> int:
    """Print the rows."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("what", choices=("fit", "edge"))
    add_json(p)
    options = p.parse_args(argv)
    rows = fit() if options.what == "fit" else edge()
    write_rows(options.json, rows)
    for row in rows:
        print("  ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    return 0


if __name__ == "__main__":
    main()
