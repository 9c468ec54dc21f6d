"""Audio files out, whole or not at all."""

import io
import os
import shutil

import numpy as np
import soundfile

from ..errors import OutputError
from ..files import check_folder, replacing
from .samples import pcm16

# suffix -> (libsndfile's format, subtype)
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
}


def check_output(path) -> str:
    """The path as text, if audio can be written there; otherwise OutputError. Writes nothing."""
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        raise OutputError(f"{path!r}: unknown audio format {suffix!r}, known are {', '.join(FORMATS)}")
    return check_folder(path)


def write(path, x: np.ndarray, sample_rate: int) -> None:
    """Write int16 or float audio, (samples,) or (samples, channels); the suffix names the format.

    Written to a temporary name, then renamed: a file that is there is whole. Raises OutputError.
    """
    path = check_output(path)
    container, subtype = FORMATS[os.path.splitext(path)[1].lower()]
    if x.dtype != np.int16:
        x = pcm16(x)
    try:
        with replacing(path) as temporary:
            soundfile.write(temporary, x, sample_rate, format=container, subtype=subtype)
    except (soundfile.SoundFileError, ValueError) as error:
        # libsndfile says "System error." of a full disk
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        raise OutputError(
            f"{path!r} can't be written: {error} ({free / 1e6:.0f} MB are free there)"
        ) from error


def encode(x: np.ndarray, sample_rate: int, suffix: str = ".wav") -> bytes:
    """What `write` would write, as bytes."""
    container, subtype = FORMATS[suffix]
    file = io.BytesIO()
    try:
        soundfile.write(file, pcm16(x), sample_rate, format=container, subtype=subtype)
    except (soundfile.SoundFileError, ValueError) as error:
        raise OutputError(f"{suffix} can't be written: {error}") from error
    return file.getvalue()
