"""Entrances: what may hold a recording, under which policy, and what errors say of it."""

import base64
import io
import mmap
import os
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest
import soundfile
from recordings import by_av, by_soundfile, speech

from modelscope_zipenhancer.audio.policy import OPEN, SERVED, Policy
from modelscope_zipenhancer.audio.read import load, read
from modelscope_zipenhancer.errors import AudioError, AudioNotFoundError, OptionError

WAV = by_soundfile("WAV", "PCM_16", speech(16000), 16000)
SAMPLES = soundfile.read(io.BytesIO(WAV), dtype="float32", always_2d=True)[0]
CONTAINERS = {
    "wav": lambda: WAV,
    "rf64": lambda: by_soundfile("RF64", "PCM_16", speech(16000), 16000),
    "w64": lambda: by_soundfile("W64", "PCM_16", speech(16000), 16000),
    "aiff": lambda: by_soundfile("AIFF", "PCM_16", speech(16000), 16000),
    "au": lambda: by_soundfile("AU", "PCM_16", speech(16000), 16000),
    "caf": lambda: by_soundfile("CAF", "PCM_16", speech(16000), 16000),
    "flac": lambda: by_soundfile("FLAC", "PCM_16", speech(16000), 16000),
    "ogg": lambda: by_soundfile("OGG", "VORBIS", speech(16000), 16000),
    "mp3": lambda: by_av("mp3", "libmp3lame", speech(16000), 16000),
    "mp3 without ID3": lambda: by_av("mp3", "libmp3lame", speech(16000), 16000, id3v2_version=0),
    "mp3 at 8 kHz without ID3": lambda: by_av("mp3", "libmp3lame", speech(8000), 8000, id3v2_version=0),
    "mp2": lambda: by_av("mp2", "mp2", speech(16000), 16000),
    "aac": lambda: by_av("adts", "aac", speech(16000), 16000),
    "m4a": lambda: by_av("ipod", "aac", speech(16000), 16000),
    "webm": lambda: by_av("webm", "libopus", speech(16000), 16000),
    "wma": lambda: by_av("asf", "wmav2", speech(16000), 16000),
    "amr": lambda: by_av("amr", "libopencore_amrnb", speech(8000), 8000),
    "avi": lambda: by_av("avi", "libmp3lame", speech(16000), 16000),
    "mpegts": lambda: by_av("mpegts", "aac", speech(16000), 16000),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_base64_of_every_container_is_known_as_such_with_or_without_line_breaks(container):
    data = CONTAINERS[container]()
    expected = load(data)
    for text in (
        base64.b64encode(data).decode(),
        base64.encodebytes(data).decode(),
        base64.b64encode(data).decode().rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        "data:audio/x;codecs=opus;base64," + base64.b64encode(data).decode(),
        "data:audio/x;base64," + urllib.parse.quote(base64.b64encode(data).decode()),
        "data:audio/x," + urllib.parse.quote(data),
    ):
        np.testing.assert_array_equal(load(text).samples, expected.samples)


def test_base64_that_is_no_audio_is_named_without_its_content():
    text = base64.b64encode(bytes(range(256)) * 300).decode()
    for source in (text, "data:audio/wav;base64," + text, text[:-7] + "*", "RIFF" * 20000):
        with pytest.raises((AudioError, AudioNotFoundError)) as caught:
            load(source)
        assert len(str(caught.value)) < 500 and text[2000:2040] not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".wav", "/" + "y/" * 3000 + "a.wav", "https://127.0.0.1:9/" + "z" * 900]
)
def test_a_long_name_is_shortened_in_messages(name):
    with pytest.raises((AudioError, AudioNotFoundError, OSError)) as caught:
        load(name)
    assert len(str(caught.value)) < 250


