"""Types, channels and levels of samples in memory."""

import io
import logging

import numpy as np
import pytest
import soundfile
import torch
from recordings import speech

from modelscope_zipenhancer.audio.read import load
from modelscope_zipenhancer.audio.samples import Samples, beyond_full_scale, to_float32, to_mono, to_pcm
from modelscope_zipenhancer.audio.write import write
from modelscope_zipenhancer.errors import AudioError

X = speech(16000)[:, 0]
INT16 = to_pcm(X, 16)


# ---- channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.01, 1.2, 80])
def test_stereo_in_antiphase_is_its_loudest_channel_with_a_warning(seconds, caplog):
    x = speech(16000, 1, seconds)[:, 0]
    mono = to_mono(np.stack([0.9 * x, -x], axis=1))
    np.testing.assert_array_equal(mono, -x)
    assert "channel 2 of 2, the loudest" in caplog.text


@pytest.mark.parametrize("second", [1.0, 0.5, 0.0, -0.2])
def test_what_does_not_cancel_is_the_mean_to_the_last_bit(second, caplog):
    x = np.stack([X, np.float32(second) * X], axis=1)
    np.testing.assert_array_equal(to_mono(x), x.mean(axis=1))
    assert caplog.text == ""


def test_the_limit_is_6_db_below_the_mean_power_of_the_channels(caplog):
    for db, cancels in ((-5.9, False), (-6.1, True)):
        # channels of the same power, correlated so that their mean has db less
        rho = 2 * 10 ** (db / 10) - 1
        t = np.arange(16000) / 16000
        a, b = np.sin(2 * np.pi * 100 * t), np.cos(2 * np.pi * 100 * t)
        x = np.stack([a, rho * a + np.sqrt(1 - rho**2) * b], axis=1).astype(np.float32)
        caplog.clear()
        to_mono(x)
        assert bool(caplog.text) == cancels


@pytest.mark.parametrize("channels", [2, 3, 4, 6, 8])
def test_unrelated_channels_and_speech_in_one_of_many_do_not_cancel(channels, caplog):
    noise = np.random.default_rng(0).standard_normal((160_000, channels)).astype(np.float32)
    np.testing.assert_array_equal(to_mono(noise), noise.mean(axis=1))
    centre = np.zeros((len(X), channels), np.float32)
    centre[:, channels // 2] = X
    np.testing.assert_array_equal(to_mono(centre), centre.mean(axis=1))
    assert caplog.text == ""


def test_silence_does_not_cancel(caplog):
    assert not to_mono(np.zeros((100, 2), np.float32)).any()
    assert caplog.text == ""


# ---- types -------------------------------------------------------------------------------------

SAME_LEVEL = {
    "int8": lambda: np.rint(X * 128).astype(np.int8),
    "uint8": lambda: (np.rint(X * 128) + 128).astype(np.uint8),
    "int16": lambda: INT16,
    "int16, big-endian": lambda: INT16.astype(">i2"),
    "int32": lambda: INT16.astype(np.int32) << 16,
    "int32 of 24 bits": lambda: np.rint(X * 2.0**23).astype(np.int32) << 8,
    "int32, very quiet": lambda: np.rint(X * 30).astype(np.int32) << 8,
    "float16": lambda: X.astype(np.float16),
    "float64": lambda: X.astype(np.float64),
}


@pytest.mark.parametrize("of", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("kind", SAME_LEVEL)
def test_every_type_that_audio_comes_in_has_its_level(kind, of):
    x = SAME_LEVEL[kind]()
    if of is torch.from_numpy and "endian" in kind:
        pytest.skip("torch has no other byte order")
    expected = X * 30 / 2**23 if "quiet" in kind else X
    np.testing.assert_allclose(load(of(x)).samples[:, 0], expected, atol=1 / 120 if "8" in kind[:5] else 2e-4)


REFUSED = {
    "int64 of 16-bit values": INT16.astype(np.int64),
    "int32 of 16-bit values": INT16.astype(np.int32),
    "int64 of 32-bit values": INT16.astype(np.int64) << 16,
    "uint16": (INT16.astype(np.int32) + 32768).astype(np.uint16),
}


@pytest.mark.parametrize("of", ["array", "tensor", "saved"])
@pytest.mark.parametrize("kind", REFUSED)
def test_integers_of_an_unknown_scale_are_refused_with_what_was_seen(kind, of, tmp_path):
    x = REFUSED[kind]
    with pytest.raises(AudioError, match=rf"{x.dtype}.* from {x.min()} to {x.max()}.*numpy\.int16") as caught:
        if of == "saved":
            write(tmp_path / "a.wav", x, 16000)
        else:
            load(torch.from_numpy(x) if of == "tensor" else x)
    assert len(str(caught.value)) < 400 and list(tmp_path.iterdir()) == []


def test_a_list_of_numbers_in_numpy_is_refused_not_silence():
    with pytest.raises(AudioError, match="int64 from"):
        load(np.array([0, 1000, -1000, 32767]))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8])
def test_silence_in_integers_is_silence(dtype):
    x = load(np.full(100, 128 if dtype == np.uint8 else 0, dtype)).samples
    assert not x.any()


@pytest.mark.parametrize("dtype", ["bool", "complex64", "U3", "datetime64[s]"])
def test_other_types_are_refused(dtype):
    with pytest.raises(AudioError, match="expected float, int16, int32 or uint8 samples"):
        to_float32(np.zeros(3).astype(dtype), "the block")


def test_int16_is_exact_both_ways():
    every = np.arange(-32768, 32768).astype(np.int16)
    x = to_float32(every, "all")
    np.testing.assert_array_equal(x, every / 32768)
    np.testing.assert_array_equal(to_pcm(x, 16), every)
    np.testing.assert_array_equal(to_pcm(x, 24), every.astype(np.int32) << 16)


@pytest.mark.parametrize("kind", ["int16", "int32", "int32 of 24 bits", "uint8", "float64"])
def test_arrays_of_any_type_are_saved_at_their_level(kind, tmp_path):
    write(tmp_path / "a.wav", SAME_LEVEL[kind](), 16000)
    y, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_allclose(y, X, atol=1 / 120 if kind == "uint8" else 1 / 16384)


def test_clipped_samples_are_counted_in_blocks(caplog):
    x = np.zeros(3 << 20, np.float32)
    x[[0, 1 << 20, -1]] = [1.5, -1.01, 1.0]  # full scale itself isn't beyond
    assert beyond_full_scale(x) == 2
    caplog.set_level(logging.INFO)


def test_blocks_are_put_together_to_any_length():
    for channels in (1, 2, 6):
        parts = [speech(16000, channels, s, seed) for seed, s in enumerate((0.1, 0, 12, 0.001, 3))]
        samples = Samples(channels)
        for part in parts:
            samples.append(part)
        assert len(samples) == sum(map(len, parts))
        np.testing.assert_array_equal(samples.take(), np.concatenate(parts))


def test_a_wav_in_uint8_equals_its_array():
    file = io.BytesIO()
    soundfile.write(file, X, 16000, format="WAV", subtype="PCM_U8")
    data = file.getvalue()
    array = np.frombuffer(data[data.index(b"data") + 8 :][: len(X)], np.uint8)
    np.testing.assert_array_equal(load(data).samples, load(array).samples)
