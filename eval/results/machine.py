"""The machine of a measurement, and how much other work it had to do meanwhile."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from compress.core.machine import processor

# Features on which the speed and the bits of integer kernels depend.
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp")
MOST_OTHER_WORK = 0.15  # cores; with more the times say nothing
GIB = 2**30


def describe() -> dict[str, object]:
    """Processor, its features, cores, threads and memory."""
    return {
        "processor": processor(),
        "features": [name for name in FEATURES if name in _flags()],
        "cores": os.cpu_count() or 1,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "memory_gib": _memory_gib(),
        "system": platform.system(),
    }


def _flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return set()
    for line in info.read_text(encoding="utf-8").splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(words.split())
    return set()


def _memory_gib() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB)


def load_average() -> float | None:
    """Of the last minute, where the system has one."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@dataclass(frozen=True)
class Work:
    """Processor seconds since some beginning: of the whole machine, and of this process.

    This process has those of the children that it has waited for.
    """

    machine: float
    own: float
    clock: float

    @classmethod
    def so_far(cls, clock: float) -> "Work | None":
        """As it is now; `clock` is the time in seconds. None where the system does not tell."""
        stat = Path("/proc/stat")
        if not stat.is_file():
            return None
        import resource  # not on Windows

        first = stat.read_text(encoding="utf-8").splitlines()[0].split()[1:]
        user, nice, system, _idle, _wait, irq, softirq = map(int, first[:7])
        ticks = user + nice + system + irq + softirq
        whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        usages = [resource.getrusage(who) for who in whose]
        own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        return cls(ticks / os.sysconf("SC_CLK_TCK"), own, clock)

    def others_since(self, before: "Work") -> float:
        """Cores that other processes kept busy from `before` to this, on average."""
        passed = max(self.clock - before.clock, 1e-3)
        others = (self.machine - before.machine) - (self.own - before.own)
        return round(max(0.0, others / passed), 2)
