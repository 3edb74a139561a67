"""What the processor can multiply: whether onnxruntime's fast 8-bit kernels are exact on it.

x86 before VNNI adds pairs of products u8 * s8 in 16 bits, which saturate: 255 * 127 + 255 * 127
is 64,770 and becomes 32,767. With `session.x64quantprecision` onnxruntime turns signed weights
into unsigned ones there, for which it has exact kernels that are slower. A weight whose codes are
within [-64, 64] cannot overflow, and onnxruntime leaves it as it is. VNNI adds in 32 bits, so that
the option costs time there and changes no bit.
"""

import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

EXACT = "session.x64quantprecision"
# onnxruntime makes one operator of a DequantizeLinear and a MatMul, which would round the other
# factor to 8 bits. 1 has it compute in float32.
FLOAT_PRODUCTS = {"session.qdq_matmulnbits_accuracy_level": "1"}
CPUINFO = Path("/proc/cpuinfo")
VNNI = ("avx512_vnni", "avx_vnni")
REPORTED = ("avx2", "avx512f", *VNNI)
MACHINES = ("x86_64", "amd64", "x86", "i386", "i486", "i586", "i686")
MACOS_QUERY = ("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features")
MACOS_SPELLING = {"avx512vnni": "avx512_vnni", "avxvnni": "avx_vnni"}
MACOS_PATIENCE = 5  # seconds


def is_x86() -> bool:
    """Whether this process runs x86 code (under an emulator, too)."""
    return platform.machine().lower() in MACHINES


@cache
def flags() -> frozenset[str] | None:
    """The features that all cores share, in Linux' spelling; None where the system names none."""
    if sys.platform == "linux":
        return _flags_of_linux()
    if sys.platform == "darwin":
        return _flags_of_macos()
    return None


def _flags_of_linux() -> frozenset[str] | None:
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    cores = [
        frozenset(line.partition(":")[2].split())
        for line in text.splitlines()
        if line.startswith("flags")
    ]
    if not cores:
        return None
    return frozenset.intersection(*cores)


def _flags_of_macos() -> frozenset[str] | None:
    """An Intel Mac's features. Rosetta has no such list, and no AVX-512."""
    try:
        done = subprocess.run(
            MACOS_QUERY, capture_output=True, text=True, timeout=MACOS_PATIENCE, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    names = done.stdout.lower().split()
    return frozenset(MACOS_SPELLING.get(name, name) for name in names) or None


def needs_exact_kernels() -> bool:
    """Whether full 8-bit weights overflow in the fast kernels: x86 without VNNI, or not known.

    ARM adds products of bytes in 32 bits.
    """
    if not is_x86():
        return False
    known = flags()
    if known is None:
        return True
    return known.isdisjoint(VNNI)


def session_entries(exact: bool | None = None) -> dict[str, str]:
    """Entries of a session's config with which onnxruntime computes what the graph says.

    Args:
        exact: True asks for exact kernels and False for the fast ones, whatever the processor.
            None asks for exact ones where the processor needs them.
    """
    if exact is None:
        exact = needs_exact_kernels()
    return {**FLOAT_PRODUCTS, EXACT: "1"} if exact else dict(FLOAT_PRODUCTS)


def describe() -> str:
    """One line: the features found, and whether sessions ask for exact kernels."""
    switch = "on" if needs_exact_kernels() else "off"
    return f"processor features: {_described_features()}; {EXACT}: {switch}"


def _described_features() -> str:
    if not is_x86():
        return f"{platform.machine()}, no x86"
    known = flags()
    if known is None:
        return "x86, features not known"
    there = [name for name in REPORTED if name in known]
    if there:
        return ", ".join(there)
    return f"none of {', '.join(REPORTED)}"
