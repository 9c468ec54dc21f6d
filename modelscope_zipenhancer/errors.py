"""Every error that this package raises for bad input, one family: catch ZipEnhancerError for all.

Each is also the builtin exception that callers of such a function catch already. They take one
string, since ModelScope rebuilds what a constructor raises as `type(error)(text)`.
"""

import contextlib
from collections.abc import Iterator


class ZipEnhancerError(Exception):
    """Base of the family."""


class AudioError(ZipEnhancerError, ValueError):
    """The input is no audio that can be enhanced: empty, damaged, NaN, of an unknown format."""


class LimitError(AudioError):
    """The input is longer than whoever serves it allows: its bytes, its seconds, or its samples."""


class ForbiddenError(AudioError):
    """The caller of a service asked for what only a program on the machine may: a path, a file to write."""


class AudioNotFoundError(ZipEnhancerError, FileNotFoundError):
    """The path of the input leads nowhere, or to a folder."""


class FetchError(ZipEnhancerError, ConnectionError):
    """A URL can't be fetched in time."""


class OutputError(ZipEnhancerError, OSError):
    """The output can't be written: no such folder, no permission, disk full, unknown format."""


class ConfigError(ZipEnhancerError, ValueError):
    """A configuration.json that lacks something, or asks for what this package doesn't do."""


class ModelNotFoundError(ZipEnhancerError, FileNotFoundError):
    """No such model: an unknown name, or a model dir without its files."""


class CheckpointError(ZipEnhancerError, ValueError):
    """Weights that are unreadable or belong to another network."""


class StreamError(ZipEnhancerError, ValueError):
    """A stream that has been flushed was fed."""


class DeviceMemoryError(ZipEnhancerError, MemoryError):
    """Not even one chunk fits into the memory of the GPU."""


class ModelTypeError(ZipEnhancerError, TypeError):
    """A model object of another package, where only one of this package can run."""


class OptionError(ZipEnhancerError, ValueError):
    """An argument that can't be: a strength out of range, an unknown backend, no such device."""


class MissingPackageError(OptionError, ImportError):
    """What was asked for needs a package of an extra that isn't installed."""


@contextlib.contextmanager
def needed_by(what: str, extra: str) -> Iterator[None]:
    """MissingPackageError where an import in it fails."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"{what} needs {error.name or 'a package'} ({error}): "
            f"pip install 'modelscope_zipenhancer[{extra}]'"
        ) from error
