"""Files out: what a format can, said before the work; bits and bit rates; links, modes and long names."""

import io
import logging
import os

import numpy as np
import pytest
import soundfile
from recordings import speech

from modelscope_zipenhancer.audio.read import load
from modelscope_zipenhancer.audio.write import FORMATS, check_output, encode, output_rate, write
from modelscope_zipenhancer.errors import AudioError, OptionError, OutputError

X = speech(16000, 1, 3)[:, 0]
LOUD = X * np.float32(3 / np.abs(X).max())  # peaks of 3


# ---- rates and channels ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix, rate, expected",
    [
        (".opus", 44100, 48000),
        (".opus", 22050, 24000),
        (".opus", 11025, 12000),
        (".opus", 96000, 48000),
        (".opus", 16000, 16000),
        (".mp3", 96000, 48000),
        (".mp3", 10000, 11025),
        (".mp3", 44100, 44100),
        (".ogg", 384000, 192000),
        (".wav", 44100, 44100),
        (".flac", 96000, 96000),
    ],
)
def test_what_a_codec_has_no_rate_for_is_resampled_to_the_next(suffix, rate, expected, tmp_path):
    path = tmp_path / f"a{suffix}"
    assert output_rate(path, rate) == expected
    check_output(path, rate, 2)
    t = np.arange(2 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t).astype(np.float32)
    write(path, np.stack([tone, 0.5 * tone], axis=1), rate)
    x, read_rate, _ = load(path)
    assert read_rate == expected
    assert len(x) / read_rate == pytest.approx(2, abs=0.1)
    spectrum = np.abs(np.fft.rfft(x[: 2 * read_rate - 4000, 0]))
    assert np.argmax(spectrum) * read_rate / (2 * read_rate - 4000) == pytest.approx(440, abs=1)
    assert np.abs(x[4000:-4000]).max(axis=0) == pytest.approx([0.5, 0.25], abs=0.05)


IMPOSSIBLE = {
    "three channels of MP3": (".mp3", 16000, 3),
    "nine channels of FLAC": (".flac", 16000, 9),
    "a rate beyond FLAC": (".flac", 2_000_000, 1),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_a_format_can_not_hold_is_refused_before_the_work(case, tmp_path):
    suffix, rate, channels = IMPOSSIBLE[case]
    for name in (f"a{suffix}", f"{'b' * 100}{suffix}"):
        with pytest.raises(OutputError, match=f"{suffix} doesn't have {channels} channels at {rate} Hz"):
            check_output(tmp_path / name, rate, channels)
        with pytest.raises(OutputError, match=f"{channels} channels at {rate} Hz") as caught:
            write(tmp_path / name, np.zeros((10, channels), np.float32), rate)
        assert ".part" not in str(caught.value) and "free" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", sorted(FORMATS))
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_what_the_check_lets_pass_can_be_written(suffix, rate, tmp_path):
    path = check_output(tmp_path / f"a{suffix}", rate, 2)
    write(path, speech(rate, 2, 0.2), rate)
    assert load(path).samples.shape[1] == 2


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_stereo_has_the_level_of_each_channel_in_every_format(suffix, dtype, tmp_path):
    x = speech(48000, 2, 2)
    write(tmp_path / f"a{suffix}", np.rint(x * 32768).astype(np.int16) if dtype == "int16" else x, 48000)
    y = load(tmp_path / f"a{suffix}").samples
    level = np.sqrt(np.mean(y**2, axis=0) / np.mean(x**2, axis=0))
    assert level == pytest.approx([1, 1], abs=0.05)
    assert np.abs(y).max() == pytest.approx(np.abs(x).max(), abs=0.05)


# ---- bits and bit rates ------------------------------------------------------------------------

BITS = [(s, b) for s in (".wav", ".aiff", ".aif") for b in (16, 24, "32f")] + [(".flac", 16), (".flac", 24)]


@pytest.mark.parametrize("suffix, bits", BITS)
def test_bits_are_those_of_the_file(suffix, bits, tmp_path):
    path = tmp_path / f"a{suffix}"
    write(path, X, 16000, bits=bits)
    assert soundfile.info(path).subtype == {16: "PCM_16", 24: "PCM_24", "32f": "FLOAT"}[bits]
    y = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(y, X, atol={16: 2**-16, 24: 2**-24, "32f": 0}[bits] * 1.01)
    write(path, X, 16000, bits=str(bits))  # as a command line has it
    np.testing.assert_array_equal(soundfile.read(path, dtype="float32")[0], y)
    np.testing.assert_array_equal(load(encode(X, 16000, suffix, bits=bits)).samples[:, 0], y)


def test_bits_of_int16_samples_are_exact(tmp_path):
    x = np.arange(-32768, 32768).astype(np.int16)
    for bits in (None, 16, 24, "32f"):
        write(tmp_path / "a.wav", x, 16000, bits=bits)
        np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav")[0], x / 32768)


def test_32f_keeps_peaks_beyond_full_scale_and_the_others_count_what_they_clip(tmp_path, caplog):
    beyond = np.count_nonzero(np.abs(LOUD) > 1)
    write(tmp_path / "a.wav", LOUD, 16000, bits="32f")
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], LOUD)
    assert caplog.text == ""
    for name, bits in (("b.wav", None), ("b.flac", 24), ("b.mp3", None)):
        caplog.clear()
        write(tmp_path / name, LOUD, 16000, bits=bits)
        assert f"{name}" in caplog.text
        assert f"{beyond} of {len(LOUD)} samples are beyond full scale and clipped" in caplog.text
        assert ("bits='32f' keeps them" in caplog.text) == (name == "b.wav")
    caplog.clear()
    write(tmp_path / "c.wav", np.array([1.0, -1.0, 0.999]), 16000)
    assert caplog.text == ""


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", [".mp3", ".opus", ".ogg"])
def test_a_bit_rate_is_that_of_the_file(suffix, rate, channels, tmp_path):
    x = speech(rate, channels, 5)
    wanted = {".mp3": (24, 48, 64) if rate < 32000 else (64, 128, 256), ".opus": (16, 48, 96)}
    vorbis = {8000: 30, 16000: 40, 44100: 90, 48000: 90}[rate]
    for bitrate in wanted.get(suffix, (vorbis,)):
        path = tmp_path / f"a{suffix}"
        check_output(path, rate, channels, bitrate=bitrate)
        write(path, x, rate, bitrate=bitrate)
        kbps = os.path.getsize(path) * 8 / 5 / 1000
        # within a tenth, and what a container adds
        assert kbps == pytest.approx(bitrate, rel=0.12, abs=4), (bitrate, kbps)
        assert load(path).samples.shape[1] == channels


