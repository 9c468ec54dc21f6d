"""Audio from whatever holds it."""

import base64
import binascii
import io
import logging
import mmap
import os
import re
import urllib.parse
from typing import Any

import numpy as np
import soundfile

from ..errors import AudioError, AudioNotFoundError, ForbiddenError, ZipEnhancerError
from ..files import FILE_URL, local_path
from ..names import SAMPLE_RATE
from .decode import blocks_of, decode
from .headers import HEAD, container_of
from .objects import Waveform, unwrapped
from .policy import OPEN, Policy, shortened
from .resample import check_rate
from .samples import Recording, Samples, check_finite, check_level, to_float32

logger = logging.getLogger(__name__)

LONGEST_PATH = 4096  # letters


def read(
    source: Any, sample_rate: int | None = None, *, strict: bool = False, policy: Policy | None = None
) -> tuple[np.ndarray, int]:
    """`load`, as (float32 array (samples, channels), sample rate in Hz); its warnings are logged."""
    recording = load(source, sample_rate, strict=strict, policy=policy)
    for warning in recording.warnings:
        logger.warning("%s: %s", name_of(source), warning)
    return recording.samples, recording.sample_rate


def load(
    source: Any, sample_rate: int | None = None, *, strict: bool = False, policy: Policy | None = None
) -> Recording:
    """Read audio from a path, URL, bytes, open binary file, array, tensor, base64 or data URL.

    And from what datasets, torchcodec, soundfile, librosa, gradio and Lhotse hand over (objects.py).

    Args:
        source: a path may lead to a pipe; an open SoundFile is read on from where it is; of a
            two-dimensional array or tensor the shorter axis holds the channels. Integers are scaled by the
            full scale of their type (samples.to_float32).
        sample_rate: of an array or tensor, 16000 unless given; what has its own rate must not disagree.
        strict: AudioError where a warning would say that audio is missing.
        policy: what may be read, and how much of it; by default everything that the caller can.

    Returns:
        The samples, their rate, and warnings: "12.30 s of 60.00 s are missing: the file was cut off".

    Raises:
        AudioError, AudioNotFoundError or FetchError; OptionError for a sample_rate that can't be.
    """
    if sample_rate is not None:
        sample_rate = check_rate(sample_rate)
    policy = policy or OPEN
    source = unwrapped(source)
    name = name_of(source)
    # numpy.str_ has a shape, too
    if hasattr(source, "shape") and not isinstance(source, (str, bytes, memoryview)):
        rate = SAMPLE_RATE if sample_rate is None else sample_rate
        x = _from_array(source, name)
        policy.check_length(len(x), x.shape[1], rate, name)
        return Recording(x, rate)
    recording = _with_a_rate(source, name, strict, policy)
    if sample_rate not in (None, recording.sample_rate):
        raise AudioError(f"{name} is at {recording.sample_rate} Hz, and sample_rate={sample_rate} was given")
    return recording


