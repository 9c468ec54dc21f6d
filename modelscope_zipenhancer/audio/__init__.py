"""Audio in from whatever holds it, audio out whole or not at all.

In memory audio is float32 (samples, channels), full scale +-1; a mono waveform is (samples,).
"""

import base64
import binascii
import io
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
import urllib.request

import numpy as np
import soundfile

from ..errors import AudioError, AudioNotFoundError, FetchError, OutputError
from ..files import replacing
from ..names import SAMPLE_RATE

FETCH_TIMEOUT = 20.0  # seconds without a byte before a URL counts as stalled
FETCH_LIMIT = 300.0  # seconds for a whole download
BLOCK = 1 << 20  # samples or bytes handled at a time, to bound the memory

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
# what a container that libsndfile can't read has at an offset of its start -> (ffmpeg's name, ours)
CONTAINERS = {
    (4, b"ftyp"): ("mov", "an MP4 container"),
    (0, b"\x1a\x45\xdf\xa3"): ("matroska", "a WebM or Matroska container"),
    (0, b"\x30\x26\xb2\x75"): ("asf", "a WMA container"),
    (0, b"#!AMR"): ("amr", "AMR audio"),
    (0, b"\xff\xf1"): ("aac", "AAC audio"),
    (0, b"\xff\xf9"): ("aac", "AAC audio"),
}
_RAW_REMEDY = (
    "If it is headerless PCM, its rate and sample type can't be known: give it a WAV header "
    "(sox -t raw -r 16000 -e signed -b 16 -c 1 in.pcm out.wav), or pass "
    "numpy.frombuffer(data, '<i2') with its sample_rate."
)


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
        return _decode(io.BytesIO(source), "the given bytes")
    if isinstance(source, str):
        text = source.lstrip()
        if re.match(r"https?://", text, re.IGNORECASE):
            return _decode(io.BytesIO(fetch(text)), text)
        if text[:5].lower() == "data:":
            return _decode(io.BytesIO(_from_base64(text.partition(",")[2])), "the data URL")
        if text[:7].lower() == "file://":
            source = urllib.request.url2pathname(text[7:])
        elif _is_base64(source):
            return _decode(io.BytesIO(_from_base64(text)), "the base64 text")
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
            return _decode(file, repr(path))
    if hasattr(source, "read"):
        name = repr(getattr(source, "name", "the open file"))
        if not (hasattr(source, "seek") and getattr(source, "seekable", lambda: True)()):
            source = io.BytesIO(source.read())
        if isinstance(source, io.TextIOBase):
            raise AudioError(f"{name} is open as text: open it with mode 'rb'")
        return _decode(source, name)
    raise AudioError(
        f"audio can't be read from {type(source).__name__}: give a path, URL, bytes, an open binary "
        "file, an array, a tensor, base64 or a data URL"
    )


