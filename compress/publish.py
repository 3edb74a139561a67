"""Make a run's model the embedded weights of a source.

    python -m compress.publish RUN FAMILY -o FILE

Writes FILE in half precision with the family's nano source in its header. FILE.json beside it says
what it was made of: passes, data, losses, hardware, versions. Folders are named without their
place.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from compress.core.errors import UserError, command
from compress.core.files import MADE_BY, check_weights, write_text
from compress.core.program import command_parser
from compress.recipe.places import without_places
from compress.recipe.run_files import LEDGER, read_ledger

DESCRIPTION = (
    "Make a run's model the embedded weights of a source: `python -m compress.publish RUN FAMILY "
    "-o FILE`."
)


def made_of(ledger: dict[str, Any]) -> dict[str, Any]:
    """What FILE.json keeps of a run's ledger."""
    passes = []
    for entry in ledger["passes"]:
        passes.append({name: entry[name] for name in ("pass", "seconds", "figures")})
    kept = {
        "made_by": MADE_BY,
        "source": ledger["recipe"]["source"],
        "seed": ledger["recipe"]["seed"],
        "passes": passes,
        "versions": ledger["versions"],
    }
    return without_places(kept)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compress.publish", description=DESCRIPTION)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "family", help="the source family whose nano size has this structure, such as adcsr"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    return parser


@command
def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(argv)
    # These bring torch with them. It takes seconds, which --help need not wait for.
    import torch

    from compress.core.tensors import check_fit
    from compress.recipe.checkpoint import MODEL_FILE, load_model, parse_source, save_model

    run, out = options.run, options.out
    file = run / LEDGER
    if not file.is_file():
        raise UserError(f"{run}: no finished run here (no {LEDGER}); give a run directory")
    check_weights(out, "-o", [run / MODEL_FILE, file])
    model = load_model(run)
    source = parse_source({"family": options.family, "size": "nano"}, "family")
    expected = source.build().state_dict()
    check_fit(expected, model.state_dict(), str(run), f"those of a nano {options.family}")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, out, source, [], dtype=torch.float16)
    record = out.with_suffix(".json")
    write_text(record, json.dumps(made_of(read_ledger(run)), indent=1))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB) and {record.name}")
    return 0


if __name__ == "__main__":
    main()
