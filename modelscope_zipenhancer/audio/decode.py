"""From an open file to samples: libsndfile what it reads whole, PyAV (FFmpeg's libraries) the rest.

libsndfile is what ModelScope's pipeline reads with, so that PCM and FLAC are the same to the last bit.
Nothing is believed that a header says about lengths: each file is read to its end, in blocks.
"""

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile

from ..errors import AudioError, LimitError, OptionError
from .policy import OPEN, Policy
from .resample import check_rate, resample
from .samples import BLOCK, Recording, Samples, check_finite, to_float32, to_mono

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
UNKNOWN = 0x7FFF0000  # a data size of this or more in a WAV header, or 0, was never filled in
JOINED = 1000  # files in one at most
UNLIKE = 48  # times as large a file at most becomes by the rate and channels of one before it: mono at 8 kHz
MP3_SEARCH = 1 << 16  # bytes in which the frames of an MP3 stream are searched for
MP3_KBPS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),  # MPEG-1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),  # MPEG-2 and 2.5
}
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


def decode(file: Any, name: str, strict: bool = False, policy: Policy = OPEN) -> Recording:
    """Read a seekable binary file from where it is; `name` is what errors call it.

    strict: AudioError where a warning would say that audio is missing. policy: its limits of length hold,
    whatever the header says.
    """
    if file.tell():  # FFmpeg counts from a file's start
        file = io.BytesIO(file.read())
    demuxer, head, begin = _identify(file)
    if not head:
        raise AudioError(f"{name} is empty")
    if head[:2] == _SDS:
        raise AudioError(f"{name} is a MIDI sample dump, which isn't read")
    if begin and demuxer not in ("mp3", "aac"):  # ID3 tags before what has none
        file.seek(begin)
        file = io.BytesIO(file.read())
    begins = _files_in(file, demuxer, head)
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


def _files_in(file: Any, demuxer: str | None, head: bytes) -> list[int]:
    """Where the files begin that have been joined by cat; of those, libraries read the first alone."""
    begins = [0]
    if demuxer == "ogg":
        return _ogg_links(file)[0]
    if demuxer == "flac":
        position, before = 0, b""
        file.seek(0)
        while block := file.read(BLOCK):
            text = before + block
            begins += [position - len(before) + found.start() for found in re.finditer(_FLAC_BEGIN, text)]
            position, before = position + len(block), text[-7:]
        return sorted(set(begins))
    while demuxer in ("wav", "aiff"):
        size = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
        file.seek(begins[-1] + 8 + size + size % 2)
        head = file.read(HEAD)
        if container_of(head) != demuxer:
            break
        begins.append(file.tell() - len(head))
    return begins


_SDS = b"\xf0\x7e"  # libsndfile reads it, and prints what is wrong with it: into the output of a pipe
_FLAC_BEGIN = rb"fLaC[\x00\x80]\0\0\x22"


def _identify(file: Any) -> tuple[str | None, bytes, int]:
    """What container_of says, the bytes that it looked at, and where they begin: behind ID3 tags."""
    head = first = file.read(HEAD)
    while len(head) >= 10 and head[:3] == b"ID3":
        size = sum((head[6 + i] & 0x7F) << (7 * (3 - i)) for i in range(4))
        file.seek(10 + size - len(head), io.SEEK_CUR)
        head = file.read(HEAD)
    demuxer, begin = container_of(head), file.tell() - len(head)
    if first[:3] == b"ID3":
        return demuxer or "mp3", head or first, begin
    if demuxer is None and _holds_mp3_frames(head + file.read(MP3_SEARCH)):
        return "mp3", head, 0
    return demuxer, head, 0


