"""What the allocator does with memory that is freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt, from malloc.h
LARGEST_BUFFER = 2**31 - 1  # bytes; what mallopt takes at most


def keep_freed_memory() -> None:
    """Let glibc keep large freed buffers instead of giving each back to the kernel.

    Page faults took four fifths of SSIM's time on a virtual machine. It holds for the whole
    process, so that only command lines and workers ask for it.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # musl has none
        return
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        libc.mallopt(option, LARGEST_BUFFER)
