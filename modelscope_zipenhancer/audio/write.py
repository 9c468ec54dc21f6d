"""Audio files out, whole or not at all."""

import io
import logging
import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, BinaryIO

import numpy as np
import soundfile

from ..errors import AudioError, OptionError, OutputError
from ..files import check_folder, replacing
from .resample import resample
from .samples import BLOCK, beyond_full_scale, check_level, to_float32, to_pcm

logger = logging.getLogger(__name__)

# suffix -> (libsndfile's format, subtype)
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".rf64": ("RF64", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
}
SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "32f": "FLOAT"}  # of `bits`
BITS: dict[str, tuple[str, ...]] = {
    suffix: ("16", "24", "32f") for suffix, (_, subtype) in FORMATS.items() if subtype == "PCM_16"
}
BITS[".flac"] = ("16", "24")
BITRATES = (".mp3", ".opus", ".ogg")  # where kbit/s can be chosen
# The rates that a codec has, in Hz: others are resampled to the next
RATES: dict[str, Sequence[int]] = {
    ".opus": (8000, 12000, 16000, 24000, 48000),
    ".mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    ".ogg": range(1, 192_001),  # beyond 200000 libsndfile 1.2.2 crashes
}
VORBIS_TRIAL = 20  # seconds of which the quality is found that gives a bit rate


def check_output(
    path: str | os.PathLike,
    sample_rate: int | None = None,
    channels: int | None = None,
    bits: int | str | None = None,
    bitrate: float | None = None,
) -> str:
    """The path as text, if `write` can write such audio there. Writes nothing.

    Args:
        path: its suffix names the format.
        sample_rate: in Hz, where it is known yet.
        channels: where they are known yet; some formats have 2 or 8 at most.
        bits, bitrate: as `write` has them.

    Raises:
        OutputError for the path, its format or its folder; OptionError for what is no path, bits and bitrate.
    """
    path = check_format(path, sample_rate, channels, bits, bitrate)
    check_folder(path)
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(f"{path!r} can't be written: it is no regular file")
    longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if len(os.fsencode(name)) > longest:
        raise OutputError(f"{path!r} can't be written: names have at most {longest} bytes there")
    return path


def check_format(
    path: str | os.PathLike,
    sample_rate: int | None = None,
    channels: int | None = None,
    bits: int | str | None = None,
    bitrate: float | None = None,
) -> str:
    """`check_output` of the format alone: the path may be anywhere."""
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"audio can't be written to {path!r}: a path was expected; `encode` gives bytes")
    path = os.fspath(path)
    if "\0" in os.fsdecode(path):
        raise OutputError(f"{path!r} can't be written: a name has no NUL")
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        raise OutputError(f"{path!r}: unknown audio format {suffix!r}, known are {', '.join(FORMATS)}")
    subtype = _subtype(suffix, bits)
    if bitrate is not None and suffix not in BITRATES:
        raise OptionError(f"bitrate={bitrate}: {suffix} has none, {', '.join(BITRATES)} have")
    if bitrate is not None and not (isinstance(bitrate, Real) and 1 <= bitrate <= 1024):
        raise OptionError(f"bitrate={bitrate!r}: expected kbit/s, from 1 to 1024")
    if sample_rate or channels:
        rate = _rate(suffix, sample_rate or 16000)
        problem = _problem(FORMATS[suffix][0], subtype, rate, channels or 1)
        if problem:
            raise OutputError(
                f"{path!r} can't be written: {suffix} doesn't have {channels or 1} channels at {rate} Hz "
                f"({problem})"
            )
    return path


def output_rate(path: str | os.PathLike, sample_rate: int) -> int:
    """The rate in Hz at which `write` writes: the next that the format has; most have all."""
    return _rate(os.path.splitext(os.fspath(path))[1].lower(), sample_rate)


def write(
    path: str | os.PathLike,
    x: np.ndarray,
    sample_rate: int,
    *,
    bits: int | str | None = None,
    bitrate: float | None = None,
) -> None:
    """Write audio, (samples,) or (samples, channels); the suffix of the path names the format.

    Written to a temporary name, then renamed: a file that is there is whole. A link's target is written,
    and keeps its mode.

    Args:
        path: where to. For .opus and .mp3 other rates than theirs are resampled to the next.
        x: float at full scale +-1, or integers at the full scale of their type.
        sample_rate: in Hz.
        bits: 16, 24 or '32f', of .flac (not 32f) and what isn't compressed; 16 unless given. What is beyond
            full scale is clipped and counted in a warning, except with '32f'.
        bitrate: kbit/s of .mp3 (the nearest that it has), .opus and .ogg (as near as Vorbis comes at this
            rate); by default each codec's own quality.

    Raises:
        OutputError or OptionError, as check_output; AudioError for integers of an unknown scale.
    """
    x = _checked(x)
    channels = 1 if x.ndim == 1 else x.shape[1]
    path = check_output(path, sample_rate, channels, bits, bitrate)
    suffix = os.path.splitext(path)[1].lower()
    try:
        with replacing(path) as temporary:
            _encode(temporary, path, suffix, x, sample_rate, bits, bitrate)
    except (soundfile.SoundFileError, RuntimeError) as error:
        # libsndfile says "System error." of a full disk
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        raise OutputError(
            f"{path!r} can't be written: {error} ({free / 1e6:.0f} MB are free there)"
        ) from error


