"""The library's object: with the bundled model, and with backends that need none."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import fftconvolve

from modelscope_zipenhancer.audio.policy import SERVED
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.errors import (
    AudioError,
    ForbiddenError,
    ModelNotFoundError,
    OptionError,
    OutputError,
)
from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.pretrained import MODELS, find_model
from modelscope_zipenhancer.train.augment import generated_response

EXAMPLE = Path(__file__).parents[2] / "examples" / "noisy_speech.wav"
BUNDLED = sorted(path.name for path in MODELS.iterdir() if path.is_dir())


def level_db(x):
    return 10 * np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-12)


@pytest.fixture(scope="module")
def tiny():
    return Enhancer.from_pretrained("tiny", device="cpu")


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_is_small_and_5_times_cheaper_than_s(name):
    from torch.utils.flop_counter import FlopCounterMode

    from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer

    model = load_model(find_model(name))
    assert sum(p.numel() for p in model.parameters()) <= 500_000
    assert (MODELS / name / "pytorch_model.bin").stat().st_size < 2_000_000

    def flops(network):
        import torch

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.rand(1, 201, 161), torch.rand(1, 201, 161))
        return counter.get_total_flops()

    assert flops(ZipEnhancer()) > 5 * flops(model)


def test_tiny_silences_the_pauses_of_the_example_and_leaves_the_speech(tiny):
    noisy, _ = soundfile.read(EXAMPLE)
    clean = tiny(EXAMPLE)
    assert clean.shape == noisy.shape and clean.dtype == np.float32
    pause = slice(0, 6000)  # the recording starts with half a second of noise alone
    assert level_db(noisy[pause]) - level_db(clean[pause]) > 15
    speech = slice(8000, -8000)
    assert -6 < level_db(clean[speech]) - level_db(noisy[speech]) < 0


def test_tiny_leaves_a_voice_from_across_a_room(tiny):
    voice = tiny(EXAMPLE)
    for seed in range(4):
        room = generated_response(np.random.default_rng(seed), rt60=0.8, ratio_db=(-10, -10))
        heard = fftconvolve(voice, room)[: len(voice)].astype(np.float32)
        assert -2.5 < level_db(tiny(heard)) - level_db(heard) < 0.5


def test_the_level_of_the_input_is_kept(tiny):
    x, _ = soundfile.read(EXAMPLE, frames=40_000)
    quiet = tiny(x / 64)
    assert level_db(quiet * 64) == pytest.approx(level_db(tiny(x)), abs=0.1)


@pytest.mark.parametrize("seconds", [1.5, 4, 9])
def test_an_offset_of_the_waveform_changes_nothing(tiny, seconds):
    x = np.resize(soundfile.read(EXAMPLE, dtype="float32")[0], int(seconds * 16_000))
    x -= x.mean()
    without, with_it = tiny(x), tiny(x + np.float32(0.2))
    assert abs(with_it.mean()) < 0.01
    # chunks differ in their last bits, and the network reads wrapped phase
    assert level_db(with_it - without) < level_db(without) - 25


@pytest.mark.parametrize("gain", ["chunk", "recording"])
def test_an_offset_reaches_the_network_neither_with_one_gain_nor_behind_silence(gain):
    levels = []

    def backend(waveform, gain=None):
        levels.extend(np.std(waveform, axis=1) * (1 if gain is None else gain))
        return waveform

    x = np.concatenate([np.zeros(16_000), noise(112_000)[:, 0], np.zeros(16_000)]).astype(np.float32)
    offset = 0.3 * (x != 0).astype(np.float32)
    Enhancer(backend)(x, gain=gain)
    without = levels.copy()
    levels.clear()
    Enhancer(backend)(x + offset, gain=gain)
    np.testing.assert_allclose(levels, without, rtol=0.01)


def test_the_start_of_a_stream_hears_no_offset():
    heard = []
    stream = Enhancer(lambda waveform, gain=None: heard.extend(waveform) or waveform).stream()
    stream.feed(noise(48_000)[:, 0] + np.float32(0.3))
    assert len(heard) > 1 and all(abs(x[x != 0].mean()) < 0.001 for x in heard)


def test_a_recording_without_an_offset_is_heard_bit_for_bit():
    heard = []
    Enhancer(lambda waveform: heard.append(waveform.copy()) or waveform)(noise(48_000))
    assert np.array_equal(heard[0][0], noise(48_000)[:, 0])


def test_silence_gives_silence(tiny):
    assert not tiny(np.zeros(16_000)).any()
    assert not tiny(np.zeros(160_000)).any()


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_of_a_tone_over_digital_silence_the_network_makes_no_other_sound(backend):
    """Without its bound it ends this one in a click of 18."""
    if backend == "onnx":
        pytest.importorskip("onnxruntime")
    enhancer = Enhancer.from_pretrained("tiny", device="cpu", backend=backend)
    time = np.arange(8 * 16_000) / 16_000
    x = np.round(0.3 * np.sin(2 * np.pi * 440 * time) * 32768) / 32768
    assert np.abs(enhancer(x.astype(np.float32), sample_rate=16_000)).max() < 0.05


def test_threads_that_share_an_enhancer_get_what_each_would_get_alone(tiny):
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(16_000).astype(np.float32) * 0.1 for _ in range(4)]
    alone = [tiny(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for x, y in zip(alone, pool.map(tiny, inputs)):
            np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("name", ["tyni", "./nowhere", "a/b/c", ""])
def test_an_unknown_model_is_named_and_the_known_ones_are_listed(name):
    with pytest.raises(ModelNotFoundError, match="tiny") as caught:
        Enhancer.from_pretrained(name)
    assert isinstance(caught.value, FileNotFoundError) and repr(name) in str(caught.value)


# ---- rates, channels and options, with backends that need no network ---------------------------


def identity(waveform, gain=None):
    return waveform


def silencer(waveform, gain=None):
    return np.zeros_like(waveform)


def noise(samples, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((samples, channels)).astype(np.float32)


def test_the_shape_is_kept_for_200_random_lengths_rates_and_channel_counts():
    rng = np.random.default_rng(0)
    enhancer = Enhancer(identity)
    for _ in range(200):
        rate = int(rng.choice([8000, 16_000, 44_100, 48_000, rng.integers(4000, 96_000)]))
        samples = int(rng.choice([1, 2, 3, rng.integers(4, rate)]))
        channels = int(rng.integers(1, 5))
        bandwidth = str(rng.choice(["low", "full"]))
        y = enhancer.enhance(noise(samples, channels), rate, bandwidth=bandwidth)
        assert (y.shape, y.dtype) == ((samples, channels), np.float32)
        target = int(rng.choice([8000, 16_000, 44_100]))
        y = enhancer.enhance(noise(samples, channels), rate, output_rate=target, mono=True)
        assert y.shape == (-(-samples * target // rate), 1)


def test_a_recording_comes_back_at_its_own_rate_with_its_own_channels():
    stereo = noise(44_100, 2)
    assert Enhancer(identity)(stereo, sample_rate=44_100).shape == (44_100, 2)
    assert Enhancer(identity)(stereo.T, sample_rate=44_100).shape == (44_100, 2)
    assert Enhancer(identity)(stereo[:, 0], sample_rate=44_100).shape == (44_100,)


def test_a_long_recording_is_held_once_before_and_once_after():
    x = noise(300 * 16000)
    tracemalloc.start()
    try:
        Enhancer(identity).enhance(x, 16000)
        assert tracemalloc.get_traced_memory()[1] < 1.15 * x.nbytes  # beside x itself
    finally:
        tracemalloc.stop()


def test_a_stereo_recording_at_another_rate_can_come_back_mono_at_16_khz():
    y = Enhancer(identity)(noise(44_100, 2), sample_rate=44_100, output_rate=16_000, mono=True)
    assert y.shape == (16_000,)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_what_the_network_leaves_alone_comes_back_where_and_as_loud_as_it_was(rate):
    time = np.arange(rate) / rate
    x = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0.1 * np.sin(2 * np.pi * 1000 * time)], axis=1)
    x *= np.hanning(rate)[:, None]
    np.testing.assert_allclose(Enhancer(identity)(x, sample_rate=rate), x, atol=1e-4)


def test_each_channel_is_enhanced_by_itself():
    def quiet_only(waveform, gain=None):
        return waveform * (np.abs(waveform).max() < 0.5)

    x = noise(20_000, 2) * [0.1, 10.0]
    y = Enhancer(quiet_only)(x)
    np.testing.assert_allclose(y, x * [1, 0], atol=1e-7)


@pytest.mark.parametrize("strength", [0, 6, 20, None, np.inf])
def test_strength_is_by_how_many_db_noise_is_turned_down_at_most(strength):
    x = noise(16_000)[:, 0]
    y = Enhancer(silencer)(x, strength=strength)
    left = level_db(y) - level_db(x)
    assert left < -90 if strength in (None, np.inf) else left == pytest.approx(-strength, abs=0.01)


def test_strength_mixes_in_phase_so_that_kept_speech_stays_as_it_is():
    x = noise(20_000)[:, 0]
    np.testing.assert_allclose(Enhancer(identity)(x, strength=12), x, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"strength": -1}, "strength=-1"),
        ({"strength": "12"}, "strength='12'"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"bandwidth": "wide"}, "bandwidth='wide'"),
        ({"output_rate": 0}, "0 Hz"),
        ({"sample_rate": 10}, "10 Hz"),
    ],
)
def test_an_option_out_of_range_is_named(options, message):
    with pytest.raises(OptionError, match=message) as caught:
        Enhancer(identity)(noise(100), **options)
    assert isinstance(caught.value, ValueError)


def test_samples_of_any_type_and_shape_are_enhanced_and_what_are_none_is_refused():
    enhancer, x = Enhancer(identity), noise(4000)[:, 0]
    assert enhancer.enhance(x, 16_000).shape == (4000, 1)
    pcm = np.rint(x * 32768).astype(np.int16)
    np.testing.assert_allclose(enhancer.enhance(pcm, 16_000)[:, 0], x, atol=1e-4)
    for samples, said in (
        (np.zeros((2, 3, 4), np.float32), r"an array of shape \(2, 3, 4\)"),
        (np.full((100, 1), np.nan, np.float32), "NaN"),
        (np.zeros((0, 1), np.float32), "no samples"),
    ):
        with pytest.raises(AudioError, match=said):
            enhancer.enhance(samples, 16_000)


def test_an_unknown_backend_or_device_is_named():
    with pytest.raises(OptionError, match="unknown backend 'torsch', known are: torch"):
        Enhancer.from_pretrained("tiny", backend="torsch")
    with pytest.raises(OptionError, match="device 'gpu' can't be used"):
        Enhancer.from_pretrained("tiny", device="gpu")


def test_a_row_without_audio_stays_one():
    cells = Enhancer(identity).map_batch({"audio": [None, noise(1000)[:, 0]]})["audio"]
    assert cells[0] is None and cells[1]["bytes"][:4] == b"fLaC"


def test_a_batch_comes_back_in_order_and_is_read_only_when_it_is_asked_for():
    asked = []

    def sources():
        for i in range(5):
            asked.append(i)
            yield np.full(1000 + i, 0.1 * i, np.float32)

    batch = Enhancer(identity).batch(sources())
    first = next(batch)
    assert asked == [0] and len(first) == 1000
    assert [len(y) for y in batch] == [1001, 1002, 1003, 1004]


def test_one_source_is_no_batch():
    # it was taken letter by letter: "no audio file at 'n'"
    for source in ("noisy.wav", EXAMPLE, b"RIFF"):
        with pytest.raises(OptionError, match="sources=.*several were expected, a list"):
            Enhancer(identity).batch(source)


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(OptionError, match="column='audio': the batch has 'sound', 'text'"):
        Enhancer(identity).map_batch({"sound": [], "text": []})


def test_a_file_keeps_its_rate_and_channels(tmp_path):
    soundfile.write(tmp_path / "in.flac", noise(22_050, 2), 44_100)
    enhancer = Enhancer(identity)
    assert enhancer.enhance_file(tmp_path / "in.flac", tmp_path / "out.wav") == 0.5
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.frames) == (44_100, 2, 22_050)
    enhancer.enhance_file(tmp_path / "in.flac", tmp_path / "out.wav", output_rate=16_000, mono=True)
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.frames) == (16_000, 1, 8000)


def test_an_output_that_can_not_be_written_is_refused_before_the_work(tmp_path):
    def never(waveform, gain=None):
        raise AssertionError("worked")

    with pytest.raises(OutputError, match="no folder"):
        Enhancer(never).enhance_file(EXAMPLE, tmp_path / "missing" / "out.wav")
    for path in (None, b"clean.wav", io.BytesIO()):
        with pytest.raises(OptionError, match="can't be written to .*: a path was expected"):
            Enhancer(never).enhance_file(EXAMPLE, path)


def test_a_batch_of_a_data_set_takes_the_options_of_a_call():
    enhancer = Enhancer(identity)
    cells = enhancer.map_batch({"audio": [noise(8000)]}, format="WAV", sample_rate=8000)["audio"]
    assert soundfile.info(io.BytesIO(cells[0]["bytes"])).samplerate == 8000
    with pytest.raises(ForbiddenError, match="isn't allowed here"):
        enhancer.map_batch({"audio": [str(EXAMPLE)]}, policy=SERVED)
    with pytest.raises(OutputError, match="unknown audio format '.m4a'"):
        enhancer.map_batch({"audio": iter(())}, format="m4a")


def test_a_rate_that_is_a_whole_number_may_be_a_float():
    assert Enhancer(identity).enhance(noise(4410), 44_100.0).shape == (4410, 1)


def test_a_folder_that_is_called_as_a_bundled_model_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("tiny") == str(MODELS / "tiny")
    (tmp_path / "tiny" / "configuration.json").write_text("{}")
    assert find_model("tiny") == "tiny"


def test_progress_is_that_of_all_channels():
    seen = []
    Enhancer(identity)(noise(200_000, 3), progress=lambda *step: seen.append(step))
    assert seen[-1] == (600_000, 600_000) and [done for done, _ in seen] == sorted(done for done, _ in seen)


# ---- above 8 kHz -------------------------------------------------------------------------------


def wide_band_speech(rate=48_000, seconds=6.0):
    """Something like speech with its pauses: syllables of harmonics, each with a hiss up to 20 kHz."""
    rng = np.random.default_rng(0)
    time = np.arange(int(rate * seconds)) / rate
    voiced = sum(np.sin(2 * np.pi * 140 * n * time + n) / n for n in range(1, 40))
    spectrum = np.fft.rfft(rng.standard_normal(len(time)))
    hertz = np.fft.rfftfreq(len(time), 1 / rate)
    hiss = np.fft.irfft(spectrum * ((hertz > 4000) & (hertz < 20_000)), len(time))
    phase = time / 0.6 % 1.0  # a syllable: 0.24 s of vowel, 0.12 s of hiss, 0.24 s of nothing
    bump = np.clip(np.minimum(phase, 0.4 - phase) * 12, 0, 1)
    burst = np.clip(np.minimum(phase - 0.4, 0.6 - phase) * 24, 0, 1)
    return (0.1 * bump * voiced + 0.2 * burst * hiss).astype(np.float32)


def si_sdr(estimate, clean):
    part = clean * (estimate @ clean / (clean @ clean))
    return 10 * np.log10(np.sum(part**2) / np.sum((estimate - part) ** 2))


def spectral_distance(estimate, clean, rate=48_000):
    """Log-spectral distance in dB, with a floor 60 dB below the loudest bin."""

    def levels(x):
        frames = np.lib.stride_tricks.sliding_window_view(x, 1536)[::768] * np.hanning(1536)
        return np.abs(np.fft.rfft(frames))

    clean, estimate = levels(clean), levels(estimate)
    floor = clean.max() * 1e-3
    difference = 20 * np.log10(np.maximum(estimate, floor) / np.maximum(clean, floor))
    return np.sqrt((difference**2).mean(1)).mean()


@pytest.mark.parametrize("snr_db", [0, 10, 20])
def test_the_full_band_is_better_than_leaving_or_dropping_what_is_above_8_khz(snr_db):
    """With a network that does well; benchmarks/bandwidth.py has the bundled one on recorded speech."""
    clean = wide_band_speech()
    clean_16k = Enhancer(identity)(clean, sample_rate=48_000, output_rate=16_000)

    def good(waveform, gain=None):
        return clean_16k + 0.1 * (waveform - clean_16k)

    x = clean + noise(len(clean))[:, 0] * 10 * np.sqrt(np.mean(clean**2)) * 10 ** (-snr_db / 20)
    full, dropped = (Enhancer(good)(x, 48_000, bandwidth=bandwidth) for bandwidth in ("full", "low"))
    left = dropped + x - Enhancer(identity)(x, sample_rate=48_000)
    for other in (left, dropped):
        assert si_sdr(full, clean) > si_sdr(other, clean)
        assert spectral_distance(full, clean) < spectral_distance(other, clean)


def test_the_full_band_is_the_input_where_nothing_is_removed_and_nothing_where_all_is():
    x = noise(30_000)[:, 0]
    np.testing.assert_allclose(Enhancer(identity)(x, sample_rate=48_000, bandwidth="full"), x, atol=1e-6)
    assert np.abs(Enhancer(silencer)(x, sample_rate=48_000, bandwidth="full")).max() < 1e-6


def test_the_low_band_has_nothing_above_8_khz():
    y = Enhancer(identity)(noise(48_000)[:, 0], sample_rate=48_000)
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y))))
    assert spectrum[8300:].max() < 1e-3 * spectrum[:7000].max()
