"""Whether a result is of the weights, recipes, versions and jobs that are the current ones."""

from pathlib import Path

from eval.results import provenance
from eval.results.datafile import Data, JobRecord
from eval.results.measurement import Measurement, Short

MOST_NAMED = 4


def reasons(data: Data, measurement: Measurement, root: Path) -> list[str]:
    """Why a result is stale, as the ends of a sentence; empty where it is current.

    Args:
        data: The result.
        measurement: As it is registered.
        root: The clone.
    """
    found = []
    files = _changed_files(data["jobs"], root)
    if files:
        found.append(f"made with other {listed(files)}")
    versions = _changed_versions(data, root)
    if versions:
        found.append(f"made with {listed(versions)}")
    if data["edition"] != measurement.edition:
        found.append("measured in another way")
    keys = {job.key for job in measurement.jobs(Short())}
    measured = {record["key"] for record in data["jobs"]}
    if measured - keys:
        found.append(f"made with {listed(sorted(measured - keys))}, which there is no more")
    return found


def unmeasured(data: Data, measurement: Measurement) -> list[str]:
    """The keys of jobs that a result lacks, in the order of the jobs."""
    measured = {record["key"] for record in data["jobs"]}
    return [job.key for job in measurement.jobs(Short()) if job.key not in measured]


def listed(names: list[str]) -> str:
    """Names as code, the first MOST_NAMED of them."""
    named = ", ".join(f"`{name}`" for name in names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _changed_files(jobs: list[JobRecord], root: Path) -> list[str]:
    inputs = {(name, digest) for record in jobs for name, digest in record["inputs"].items()}
    current = provenance.hashes((name for name, _ in inputs), root)
    return sorted({name for name, digest in inputs if current[name] != digest})


def _changed_versions(data: Data, root: Path) -> list[str]:
    pinned = provenance.current_versions(root)
    used = {record["session"] for record in data["jobs"]}
    made_with = {
        (name, number)
        for index in used
        for name, number in data["sessions"][index]["versions"].items()
    }
    return sorted(
        f"{name} {number}" for name, number in made_with if pinned.get(name, number) != number
    )
