"""Laws of a stream at any rate, with backends that need no network."""

import asyncio
import tracemalloc

import numpy as np
import pytest
from test_overlap_add import identity, smoother

from modelscope_zipenhancer.audio.resample import resampler_delay
from modelscope_zipenhancer.enhance import overlap_add as engine
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.enhance.grid import ONE_PASS, Grid, stream_grid
from modelscope_zipenhancer.enhance.streaming import Stream
from modelscope_zipenhancer.errors import AudioError, OptionError, StreamError

SMALL = Grid(window=1000, past=200, ahead=100, fade=50)
RATES = [8000, 11025, 16000, 22050, 44100, 48000]


def blocks_of(x, rng, largest):
    start = 0
    while start < len(x):
        size = int(rng.integers(1, largest))
        yield x[start : start + size]
        start += size


@pytest.mark.parametrize("rate", RATES)
def test_what_comes_back_does_not_depend_on_the_blocks_and_is_as_long_as_what_went_in(rate):
    rng = np.random.default_rng(rate)
    for seconds in (0.001, 0.3, 1.234):
        x = rng.standard_normal(int(rate * seconds)).astype(np.float32)
        first = np.concatenate(list(Stream(smoother, SMALL, rate).run([x])))
        assert first.shape == x.shape and first.dtype == np.float32
        for _ in range(3):
            again = Stream(smoother, SMALL, rate).run(blocks_of(x, rng, rate // 20))
            np.testing.assert_array_equal(np.concatenate(list(again)), first)


def test_the_length_is_kept_for_200_random_lengths_rates_and_channel_counts():
    rng = np.random.default_rng(5)
    for _ in range(200):
        rate = int(rng.choice([*RATES, rng.integers(4000, 96_000)]))
        channels, samples = int(rng.integers(1, 4)), int(rng.integers(1, rate))
        x = rng.standard_normal((samples, channels)).astype(np.float32)
        stream = Stream(identity, SMALL, rate, channels)
        y = np.concatenate([b.reshape(-1, channels) for b in stream.run(blocks_of(x, rng, rate))])
        assert y.shape == x.shape


@pytest.mark.parametrize("rate", [16000, 44100])
def test_streamed_is_the_same_as_offline_on_the_same_grid(rate):
    rng = np.random.default_rng(2)
    x = (0.1 * rng.standard_normal(rate * 8)).astype(np.float32)
    assert len(x) * 16000 / rate > ONE_PASS
    streamed = np.concatenate(list(Stream(smoother, Grid(), rate).run(blocks_of(x, rng, rate))))
    offline = Enhancer(smoother)(x, sample_rate=rate)
    np.testing.assert_allclose(streamed, offline, atol=2e-6)  # float32 and float64 in the resamplers


@pytest.mark.parametrize("rate", RATES)
def test_no_sample_is_held_back_longer_than_the_latency_says(rate):
    stream = Stream(identity, stream_grid(200, 100, 50), rate)
    allowed, held = stream.latency_ms * rate / 1000, []
    fed = returned = 0
    for block in blocks_of(np.ones(3 * rate, np.float32), np.random.default_rng(0), rate // 500):
        fed, returned = fed + len(block), returned + len(stream.feed(block))
        held.append(fed - returned)
    assert 0.7 * allowed < max(held) <= allowed


def test_the_latency_of_a_16_khz_stream_is_chunk_and_ahead_and_fade():
    assert Stream(identity, stream_grid(500, 1000, 100)).latency_ms == 500 + 100 + 50
    assert Stream(identity, stream_grid(20, 1000, 0)).latency_ms == 20 + 20  # a fade no longer than a chunk
    assert resampler_delay(16000, 16000) == 0.0


def test_each_channel_is_enhanced_by_itself():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5000, 2)).astype(np.float32) * [0.1, 1.0]
    both = np.concatenate(list(Stream(smoother, SMALL, 16000, channels=2).run([x])))
    for i in range(2):
        alone = np.concatenate(list(Stream(smoother, SMALL).run([x[:, i]])))
        np.testing.assert_array_equal(both[:, i], alone)


def test_integer_blocks_are_scaled_by_their_full_scale():
    x = np.random.default_rng(4).integers(-32768, 32768, 3000).astype(np.int16)
    y = np.concatenate(list(Stream(identity, SMALL).run([x])))
    np.testing.assert_allclose(y, x / 32768, atol=1e-6)
    eight = (x // 256 + 128).astype(np.uint8)
    stream = Stream(identity, stream_grid())
    found = np.concatenate([stream.feed(eight), stream.flush()])
    np.testing.assert_allclose(found, (eight - 128.0) / 128, atol=1e-6)


@pytest.mark.parametrize(
    "block, message",
    [
        (np.zeros((10, 2), np.float32), r"shape \(10, 2\): this stream takes \(samples,\)"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([0.0, 1e30]), "beyond 1e"),
        (np.ones(10, np.int64), "int64 from 1 to 1.*16-bit"),
        (np.float32(0.0), "shape"),
    ],
)
def test_a_block_that_does_not_fit_is_refused_and_the_stream_goes_on(block, message):
    stream = Stream(identity, SMALL)
    stream.feed(np.ones(500, np.float32))
    with pytest.raises(AudioError, match=message):
        stream.feed(block)
    assert len(stream.flush()) == 500


def test_silence_then_speech_stays_finite_and_quiet_before_it():
    stream = Stream(identity, SMALL, 48000)
    y = np.concatenate(list(stream.run([np.zeros(96_000, np.float32), np.ones(48_000, np.float32)])))
    assert np.isfinite(y).all() and not y[:90_000].any()


@pytest.mark.parametrize("channels", [1, 2])
def test_a_stream_whose_network_has_failed_gives_no_more_sound(channels):
    calls = []

    def failing(waveform, gain=None):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("CUDA error")
        return waveform

    stream = Stream(failing, SMALL, channels=channels)
    block = np.zeros((800, channels), np.float32)[:, slice(None) if channels > 1 else 0]
    with pytest.raises(RuntimeError, match="CUDA"):
        for _ in range(10):
            stream.feed(block)
    for again in (lambda: stream.feed(block), stream.flush):
        with pytest.raises(StreamError, match="has failed"):
            again()


def test_the_end_of_a_stream_has_the_axes_of_its_blocks():
    assert Stream(identity, SMALL, channels=np.int64(2)).channels == 2
    x = np.random.default_rng(0).standard_normal((3000, 1)).astype(np.float32)
    assert np.concatenate(list(Stream(identity, SMALL).run([x]))).shape == (3000, 1)
    assert np.concatenate(list(Stream(identity, SMALL).run([x[:, 0]]))).shape == (3000,)


@pytest.mark.parametrize("options", [{"chunk_ms": "500"}, {"channels": "2"}, {"strength": "12"}])
def test_an_option_of_a_stream_that_is_text_is_named(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        Enhancer(identity).stream(**options)


def test_a_long_stream_takes_constant_memory():
    stream = Stream(identity, stream_grid(), 48000)
    block = np.ones(4800, np.float32)
    tracemalloc.start()
    try:
        for _ in range(100):
            stream.feed(block)
        early = tracemalloc.get_traced_memory()[0]
        for _ in range(3000):  # five minutes
            stream.feed(block)
        assert tracemalloc.get_traced_memory()[0] - early < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_async_form_gives_what_the_other_gives():
    x = np.random.default_rng(6).standard_normal(4000).astype(np.float32)

    async def collect():
        async def arriving():
            for start in range(0, len(x), 160):
                yield x[start : start + 160]

        return [block async for block in Stream(smoother, SMALL).run_async(arriving())]

    expected = np.concatenate(list(Stream(smoother, SMALL).run([x])))
    np.testing.assert_array_equal(np.concatenate(asyncio.run(collect())), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"chunk_ms": 0}, "chunk_ms=0"),
        ({"past_ms": -1}, "past_ms=-1"),
        ({"ahead_ms": float("nan")}, "ahead_ms=nan"),
        ({"chunk_ms": float("inf")}, "chunk_ms=inf"),
        ({"sample_rate": 0}, "0 Hz"),
        ({"channels": 0}, "channels=0"),
        ({"strength": -3}, "strength=-3"),
    ],
)
def test_an_option_that_can_not_be_is_named(options, message):
    with pytest.raises(OptionError, match=message) as caught:
        Enhancer(identity).stream(**options)
    assert isinstance(caught.value, ValueError)