def test_a_path_of_type_numpy_str_is_a_path(tmp_path):
    (tmp_path / "a.wav").write_bytes(WAV)
    for path in (np.str_(tmp_path / "a.wav"), np.array([str(tmp_path / "a.wav")])[0]):
        np.testing.assert_array_equal(load(path).samples, SAMPLES)
    np.testing.assert_array_equal(load(np.bytes_(WAV + b"\1")).samples, SAMPLES)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_a_pandas_series_or_frame_is_an_array(dtype):
    pandas = pytest.importorskip("pandas")
    stereo = soundfile.read(io.BytesIO(by_soundfile("WAV", "PCM_16", speech(16000, 2), 16000)), dtype=dtype)[
        0
    ]
    np.testing.assert_array_equal(load(pandas.Series(stereo[:, 0])).samples, load(stereo[:, 0]).samples)
    np.testing.assert_array_equal(load(pandas.DataFrame(stereo)).samples, load(stereo).samples)
    with pytest.raises(AudioError, match="Series of shape"):
        load(pandas.Series(["a", "b"]))


def test_an_open_sound_file_is_read_on_from_where_it_is():
    with soundfile.SoundFile(io.BytesIO(WAV)) as sound:
        sound.seek(100)
        x, rate, warnings = load(sound)
    np.testing.assert_array_equal(x, SAMPLES[100:])
    assert (rate, warnings) == (16000, ())
    with pytest.raises(AudioError, match="the open SoundFile can't be read"):
        load(sound)  # closed


def test_an_open_file_is_read_on_from_where_it_is(tmp_path):
    (tmp_path / "a").write_bytes(b"header" + WAV)
    with open(tmp_path / "a", "rb") as file:
        file.seek(6)
        np.testing.assert_array_equal(load(file).samples, SAMPLES)


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="this system has no /dev/stdin")
@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "m4a", "amr"])
def test_dev_stdin_is_read_whether_pipe_or_file(container, tmp_path):
    data = CONTAINERS[container]()
    (tmp_path / "a").write_bytes(data)
    code = (
        "from modelscope_zipenhancer.audio.read import load\n"
        "x, rate, warnings = load('/dev/stdin'); print(len(x), rate, len(warnings))"
    )
    expected = f"{len(load(data).samples)} {load(data).sample_rate} 0"
    for stdin in (None, open(tmp_path / "a", "rb")):
        with stdin or open(os.devnull, "rb") as file:
            given = {"stdin": file} if stdin else {"input": data}
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, **given)
        assert done.stdout.decode().strip() == expected, done.stderr.decode()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "m4a"])
def test_a_named_pipe_is_read(container, tmp_path):
    data = CONTAINERS[container]()
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(data))
    thread.start()
    np.testing.assert_array_equal(load(tmp_path / "pipe").samples, load(data).samples)
    thread.join()


def test_a_file_object_that_fails_is_an_audio_error_that_names_it():
    class Broken(io.RawIOBase):
        name = "the camera"

        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

    with pytest.raises(AudioError, match="camera.*Input/output error"):
        load(Broken())


# ---- policy ------------------------------------------------------------------------------------


def test_a_closed_policy_reads_no_paths_but_bytes(tmp_path):
    (tmp_path / "a.wav").write_bytes(WAV)
    closed = Policy(local_files=False)
    for source in (str(tmp_path / "a.wav"), tmp_path / "a.wav", (tmp_path / "a.wav").as_uri(), "/etc/passwd"):
        with pytest.raises(AudioError, match="isn't allowed here"):
            load(source, policy=closed)
    for source in (WAV, base64.b64encode(WAV).decode(), io.BytesIO(WAV), SAMPLES):
        assert len(load(source, policy=closed).samples) == len(SAMPLES)


def test_a_limit_of_bytes_holds_for_every_entrance(tmp_path):
    (tmp_path / "a.wav").write_bytes(WAV)
    small, enough = Policy(max_bytes=len(WAV) - 1), Policy(max_bytes=len(WAV))
    for make in (
        lambda: WAV,
        lambda: tmp_path / "a.wav",
        lambda: io.BytesIO(WAV),
        lambda: base64.b64encode(WAV).decode(),
        lambda: _Unseekable(WAV),
    ):
        with pytest.raises(AudioError, match=f"limit of {len(WAV) - 1} bytes"):
            load(make(), policy=small)
        assert len(load(make(), policy=enough).samples) == len(SAMPLES)


def test_a_limit_of_bytes_reads_no_more_of_a_pipe_than_that():
    endless = _Unseekable(None)
    with pytest.raises(AudioError, match="limit of 1000 bytes"):
        load(endless, policy=Policy(max_bytes=1000))
    assert endless.given < 100_000


