"""Files that are whole or not there: written under a temporary name, then renamed. And folders."""

import contextlib
import os
import threading

from .errors import OutputError


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary name beside `path`; rename it to `path` at the end, or remove it on error."""
    path = os.fspath(path)
    # The process and thread in the name: two that write one path don't write one temporary.
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def make_folder(path) -> None:
    """Create a folder and its parents, '' is the current one; OutputError if that can't be."""
    try:
        os.makedirs(path or ".", exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {os.fspath(path)!r} can't be made: {error.strerror}; name another"
        ) from error