def test_without_bits_and_bit_rate_the_file_is_what_it_was_before(tmp_path):
    for suffix, (container, subtype) in FORMATS.items():
        file = io.BytesIO()
        soundfile.write(file, np.rint(X * 32768).astype(np.int16), 16000, format=container, subtype=subtype)
        made, before = load(encode(X, 16000, suffix)).samples, load(file.getvalue()).samples
        # MP3 is made of float32 now: of int16 in stereo libsndfile makes noise
        np.testing.assert_allclose(made, before, atol=0.02 if suffix == ".mp3" else 0)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("a.mp3", {"bits": 24}, ".mp3 has none"),
        ("a.opus", {"bits": 16}, ".opus has none"),
        ("a.flac", {"bits": "32f"}, "of .flac: 16, 24"),
        ("a.wav", {"bits": 20}, "of .wav: 16, 24, 32f"),
        ("a.wav", {"bitrate": 64}, ".wav has none"),
        ("a.flac", {"bitrate": 64}, ".flac has none"),
        ("a.mp3", {"bitrate": 0}, "expected kbit/s"),
        ("a.mp3", {"bitrate": 64000}, "expected kbit/s"),
        ("a.mp3", {"bitrate": float("nan")}, "expected kbit/s"),
    ],
)
def test_bits_and_bit_rates_that_a_format_has_not_are_refused_before_the_work(name, options, said, tmp_path):
    with pytest.raises(OptionError, match=said):
        check_output(tmp_path / name, **options)
    with pytest.raises(OptionError, match=said):
        write(tmp_path / name, X, 16000, **options)
    assert os.listdir(tmp_path) == []


# ---- names, links and modes --------------------------------------------------------------------

posix = pytest.mark.skipif(os.name == "nt", reason="names, links and modes of POSIX")


