"""From an open file to samples: libsndfile what it reads whole, PyAV (FFmpeg's libraries) the rest.

libsndfile is what ModelScope's pipeline reads with, so that PCM and FLAC are the same to the last bit.
Nothing is believed that a header says about lengths: each file is read to its end, in blocks.
"""

import io
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile

from ..errors import AudioError
from .samples import BLOCK, Recording, Samples, check_finite, to_float32

# FFmpeg's demuxer -> what it is called, what the first bytes are. No other demuxer is ever chosen: no
# playlist, nothing that opens other files. What a name in LIBSNDFILE has goes there first.
CONTAINERS = {
    "wav": ("a WAV file", rb"(RIFF|RIFX|RF64|BW64)....WAVE"),
    "w64": ("a W64 file", rb"riff\x2e\x91\xcf\x11"),
    "aiff": ("an AIFF file", rb"FORM....AIF[FC]"),
    "au": ("an AU file", rb"\.snd"),
    "caf": ("a CAF file", rb"caff"),
    "flac": ("a FLAC file", rb"fLaC"),
    "ogg": ("an Ogg file", rb"OggS"),
    "mov": ("an MP4 container", rb"....(ftyp|moov|mdat|wide|free|skip)"),
    "matroska": ("a WebM or Matroska container", rb"\x1a\x45\xdf\xa3"),
    "asf": ("a WMA container", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    "avi": ("an AVI container", rb"RIFF....AVI "),
    "flv": ("an FLV container", rb"FLV\x01"),
    "mpegts": ("an MPEG transport stream", rb"\x47.{187}\x47"),
    "amr": ("AMR audio", rb"#!AMR"),
    "ac3": ("AC-3 audio", rb"\x0b\x77"),
    "wv": ("WavPack audio", rb"wvpk"),
    "tta": ("TTA audio", rb"TTA1"),
    "aac": ("AAC audio", rb"\xff[\xf0\xf1\xf8\xf9]"),
    "mp3": ("MP3 audio", rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]"),
}
LIBSNDFILE = ("wav", "w64", "aiff", "au", "caf", "flac", "ogg")
# Their headers say how long the audio is; what others say is FFmpeg's guess from the bit rate.
TIMED = ("wav", "w64", "aiff", "caf", "flac", "mov", "matroska", "asf", "avi", "flv", "wv", "tta")
HEAD = 192  # bytes that CONTAINERS looks at
UNKNOWN = (
    0x7FFF0000  # a size of this or more in a WAV header, or 0: the writer couldn't go back to fill it in
)
SLACK = 0.05  # seconds by which a whole file may be shorter than its header says
_RAW_REMEDY = (
    "If it is headerless PCM, its rate and sample type can't be known: give it a WAV header "
    "(sox -t raw -r 16000 -e signed -b 16 -c 1 in.pcm out.wav), or pass "
    "numpy.frombuffer(data, '<i2') with its sample_rate."
)


class _Unreadable(Exception):
    """One of the libraries can't; the other may."""


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that starts so, if it is a known one."""
    for demuxer, (_, magic) in CONTAINERS.items():
        if re.match(magic, head, re.DOTALL):
            return demuxer
    return None


def decode(file: Any, name: str, strict: bool = False, max_duration: float | None = None) -> Recording:
    """Read a seekable binary file from where it is; `name` is what errors call it.

    strict: AudioError where a warning would say that audio is missing. max_duration: AudioError beyond so
    many seconds, whatever the header says.
    """
    if file.tell():  # FFmpeg counts from a file's start
        file = io.BytesIO(file.read())
    demuxer, head = _identify(file)
    if not head:
        raise AudioError(f"{name} is empty")
    best, problem = None, "without audio"
    for read in (_by_libsndfile, _by_pyav):
        if (demuxer or "wav") not in LIBSNDFILE and read is _by_libsndfile:
            continue
        if demuxer is None and read is _by_pyav:
            continue
        file.seek(0)
        try:
            found = read(file, demuxer, head, name, max_duration)
        except _Unreadable as error:
            problem = str(error)
            continue
        if best is None or len(found.samples) / found.sample_rate > len(best.samples) / best.sample_rate:
            best = found
        if not found.warnings:
            break
    if best is None or len(best.samples) == 0:
        if demuxer is None:
            raise AudioError(f"{name} is no audio that can be read ({problem}). {_RAW_REMEDY}")
        raise AudioError(f"{name} is {CONTAINERS[demuxer][0]} that can't be read ({problem})")
    if strict and best.warnings:
        raise AudioError(f"{name}: {best.warnings[0]}")
    check_finite(best.samples, name)
    return best


def _identify(file: Any) -> tuple[str | None, bytes]:
    """What container_of says, and the bytes that it looked at; of what is behind ID3 tags, if there are."""
    head = first = file.read(HEAD)
    while len(head) >= 10 and head[:3] == b"ID3":
        size = sum((head[6 + i] & 0x7F) << (7 * (3 - i)) for i in range(4))
        file.seek(10 + size - len(head), io.SEEK_CUR)
        head = file.read(HEAD)
    demuxer = container_of(head)
    if first[:3] == b"ID3":
        return demuxer or "mp3", head or first
    return demuxer, head


def _missing(have: float, promised: float) -> tuple[str, ...]:
    """The warning, where the header promised more than `have` seconds."""
    if promised <= have:
        return ()
    return (f"{promised - have:.2f} s of {promised:.2f} s are missing: the file was cut off",)


def _append(samples: Samples, block: np.ndarray, rate: int, name: str, max_duration: float | None) -> None:
    samples.append(block)
    if max_duration is not None and len(samples) > max_duration * rate:
        raise AudioError(f"{name} is longer than the limit of {max_duration:g} s")


# ---- libsndfile --------------------------------------------------------------------------------


def _by_libsndfile(
    file: Any, demuxer: str | None, head: bytes, name: str, max_duration: float | None
) -> Recording:
    promised, present = _data_of_wav(file, name) if demuxer == "wav" else (0, 0)
    if demuxer == "ogg" and _ogg_streams(file) != (1, True):
        raise _Unreadable("chained or damaged")
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            rate, samples = sound.samplerate, Samples(sound.channels)
            try:
                for block in blocks_of(sound):
                    _append(samples, block, rate, name, max_duration)
            except (soundfile.SoundFileError, RuntimeError):  # cut off or damaged
                promised, present = len(samples) + 1, len(samples)
            if demuxer == "flac" and len(samples) < sound.frames < 1 << 60:
                promised, present = sound.frames, len(samples)
            elif demuxer != "wav" and (said := re.findall(_SHORTER, sound.extra_info)):
                promised, present = map(int, said[-1])
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise _Unreadable(str(error).rpartition(": ")[2] or str(error)) from error
    seconds = len(samples) / rate
    return Recording(samples.take(), rate, _missing(seconds, seconds * promised / max(1, present)))


# What libsndfile notes of a header that promises more bytes than there are: AIFF, AU, W64, RF64
_SHORTER = r"(?:SSND|BODY|Data Size|data|[Rr]iff(?: size)?)\s*: (\d+) \(should be (\d+)\)"


def blocks_of(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """What an open SoundFile still holds, float32 (samples, channels), read to its end, block by block."""
    block = np.empty((max(1, BLOCK // sound.channels), sound.channels), np.float32)
    while len(part := sound.read(out=block)):
        yield part


def _data_of_wav(file: Any, name: str) -> tuple[int, int]:
    """Bytes of audio that a WAV header promises, and how many are there.

    Raises AudioError if there are none, _Unreadable where libsndfile would take the wrong ones.
    """
    end = file.seek(0, io.SEEK_END)
    position, data64 = 12, 0
    while position + 8 <= end:
        file.seek(position)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind == b"data":
            break
        if kind == b"ds64" and len(body := file.read(16)) == 16:
            data64 = struct.unpack("<8xQ", body)[0]
        position += 8 + size + size % 2
    else:
        raise AudioError(f"{name} is a WAV header without audio")
    header, present = position + 8, end - position - 8
    if size == 0xFFFFFFFF and data64:
        size = data64
    if present == 0 or (size == 0 and _are_chunks(file, header, end)):
        raise AudioError(f"{name} is a WAV header without audio")
    if size == 0:
        raise _Unreadable("no data size")  # libsndfile finds nothing, FFmpeg reads on to the end
    # recorders count their own header as audio
    if size >= UNKNOWN and not data64 or size - present in (1, 8, 28, 36, 44, header, header - 8):
        return present, present
    return size, present


def _are_chunks(file: Any, position: int, end: int) -> bool:
    """Whether a file holds nothing but chunks from here on."""
    while position + 8 <= end:
        file.seek(position)
        kind, size = struct.unpack("<4sI", file.read(8))
        if not re.fullmatch(rb"[ -~]{4}", kind):
            return False
        position += 8 + size + size % 2
    return position in (end, end + 1)


def _ogg_streams(file: Any) -> tuple[int, bool]:
    """How many streams follow each other, and whether the pages run from the first to the last byte."""
    end, streams, beginning = file.seek(0, io.SEEK_END), 0, False
    file.seek(0)
    while len(page := file.read(27)) == 27 and page[:4] == b"OggS":
        streams += bool(page[5] & 2) and not beginning  # tracks beside each other all begin first
        beginning = bool(page[5] & 2)
        file.seek(sum(file.read(page[26])), io.SEEK_CUR)
    return streams, not page and file.tell() == end


# ---- PyAV --------------------------------------------------------------------------------------


def _by_pyav(file: Any, demuxer: str | None, head: bytes, name: str, max_duration: float | None) -> Recording:
    assert demuxer is not None
    kind = CONTAINERS[demuxer][0]
    try:
        import av  # only for what libsndfile doesn't read
    except ImportError as error:
        raise AudioError(f"{name} is {kind}, which is read by PyAV: pip install av") from error
    warnings: tuple[str, ...] = ()
    if demuxer == "ogg" and not _ogg_streams(file)[1]:
        warnings = ("part of the audio may be missing: the file was cut off, or is damaged",)
    file.seek(0)
    try:
        # The options and io_open: whatever a recording refers to, FFmpeg opens nothing else.
        with av.open(
            file, format=demuxer, options={"protocol_whitelist": "none"}, io_open=_refuse
        ) as container:
            if not container.streams.audio:
                raise AudioError(f"{name} is {kind} without an audio track")
            stream = container.streams.audio[0]
            samples, rate, fifo, end = None, 0, av.AudioFifo(), 0.0
            lost: list[float] = []
            for frame in _alike(_frames(container, stream, lost)):
                if samples is None:
                    rate, samples = frame.sample_rate, Samples(frame.layout.nb_channels)
                if frame.time is not None:
                    end = frame.time + frame.samples / rate
                frame.pts = None  # of gaps and repeats the queue would complain
                fifo.write(frame)
                if fifo.samples > BLOCK // 8:  # fewer and longer blocks: half the time
                    _append(samples, _array(fifo.read()), rate, name, max_duration)
            if samples is None:
                raise _Unreadable("without audio")
            if fifo.samples:
                _append(samples, _array(fifo.read()), rate, name, max_duration)
            seconds, promised = len(samples) / rate, 0.0
            if demuxer in TIMED or (demuxer == "mp3" and re.search(rb"Xing|Info|VBRI", head)):
                unit = stream.time_base
                end -= float((stream.start_time or 0) * unit)
                if stream.duration is not None:
                    promised = float(stream.duration * unit)
                elif container.duration is not None:
                    promised = container.duration / av.time_base
    except (av.error.FFmpegError, ValueError) as error:
        raise _Unreadable(getattr(error, "strerror", None) or str(error)) from error
    if promised > max(seconds, end) + SLACK:
        warnings = _missing(seconds, promised)
    elif sum(lost) > SLACK and demuxer in TIMED:  # elsewhere tags between the frames are taken for damage
        warnings = (f"{sum(lost):.2f} s of {seconds + sum(lost):.2f} s are missing: the file is damaged",)
    return Recording(samples.take(), rate, warnings)


def _refuse(url: str, flags: int, options: dict) -> Any:
    raise PermissionError(f"the recording wants {url!r} opened")


def _frames(container: Any, stream: Any, lost: list[float]) -> Iterator[Any]:
    """Decoded frames to the end, over what is damaged; its seconds are added to `lost`."""
    from av.error import EOFError, FFmpegError

    def packets() -> Iterator[Any]:
        try:
            yield from container.demux(stream)
        except FFmpegError:  # cut off
            yield None

    for packet in packets():
        try:
            yield from stream.decode(packet)
        except EOFError:
            return
        except FFmpegError:
            if packet is not None and packet.duration:
                lost.append(float(packet.duration * packet.time_base))


def _alike(frames: Iterator[Any]) -> Iterator[Any]:
    """Frames, those of another rate or layout than the first's brought to it: links of a chain may differ."""
    from av import AudioResampler

    first, converter, converts = None, None, None
    for frame in frames:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        first = first or kind
        if converter and kind != converts:
            yield from converter.resample(None)
            converter = None
        if kind != first and converter is None:
            converter, converts = AudioResampler(*first), kind
        yield from converter.resample(frame) if converter else (frame,)
    if converter:
        yield from converter.resample(None)


def _array(frame: Any) -> np.ndarray:
    x = frame.to_ndarray()
    x = x.T if frame.format.is_planar else x.reshape(-1, frame.layout.nb_channels)
    return to_float32(x, "the recording")