def _with_a_rate(source: Any, name: str, strict: bool, policy: Policy) -> Recording:
    """`load` of what says its own rate."""
    if isinstance(source, Waveform):
        x = _from_array(source.samples, name, source.channels_first)
        policy.check_length(len(x), x.shape[1], source.sample_rate, name)
        return Recording(x, source.sample_rate)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(bytes(source)), name, strict, policy)
    if isinstance(source, soundfile.SoundFile):
        return _from_sound(source, name, policy)
    if isinstance(source, str):
        text = source.strip()
        if re.match(r"https?://", text, re.IGNORECASE):
            from .fetch import fetch  # HTTP and TLS would be part of every cold start

            return _decode(io.BytesIO(fetch(text, policy)), name, strict, policy)
        data = bytes_in(source)
        if data is not None:
            return _decode(io.BytesIO(data), name, strict, policy)
        if FILE_URL.match(text):
            source = local_path(text)
    if isinstance(source, (str, os.PathLike)):
        if not policy.local_files:
            raise ForbiddenError(f"{name} is a path, which isn't allowed here: send the audio, or a URL")
        path = os.fspath(source)
        if len(path) > LONGEST_PATH:
            raise AudioError(f"{name} is no path, and no base64 of audio that is known")
        if os.path.isdir(path):
            raise AudioNotFoundError(f"{name} is a folder, an audio file was expected")
        try:
            file = open(path, "rb")
        except FileNotFoundError:
            raise AudioNotFoundError(f"no audio file at {name}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise AudioError(f"{name} can't be opened: {reason}") from error
        with file:
            return _from_file(file, name, strict, policy)
    if hasattr(source, "read"):
        return _from_file(source, name, strict, policy)
    raise AudioError(
        f"audio can't be read from {name}: give a path, URL, bytes, an open binary "
        "file, an array, a tensor, base64, a data URL, or an array with its rate"
    )


def bytes_in(text: str) -> bytes | None:
    """The bytes of a data URL, or of base64 of an audio file; None of any other text, a path or a URL.

    Raises AudioError for base64 that begins well and can't be decoded.
    """
    stripped = text.strip()
    if stripped[:5].lower() == "data:":
        return _from_data_url(stripped)
    return _from_base64(stripped) if _is_base64(text) else None


def name_of(source: Any) -> str:
    """What messages call a source: never its content, and of a long name its ends."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the given bytes"
    if isinstance(source, str):
        if re.match(r"\s*https?://", source, re.IGNORECASE):
            return shortened(source.strip())
        if source.lstrip()[:5].lower() == "data:":
            return "the data URL"
        if _is_base64(source):
            return "the base64 text"
        return (
            shortened(repr(str(source)))
            if len(source) <= LONGEST_PATH
            else f"a text of {len(source)} letters"
        )
    if isinstance(source, Waveform):
        source = source.samples
    if isinstance(source, os.PathLike):
        return shortened(repr(os.fspath(source)))
    if hasattr(source, "shape"):
        return f"the {type(source).__name__} of shape {tuple(source.shape)}"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return shortened(repr(name)) if isinstance(name, (str, int)) else f"the open {type(source).__name__}"
    return type(source).__name__


def _decode(file: Any, name: str, strict: bool, policy: Policy) -> Recording:
    if policy.max_bytes is not None:
        policy.check_bytes(file.seek(0, io.SEEK_END), name)
        file.seek(0)
    return decode(file, name, strict, policy)


def _from_file(file: Any, name: str, strict: bool, policy: Policy) -> Recording:
    if isinstance(file, io.TextIOBase):
        raise AudioError(f"{name} is open as text: open it with mode 'rb'")
    try:
        if not (hasattr(file, "seek") and getattr(file, "seekable", lambda: True)()):  # a pipe
            limit = -1 if policy.max_bytes is None else policy.max_bytes + 1
            file = io.BytesIO(_all_of(file, limit))
        elif file.tell() or isinstance(file, mmap.mmap) or file.seek(0, io.SEEK_CUR) is None:
            # an mmap's seek doesn't go beyond its end, and some don't say where they are
            file = io.BytesIO(file.read())
        return _decode(file, name, strict, policy)
    except ZipEnhancerError:
        raise
    except (OSError, ValueError) as error:  # a ValueError if it is closed
        raise AudioError(f"{name} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _all_of(file: Any, limit: int) -> bytes:
    """What a pipe holds, `limit` bytes at most unless that is -1; read(-1) of http.client isn't to be had."""
    if limit < 0:
        return file.read()
    data = io.BytesIO()
    while data.tell() < limit and (part := file.read(limit - data.tell())):
        data.write(part)
    return data.getvalue()


def _from_sound(sound: soundfile.SoundFile, name: str, policy: Policy) -> Recording:
    samples = Samples(sound.channels)
    try:
        for block in blocks_of(sound):
            policy.check_length(len(samples) + len(block), sound.channels, sound.samplerate, name)
            samples.append(block)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"{name} can't be read: {error}") from error
    return Recording(check_finite(samples.take(), name), sound.samplerate)


def _from_array(source: Any, name: str, channels_first: bool = False) -> np.ndarray:
    if hasattr(source, "detach"):
        try:
            tensor = source.detach().cpu().resolve_conj().resolve_neg()
            source = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantized, without data; NotImplementedError too
            reason = str(error).split("\n")[0]
            raise AudioError(f"{name}: the tensor can't be made an array ({reason})") from error
    source = np.asarray(source)  # a pandas Series
    check_level(source, name)
    x = to_float32(source, name)
    if x.ndim == 1:
        x = x[:, None]
    elif x.ndim != 2:
        raise AudioError(f"{name}: expected (samples,), (samples, channels) or (channels, samples)")
    elif channels_first or x.shape[0] < x.shape[1]:
        x = x.T
    return check_finite(x, name)


def _is_base64(text: str) -> bool:
    """Base64's alphabet, which no file name with a suffix is of, and the first bytes of an audio file."""
    if len(text) < 60:
        return False
    head = re.sub(r"\s", "", text[:512])[: HEAD // 3 * 4]
    if not re.fullmatch(r"[A-Za-z0-9+/_-]+={0,2}", head) or os.path.exists(text):
        return False
    return container_of(_from_base64(head[: len(head) // 4 * 4])) is not None


def _from_base64(text: str) -> bytes:
    text = re.sub(r"\s", "", text).translate(str.maketrans("-_", "+/"))  # those of URLs
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise AudioError(f"the base64 text can't be decoded: {error}") from error


def _from_data_url(url: str) -> bytes:
    kind, comma, data = url.partition(",")
    if kind.lower().endswith(";base64"):
        return _from_base64(urllib.parse.unquote(data))
    return urllib.parse.unquote_to_bytes(data.encode("utf-8", "surrogatepass"))  # any text is one
