"""Files of every container and codec, whole, cut off, joined, and with headers that lie."""

import contextlib
import functools
import io
import os
import re
import struct
import sys
import threading
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
from recordings import SECONDS, by_av, by_soundfile, samples_of, speech

from modelscope_zipenhancer.audio.headers import CONTAINERS, container_of
from modelscope_zipenhancer.audio.policy import Policy
from modelscope_zipenhancer.audio.read import load
from modelscope_zipenhancer.errors import AudioError, LimitError

# container, codec, rates, channels, samples by which a codec's last frame may differ
SPEECH_RATES = (8000, 16000, 44100, 48000)
OPUS_RATES = (8000, 16000, 24000, 48000)
MATRIX = [
    *(("soundfile", "WAV", s, SPEECH_RATES, (1, 2), 0) for s in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT")),
    *(("soundfile", c, "PCM_16", (16000, 44100), (1, 2), 0) for c in ("AIFF", "AU", "CAF", "W64", "RF64")),
    *(("soundfile", "WAV", s, (8000, 16000), (1, 2), 0) for s in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")),
    ("soundfile", "WAV", "GSM610", (8000,), (1,), 0),
    ("soundfile", "FLAC", "PCM_16", SPEECH_RATES, (1, 2), 0),
    ("soundfile", "FLAC", "PCM_24", (16000, 48000), (1, 2), 0),
    ("soundfile", "OGG", "VORBIS", SPEECH_RATES, (1, 2), 1024),
    ("soundfile", "OGG", "OPUS", OPUS_RATES, (1, 2), 0),
    ("soundfile", "MP3", "MPEG_LAYER_III", SPEECH_RATES, (1, 2), 0),
    ("av", "mp3", "libmp3lame", SPEECH_RATES, (1, 2), 0),
    ("av", "mp2", "mp2", (16000, 44100), (1, 2), 0),
    ("av", "adts", "aac", SPEECH_RATES, (1, 2), 0),
    ("av", "ipod", "aac", SPEECH_RATES, (1, 2), 0),
    ("av", "ipod", "alac", (16000, 44100), (1, 2), 0),
    ("av", "mov", "pcm_s16be", (16000, 44100), (1, 2), 0),
    ("av", "3gp", "libopencore_amrnb", (8000,), (1,), 0),
    ("av", "amr", "libopencore_amrnb", (8000,), (1,), 0),
    ("av", "webm", "libopus", OPUS_RATES, (1, 2), 0),
    ("av", "matroska", "flac", (16000, 44100), (1, 2), 0),
    ("av", "ogg", "libopus", OPUS_RATES, (1, 2), 0),
    ("av", "ogg", "flac", (16000, 44100), (1, 2), 0),
    ("av", "asf", "wmav2", (16000, 44100), (1, 2), 0),
    ("av", "avi", "libmp3lame", (16000, 44100), (1, 2), 0),
    ("av", "flv", "aac", (16000, 44100), (1, 2), 0),
    ("av", "mpegts", "aac", (16000, 44100), (1, 2), 0),
    ("av", "ac3", "ac3", (44100, 48000), (1, 2, 6), 0),
    ("av", "wv", "wavpack", (16000, 44100), (1, 2), 0),
    ("av", "tta", "tta", (16000, 44100), (1, 2), 0),
    ("av", "wav", "libmp3lame", (16000, 44100), (1, 2), 0),
    ("av", "wav", "g722", (16000,), (1,), 0),
    ("av", "aiff", "pcm_s24be", (16000, 44100), (1, 2), 0),
]
ENTRANCES = ("path", "bytes", "pipe")
CASES = [
    pytest.param(
        maker,
        container,
        codec,
        rate,
        channels,
        frame,
        entrance,
        id=f"{container}-{codec}-{rate}-{channels}-{entrance}",
    )
    for maker, container, codec, rates, of_channels, frame in MATRIX
    for rate in rates
    for channels in of_channels
    for entrance in ENTRANCES
]


@functools.cache
def made(maker: str, container: str, codec: str, rate: int, channels: int) -> tuple[bytes, int]:
    """A file, and how many samples a decode by FFmpeg alone finds in it, at FFmpeg's rate of it."""
    make = by_soundfile if maker == "soundfile" else by_av
    data = make(container, codec, speech(rate, channels), rate)
    return data, samples_of(data)


def through(entrance: str, data: bytes, tmp_path, **options):
    if entrance == "bytes":
        return load(data, **options)
    if entrance == "path":
        (tmp_path / "recording").write_bytes(data)
        return load(tmp_path / "recording", **options)
    if not os.path.isdir("/dev/fd"):
        pytest.skip("this system has no names for pipes")
    out, into = os.pipe()

    def feed():
        with open(into, "wb") as pipe:
            pipe.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        return load(f"/dev/fd/{out}", **options)
    finally:
        os.close(out)
        thread.join()


@pytest.mark.parametrize("maker, container, codec, rate, channels, frame, entrance", CASES)
def test_as_many_samples_come_out_as_a_full_decode_finds(
    maker, container, codec, rate, channels, frame, entrance, tmp_path
):
    data, expected = made(maker, container, codec, rate, channels)
    x, read_rate, warnings = through(entrance, data, tmp_path)
    if codec in ("OPUS", "libopus"):  # FFmpeg always says 48000
        expected = expected * read_rate // 48000
    assert abs(len(x) - expected) <= frame
    assert len(x) >= len(speech(read_rate)) - frame - (codec == "wmav2") * 2048 - 160 * (
        "opus" in codec.lower()
    )
    assert (x.shape[1], warnings) == (channels, ())
    level = np.sqrt(np.mean(x[:, 0] ** 2) / np.mean(speech(rate, channels)[:, 0] ** 2))
    assert 0.8 < level < 1.1


def test_the_matrix_has_more_than_200_combinations_and_every_container():
    assert len(CASES) > 200
    heads = {container_of(made(*case.values[:5])[0][:192]) for case in CASES}
    assert heads - {None} | {"mp3"} == set(CONTAINERS)


# ---- lengths are read, not believed ------------------------------------------------------------


def samples_read(data: bytes) -> int:
    return len(load(data).samples)


def mp3(rate: int = 44100, seconds: float = SECONDS, **options) -> bytes:
    """Without ID3 and Xing unless said otherwise: frames, and nothing else."""
    return by_av(
        "mp3",
        "libmp3lame",
        speech(rate, 1, seconds),
        rate,
        **{"write_xing": 0, "id3v2_version": 0, **options},
    )


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("rate", [16000, 44100])
def test_an_mp3_of_variable_bit_rate_without_xing_comes_whole(rate, entrance, tmp_path):
    data = mp3(rate, 3, flags="+qscale", global_quality=4 * 118)  # -q:a 4
    assert len(soundfile.read(io.BytesIO(data))[0]) < 2.5 * rate  # what libsndfile reads of it
    x, _, warnings = through(entrance, data, tmp_path, strict=True)
    assert len(x) == samples_of(data) and 3 * rate <= len(x) <= 3 * rate + 3 * 1152
    assert warnings == ()


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_mp3_of_constant_bit_rate_without_xing_is_read_from_everywhere(entrance, tmp_path):
    x, rate, warnings = through(entrance, mp3(), tmp_path, strict=True)
    assert abs(len(x) - SECONDS * 44100) <= 2 * 1152 and warnings == ()


JOINED = {
    "mp3": lambda: mp3(),
    "mp3 with Xing and ID3": lambda: mp3(write_xing=1, id3v2_version=4),
    "aac": lambda: by_av("adts", "aac", speech(44100), 44100),
    "amr": lambda: by_av("amr", "libopencore_amrnb", speech(8000), 8000),
    "flac": lambda: by_soundfile("FLAC", "PCM_16", speech(44100), 44100),
    "vorbis, chained": lambda: by_soundfile("OGG", "VORBIS", speech(44100), 44100),
    "opus, chained": lambda: by_soundfile("OGG", "OPUS", speech(48000), 48000),
    "wav": lambda: by_soundfile("WAV", "PCM_16", speech(16000), 16000),
    "aiff": lambda: by_soundfile("AIFF", "PCM_16", speech(16000), 16000),
    "webm": lambda: by_av("webm", "libopus", speech(48000), 48000),
    "mpegts": lambda: by_av("mpegts", "aac", speech(44100), 44100),
}


@pytest.mark.parametrize("kind", JOINED)
def test_two_files_joined_by_cat_come_as_both(kind):
    data = JOINED[kind]()
    second = data if kind != "amr" else data[6:]
    x, rate, warnings = load(data + second)
    assert len(x) / rate == pytest.approx(2 * SECONDS, abs=2 * 4096 / rate)
    halves = np.sqrt(np.mean(x[: len(x) // 2] ** 2)), np.sqrt(np.mean(x[len(x) // 2 :] ** 2))
    assert halves[0] == pytest.approx(halves[1], rel=0.1)
    assert warnings == ()


@pytest.mark.parametrize("container, subtype", [("OGG", "VORBIS"), ("WAV", "PCM_16"), ("FLAC", "PCM_16")])
def test_the_links_of_a_chain_may_differ_in_rate_and_channels(container, subtype):
    first = by_soundfile(container, subtype, speech(44100, 2), 44100)
    x, rate, _ = load(first + by_soundfile(container, subtype, speech(16000, 1), 16000))
    assert (rate, x.shape[1]) == (44100, 2)
    assert len(x) / rate == pytest.approx(2 * SECONDS, abs=0.1)
    spectrum = np.abs(np.fft.rfft(x[-44100:, 0] * np.hanning(44100)))
    assert np.argmax(spectrum) == 440  # Hz: brought to the first link's rate


def test_a_stream_of_mp3_that_begins_in_the_middle_of_a_frame_is_read():
    data = mp3(seconds=3)
    for begin in (bytes(500), b"", b"\xff\xfb\x00"):
        x, rate, _ = load(begin + data[777:])
        assert rate == 44100 and len(x) / rate == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_flac_of_unknown_length_as_from_a_pipe_is_read_to_its_end(entrance, tmp_path):
    data = bytearray(by_soundfile("FLAC", "PCM_16", speech(16000, 2), 16000))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    x, _, warnings = through(entrance, bytes(data), tmp_path)
    np.testing.assert_array_equal(x, soundfile.read(io.BytesIO(whole_flac()), dtype="float32")[0])
    assert warnings == ()


def whole_flac() -> bytes:
    return by_soundfile("FLAC", "PCM_16", speech(16000, 2), 16000)


@pytest.mark.parametrize("length", [1 << 20, (1 << 36) - 1])
def test_a_flac_that_promises_more_than_it_holds_is_read_to_its_end(length):
    data = bytearray(whole_flac())
    data[21] = data[21] & 0xF0 | length >> 32
    data[22:26] = struct.pack(">I", length & 0xFFFFFFFF)
    recording = load(bytes(data))
    assert len(recording.samples) == len(speech(16000))
    assert "missing" in recording.warnings[0]


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_gsm_recording_of_telephony_is_read(entrance, tmp_path):
    data = by_soundfile("WAV", "GSM610", speech(8000), 8000)
    x, rate, warnings = through(entrance, data, tmp_path, strict=True)
    assert (rate, warnings) == (8000, ())
    assert abs(len(x) - SECONDS * 8000) <= 320


# ---- WAV headers of the wild -------------------------------------------------------------------

LIES = [-1, 0, 1, 8, 28, 36, 44]
UNKNOWN_SIZES = [0, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF, 0xFFFFFFFF - 36]


def with_data_size(data: bytes, size: int) -> bytes:
    position = data.index(b"data") + 4
    return data[:position] + struct.pack("<I", size) + data[position + 4 :]


def wav(subtype: str = "PCM_16", channels: int = 1, rate: int = 16000) -> bytes:
    return by_soundfile("WAV", subtype, speech(rate, channels), rate)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("lie", LIES)
def test_a_data_size_that_is_off_by_a_header_loses_nothing_and_is_no_loss(lie, subtype, entrance, tmp_path):
    data = wav(subtype, channels=2)
    size = struct.unpack("<I", data[(position := data.index(b"data") + 4) : position + 4])[0]
    x, _, warnings = through(entrance, with_data_size(data, size + lie), tmp_path, strict=True)
    expected = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    assert len(expected) - len(x) == (lie < 0)  # of a frame that isn't whole
    np.testing.assert_array_equal(x, expected[: len(x)])
    assert warnings == ()


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("size", UNKNOWN_SIZES)
def test_a_data_size_that_was_never_filled_in_is_the_rest_of_the_file(size, subtype, entrance, tmp_path):
    data = wav(subtype, channels=2)
    x, _, warnings = through(entrance, with_data_size(data, size), tmp_path, strict=True)
    np.testing.assert_array_equal(x, soundfile.read(io.BytesIO(data), dtype="float32")[0])
    assert warnings == ()


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "W64", "RF64", "CAF"])
def test_of_a_file_that_was_cut_off_what_is_there_comes_with_how_much_is_missing(
    container, part, entrance, tmp_path
):
    whole = speech(16000, 1, 4)
    data = by_soundfile(container, "PCM_16", whole, 16000)
    cut = data[: int(len(data) * part)]
    x, rate, warnings = through(entrance, cut, tmp_path)
    assert len(x) == pytest.approx(part * len(whole), abs=2100)  # CAF has 4 KB before the audio
    np.testing.assert_allclose(x, whole[: len(x)], atol=1 / 32768)
    missing, total = _seconds(warnings[0])
    assert missing == pytest.approx(4 - len(x) / rate, abs=0.02) and total == pytest.approx(4, abs=0.02)
    with pytest.raises(AudioError, match="missing: the file was cut off"):
        through(entrance, cut, tmp_path, strict=True)


def _seconds(warning: str) -> tuple[float, float]:
    found = re.match(r"([\d.]+) s of ([\d.]+) s are missing", warning)
    return float(found[1]), float(found[2])


COMPRESSED = {
    "flac": lambda x: by_soundfile("FLAC", "PCM_16", x, 48000),
    "mp3": lambda x: by_av("mp3", "libmp3lame", x, 48000),
    "vorbis": lambda x: by_soundfile("OGG", "VORBIS", x, 48000),
    "opus": lambda x: by_soundfile("OGG", "OPUS", x, 48000),
    "m4a, its index first": lambda x: by_av("ipod", "aac", x, 48000, movflags="+empty_moov+frag_keyframe"),
    "webm": lambda x: by_av("webm", "libopus", x, 48000),
    "wma": lambda x: by_av("asf", "wmav2", x, 48000),
}


@functools.cache
def twelve_seconds(kind: str) -> bytes:
    return COMPRESSED[kind](speech(48000, 1, 12))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_of_a_compressed_file_that_was_cut_off_what_is_there_comes_with_a_warning(kind, part):
    if (kind, part) == ("wma", 0.99):
        pytest.skip("Windows Media promises 0.05 s more than it has, whole or not")
    data = twelve_seconds(kind)
    cut = data[: int(len(data) * part)]
    found, rate, warnings = load(cut)
    # of the container's unit that was cut through nothing is left: a page of Ogg is a second or more
    assert part * 12 - 2.5 <= len(found) / rate <= part * 12 + 0.3
    assert warnings and ("missing" in warnings[0])
    with pytest.raises(AudioError, match="missing"):
        load(cut, strict=True)


def test_an_m4a_without_its_index_is_refused_with_the_likely_reason():
    data = by_av("ipod", "aac", speech(44100), 44100)
    with pytest.raises(AudioError, match="MP4 container that can't be read .*was it cut off"):
        load(data[: len(data) // 2])


def test_the_chunks_behind_an_empty_data_chunk_are_no_sound():
    empty = wav()[: wav().index(b"data")] + b"data" + bytes(4)
    behind = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf62.12.102\0"
    for more in (b"", b"id3 " + struct.pack("<I", 3) + b"abc\0", b"id3 " + struct.pack("<I", 3) + b"abc"):
        with pytest.raises(AudioError, match="without audio"):
            load(empty + behind + more)


def test_a_data_size_that_is_far_too_small_is_read_as_the_built_in_does_with_a_warning():
    data = by_soundfile("WAV", "PCM_16", speech(16000, 1, 5), 16000)  # a recorder that crashed
    x, _, warnings = load(with_data_size(data, 32000))
    assert len(x) == 16000 and warnings[0].startswith("4.00 s may be missing: the file goes on")
    with pytest.raises(AudioError, match="may be missing"):
        load(with_data_size(data, 32000), strict=True)
    for harmless in (b"LIST" + struct.pack("<I", 4) + b"INFO", b"TAG" + bytes(125), bytes(999)):
        assert load(data + harmless).warnings == ()


@pytest.mark.parametrize("container", ["AU", "AIFF", "CAF", "W64"])
def test_sizes_of_streams_in_other_containers_are_no_loss(container):
    data = bytearray(by_soundfile(container, "PCM_16", speech(16000), 16000))
    if container == "AU":
        data[8:12] = b"\xff" * 4
    elif container == "CAF":
        begin = data.index(b"data") + 4
        data[begin : begin + 8] = b"\xff" * 8
    elif container == "AIFF":
        data[4:8] = b"\x7f\xff\xff\xff"
        begin = data.index(b"SSND") + 4
        data[begin : begin + 4] = b"\x7f\xff\xff\xff"
    else:
        begin = data.index(b"data\xf3\xac") + 16
        data[16:24] = data[begin : begin + 8] = b"\xff" * 8
    x, _, warnings = load(bytes(data))
    np.testing.assert_allclose(x, speech(16000), atol=1 / 32768)
    assert warnings == ()


@pytest.mark.parametrize("kind", ["wav", "flac", "aac", "m4a", "ogg", "mp3"])
def test_id3_tags_before_any_container_are_skipped(kind):
    data = {
        "wav": wav,
        "flac": whole_flac,
        "aac": lambda: by_av("adts", "aac", speech(44100), 44100),
        "m4a": lambda: by_av("ipod", "aac", speech(44100), 44100),
        "ogg": lambda: by_soundfile("OGG", "VORBIS", speech(44100), 44100),
        "mp3": mp3,
    }[kind]()
    tag = b"ID3\4\0\0\0\0\1\x48" + bytes(200)
    np.testing.assert_array_equal(load(tag + tag + data).samples, load(data).samples)


def test_a_file_of_very_many_files_is_refused():
    with pytest.raises(AudioError, match="2000 files in one"):
        load(by_soundfile("WAV", "PCM_16", speech(8000, 1, 0.001), 8000) * 2000)


# ---- who reads what ----------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("container", ["WAV", "FLAC", "AIFF", "CAF"])
def test_pcm_is_that_of_libsndfile_to_the_last_bit_as_the_built_in_reads_it(container, subtype):
    if container == "WAV" and subtype == "PCM_S8":
        subtype = "PCM_U8"
    data = by_soundfile(container, subtype, speech(44100, 2), 44100)
    expected = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    np.testing.assert_array_equal(load(data).samples, expected)


def test_pyav_is_imported_for_what_libsndfile_does_not_read_only(run_python, tmp_path):
    (tmp_path / "a.wav").write_bytes(wav())
    (tmp_path / "a.mp3").write_bytes(mp3())
    said = run_python(
        "import sys\nfrom modelscope_zipenhancer.audio.read import read\n"
        "read('a.wav'); print('av' in sys.modules); read('a.mp3'); print('av' in sys.modules)"
    )
    assert said.split() == ["False", "True"]


def test_without_pyav_the_container_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match="MP3 audio, which is read by PyAV: pip install av"):
        load(mp3())
    assert len(load(wav()).samples)


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{path}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "dash": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>{path}</BaseURL></MPD>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_nothing(kind, tmp_path):
    (tmp_path / "secret.wav").write_bytes(wav())
    text = PLAYLISTS[kind].format(path=tmp_path / "secret.wav")
    with pytest.raises(AudioError, match="no audio that can be read"):
        load(text.encode())
    # not even behind the first bytes of a container that is allowed
    with pytest.raises(AudioError):
        load(b"ID3\4\0\0\0\0\0\0" + text.encode())


def test_ffmpeg_is_given_a_demuxer_by_name_no_protocol_and_no_way_to_open_files(monkeypatch):
    data, calls = by_av("ipod", "aac", speech(44100), 44100), []
    true_open = av.open

    def spy(file, *args, **kwargs):
        calls.append(kwargs)
        return true_open(file, *args, **kwargs)

    monkeypatch.setattr(av, "open", spy)
    load(data)
    assert calls[0]["format"] == "mov" and calls[0]["options"] == {"protocol_whitelist": "none"}
    with pytest.raises(PermissionError, match="/etc/passwd"):
        calls[0]["io_open"]("/etc/passwd", 1, {})


def test_a_file_without_an_audio_track_is_named_as_one():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuvj420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")))
        out.mux(stream.encode(None))
    with pytest.raises(AudioError, match="Matroska container without an audio track"):
        load(file.getvalue())


def test_an_open_file_stays_open(tmp_path):
    (tmp_path / "a.mp3").write_bytes(mp3())
    with open(tmp_path / "a.mp3", "rb") as file:
        load(file)
        assert not file.closed


def test_a_limit_of_duration_holds_for_every_reader_whatever_the_header_says():
    closed = Policy(max_duration=0.5)
    for data in (wav(), mp3(), whole_flac(), by_av("webm", "libopus", speech(48000), 48000)):
        with pytest.raises(AudioError, match="longer than the limit of 0.5 s"):
            load(data, policy=closed)
        assert len(load(data, policy=Policy(max_duration=60)).samples)


def test_zeros_packed_into_a_small_file_are_refused_before_they_are_in_memory():
    file = by_soundfile("FLAC", "PCM_16", np.zeros((4_000_000, 8), np.int16), 48000)  # 128 MB of float32
    assert len(file) < 200_000
    for policy, message in (
        (Policy(max_samples=2_000_000), "more samples than the limit of 2000000 in 8 channel"),
        (Policy(max_duration=10), "longer than the limit of 10 s"),
    ):
        tracemalloc.start()
        with pytest.raises(LimitError, match=message):
            load(file, policy=policy)
        assert tracemalloc.get_traced_memory()[1] < 30e6
        tracemalloc.stop()
    assert len(load(file).samples) == 4_000_000  # a program that trusts its caller has it all


def test_files_joined_to_one_are_measured_at_the_rate_and_channels_that_they_are_brought_to():
    begin = by_soundfile("WAV", "PCM_16", np.zeros((100, 64), np.int16), 96000)
    then = by_soundfile("WAV", "PCM_16", np.zeros((100_000, 1), np.int16), 1000)  # 614 million samples there
    tracemalloc.start()
    with pytest.raises(LimitError, match="more samples"):
        load(begin + then, policy=Policy(max_samples=1_000_000))
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_garbage_is_refused_or_read_but_never_raises_anything_else():
    rng = np.random.default_rng(0)
    whole = [made(*case.values[:5])[0] for case in CASES if case.values[6] == "bytes"][::7]
    for data in whole:
        for _ in range(4):
            damaged = bytearray(data)
            for position in rng.integers(0, min(len(data), 3000), 20):
                damaged[position] = rng.integers(256)
            with contextlib.suppress(AudioError):
                load(bytes(damaged))


# ---- beside the built-in -----------------------------------------------------------------------

BUILT_IN = [
    *[("WAV", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610")],
    *[
        (c, "PCM_16")
        for c in ("AIFF", "AU", "CAF", "W64", "RF64", "FLAC", "VOC", "NIST", "PAF", "IRCAM", "AVR")
    ],
    *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("CAF", "ALAC_16")],
]
DAMAGES = {
    "whole": lambda data: data,
    "cut at 10 %": lambda data: data[: len(data) // 10],
    "cut at 50 %": lambda data: data[: len(data) // 2],
    "cut at 99 %": lambda data: data[: len(data) * 99 // 100],
    "joined": lambda data: data + data,
    "zeros behind": lambda data: data + bytes(1000),
    "a tag behind": lambda data: data + b"TAG" + bytes(125),
    "wrong in the middle": lambda data: data[: len(data) // 2] + b"\xa5" * 50 + data[len(data) // 2 + 50 :],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("container, subtype", BUILT_IN)
def test_nothing_is_refused_or_shortened_that_the_built_in_enhances(container, subtype, damage):
    """It reads by soundfile.read: ours has as much or more, or the built-in has nothing."""
    rate = 8000 if subtype == "GSM610" else 16000
    data = DAMAGES[damage](by_soundfile(container, subtype, speech(rate, 1, 3), rate))
    try:
        x, its_rate = soundfile.read(io.BytesIO(data))
    except (RuntimeError, ValueError):
        x, its_rate = np.zeros(0), rate
    if len(x) == 0:
        return
    ours = load(data)
    assert len(ours.samples) / ours.sample_rate >= len(x) / its_rate - 0.001


# ---- found by fuzzing (benchmarks/fuzz.py) -----------------------------------------------------


def pcm_wav(x: np.ndarray, rate: int) -> bytes:
    """int16 (samples, channels) behind a header that says any rate and as many channels."""
    channels = x.shape[1]
    layout = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2, 16)
    body = b"fmt " + struct.pack("<I", 16) + layout + b"data" + struct.pack("<I", x.nbytes) + x.tobytes()
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def test_ten_samples_of_1024_channels_take_no_room_for_minutes():
    tracemalloc.start()
    try:
        assert load(pcm_wav(np.ones((10, 1024), np.int16), 16000)).samples.shape == (10, 1024)
        assert tracemalloc.get_traced_memory()[1] < 20e6  # 512 MB it was
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_sample_rate_that_none_has_is_refused_before_anything_is_resampled(rate):
    with pytest.raises(AudioError, match=f"says a sample rate of {rate} Hz: expected a whole number from"):
        load(pcm_wav(np.ones((999, 1), np.int16), rate))


@pytest.mark.parametrize("unlike", [(1000, 1), (16000, 64)])
def test_files_in_one_do_not_grow_by_what_the_first_of_them_says(unlike):
    (rate, channels), x = unlike, np.ones((999, 1), np.int16)
    first = pcm_wav(np.ones((9, channels), np.int16), 192_000 if channels == 1 else rate)
    found, _, warnings = load(first + pcm_wav(x, rate))
    assert len(found) == 9 and "too unlike" in warnings[0]


def test_a_midi_sample_dump_is_refused_since_libsndfile_prints_its_errors(capfd):
    data = bytearray(by_soundfile("SDS", "PCM_16", speech(16000), 16000))
    data[200] ^= 0x7F
    with pytest.raises(AudioError, match="MIDI sample dump"):
        load(bytes(data))
    assert capfd.readouterr() == ("", "")


def test_a_header_that_leads_before_the_beginning_prints_nothing(capfd):
    data = by_soundfile("CAF", "PCM_16", speech(16000), 16000)
    for size in (-1, -2, -100, -(1 << 40)):
        for kind in (b"chan", b"info", b"data", b"free"):
            chunk = b"caff\0\1\0\0" + data[8:52] + kind + struct.pack(">q", size) + data[52:]
            with contextlib.suppress(AudioError):
                load(chunk)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("level", [1e11, 1e30])
def test_samples_beyond_any_full_scale_are_refused_since_their_squares_overflow(level):
    x = speech(16000)
    x[777] = level
    with pytest.raises(AudioError, match="beyond 1e.10, the first at 777"):
        load(by_soundfile("WAV", "FLOAT", x, 16000))
    assert len(load(by_soundfile("WAV", "FLOAT", speech(16000) * 2**31, 16000)).samples)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_a_big_endian_wav_is_read_as_the_built_in_reads_it(subtype):
    file = io.BytesIO()
    soundfile.write(file, speech(16000), 16000, format="WAV", subtype=subtype, endian="BIG")
    assert file.getvalue()[:4] == b"RIFX"
    expected = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)[0]
    samples, _, warnings = load(file.getvalue())
    np.testing.assert_array_equal(samples, expected)
    assert not warnings


def test_a_flac_with_a_hole_says_what_is_missing_or_is_refused():
    file = io.BytesIO()
    soundfile.write(file, speech(9 * 16_000), 16_000, format="FLAC")
    data = file.getvalue()
    third = len(data) // 3
    damaged = data[:third] + bytes(third // 2) + data[third + third // 2 :]
    recording = load(damaged)
    whole = len(load(data).samples) / 16_000
    missing = whole - len(recording.samples) / 16_000
    assert missing > 1 and f"{missing:.2f} s of {whole:.2f} s are missing" in recording.warnings[0]
    with pytest.raises(AudioError, match="are missing"):
        load(damaged, strict=True)
    assert load(data).warnings == ()
