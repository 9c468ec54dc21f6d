"""From an open file to samples: libsndfile's formats, and by ffmpeg what it doesn't read."""

import io
import os
import shutil
import struct
import subprocess
import tempfile

import soundfile

from ..errors import AudioError
from .samples import check_finite

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


def decode(file, name: str) -> tuple:
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
    return check_finite(x, name), rate


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
