"""Files of a corpus, here or elsewhere: what has a `scheme://` other than http is fsspec's.

s3, gs, oss, hdfs and the like need their package (s3fs, gcsfs, ossfs, pyarrow), which fsspec names where it
is missing; keys and endpoints are that package's business.
"""

import contextlib
import errno
import io
import os
import posixpath
import re
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..errors import AudioError, AudioNotFoundError, OptionError, OutputError, ZipEnhancerError
from ..files import make_folder, real_path, replacing
from ..worker_process import alive

# Nothing more can be written here: the run must stop, not fail each recording in turn.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
# Where an upload appears whole or not at all. Elsewhere it gets a temporary name first.
WHOLE = {"s3", "s3a", "gs", "gcs", "oss", "obs", "cos", "tos", "az", "abfs", "abfss", "memory"}

BLOCK = 8 << 20  # bytes of a remote file that are read at a time


class FullError(OutputError):
    """No room, or no permission, for any output: the run has stopped."""


def is_remote(path: str) -> bool:
    """Whether fsspec is to open this."""
    return bool(re.match(r"(?!https?://)[a-z][a-z0-9+.-]+://", path, re.IGNORECASE))


def open_source(path: str) -> BinaryIO:
    """A local or remote file, open for reading; AudioNotFoundError or AudioError if it can't be."""
    try:
        if is_remote(path):
            system, inside = _system(path)
            return system.open(inside, "rb")
        return open(path, "rb")
    except FileNotFoundError:
        raise AudioNotFoundError(f"no file at {path!r}") from None
    except (OSError, ValueError) as error:
        raise AudioError(f"{path!r} can't be opened: {getattr(error, 'strerror', None) or error}") from error


def read_source(path: str) -> io.BytesIO:
    """A remote file as a whole, in memory: one request instead of one for each part."""
    whole = io.BytesIO()
    with open_source(path) as file:
        try:
            while part := file.read(BLOCK):
                alive()  # a slow line is no process that hangs
                whole.write(part)
            whole.seek(0)
            return whole
        except OSError as error:
            raise AudioError(f"{path!r} can't be read: {error.strerror or error}") from error


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all, on the disk when this returns; its folder is made.

    Raises:
        FullError: where no other file could be written either.
        OutputError: for any other reason.
    """
    if is_remote(path) and _scheme(path) in WHOLE:
        try:
            system, inside = _system(path)
            system.pipe_file(inside, data)
        except OSError as error:
            raise full_or(error, path) from error
    else:
        with writer(path) as file:
            file.write(data)


def full_or(error: OSError, path: str) -> OutputError:
    """The error of writing a path: FullError if others would have it too."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if cause.errno in FULL:
        remedy = "once it can be written" if cause.errno == errno.EROFS else "once there is room"
        return FullError(
            f"{path!r} can't be written: {cause.strerror}. The run has stopped; {remedy}, the same command "
            "goes on"
        )
    if isinstance(error, OutputError):
        return error
    return OutputError(f"{path!r} can't be written: {error.strerror or error}")


@contextlib.contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """An open file that becomes `path`, whole or not at all, however large it grows."""
    try:
        if not is_remote(path):
            make_folder(os.path.dirname(path))
            with replacing(path) as temporary, open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            return
        with tempfile.TemporaryDirectory() as folder:
            local = os.path.join(folder, "file")
            with open(local, "wb") as file:
                yield file
            system, inside = _system(path)
            if _scheme(path) in WHOLE:
                system.put_file(local, inside)
                return
            system.makedirs(posixpath.dirname(inside), exist_ok=True)
            temporary = _temporary(inside)
            system.put_file(local, temporary)
            system.mv(temporary, inside)
    except OSError as error:
        if isinstance(error, ZipEnhancerError) and not isinstance(error, OutputError):
            raise  # of what the caller read meanwhile
        raise full_or(error, path) from error


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def names_below(folder: str, out: str) -> list[str]:
    """Names of all files below a remote folder, relative to it, sorted; without those below `out`."""
    system, inside = _system(folder)
    inside = inside.rstrip("/")
    found = [path[len(inside) :].lstrip("/") for path in sorted(system.find(inside))]
    here, outputs = canonical(folder), canonical(out)
    if outputs.startswith(f"{here}/"):
        made = outputs[len(here) + 1 :] + "/"
        found = [name for name in found if not name.startswith(made)]
    return found


def names(folder: str) -> list[str]:
    """What is in a folder; nothing where there is none."""
    try:
        if is_remote(folder):
            system, inside = _system(folder)
            return [entry.rstrip("/").rpartition("/")[2] for entry in system.ls(inside, detail=False)]
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def exists(path: str) -> bool:
    if is_remote(path):
        system, inside = _system(path)
        return system.exists(inside)
    return os.path.exists(path)


def remove(path: str) -> None:
    if is_remote(path):
        system, inside = _system(path)
        system.rm_file(inside)
    else:
        os.unlink(path)


def where(path: str) -> str:
    """The scheme of what is elsewhere; '' of this machine's files, file:// too."""
    scheme = _scheme(path) if "://" in path else ""
    return "" if scheme in ("file", "local") else scheme


def canonical(path: str) -> str:
    """One name of a file, however it is spelled: of a local one the real path."""
    inside = path.partition("://")[2] if "://" in path else path
    return f"{where(path)}://{posixpath.normpath(inside)}" if where(path) else real_path(inside)


def _temporary(path: str) -> str:
    return f"{path}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part"


def _scheme(path: str) -> str:
    return path.partition("://")[0].lower()


def _system(path: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it)"""
    import fsspec  # which datasets brings

    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise OptionError(f"{path!r} can't be reached: {error}") from error