def encode(
    x: np.ndarray,
    sample_rate: int,
    suffix: str = ".wav",
    *,
    bits: int | str | None = None,
    bitrate: float | None = None,
    name: str = "",
) -> bytes:
    """What `write` would write, as bytes; messages call it `name`, or by its suffix. Raises as `write`."""
    x, file = _checked(x), io.BytesIO()
    check_format(f"audio{suffix}", sample_rate, 1 if x.ndim == 1 else x.shape[1], bits, bitrate)
    try:
        _encode(file, name or suffix, suffix, x, sample_rate, bits, bitrate)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise OutputError(f"{name or suffix} can't be written: {error}") from error
    return file.getvalue()


def _checked(x: Any) -> np.ndarray:
    """AudioError for what isn't (samples,) or (samples, channels), or has NaN among its samples."""
    x = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)
    if x.ndim not in (1, 2):
        raise AudioError(f"an array of shape {x.shape}: (samples,) or (samples, channels) is written")
    if np.issubdtype(x.dtype, np.floating) and any(
        np.isnan(x[start : start + BLOCK]).any() for start in range(0, len(x), BLOCK)
    ):
        raise AudioError("an array with NaN: replace them (numpy.nan_to_num)")
    return x


def _rate(suffix: str, sample_rate: int) -> int:
    rates = RATES.get(suffix, (sample_rate,))
    if sample_rate in rates:
        return sample_rate
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def _subtype(suffix: str, bits: int | str | None) -> str:
    container, subtype = FORMATS[suffix]
    if bits is None:
        return subtype
    known = BITS.get(suffix, ())
    if str(bits) not in known:
        remedy = f"of {suffix}: {', '.join(known)}" if known else f"{suffix} has none, {', '.join(BITS)} have"
        raise OptionError(f"bits={bits}: {remedy}")
    return SUBTYPES[str(bits)]


@lru_cache(maxsize=64)
def _problem(container: str, subtype: str, sample_rate: int, channels: int) -> str | None:
    """Why libsndfile doesn't write such audio, found by trying; None if it does."""
    try:
        soundfile.write(
            io.BytesIO(), np.zeros((64, channels), np.int16), sample_rate, format=container, subtype=subtype
        )
    except (soundfile.SoundFileError, RuntimeError, ValueError, OverflowError) as error:
        return str(error).rpartition(": ")[2] or str(error)
    return None


def _encode(
    file: str | bytes | BinaryIO,
    name: str,
    suffix: str,
    x: np.ndarray,
    sample_rate: int,
    bits: int | str | None,
    bitrate: float | None,
) -> None:
    container, subtype = FORMATS[suffix][0], _subtype(suffix, bits)
    if x.dtype != np.int16 or subtype != "PCM_16":
        seen = f"the {x.dtype} array for {name!r}"
        check_level(x, seen)
        if x.dtype not in (np.float32, np.float64) or not x.dtype.isnative:  # float16 has no 32767
            x = to_float32(x, seen)
    rate = _rate(suffix, sample_rate)
    if rate != sample_rate:
        x = to_float32(x, name)
        channels = x[:, None] if x.ndim == 1 else x
        x = np.stack([resample(channels[:, i], sample_rate, rate) for i in range(channels.shape[1])], axis=1)
    if np.issubdtype(x.dtype, np.floating) and subtype != "FLOAT":
        if clipped := beyond_full_scale(x):
            logger.warning(
                "%s: %d of %d samples are beyond full scale and clipped%s",
                name,
                clipped,
                x.size,
                " (bits='32f' keeps them)" if "32f" in BITS.get(suffix, ()) else "",
            )
        x = to_pcm(x, 24 if subtype == "PCM_24" else 16)
    if suffix == ".mp3":  # of int16 in stereo libsndfile 1.2.2 makes noise
        x = to_float32(x, name)
    options: dict[str, Any] = {}
    if bitrate is not None:
        options = _quality(suffix, x, rate, bitrate)
    if isinstance(file, str) and os.name != "nt":
        file = os.fsencode(file)  # soundfile refuses a name that isn't text in UTF-8
    soundfile.write(file, x, rate, format=container, subtype=subtype, **options)


def _quality(suffix: str, x: np.ndarray, rate: int, bitrate: float) -> dict[str, Any]:
    """What libsndfile's compression level, 0 to 1, is for kbit/s (measured: tests/audio/test_write.py)."""
    channels = 1 if x.ndim == 1 else x.shape[1]
    if suffix == ".mp3":
        low, high = (32, 320) if rate >= 32000 else (8, 160) if rate >= 16000 else (8, 64)
    elif suffix == ".opus":
        low, high = 6 * channels, 256 * channels
    else:
        return {"compression_level": _vorbis_level(x, rate, bitrate)}
    level = min(max((high - bitrate) / (high - low), 0.0), 0.9999)  # 1 is refused
    return {"compression_level": level, **({"bitrate_mode": "CONSTANT"} if suffix == ".mp3" else {})}


def _vorbis_level(x: np.ndarray, rate: int, bitrate: float) -> float:
    """Vorbis has qualities, not bit rates: the one that gives this rate in the middle of the recording."""
    middle = max(0, (len(x) - VORBIS_TRIAL * rate) // 2)
    part = x[middle : middle + VORBIS_TRIAL * rate]
    low, high = 0.0, 1.0
    for _ in range(7):
        level, file = (low + high) / 2, io.BytesIO()
        soundfile.write(file, part, rate, format="OGG", subtype="VORBIS", compression_level=level)
        if file.tell() * 8 / 1000 > bitrate * len(part) / rate:
            low = level
        else:
            high = level
    return (low + high) / 2