def test_the_network_sees_windows_of_past_and_chunk_and_fade_and_ahead():
    seen = set()

    def backend(waveform, gain=None):
        seen.add(waveform.shape)
        return waveform

    list(Enhancer(backend).stream(chunk_ms=400, past_ms=500, ahead_ms=50).run([np.ones(48_000)]))
    assert seen == {(1, 16 * (500 + 400 + 50 + 50))}


def test_the_strength_of_a_stream_leaves_that_much_of_the_noise():
    x = 0.1 * np.random.default_rng(7).standard_normal(40_000).astype(np.float32)
    stream = Enhancer(lambda w, gain=None: np.zeros_like(w)).stream(100, 100, 20, strength=20)
    np.testing.assert_allclose(np.concatenate(list(stream.run([x]))), 0.1 * x, atol=1e-6)


def test_an_engine_session_and_a_stream_at_16_khz_are_the_same():
    x = np.random.default_rng(8).standard_normal(9000).astype(np.float32)
    session = engine.StreamingSession(smoother, SMALL)
    expected = np.concatenate([session.feed(x), session.flush()])
    np.testing.assert_array_equal(np.concatenate(list(Stream(smoother, SMALL).run([x]))), expected)


def test_a_seam_is_no_step_even_between_chunks_that_disagree():
    """A click is a second difference at a seam far above those around it."""
    count = 0

    def moody(waveform):  # the worst case: every chunk at another level
        nonlocal count
        count += 1
        return waveform * (0.5 if count % 2 else 1.0)

    tone = np.sin(2 * np.pi * 440 * np.arange(6 * 16000) / 16000).astype(np.float32)
    y = np.concatenate(list(Enhancer(moody).stream(500, 500, 100).run([tone])))
    second = np.abs(np.diff(y, 2))
    for seam in range(8000, len(y) - 8000, 8000):
        assert second[seam - 3 : seam + 3].max() <= 1.05 * second[seam - 320 : seam + 320].max()
        assert second[seam - 320 : seam + 320].max() <= 1.1 * np.abs(np.diff(tone, 2)).max()
