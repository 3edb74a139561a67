"""python -m eval.weights [--iqa-weights DIR]: which metrics can be computed here, and how to get the others."""

import argparse
import json
from pathlib import Path

from compress.core.errors import UserError, command
from eval.metric import weight_files
from eval.metric.metrics import METRICS

FLOWS = {"here": "here", "differs": "DIFFERS from its publisher's digest", "missing": "missing"}


def survey(folder: str | Path | None = None) -> dict[str, dict]:
    """{weight file: {state, path, url, sha256, licence, what, metrics}}; nothing is downloaded.

    `state` is `here`, `missing`, or `differs` for a file whose SHA-256 is not the published one.
    """
    folder = None if folder is None else Path(folder)
    if folder is not None and not folder.is_dir():
        raise UserError(
            f"--iqa-weights {folder}: no such folder; give the folder that holds the metrics' weights"
        )
    found = {}
    for weight in weight_files.known().values():
        path = weight_files.at_hand(weight, folder)
        sha = None if path is None else weight_files.digest(path)
        state = (
            "missing"
            if sha is None
            else "differs"
            if not sha.startswith(weight.sha256 or "")
            else "here"
        )
        users = [
            name
            for name, metric in METRICS.items()
            if any(weight in way.weights for way in metric.ways)
        ]
        found[weight.file] = {
            "state": state,
            "path": path and str(path),
            "url": weight_files.address(weight),
            "sha256": sha,
            "published_sha256": weight.sha256,
            "licence": weight.licence,
            "what": weight.what,
            "cache": weight.cache,
            "metrics": users,
        }
    return found


def ready(files: dict[str, dict]) -> dict[str, list[str]]:
    """{metric: the files it lacks}, of the way that lacks fewest; an empty list where it can be computed."""
    lacks: dict[str, list[str]] = {}
    for name, metric in METRICS.items():
        if metric.of:
            lacks[name] = list(dict.fromkeys(file for part in metric.of for file in lacks[part]))
        else:
            lacks[name] = min(
                (
                    [w.file for w in way.weights if files[w.file]["state"] == "missing"]
                    for way in metric.ways
                ),
                key=len,
            )
    return lacks


def text(files: dict[str, dict], folder: str | Path | None) -> str:
    """Metrics, then files, then what to do."""
    lacks = ready(files)
    can = [name for name, missing in lacks.items() if not missing]
    lines = [f"can be computed here: {', '.join(can)}", "", "weights are missing for:"]
    lines += [
        f"  {name:<14} needs {', '.join(missing)}" for name, missing in lacks.items() if missing
    ]
    lines += ["", "files:"]
    for file, row in files.items():
        lines.append(f"  {file}  [{FLOWS[row['state']]}]")
        lines.append(
            f"      {row['what']}; licence {row['licence'] or 'not stated'}; used by "
            f"{', '.join(row['metrics'])}"
        )
        if row["path"]:
            known = row["published_sha256"]
            checked = (
                f"SHA-256 {'as expected' if row['state'] == 'here' else 'expected ' + known}"
                if known
                else (f"SHA-256 {row['sha256'][:12]}…, no published one to compare with")
            )
            lines.append(f"      {row['path']}; {checked}")
        else:
            lines.append(
                f"      from "
                f"{row['url'] or 'nobody publishes it; its metric can also be had from two other files'}"
            )
    lines += [
        "",
        "With a network, eval.run downloads what a metric needs. Without one: fetch the files elsewhere, put "
        "them",
        f"under the same names into {'one folder' if folder is None else folder}, and pass that as "
        "--iqa-weights (in a recipe: eval.iqa_weights).",
    ]
    return "\n".join(lines)


@command
def main(argv: list[str]) -> int:
    """Print the survey; 0 even where files are missing, 2 where one differs from its digest."""
    parser = argparse.ArgumentParser(prog="python -m eval.weights", description=__doc__)
    parser.add_argument(
        "--iqa-weights", metavar="DIR", help="folder with weight files; looked at before the cache"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    args = parser.parse_args(argv)
    files = survey(args.iqa_weights)
    print(
        json.dumps({"files": files, "lacks": ready(files)}, indent=1)
        if args.json
        else text(files, args.iqa_weights)
    )
    wrong = [f"{row['path']}" for row in files.values() if row["state"] == "differs"]
    if wrong:
        raise UserError(
            f"{', '.join(wrong)}: the SHA-256 is not the published one; fetch again from the address above"
        )
    return 0


if __name__ == "__main__":
    main()