def test_a_limit_of_duration_holds_for_arrays_and_sound_files_too():
    limit = Policy(max_duration=1.0)
    for make in (lambda: SAMPLES, lambda: soundfile.SoundFile(io.BytesIO(WAV))):
        with pytest.raises(AudioError, match="limit of 1 s"):
            load(make(), policy=limit)


def test_what_strangers_send_is_closed_and_what_a_program_reads_is_free():
    assert Policy() == OPEN
    assert not (SERVED.local_files or SERVED.private_addresses or SERVED.output_files)
    for name in ("max_bytes", "max_duration", "max_samples", "max_channels", "fetch_seconds"):
        assert getattr(SERVED, name)
    assert OPEN.local_files and OPEN.private_addresses and OPEN.output_files
    assert OPEN.max_bytes is OPEN.max_duration is OPEN.max_samples is None


class _Unseekable(io.RawIOBase):
    """A pipe; of None, one that never ends."""

    def __init__(self, data):
        self.file, self.given = io.BytesIO(data) if data is not None else None, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self.file.read(len(buffer)) if self.file else bytes(len(buffer))
        buffer[: len(part)] = part
        self.given += len(part)
        return len(part)


def test_read_logs_what_load_returns(caplog):
    x, rate = read(WAV[:10000])
    assert (rate, x.shape[1]) == (16000, 1)
    assert "the given bytes" in caplog.text and "s of 1.20 s are missing: the file was cut off" in caplog.text
    with pytest.raises(AudioError, match="missing"):
        read(WAV[:10000], strict=True)


def test_a_data_url_may_hold_any_text():
    for letter in ("\udc80", "\ud800", "\u00e9", "\0"):
        with pytest.raises(AudioError, match="the data URL is"):
            load(f"data:,{letter}")


def test_a_response_of_a_server_in_chunks_is_read_whole():
    class Response:  # as http.client's: no seek, and of read(n) what has arrived
        def __init__(self):
            self.data = io.BytesIO(WAV)

        def read(self, *amount):
            assert amount != (-1,)
            return self.data.read(*[min(n, 1000) for n in amount])

    for policy in (OPEN, SERVED):
        np.testing.assert_array_equal(load(Response(), policy=policy).samples, SAMPLES)


@pytest.mark.parametrize("missing", [0, 1000])
def test_an_mmap_is_an_open_file(tmp_path, missing):
    (tmp_path / "a.wav").write_bytes(WAV[: len(WAV) - missing])
    with (
        open(tmp_path / "a.wav", "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        np.testing.assert_array_equal(load(mapped).samples, SAMPLES[: len(SAMPLES) - missing // 2])


def test_a_file_that_is_closed_is_named(tmp_path):
    (tmp_path / "a.wav").write_bytes(WAV)
    with open(tmp_path / "a.wav", "rb") as file:
        pass
    with pytest.raises(AudioError, match="a.wav' can't be read: .*closed"):
        load(file)


def test_a_memoryview_may_have_gaps():
    np.testing.assert_array_equal(
        load(memoryview(np.repeat(np.frombuffer(WAV, "u1"), 2))[::2]).samples, SAMPLES
    )


@pytest.mark.parametrize("rate", [0, -8000, 44100.5, float("nan"), "16000"])
def test_a_rate_that_can_not_be_is_refused(rate):
    with pytest.raises(OptionError, match="a sample rate of"):
        load(SAMPLES, rate)


def test_a_rate_that_disagrees_with_the_recordings_own_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(WAV)
    for source in (WAV, str(tmp_path / "a.wav"), {"bytes": WAV, "path": None}, (SAMPLES, 16000)):
        assert load(source, 16000).sample_rate == 16000
        with pytest.raises(AudioError, match="is at 16000 Hz, and sample_rate=8000 was given"):
            load(source, 8000)


def test_a_file_url_may_name_the_machine(tmp_path):
    (tmp_path / "a b.wav").write_bytes(WAV)
    url = (tmp_path / "a b.wav").as_uri()
    for text in (url, url.replace("file://", "file://localhost")):
        np.testing.assert_array_equal(load(text).samples, SAMPLES)
