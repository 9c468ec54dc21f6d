"""One behaviour over every kind of input."""

import base64
import contextlib
import io
import os
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modelscope_zipenhancer.audio.read import read
from modelscope_zipenhancer.audio.resample import resample
from modelscope_zipenhancer.audio.samples import pcm16, to_mono
from modelscope_zipenhancer.audio.write import FORMATS, check_output, encode, write
from modelscope_zipenhancer.errors import (
    AudioError,
    AudioNotFoundError,
    FetchError,
    OutputError,
    ZipEnhancerError,
)

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)).astype(np.float32)


def wav_bytes(x=TONE, rate=16000, container="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, x, rate, format=container, subtype=subtype)
    return file.getvalue()


@pytest.fixture
def served():
    """A loopback web server; yields its URL and what it does, which a test may change."""
    behaviour = {"body": wav_bytes(), "stall": threading.Event(), "stalls": False}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(behaviour["body"])))
            self.end_headers()
            if behaviour["stalls"]:
                behaviour["stall"].wait(20)
            else:
                self.wfile.write(behaviour["body"])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/noisy.wav", behaviour
    behaviour["stall"].set()
    server.shutdown()
    server.server_close()


KINDS = {
    "path": lambda path: str(path),
    "Path": lambda path: path,
    "file URL": lambda path: path.as_uri(),
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: open(path, "rb"),
    "base64": lambda path: base64.b64encode(path.read_bytes()).decode(),
    "data URL": lambda path: "data:audio/wav;base64," + base64.b64encode(path.read_bytes()).decode(),
    "float32 array": lambda path: TONE,
    "float64 array": lambda path: TONE.astype(np.float64),
    "int16 array": lambda path: np.rint(TONE * 32768).astype(np.int16),
    "int32 array": lambda path: np.rint(TONE.astype(np.float64) * 2**31).astype(np.int32),
    "tensor": lambda path: torch.from_numpy(TONE),
    "channels-first tensor": lambda path: torch.from_numpy(TONE)[None],
    "tensor with gradient": lambda path: torch.from_numpy(TONE).requires_grad_(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_samples_come_from_every_kind_of_source(kind, tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(wav_bytes())
    source = KINDS[kind](path)
    with source if hasattr(source, "close") else contextlib.nullcontext():
        x, rate = read(source)
    assert (x.dtype, x.shape, rate) == (np.float32, (8000, 1), 16000)
    np.testing.assert_allclose(x[:, 0], TONE, atol=1 / 32768)


def test_a_url_is_fetched(served):
    x, rate = read(served[0])
    assert (x.shape, rate) == ((8000, 1), 16000)


def test_a_url_that_stalls_ends_in_a_time_out_that_names_it(served, monkeypatch):
    url, behaviour = served
    behaviour["stalls"] = True
    monkeypatch.setattr("modelscope_zipenhancer.audio.fetch.FETCH_TIMEOUT", 0.3)
    with pytest.raises(FetchError, match="127.0.0.1") as caught:
        read(url)
    assert isinstance(caught.value, OSError)


def test_an_unreachable_url_is_named():
    with pytest.raises(FetchError, match="http://127.0.0.1:9/x.wav"):
        read("http://127.0.0.1:9/x.wav")


@pytest.mark.parametrize(
    "container, subtype",
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "PCM_32"),
        ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"),
        ("WAVEX", "PCM_16"),
        ("WAVEX", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("FLAC", "PCM_24"),
        ("AIFF", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_every_format_of_libsndfile_gives_the_tone_back(container, subtype):
    tolerance = {"PCM_U8": 0.01, "VORBIS": 0.05, "OPUS": 0.1, "MPEG_LAYER_III": 0.05}.get(subtype, 1e-4)
    x, rate = read(wav_bytes(container=container, subtype=subtype))
    spectrum = np.abs(np.fft.rfft(x[:8000, 0] * np.hanning(len(x[:8000]))))
    assert rate == 16000
    assert np.argmax(spectrum) == 220  # 440 Hz
    assert np.abs(x).max() == pytest.approx(0.5, abs=tolerance)


def test_stereo_is_averaged_not_cut_to_its_first_channel():
    stereo = np.stack([TONE, 0.5 * TONE], axis=1)
    x, _ = read(wav_bytes(stereo))
    np.testing.assert_allclose(to_mono(x), TONE * 0.75, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_any_rate_becomes_16_khz_with_the_tone_where_it_was(rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    x, read_rate = read(wav_bytes(tone, rate))
    y = resample(to_mono(x), read_rate, 16000)
    assert len(y) == 16000
    assert np.argmax(np.abs(np.fft.rfft(y))) == 440


# ---- headers -----------------------------------------------------------------------------------


def with_data_size(data: bytes, size: int) -> bytes:
    position = data.index(b"data") + 4
    return data[:position] + struct.pack("<I", size) + data[position + 4 :]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36])
@pytest.mark.parametrize("riff_size", [0, 0xFFFFFFFF])
def test_a_header_without_the_data_size_as_streams_have_is_understood(size, riff_size):
    data = with_data_size(wav_bytes(), size)
    data = data[:4] + struct.pack("<I", riff_size) + data[8:]
    x, _ = read(data)
    np.testing.assert_allclose(x[:, 0], TONE, atol=1 / 32768)


def test_a_chunk_after_the_data_is_not_taken_for_audio():
    data = wav_bytes() + b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert read(data)[0].shape == (8000, 1)


BAD = {
    "empty": (b"", "empty"),
    "header only": (wav_bytes(np.zeros(0)), "without audio"),
    "half a header": (wav_bytes()[:20], "without audio"),
    "garbage": (bytes(range(256)) * 20, "headerless PCM"),
    "headerless PCM": (np.rint(TONE * 32768).astype("<i2").tobytes(), r"numpy.frombuffer\(data, '<i2'\)"),
    "NaN": (np.where(np.arange(8000) == 77, np.nan, TONE), "NaN or infinite samples, the first at 77"),
    "infinity": (np.where(np.arange(8000) == 5, np.inf, TONE), "the first at 5"),
    "NaN in a file": (
        wav_bytes(np.where(np.arange(8000) == 9, np.nan, TONE), subtype="FLOAT"),
        "the first at 9",
    ),
    "no samples": (np.zeros(0, np.float32), "holds no samples"),
    "three dimensions": (np.zeros((2, 3, 4)), "expected"),
    "complex": (np.zeros(10, complex), "complex128"),
    "bad base64": ("data:audio/wav;base64,@@@", "base64"),
    "no source at all": (object(), "can't be read from object"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_by_one_family_that_is_a_value_error_too(case):
    source, message = BAD[case]
    with pytest.raises(AudioError, match=message) as caught:
        read(source)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, ZipEnhancerError)


@pytest.mark.parametrize("name", ["missing.wav", "a/b/c.flac", "x" * 70])
def test_a_missing_path_is_a_file_not_found_error_that_names_it(name, tmp_path):
    with pytest.raises(AudioNotFoundError, match=name) as caught:
        read(str(tmp_path / name))
    assert isinstance(caught.value, FileNotFoundError)


def test_a_folder_is_named_as_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read(tmp_path)


def test_a_file_open_as_text_is_refused(tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(wav_bytes())
    with open(path, encoding="latin-1") as file, pytest.raises(AudioError, match="'rb'"):
        read(file)


# ---- output ------------------------------------------------------------------------------------


def test_full_scale_is_clipped_and_never_wraps():
    x = np.array([1.0, -1.0, 2.0, -3.0, 0.5 / 32768, 0.0])
    assert pcm16(x).tolist() == [32767, -32768, 32767, -32768, 0, 0]


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_the_suffix_names_the_format_and_nothing_else_is_left(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    write(path, TONE, 16000)
    x, _ = read(path)
    assert np.abs(x).max() == pytest.approx(0.5, abs=0.1)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["missing/out.wav", "out.xyz", "out"])
def test_an_output_that_can_not_be_is_refused(name, tmp_path):
    with pytest.raises(OutputError, match=Path(name).name):
        check_output(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "out.wav"
    path.write_bytes(b"old")

    def full(name, *args, **kwargs):
        Path(os.fsdecode(name)).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        write(path, TONE, 16000)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.wav"]


def test_a_full_disk_leaves_nothing_behind_and_says_how_much_is_free(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(OutputError, match="MB are free there"):
            write(tmp_path / "out.wav", TONE, 16000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_the_bytes_are_those_that_the_file_would_have(suffix, tmp_path):
    x, rate = read(encode(TONE, 16000, suffix))
    assert rate == 16000 and np.abs(x).max() == pytest.approx(0.5, abs=0.1)
