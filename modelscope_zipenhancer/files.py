"""Files that are whole or not there: written under a temporary name, then renamed."""

import contextlib
import os
import threading


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
