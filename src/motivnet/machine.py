"""The machine: the cores that may be used, and the C library's memory. Imports nothing heavy."""

import os
import sys
from collections.abc import Mapping

# Options of <malloc.h> and their values, in bytes.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
KEEP_IMAGES = {M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
KEEP_LITTLE = {M_MMAP_THRESHOLD: 1 << 20, M_TRIM_THRESHOLD: 1 << 20}
KEEP_STEPS = {M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20, M_MMAP_MAX: 0}


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory(options: Mapping[int, int] = KEEP_IMAGES) -> None:
    """Tell glibc to keep large freed blocks for the next image or training step.

    The system would otherwise get them back and clear them again, a large part of the time of both. Does nothing with
    other C libraries.

    Args:
        options: of glibc's `mallopt`, with their values: `KEEP_IMAGES`, of which detection allocates about 15 MB each,
            so that 64 MB kept are enough for those of two threads and more, and the threshold is glibc's greatest;
            `KEEP_STEPS` for training; or `KEEP_LITTLE` where a rare large image must leave nothing behind.
    """
    for option, value in options.items():
        _call_glibc("mallopt", option, value)


def return_freed_memory() -> None:
    """Give the system what glibc keeps, also between blocks in use."""
    _call_glibc("malloc_trim", 0)


def _call_glibc(function: str, *arguments: int) -> None:
    import ctypes

    found = getattr(ctypes.CDLL(None), function, None) if sys.platform.startswith("linux") else None
    if found is not None:
        found(*arguments)


def prepare_for_images() -> None:
    """Prepare a process in which several threads work on one image each."""
    import cv2

    keep_freed_memory()
    cv2.setNumThreads(1)