def _holds_mp3_frames(data: bytes) -> bool:
    """Whether four frames of MP3 follow each other somewhere: a stream that was recorded from its middle."""
    for found in re.finditer(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", data):
        position, frames = found.start(), 0
        while length := _mp3_frame_bytes(data[position : position + 4]):
            position, frames = position + length, frames + 1
            if frames == 4:
                return True
    return False


def _mp3_frame_bytes(head: bytes) -> int:
    """The length of the frame that begins with these 4 bytes; 0 if none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[1] & 0x18 == 8:
        return 0
    version = head[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    kbps = MP3_KBPS[version == 3][head[2] >> 4]
    rate = (44100, 48000, 32000, 0)[head[2] >> 2 & 3] >> (0, 1, 2)[(3, 2, 0).index(version)]
    if not kbps or not rate:
        return 0
    return (144000 if version == 3 else 72000) * kbps // rate + (head[2] >> 1 & 1)


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
        promised, present, behind = _data_of_wav(file, name)
    elif demuxer == "caf":
        promised, present = _data_of_caf(file)
    elif demuxer == "ogg" and not _ogg_links(file)[1]:
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


def _chunks(file: Any, position: int, layout: str = "<4sI") -> Iterator[tuple[bytes, int, int]]:
    """(kind, size, where its content begins) of the chunks from a position on, as far as they go."""
    end, length = file.seek(0, io.SEEK_END), struct.calcsize(layout)
    while position + length <= end:
        file.seek(position)
        kind, size = struct.unpack(layout, file.read(length))
        yield kind, size, position + length
        position += length + size + (size % 2 if layout[0] == "<" else 0)


def _data_of_wav(file: Any, name: str) -> tuple[int, int, int]:
    """Bytes of audio that a WAV header promises, how many are there, and how many follow that are no chunk.

    Raises AudioError if there are none, _Unreadable where libsndfile would find none.
    """
    size, present, size64 = 0, 0, 0
    for kind, length, begin in _chunks(file, 12):
        if kind == b"ds64" and len(body := file.read(16)) == 16:
            size64 = struct.unpack("<8xQ", body)[0]
        if kind == b"data":
            size, present = length, file.seek(0, io.SEEK_END) - begin
            break
    if present == 0 or (size == 0 and _are_chunks(file, begin)):
        raise AudioError(f"{name} is a WAV header without audio")
    if size == 0:
        raise _Unreadable("no data size")  # FFmpeg reads on to the end
    if size == 0xFFFFFFFF and size64:
        size = size64
    # UNKNOWN: the writer couldn't go back. The others: recorders that count some of their own header
    if UNKNOWN <= size <= 0xFFFFFFFF or size - present in (1, 8, 28, 36, 44, begin, begin - 8):
        size = present
    behind = max(0, present - size)
    if behind and _are_chunks(file, begin + size + size % 2):
        behind = 0
    return size, present, behind


def _are_chunks(file: Any, position: int) -> bool:
    """Whether a file holds nothing but chunks from here on."""
    end = file.seek(0, io.SEEK_END)
    for kind, size, begin in _chunks(file, position):
        if not re.fullmatch(rb"[ -~]{4}", kind):
            return False
        position = begin + size
    return position in (end, end + 1, end - 1)


def _data_of_caf(file: Any) -> tuple[int, int]:
    """Bytes of audio that a CAF header promises, and how many are there."""
    for kind, size, begin in _chunks(file, 8, ">4sq"):
        if kind == b"data" and size > 0:  # -1: to the end
            return size, file.seek(0, io.SEEK_END) - begin
        if size < 0:
            break
    return 0, 0


def _ogg_links(file: Any) -> tuple[list[int], bool]:
    """Where the streams of a chain begin, and whether the pages run from the first to the last byte."""
    end, begins, beginning = file.seek(0, io.SEEK_END), [], False
    file.seek(0)
    while len(page := file.read(27)) == 27 and page[:4] == b"OggS":
        if page[5] & 2 and not beginning:  # tracks beside each other all begin first
            begins.append(file.tell() - 27)
        beginning = bool(page[5] & 2)
        file.seek(sum(file.read(page[26])), io.SEEK_CUR)
    return begins or [0], not page and file.tell() == end


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
    if demuxer == "ogg" and not _ogg_links(file)[1]:
        warnings = ("part of the audio may be missing: the file was cut off, or is damaged",)
    elif demuxer == "caf":
        promised, present = _data_of_caf(file)
        warnings = _missing(seconds, seconds * promised / max(1, present))
    elif demuxer == "mp3":
        duration = _duration_of_mp3(head, rate)
        warnings = _missing(seconds, duration) if duration > seconds + SLACK else ()
    elif demuxer in TIMED and duration > max(seconds, end) + SLACK:
        warnings = _missing(seconds, duration)
    elif demuxer in TIMED and sum(lost) > SLACK:  # elsewhere tags between the frames are taken for damage
        warnings = (f"{sum(lost):.2f} s of {seconds + sum(lost):.2f} s are missing: the file is damaged",)
    return Recording(samples.take(), rate, warnings)


def _duration_of_mp3(head: bytes, rate: int) -> float:
    """Seconds that its first frame promises, if LAME or FFmpeg wrote one; else 0."""
    found = re.search(rb"(?:Xing|Info)\0\0\0\x0f(.{4}).{129}(.{3})", head, re.DOTALL)
    if not found:
        return 0.0
    frames, trimmed = int.from_bytes(found[1], "big"), int.from_bytes(found[2], "big")
    trimmed = (trimmed >> 12) + (trimmed & 0xFFF) or 3 * 1152  # the encoder's delay and padding
    return (frames * (1152 if rate >= 32000 else 576) - trimmed) / rate


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