@posix
@pytest.mark.parametrize("length", [200, 225, 238, 250, 255])
@pytest.mark.parametrize("letter", ["a", "é", "音", "🎵"])
def test_a_name_that_the_file_system_takes_is_taken(length, letter, tmp_path):
    rest = length - len(".wav")
    name = letter * (rest // len(letter.encode())) + "x" * (rest % len(letter.encode())) + ".wav"
    assert len(name.encode()) == length
    check_output(tmp_path / name)
    write(tmp_path / name, X, 16000)
    assert os.listdir(tmp_path) == [name]


@posix
def test_a_name_that_it_does_not_take_is_refused_before_the_work(tmp_path):
    with pytest.raises(OutputError, match="at most 255 bytes"):
        check_output(tmp_path / ("a" * 252 + ".wav"))


@posix
@pytest.mark.parametrize("suffix", [".wav", ".mp3"])
def test_a_link_stays_one_and_its_target_is_written(suffix, tmp_path):
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / f"take 1{suffix}"
    for there in (False, True):  # a link may lead to what isn't there yet
        link = tmp_path / f"{there}{suffix}"
        if there:
            target.write_bytes(b"old")
        link.symlink_to(target)
        write(link, X, 16000)
        assert link.is_symlink() and not target.is_symlink()
        assert len(load(target).samples) >= len(X)
    (tmp_path / f"relative{suffix}").symlink_to(f"store/take 1{suffix}")
    write(tmp_path / f"relative{suffix}", X[:8000], 16000)
    assert len(load(target).samples) < len(X) and os.listdir(tmp_path / "store") == [target.name]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_the_mode_of_a_file_that_is_replaced_stays(mode, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path, X, 16000)
    assert path.stat().st_mode & 0o777 == mode and len(load(path).samples) == len(X)


@posix
def test_the_mode_of_a_new_file_is_that_of_any_other(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    write(tmp_path / "a.wav", X, 16000)
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "other").stat().st_mode


@posix
def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(OutputError, match="no regular file"):
        check_output(tmp_path / "a.wav")


@posix
def test_two_long_names_that_begin_alike_do_not_share_a_temporary_name(tmp_path):
    from modelscope_zipenhancer.files import replacing

    with replacing(tmp_path / ("a" * 250)) as one, replacing(tmp_path / ("a" * 249)) as other:
        assert one != other
        for name in (one, other):
            open(name, "w").close()
    assert len(os.listdir(tmp_path)) == 2


def test_nothing_is_logged_of_what_fits(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="modelscope_zipenhancer")
    for suffix in FORMATS:
        write(tmp_path / f"a{suffix}", X, 16000)
    assert caplog.text == ""


@posix
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_a_name_in_another_encoding_than_the_file_systems_is_written_and_read(suffix, tmp_path):
    name = os.fsdecode(b"Gespr\xe4ch" + suffix.encode())  # latin-1
    try:
        (tmp_path / name).write_bytes(b"")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    write(tmp_path / name, X, 16000, bits=None)
    assert os.listdir(tmp_path) == [name]
    assert load(tmp_path / name).samples.shape == (len(X), 1)


def test_a_name_with_a_nul_is_refused_and_no_other_file_is_written(tmp_path):
    (tmp_path / "important.txt").write_text("precious")
    with pytest.raises(OutputError, match="a name has no NUL"):
        write(f"{tmp_path}/important.txt\0.wav", X, 16000)
    assert (tmp_path / "important.txt").read_text() == "precious" and os.listdir(tmp_path) == [
        "important.txt"
    ]


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", "g"])
@pytest.mark.parametrize("bits", ["16", "32f"])
def test_floats_of_any_size_and_order_are_written_as_float32(dtype, bits, tmp_path):
    x = np.concatenate([[1.0, 0.5, -1.0], X]).astype(dtype)
    write(tmp_path / "a.wav", x, 16000, bits=bits)
    got, _ = soundfile.read(tmp_path / "a.wav")
    assert np.abs(got - x.astype(float)).max() <= 1 / 32768


def test_what_is_no_audio_is_refused_before_a_file_is_begun(tmp_path):
    for x, said in (
        (np.array([0.1, np.nan]), "NaN"),
        (np.float32(0.5), r"shape \(\)"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
    ):
        for written in (lambda x=x: write(tmp_path / "a.wav", x, 16_000), lambda x=x: encode(x, 16_000)):
            with pytest.raises(AudioError, match=said):
                written()
    for options, said in (
        ({"suffix": ".xyz"}, "unknown audio format '.xyz'"),
        ({"suffix": ".flac", "sample_rate": 700_000}, "at 700000 Hz"),
    ):
        with pytest.raises(OutputError, match=said):
            encode(np.zeros(100), **{"sample_rate": 16_000, **options})
    with pytest.raises(OptionError, match="bitrate=64: .wav has none"):
        encode(np.zeros(100), 16_000, bitrate=64)
    assert not list(tmp_path.iterdir())


def test_a_link_to_a_place_that_there_is_not_is_refused_before_the_work(tmp_path):
    (tmp_path / "link.wav").symlink_to(tmp_path / "gone" / "x.wav")
    with pytest.raises(OutputError, match="there is no folder .*gone"):
        check_output(tmp_path / "link.wav")


def test_a_tensor_that_is_trained_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    write(tmp_path / "a.wav", torch.zeros(100, requires_grad=True), 16_000)
    assert soundfile.info(tmp_path / "a.wav").frames == 100
