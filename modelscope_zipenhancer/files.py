"""Files that are whole or not there, and the recordings in folders."""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator

from .errors import AudioNotFoundError, OutputError, ZipEnhancerError

logger = logging.getLogger(__name__)

# In a folder, a file with one of these suffixes is taken for a recording.
RECORDING_SUFFIXES = frozenset(
    [
        # as audio.write writes
        *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".rf64", ".w64"),
        *(".aifc", ".oga", ".snd", ".wave"),
        *(
            ".3gp",
            ".aac",
            ".amr",
            ".avi",
            ".flv",
            ".m4a",
            ".m4b",
            ".m4v",
            ".mka",
            ".mkv",
            ".mov",
            ".mp2",
            ".mp4",
        ),
        *(".weba", ".webm", ".wma"),
    ]
)

FILE_URL = re.compile(r"file://(?:localhost(?=/))?", re.IGNORECASE)

TEMPORARY = re.compile(r"(.*)\.(\d+)-\d+\.part", re.DOTALL)  # the names that `replacing` gives


def local_path(text: str) -> str:
    """The path that a file:// URL names; any other text as it is."""
    scheme = FILE_URL.match(text)
    if not scheme:
        return text
    from urllib.request import url2pathname  # HTTP would be part of every cold start

    return url2pathname(text[scheme.end() :])


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
    """Yield a temporary name beside `path`; rename it to `path` at the end, or remove it on error.

    Of a link it is the target that is written; a file that is there hands its mode on. Raises OutputError
    for an OSError of the writing; errors of this package pass as they are.
    """
    path = os.fspath(path)
    target = os.path.realpath(path) if os.path.islink(path) else path
    # The process and thread in the name: two that write one path don't write one temporary.
    temporary = f"{_temporary_stem(target)}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        yield temporary
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not isinstance(error, ZipEnhancerError):
            raise OutputError(f"{path!r} can't be written: {error.strerror or error}") from error
        raise


def _temporary_stem(path: str) -> str:
    """What the temporary names of a path begin with; not too long for file systems, 4 bytes a letter."""
    folder, name = os.path.split(path)
    if len(os.fsencode(name)) > 200:
        name = f"{name[:40]}-{zlib.crc32(os.fsencode(name)):08x}"
    return os.path.join(folder, name)


def remove_leftovers(paths: Iterable[str]) -> None:
    """Remove what killed processes of this machine had begun to write for these paths."""
    for folder, names in by_folder(paths).items():
        try:
            begun = [found for name in os.listdir(folder or ".") if (found := TEMPORARY.fullmatch(name))]
        except OSError:  # not there: nothing was begun
            continue
        stems = {_temporary_stem(name) for name in names} if begun else set()
        for found in begun:
            if found[1] in stems and not _is_running(int(found[2])):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(folder, found[0]))


def by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    """{folder: names in it} of paths, in their order: to look into each folder once."""
    folders = {}
    for path in paths:
        folder, name = os.path.split(path)
        folders.setdefault(folder, []).append(name)
    return folders


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:  # Linux: one that has ended and whose parent hasn't asked for its exit code holds its number
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return True


def check_folder(path: str | os.PathLike) -> str:
    """The path as text, if a file can be written there; otherwise OutputError. Writes nothing."""
    path = os.fspath(path)
    folder = os.path.dirname(real_path(path) if os.path.islink(path) else os.path.abspath(path))
    if not os.path.isdir(folder):
        raise OutputError(f"{path!r} can't be written: there is no folder {folder!r}, create it first")
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise OutputError(f"{path!r} can't be written: it is a folder, or its folder is not writable")
    return path


def make_folder(path: str | os.PathLike) -> None:
    """Create a folder and its parents, '' is the current one; OutputError if that can't be."""
    try:
        os.makedirs(path or ".", exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {os.fspath(path)!r} can't be made: {error.strerror}; name another"
        ) from error


def recordings(
    folder: str | os.PathLike,
    skip: str | os.PathLike | None = None,
    wanted: Callable[[str], object] | None = None,
) -> Iterator[str]:
    """Paths of the recordings below a folder, by suffix, sorted by their folder and then their name.

    `wanted` says of a name whether it is taken instead. What is hidden (its name begins with a dot) is
    left out, as is the folder `skip`. A link to a folder is followed, but each folder is read once, under
    its own name where it has one below `folder`: a link to a parent doesn't go round. A name that isn't
    text in the file system's encoding comes as os.fsdecode makes it, and leads to its file. A folder
    below that can't be read is named in a warning; raises AudioNotFoundError if `folder` itself can't.
    """
    folder = os.fspath(folder)
    wanted = wanted or is_recording

    def unread(error: OSError) -> None:
        if error.filename == folder:
            raise AudioNotFoundError(f"the folder {folder!r} can't be read: {error.strerror}") from error
        logger.warning("left out: the folder %r can't be read: %s", error.filename, error.strerror)

    seen = {real_path(skip)} - {real_path(folder)} if skip else set()
    found, starts = {}, [folder]
    for start in starts:  # grows: links wait until the folders that are really there have been read
        for parent, folders, files in os.walk(start, onerror=unread):
            real = real_path(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if name[0] != ".")
            starts += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
            found[parent] = sorted(name for name in files if name[0] != "." and wanted(name))
    for parent in sorted(found):
        above = os.path.join(parent, "")
        yield from (above + name for name in found[parent])


def is_recording(name: str) -> bool:
    """Whether a file of this name is taken for a recording, by its suffix."""
    return os.path.splitext(name)[1].lower() in RECORDING_SUFFIXES


def real_path(path: str | os.PathLike) -> str:
    """The one name of a file or folder: absolute, links resolved, case as the file system compares it."""
    return os.path.normcase(os.path.realpath(os.fspath(path)))


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