def to_mono(x: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,): the mean of the channels."""
    return x[:, 0] if x.shape[1] == 1 else x.mean(axis=1)


def resample(x: np.ndarray, rate: int, target: int) -> np.ndarray:
    """(samples,) at `rate` -> float64 (ceil(samples * target / rate),) at `target`, both in Hz.

    librosa's default (soxr_hq) in float64, as ModelScope's pipelines resample.
    """
    if rate == target:
        return x
    import librosa  # seconds to import, and most recordings have the right rate

    return librosa.resample(x.astype(np.float64), orig_sr=rate, target_sr=target)


def pcm16(x: np.ndarray) -> np.ndarray:
    """Full scale +-1 to int16, rounded and clipped, never wrapped."""
    out = np.empty(x.shape, np.int16)
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        out[part] = np.clip(np.rint(x[part] * 32768.0), -32768, 32767)
    return out


def check_output(path) -> str:
    """The path as text, if audio can be written there; otherwise OutputError. Writes nothing."""
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        raise OutputError(f"{path!r}: unknown audio format {suffix!r}, known are {', '.join(FORMATS)}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise OutputError(f"{path!r} can't be written: there is no folder {folder!r}, create it first")
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise OutputError(f"{path!r} can't be written: it is a folder, or its folder is not writable")
    return path


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
    except (OSError, soundfile.SoundFileError, ValueError) as error:
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


def fetch(url: str) -> bytes:
    """Download a URL; FetchError when it fails or stalls."""
    deadline = time.monotonic() + FETCH_LIMIT
    request = urllib.request.Request(url, headers={"User-Agent": "modelscope-zipenhancer"})
    parts = []
    try:
        with urllib.request.urlopen(request, timeout=FETCH_TIMEOUT) as answer:
            while part := answer.read(BLOCK):
                parts.append(part)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not done after {FETCH_LIMIT:.0f} s")
    except (OSError, ValueError) as error:  # URLError, time-outs and refused connections are OSErrors
        raise FetchError(f"{url} can't be fetched: {error}") from error
    return b"".join(parts)


def _decode(file, name: str) -> tuple:
    start = file.tell()
    head = file.read(12)
    if not head:
        raise AudioError(f"{name} is empty")
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        file = _whole_wav(file, start, name)
    else:
        file.seek(start)
        for (offset, magic), (demuxer, kind) in CONTAINERS.items():
            if head[offset:].startswith(magic):
                file = _whole_wav(io.BytesIO(_by_ffmpeg(file, demuxer, kind, name)), 0, name)
                break
    try:
        with soundfile.SoundFile(file) as sound:
            rate, promised = sound.samplerate, sound.frames
            x = sound.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise AudioError(f"{name} is no audio that libsndfile reads ({error}). {_RAW_REMEDY}") from error
    if 0 < len(x) < promised < 1 << 60:  # unknown lengths are reported as huge ones
        raise AudioError(f"{name} is truncated: {len(x)} of {promised} samples are there")
    return _checked(x, name), rate


def _by_ffmpeg(file, demuxer: str, kind: str, name: str) -> bytes:
    """The first audio track as the bytes of a WAV file, by the program ffmpeg.

    The demuxer is named, and only files may be opened: a recording can't make ffmpeg read others.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            f"{name} is {kind}, which libsndfile can't read: install ffmpeg, which is used if it is there, "
            "or convert it to WAV"
        )
    with tempfile.TemporaryDirectory() as folder:  # MP4 needs a file that can be sought in
        path = os.path.join(folder, "recording")
        with open(path, "wb") as copy:
            shutil.copyfileobj(file, copy)
        command = [
            program,
            "-nostdin",
            "-v",
            "error",
            "-protocol_whitelist",
            "file",
            "-f",
            demuxer,
            "-i",
            path,
        ]
        command += ["-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", os.path.join(folder, "out.wav")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().split("\n")[-1]
            raise AudioError(f"{name} is {kind} that ffmpeg can't read ({said})")
        with open(os.path.join(folder, "out.wav"), "rb") as wav:
            return wav.read()


def _whole_wav(file, start: int, name: str):
    """A WAV file that says how long it is.

    Programs that write WAV to a pipe can't go back to fill in the size of the data chunk; it stays
    0 or a huge number, and the data goes on to the end. Any other size beyond the end of the file
    means that the rest has been lost.
    """
    end = file.seek(0, os.SEEK_END)
    position = start + 12
    while position + 8 <= end:
        file.seek(position)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind == b"data":
            break
        position += 8 + size + size % 2
    else:
        raise AudioError(f"{name} is a WAV header without audio")
    present = end - position - 8
    file.seek(start)
    if 0 < size <= present:
        return file
    if 0 < size < 0x7FFF0000:
        raise AudioError(
            f"{name} is truncated: its header promises {size} bytes of audio, {present} are there"
        )
    if present == 0:
        raise AudioError(f"{name} is a WAV header without audio")
    whole = bytearray(file.read(end - start))
    struct.pack_into("<I", whole, 4, min(len(whole) - 8, 0xFFFFFFFF))
    struct.pack_into("<I", whole, position - start + 4, present)
    return io.BytesIO(whole)


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
    return _checked(x, name)


def _checked(x: np.ndarray, name: str) -> np.ndarray:
    if x.size == 0:
        raise AudioError(f"{name} holds no samples")
    for start in range(0, len(x), BLOCK):
        finite = np.isfinite(x[start : start + BLOCK])
        if not finite.all():
            first = start + int(np.argmin(finite.all(axis=1)))
            raise AudioError(
                f"{name} has NaN or infinite samples, the first at {first}; "
                "replace them (numpy.nan_to_num) or export the recording again"
            )
    return x


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
