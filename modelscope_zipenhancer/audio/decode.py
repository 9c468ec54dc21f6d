"""From an open file to samples: libsndfile what it reads whole, PyAV (FFmpeg's libraries) the rest.

libsndfile is what ModelScope's pipeline reads with, so that PCM and FLAC are the same to the last bit.
Nothing is believed that a header says about lengths: each file is read to its end, in blocks.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile

from ..errors import AudioError, LimitError, OptionError
from .headers import (
    CONTAINERS,
    HEAD,
    LIBSNDFILE,
    TIMED,
    UNKNOWN,
    data_of_caf,
    data_of_wav,
    duration_of_mp3,
    files_in,
    identify,
    ogg_links,
)
from .policy import OPEN, Policy
from .resample import check_rate, resample
from .samples import BLOCK, Recording, Samples, check_finite, to_float32, to_mono

JOINED = 1000  # files in one at most
UNLIKE = 48  # times as large a file at most becomes by the rate and channels of one before it: mono at 8 kHz
_SDS = b"\xf0\x7e"  # libsndfile reads it, and prints what is wrong with it: into the output of a pipe
EXACT = {"flac", "mov", "caf"}  # demuxers whose frames have times to the sample
SLACK = 0.05  # seconds by which a whole file may be shorter than its header says
_RAW_REMEDY = (
    "If it is headerless PCM, its rate and sample type can't be known: give it a WAV header "
    "(sox -t raw -r 16000 -e signed -b 16 -c 1 in.pcm out.wav), or pass "
    "numpy.frombuffer(data, '<i2') with its sample_rate."
)


class _Unreadable(Exception):
    """One of the libraries can't; the other may."""


def decode(file: Any, name: str, strict: bool = False, policy: Policy = OPEN) -> Recording:
    """Read a seekable binary file from where it is; `name` is what errors call it.

    strict: AudioError where a warning would say that audio is missing. policy: its limits of length hold,
    whatever the header says.
    """
    if file.tell():  # FFmpeg counts from a file's start
        file = io.BytesIO(file.read())
    demuxer, head, begin = identify(file)
    if not head:
        raise AudioError(f"{name} is empty")
    if head[:2] == _SDS:
        raise AudioError(f"{name} is a MIDI sample dump, which isn't read")
    if begin and demuxer not in ("mp3", "aac"):  # ID3 tags before what has none
        file.seek(begin)
        file = io.BytesIO(file.read())
    begins = files_in(file, demuxer, head)
    if len(begins) > JOINED:
        raise AudioError(f"{name} is {len(begins)} files in one, {JOINED} are read at most")
    if len(begins) == 1:
        found = _decode_one(file, demuxer, head, name, policy)
    else:
        found = _decode_joined(file, begins, demuxer, name, policy)
    if strict and found.warnings:
        raise AudioError(f"{name}: {found.warnings[0]}")
    check_finite(found.samples, name)
    return found


def _decode_one(file: Any, demuxer: str | None, head: bytes, name: str, policy: Policy) -> Recording:
    readers = [_by_libsndfile] if demuxer is None or demuxer in LIBSNDFILE else []
    readers += [_by_pyav] if demuxer is not None else []
    best, problem = None, "without audio"
    for read in readers:
        file.seek(0)
        try:
            found = read(file, demuxer, head, name, policy)
        except _Unreadable as error:
            problem = str(error)
            continue
        if best is None or len(found.samples) / found.sample_rate > len(best.samples) / best.sample_rate:
            best = found
        if len(found.samples) and not found.warnings:
            break
    if best is None or len(best.samples) == 0:
        if demuxer is None:
            raise AudioError(f"{name} is no audio that can be read ({problem}). {_RAW_REMEDY}")
        raise AudioError(f"{name} is {CONTAINERS[demuxer][0]} that can't be read ({problem})")
    return best


