"""Make a run's model the embedded weights of a source: `python -m compress.publish RUN FAMILY -o FILE`.

Writes FILE in half precision with the family's nano source in its header, and beside it FILE.json with what it was
made of: passes, data, losses, hardware, versions. Folders are named without their place.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from compress.core.errors import UserError, command
from compress.core.files import MADE_BY, check_weights, write_text
from compress.core.tensors import check_fit
from compress.recipe.checkpoint import MODEL_FILE, load_model, parse_source, save_model
from compress.recipe.run_files import read_ledger
from compress.run import LEDGER

PATHS = ("folders", "lpips_weights", "dists_weights", "base", "lora", "weights", "data")


def without_places(value: Any, key: str = "") -> Any:
    """A ledger's data with the last part of every path in place of the path."""
    if isinstance(value, dict):
        return {k: without_places(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [without_places(v, key) for v in value]
    return Path(value).name if key in PATHS and isinstance(value, str) and "/" in value else value


@command
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m compress.publish", description=__doc__.splitlines()[0]
    )
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "family", help="the source family whose nano size has this structure, such as adcsr"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(argv)
    file = options.run / LEDGER
    if not file.is_file():
        raise UserError(f"{options.run}: no finished run here (no {LEDGER}); give a run directory")
    check_weights(options.out, "-o", [options.run / MODEL_FILE, file])
    model, source = (
        load_model(options.run),
        parse_source({"family": options.family, "size": "nano"}, "family"),
    )
    check_fit(
        source.build().state_dict(),
        model.state_dict(),
        str(options.run),
        f"those of a nano {options.family}",
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, options.out, source, [], dtype=torch.float16)
    record = read_ledger(options.run)
    kept = {
        "source": record["recipe"]["source"],
        "seed": record["recipe"]["seed"],
        "passes": [
            {"pass": entry["pass"], "seconds": entry["seconds"], "figures": entry["figures"]}
            for entry in record["passes"]
        ],
        "versions": record["versions"],
    }
    write_text(
        options.out.with_suffix(".json"),
        json.dumps(without_places({"made_by": MADE_BY, **kept}), indent=1),
    )
    print(
        f"wrote {options.out} ({options.out.stat().st_size / 1e6:.1f} MB) and {options.out.with_suffix('.json').name}"
    )
    return 0


if __name__ == "__main__":
    main()
