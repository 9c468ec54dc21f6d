"""Laws of the chunk grid, with backends that need no network."""

import numpy as np
import pytest

from modelscope_zipenhancer.enhance.grid import MINIMUM, ONE_PASS, Grid
from modelscope_zipenhancer.enhance.overlap_add import StreamingSession, enhance

SMALL = Grid(window=1000, past=200, ahead=100, fade=50)


def identity(waveform, gain=None):
    return waveform


def smoother(waveform, gain=None):
    """Depends on position and on neighbours, as a network does."""
    padded = np.pad(waveform, ((0, 0), (3, 3)), mode="edge")
    return sum(padded[:, i : i + waveform.shape[1]] for i in range(7)) / 7


def stream(session, x, rng):
    out, start = [], 0
    while start < len(x):
        size = int(rng.integers(1, 3000))
        out.append(session.feed(x[start : start + size]))
        start += size
    return np.concatenate([*out, session.flush()])


@pytest.mark.parametrize("grid", [SMALL, Grid(1000, 0, 0, 0), Grid(1000, 0, 0, 400), Grid(1000, 900, 0, 40)])
def test_an_identity_backend_reconstructs_every_length_around_the_grid_edges(grid):
    rng = np.random.default_rng(0)
    edges = [k * grid.hop + shift for k in range(4) for shift in (0, grid.ahead, grid.window - grid.past)]
    for samples in {max(0, edge + around) for edge in edges for around in range(-2, 3)}:
        x = rng.standard_normal(samples).astype(np.float32)
        y = stream(StreamingSession(identity, grid, gain=1.0), x, rng)
        assert y.shape == x.shape
        np.testing.assert_allclose(y, x, atol=1e-6)


def test_what_a_stream_returns_does_not_depend_on_the_sizes_of_its_blocks():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(20_000).astype(np.float32)
    whole = StreamingSession(smoother, SMALL)
    first = np.concatenate([whole.feed(x), whole.flush()])
    for _ in range(5):
        np.testing.assert_array_equal(stream(StreamingSession(smoother, SMALL), x, rng), first)


def test_a_recording_enhanced_whole_is_the_same_as_streamed_with_the_same_grid():
    rng = np.random.default_rng(2)
    x = rng.standard_normal(ONE_PASS + 12_345).astype(np.float32)
    session = StreamingSession(smoother, Grid())
    np.testing.assert_array_equal(stream(session, x, rng), enhance(smoother, x))


def test_output_is_exactly_as_long_as_input_for_200_random_lengths():
    rng = np.random.default_rng(3)
    lengths = [1, 199, MINIMUM - 1, MINIMUM, ONE_PASS, ONE_PASS + 1, *rng.integers(1, 400_000, 194)]
    for samples in lengths:
        x = rng.standard_normal(samples).astype(np.float32)
        y = enhance(identity, x)
        np.testing.assert_allclose(y, x, atol=1e-6)


def test_every_chunk_has_the_same_length_and_is_scaled_by_itself():
    seen = []

    def backend(waveform, *gain):
        seen.append((waveform.shape, gain))
        return waveform

    enhance(backend, np.linspace(0, 1, 3 * ONE_PASS + 777, dtype=np.float32))
    assert set(seen) == {((1, Grid().window), ())}


def test_a_given_gain_is_that_of_every_chunk():
    gains = []

    def backend(waveform, gain):
        gains.append(gain.tolist())
        return waveform

    session = StreamingSession(backend, SMALL, gain=2.5)
    session.feed(np.ones(5000, np.float32))
    session.flush()
    assert len(gains) > 3 and all(gain == [2.5] for gain in gains)


@pytest.mark.parametrize("gain", [None, 2.5])
def test_a_backend_that_wants_several_chunks_at_a_time_gets_them_and_the_sound_is_the_same(gain):
    sizes = []

    class Batched:
        preferred_batch_size = 4

        def __call__(self, waveform, gain=None):
            sizes.append(len(waveform))
            assert gain is None or gain.shape == (len(waveform),)
            return smoother(waveform) * (1.0 if gain is None else gain[:, None])

    def alone(waveform, gain=None):
        return smoother(waveform) * (1.0 if gain is None else gain[:, None])

    x = np.random.default_rng(1).standard_normal(9 * SMALL.hop + 123).astype(np.float32)
    expected, found = (
        stream(StreamingSession(backend, SMALL, gain), x, np.random.default_rng(2))
        for backend in (alone, Batched())
    )
    np.testing.assert_array_equal(found, expected)
    sizes.clear()
    minute = np.resize(x, 60 * 16000)
    np.testing.assert_array_equal(enhance(Batched(), minute), enhance(alone, minute))
    assert max(sizes) == 4 and sizes.count(4) >= 2


def test_silence_in_a_stream_is_safe_for_any_length():
    session = StreamingSession(identity, SMALL)
    y = np.concatenate([session.feed(np.zeros(50_000, np.float32)), session.flush()])
    assert y.shape == (50_000,) and not y.any()


def test_a_session_keeps_no_more_than_its_window_and_a_block():
    session = StreamingSession(identity, SMALL)
    for _ in range(500):
        session.feed(np.zeros(333, np.float32))
        assert len(session._buffer) <= 2 * SMALL.window + 333


def test_a_flushed_session_takes_no_more():
    session = StreamingSession(identity, SMALL)
    assert session.flush().shape == (0,)
    with pytest.raises(ValueError, match="flushed"):
        session.feed(np.zeros(10, np.float32))


def test_a_grid_that_never_moves_on_is_refused():
    with pytest.raises(ValueError, match="less than window"):
        Grid(window=1000, past=500, ahead=400, fade=100)


def test_progress_ends_at_the_length_of_the_recording():
    seen = []
    enhance(identity, np.zeros(ONE_PASS * 2, np.float32), progress=lambda *a: seen.append(a))
    assert seen[-1] == (2 * ONE_PASS, 2 * ONE_PASS)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_one_gain_for_a_recording_is_that_of_all_of_it_and_counts_beyond_one_pass_only():
    gains = []

    def backend(waveform, gain=None):
        gains.append(gain)
        return waveform

    x = np.random.default_rng(0).standard_normal(ONE_PASS + 100_000).astype(np.float32)
    x[: len(x) // 2] *= 0.1
    np.testing.assert_allclose(enhance(backend, x, gain="recording"), x, atol=1e-6)
    expected = np.sqrt(len(x) / np.sum(np.square(x, dtype=np.float64)))
    assert len(gains) > 1 and all(np.allclose(gain, expected) for gain in gains)
    gains.clear()
    enhance(backend, x), enhance(backend, x[:ONE_PASS], gain="recording")
    enhance(backend, np.zeros_like(x), gain="recording")
    assert set(gains) == {None}
