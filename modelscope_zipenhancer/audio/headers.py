"""What the first bytes of a file say, and where in it things are: containers, chunks, frames, files in one.

Nothing is believed that a header says about lengths: it is compared with what is there.
"""

import io
import re
import struct
from collections.abc import Iterator
from typing import Any

from ..errors import AudioError
from .samples import BLOCK

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
MP3_SEARCH = 1 << 16  # bytes in which the frames of an MP3 stream are searched for
MP3_KBPS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),  # MPEG-1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),  # MPEG-2 and 2.5
}
_FLAC_BEGIN = rb"fLaC[\x00\x80]\0\0\x22"


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that starts so, if it is a known one."""
    for demuxer, (_, magic) in CONTAINERS.items():
        if re.match(magic, head, re.DOTALL):
            return demuxer
    return None


def identify(file: Any) -> tuple[str | None, bytes, int]:
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


def files_in(file: Any, demuxer: str | None, head: bytes) -> list[int]:
    """Where the files begin that have been joined by cat; of those, libraries read the first alone."""
    begins = [0]
    if demuxer == "ogg":
        return ogg_links(file)[0]
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


# ---- chunks and pages ------------------------------------------------------------------------


def _chunks(file: Any, position: int, layout: str = "<4sI") -> Iterator[tuple[bytes, int, int]]:
    """(kind, size, where its content begins) of the chunks from a position on, as far as they go."""
    end, length = file.seek(0, io.SEEK_END), struct.calcsize(layout)
    while position + length <= end:
        file.seek(position)
        kind, size = struct.unpack(layout, file.read(length))
        yield kind, size, position + length
        position += length + size + (size % 2 if layout[-1] == "I" else 0)


def data_of_wav(file: Any, name: str) -> tuple[int, int, int]:
    """Bytes of audio that a WAV header promises, how many are there, and how many follow that are no chunk.

    0 of them promised where libsndfile would find none. Raises AudioError if there are none.
    """
    size, present, size64 = 0, 0, 0
    file.seek(0)
    layout = ">4sI" if file.read(4) == b"RIFX" else "<4sI"
    for kind, length, begin in _chunks(file, 12, layout):
        if kind == b"ds64" and len(body := file.read(16)) == 16:
            size64 = struct.unpack("<8xQ", body)[0]
        if kind == b"data":
            size, present = length, file.seek(0, io.SEEK_END) - begin
            break
    if present == 0 or (size == 0 and _are_chunks(file, begin, layout)):
        raise AudioError(f"{name} is a WAV header without audio")
    if size == 0:
        return 0, present, 0
    if size == 0xFFFFFFFF and size64:
        size = size64
    # UNKNOWN: the writer couldn't go back. The others: recorders that count some of their own header
    if UNKNOWN <= size <= 0xFFFFFFFF or size - present in (1, 8, 28, 36, 44, begin, begin - 8):
        size = present
    behind = max(0, present - size)
    if behind and _are_chunks(file, begin + size + size % 2, layout):
        behind = 0
    return size, present, behind


def _are_chunks(file: Any, position: int, layout: str = "<4sI") -> bool:
    """Whether a file holds nothing but chunks from here on."""
    end = file.seek(0, io.SEEK_END)
    for kind, size, begin in _chunks(file, position, layout):
        if not re.fullmatch(rb"[ -~]{4}", kind):
            return False
        position = begin + size
    return position in (end, end + 1, end - 1)


def data_of_caf(file: Any) -> tuple[int, int]:
    """Bytes of audio that a CAF header promises, and how many are there."""
    for kind, size, begin in _chunks(file, 8, ">4sq"):
        if kind == b"data" and size > 0:  # -1: to the end
            return size, file.seek(0, io.SEEK_END) - begin
        if size < 0:
            break
    return 0, 0


def ogg_links(file: Any) -> tuple[list[int], bool]:
    """Where the streams of a chain begin, and whether the pages run from the first to the last byte."""
    end, begins, beginning = file.seek(0, io.SEEK_END), [], False
    file.seek(0)
    while len(page := file.read(27)) == 27 and page[:4] == b"OggS":
        if page[5] & 2 and not beginning:  # tracks beside each other all begin first
            begins.append(file.tell() - 27)
        beginning = bool(page[5] & 2)
        file.seek(sum(file.read(page[26])), io.SEEK_CUR)
    return begins or [0], not page and file.tell() == end


# ---- MP3 ---------------------------------------------------------------------------------------


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


def duration_of_mp3(head: bytes, rate: int) -> float:
    """Seconds that its first frame promises, if LAME or FFmpeg wrote one; else 0."""
    found = re.search(rb"(?:Xing|Info)\0\0\0\x0f(.{4}).{129}(.{3})", head, re.DOTALL)
    if not found:
        return 0.0
    frames, trimmed = int.from_bytes(found[1], "big"), int.from_bytes(found[2], "big")
    trimmed = (trimmed >> 12) + (trimmed & 0xFFF) or 3 * 1152  # the encoder's delay and padding
    return (frames * (1152 if rate >= 32000 else 576) - trimmed) / rate
