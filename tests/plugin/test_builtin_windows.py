"""The built-in's windows, with backends that need no network."""

import numpy as np
import pytest

from modelscope_zipenhancer.enhance.grid import MINIMUM, ONE_PASS
from modelscope_zipenhancer.plugin import builtin_windows

RATE = 16000


def identity(waveform):
    return waveform


def enhance(backend, x):
    return np.concatenate([*builtin_windows.pieces(backend, x)])


def test_output_is_exactly_as_long_as_input_for_200_random_lengths():
    rng = np.random.default_rng(3)
    lengths = [1, 199, MINIMUM - 1, MINIMUM, ONE_PASS, ONE_PASS + 1, *rng.integers(1, 400_000, 194)]
    for samples in lengths:
        x = rng.standard_normal(samples).astype(np.float32)
        np.testing.assert_allclose(enhance(identity, x), x, atol=1e-6)


@pytest.mark.parametrize("samples", [ONE_PASS + 1, 11 * RATE, 400_000])
def test_the_windows_are_2_s_long_and_start_every_1_5_s(samples):
    starts = []

    def backend(waveform):
        assert waveform.shape == (1, 2 * RATE)
        starts.append(int(waveform[0, 0]))
        return waveform

    enhance(backend, np.arange(samples, dtype=np.float32))
    assert starts == [i * 3 * RATE // 2 for i in range(len(starts))]


def test_the_splices_are_hard_and_250_ms_from_the_ends_of_the_windows():
    windows = iter(range(1, 100))
    y = enhance(lambda waveform: np.full_like(waveform, next(windows)), np.zeros(11 * RATE, np.float32))
    splices = np.flatnonzero(np.diff(y)) + 1
    assert splices.tolist() == [int(RATE * (1.75 + 1.5 * i)) for i in range(len(splices))]
    assert np.diff(y)[splices - 1].tolist() == [1.0] * len(splices)


def test_up_to_6_s_it_is_one_pass():
    shapes = []

    def backend(waveform):
        shapes.append(waveform.shape)
        return waveform

    enhance(backend, np.zeros(ONE_PASS, np.float32))
    assert shapes == [(1, ONE_PASS)]
