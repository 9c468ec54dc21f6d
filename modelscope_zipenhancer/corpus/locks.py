"""Locks that end with their process, where the file system has them (flock)."""

import os


def hold(path: str, wait: bool = False) -> int | None:
    """A lock that ends with this process; None where there are none. BlockingIOError if another has it."""
    try:
        import fcntl
    except ImportError:
        return None
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise
        return None  # a file system without locks
    return lock


def is_held(path: str) -> bool:
    """Whether a process has the lock."""
    try:
        lock = hold(path)
    except BlockingIOError:
        return True
    if lock is not None:
        os.close(lock)
    return False
