"""The C library's memory allocator, set up for training."""

import ctypes

# mallopt's parameters, of glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, for the next step, instead of giving it back to the kernel.

    Fresh pages cost as much as the arithmetic on them (docs/training.md has figures). It is a setting of
    the whole process, so for a command, not for a library to make. Returns whether it took effect: only
    with glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows has no such library, macOS no mallopt
        return False
    settings = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 << 20}
    return all(mallopt(key, value) == 1 for key, value in settings.items())
