"""Audio from whatever holds it."""

import base64
import binascii
import io
import os
import re
import urllib.request

import numpy as np

from ..errors import AudioError, AudioNotFoundError
from ..names import SAMPLE_RATE
from .decode import decode
from .fetch import fetch
from .samples import check_finite


def read(source, sample_rate: int | None = None) -> tuple:
    """Read audio from a path, URL, bytes, open binary file, array, tensor, base64 or data URL.

    Returns (float32 array (samples, channels), sample rate in Hz). Of a two-dimensional array or
    tensor the shorter axis holds the channels; its rate is `sample_rate`, 16000 unless given.
    Integers are scaled by their full scale. A WAV header without a data size, as streams have,
    is understood. Raises AudioError, AudioNotFoundError or FetchError.
    """
    if hasattr(source, "shape"):
        return _from_array(source), int(sample_rate or SAMPLE_RATE)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode(io.BytesIO(source), "the given bytes")
    if isinstance(source, str):
        text = source.lstrip()
        if re.match(r"https?://", text, re.IGNORECASE):
            return decode(io.BytesIO(fetch(text)), text)
        if text[:5].lower() == "data:":
            return decode(io.BytesIO(_from_base64(text.partition(",")[2])), "the data URL")
        if text[:7].lower() == "file://":
            source = urllib.request.url2pathname(text[7:])
        elif _is_base64(source):
            return decode(io.BytesIO(_from_base64(text)), "the base64 text")
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if os.path.isdir(path):
            raise AudioNotFoundError(f"{path!r} is a folder, an audio file was expected")
        try:
            file = open(path, "rb")
        except FileNotFoundError:
            raise AudioNotFoundError(f"no audio file at {path!r}") from None
        except (OSError, ValueError) as error:
            raise AudioError(f"{path!r} can't be opened: {error}") from error
        with file:
            return decode(file, repr(path))
    if hasattr(source, "read"):
        name = repr(getattr(source, "name", "the open file"))
        if not (hasattr(source, "seek") and getattr(source, "seekable", lambda: True)()):
            source = io.BytesIO(source.read())
        if isinstance(source, io.TextIOBase):
            raise AudioError(f"{name} is open as text: open it with mode 'rb'")
        return decode(source, name)
    raise AudioError(
        f"audio can't be read from {type(source).__name__}: give a path, URL, bytes, an open binary "
        "file, an array, a tensor, base64 or a data URL"
    )


def _from_array(source) -> np.ndarray:
    name = f"the {type(source).__name__} of shape {tuple(source.shape)}"
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    if source.dtype == np.uint8:  # as 8-bit WAV has it
        x = (source.astype(np.float32) - 128.0) / 128.0
    elif np.issubdtype(source.dtype, np.signedinteger):
        x = (source / -float(np.iinfo(source.dtype).min)).astype(np.float32)
    elif np.issubdtype(source.dtype, np.floating):
        x = source.astype(np.float32, copy=False)
    else:
        raise AudioError(f"{name} holds {source.dtype}, expected float or signed integer samples")
    if x.ndim == 1:
        x = x[:, None]
    elif x.ndim != 2:
        raise AudioError(f"{name}: expected (samples,), (samples, channels) or (channels, samples)")
    elif x.shape[0] < x.shape[1]:
        x = x.T
    return check_finite(x, name)


def _is_base64(text: str) -> bool:
    """No file's name, of base64's alphabet, and what it starts with starts an audio file."""
    head = re.sub(r"\s", "", text[:64])[:16]
    if len(text) < 60 or not re.fullmatch(r"[A-Za-z0-9+/]{16}", head) or os.path.exists(text):
        return False
    magic = base64.b64decode(head)
    return magic.startswith((b"RIFF", b"RIFX", b"fLaC", b"OggS", b"ID3", b"FORM", b"\xff\xfb", b"\xff\xf3"))


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(re.sub(r"\s", "", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise AudioError(f"the base64 text can't be decoded: {error}") from error