def _decode_joined(file: Any, begins: list[int], demuxer: str | None, name: str, policy: Policy) -> Recording:
    """The files that begin at these bytes, one after the other, at the rate and channels of the first."""
    samples, rate = None, 0
    warnings: tuple[str, ...] = ()
    for begin, end in zip(begins, [*begins[1:], -1]):
        file.seek(begin)
        part = io.BytesIO(file.read(end - begin if end > 0 else -1))
        head = part.read(HEAD)
        try:
            x, part_rate, warned = _decode_one(part, demuxer, head, name, policy)
        except LimitError:
            raise
        except AudioError as error:
            if samples is None:
                raise
            warnings += (f"part of the audio is missing: {error}",)
            continue
        warnings += warned
        if samples is None:
            samples, rate = Samples(x.shape[1]), part_rate
        length = len(samples) + -(-len(x) * rate // part_rate)  # before it becomes so long
        policy.check_length(length, samples.channels, rate, name)
        if samples.channels * rate > UNLIKE * x.shape[1] * part_rate:
            warnings += (f"part of the audio is missing: {part_rate} Hz after {rate} Hz is too unlike",)
            continue
        if x.shape[1] != samples.channels:
            x = np.repeat(to_mono(x)[:, None], samples.channels, axis=1)
        if part_rate != rate:
            x = np.stack([resample(x[:, i], part_rate, rate) for i in range(x.shape[1])], axis=1)
        samples.append(x)
    assert samples is not None
    return Recording(samples.take(), rate, warnings)


def _missing(have: float, promised: float) -> tuple[str, ...]:
    """The warning, where the header promised more than `have` seconds."""
    if promised <= have * (1 + 1e-9):  # a quotient of counts of bytes, rounded
        return ()
    return (f"{promised - have:.2f} s of {promised:.2f} s are missing: the file was cut off",)


def _append(samples: Samples, block: np.ndarray, rate: int, name: str, policy: Policy) -> None:
    policy.check_length(len(samples) + len(block), samples.channels, rate, name)
    samples.append(block)


def _possible_rate(rate: int, name: str) -> int:
    """The sample rate in a header, if it can be one: resampled from 1 Hz, a minute would be ten days."""
    try:
        return check_rate(rate)
    except OptionError as error:
        raise AudioError(f"{name} says {error}") from error


# ---- libsndfile --------------------------------------------------------------------------------


def _by_libsndfile(file: Any, demuxer: str | None, head: bytes, name: str, policy: Policy) -> Recording:
    promised, present, behind = 0, 0, 0
    if demuxer == "wav":
        promised, present, behind = data_of_wav(file, name)
        if not promised:
            raise _Unreadable("no data size")  # FFmpeg reads on to the end
    elif demuxer == "caf":
        promised, present = data_of_caf(file)
    elif demuxer == "ogg" and not ogg_links(file)[1]:
        raise _Unreadable("cut off or damaged")
    file.seek(0)
    try:
        with soundfile.SoundFile(_WithinFile(file)) as sound:
            rate, samples = _possible_rate(sound.samplerate, name), Samples(sound.channels)
            for block in blocks_of(sound):
                _append(samples, block, rate, name, policy)
            if demuxer == "flac" and len(samples) < sound.frames < 1 << 60:
                raise _Unreadable("cut off")
            said, sizes = (re.findall(pattern, sound.extra_info) for pattern in (_SHORTER, _SIZE))
            if not promised and said and int(said[-1][0]) < UNKNOWN:
                promised = int(sizes[-1] if sizes else said[-1][0])
                present = promised - int(said[-1][0]) + int(said[-1][1])
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise _Unreadable(str(error).rpartition(": ")[2] or str(error)) from error
    seconds = len(samples) / rate
    warnings = _missing(seconds, seconds * promised / max(1, present))
    if seconds * behind / max(1, promised) > 1:
        more = seconds * behind / promised
        warnings = (f"{more:.2f} s may be missing: the file goes on behind the length that its header names",)
    return Recording(samples.take(), rate, warnings)


class _WithinFile:
    """A binary file as libsndfile is given it: where a header sends it before the beginning, it stays.

    The file's own error would not arrive, but be printed with its traceback.
    """

    def __init__(self, file: Any) -> None:
        self._file, self.tell, self.read = file, file.tell, file.read
        if hasattr(file, "readinto"):
            self.readinto = file.readinto

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with contextlib.suppress(ValueError, OSError):
            self._file.seek(offset, whence)
        return self._file.tell()


# What libsndfile notes of a header that promises more bytes than there are, of AIFF, AU and W64
_SHORTER = r": (\d+) \(should be (\d+)\)"
_SIZE = r"(?:SSND|BODY|Data Size|data)\s*: (\d+)"


def blocks_of(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """What an open SoundFile still holds, float32 (samples, channels), read to its end, block by block."""
    block = np.empty((max(1, BLOCK // sound.channels), sound.channels), np.float32)
    while len(part := sound.read(out=block)):
        yield part


# ---- PyAV --------------------------------------------------------------------------------------


def _by_pyav(file: Any, demuxer: str | None, head: bytes, name: str, policy: Policy) -> Recording:
    assert demuxer is not None
    kind = CONTAINERS[demuxer][0]
    try:
        import av  # only for what libsndfile doesn't read
    except ImportError as error:
        raise AudioError(f"{name} is {kind}, which is read by PyAV: pip install av") from error
    try:
        # The options and io_open: whatever a recording refers to, FFmpeg opens nothing else.
        with av.open(
            file,
            format=demuxer,
            options={"protocol_whitelist": "none"},
            io_open=_refuse,
            metadata_errors="replace",
        ) as container:
            if not container.streams.audio:
                raise AudioError(f"{name} is {kind} without an audio track")
            stream = container.streams.audio[0]
            samples, rate, fifo, end = None, 0, av.AudioFifo(), 0.0
            lost: list[float] = []
            for frame in _alike(_frames(container, stream, lost)):
                if samples is None:
                    rate = _possible_rate(frame.sample_rate, name)
                    samples = Samples(frame.layout.nb_channels)
                if frame.time is not None:
                    end = frame.time + frame.samples / rate
                frame.pts = None  # of gaps and repeats the queue would complain
                fifo.write(frame)
                if fifo.samples > BLOCK // 8:  # fewer and longer blocks: half the time
                    _append(samples, _array(fifo.read()), rate, name, policy)
            if samples is None:
                raise _Unreadable("without audio")
            if fifo.samples:
                _append(samples, _array(fifo.read()), rate, name, policy)
            end -= float((stream.start_time or 0) * stream.time_base)
            duration = container.duration / av.time_base if container.duration else 0.0
            if stream.duration is not None:
                duration = float(stream.duration * stream.time_base)
    except AudioError:
        raise
    except (av.error.FFmpegError, PermissionError, ValueError, IndexError) as error:  # PyAV raises all four
        hint = "; was it cut off? Its index may be at its end" if demuxer == "mov" else ""
        raise _Unreadable(f"{getattr(error, 'strerror', None) or error}{hint}") from error
    seconds = len(samples) / rate
    warnings: tuple[str, ...] = ()
    if demuxer == "ogg" and not ogg_links(file)[1]:
        warnings = ("part of the audio may be missing: the file was cut off, or is damaged",)
    elif demuxer == "caf":
        promised, present = data_of_caf(file)
        warnings = _missing(seconds, seconds * promised / max(1, present))
    elif demuxer == "mp3":
        duration = duration_of_mp3(head, rate)
        warnings = _missing(seconds, duration) if duration > seconds + SLACK else ()
    elif demuxer in TIMED and duration > max(seconds, end) + SLACK:
        warnings = _missing(seconds, duration)
    elif demuxer in TIMED and sum(lost) > SLACK:  # elsewhere tags between the frames are taken for damage
        warnings = (f"{sum(lost):.2f} s of {seconds + sum(lost):.2f} s are missing: the file is damaged",)
    if demuxer in EXACT and not warnings and end > seconds + SLACK:  # a hole, which FFmpeg passes over
        warnings = (f"{end - seconds:.2f} s of {end:.2f} s are missing: the file is damaged",)
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
        if first[2] > UNLIKE * frame.sample_rate:
            raise _Unreadable(f"of {frame.sample_rate} Hz after {first[2]} Hz")
        if kind != first and converter is None:
            converter, converts = AudioResampler(*first), kind
        yield from converter.resample(frame) if converter else (frame,)
    if converter:
        yield from converter.resample(None)


def _array(frame: Any) -> np.ndarray:
    x = frame.to_ndarray()
    x = x.T if frame.format.is_planar else x.reshape(-1, frame.layout.nb_channels)
    return to_float32(x, "the recording")
