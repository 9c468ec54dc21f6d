"""The band above 8 kHz, which the network doesn't hear: kept, as far as the one below was speech."""

import numpy as np

from ..audio.resample import fit, resample
from ..audio.samples import BLOCK
from ..names import SAMPLE_RATE

WINDOW = 512  # 32 ms at 16 kHz, Hann
HOP = 160  # 10 ms, from one gain to the next
LOWEST = 6000  # Hz; the gain is that of the band from here to 8 kHz: from 4 kHz it was worse
SMOOTHING = 3  # frames over which energies are averaged


def with_high_band(x: np.ndarray, rate: int, noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """The enhanced recording at its own rate, with what is above 8 kHz turned down in the pauses.

    x (samples,) at `rate` above 16 kHz; noisy: x resampled to 16 kHz; clean: noisy enhanced. With `up`
    resampling to `rate`,

        y = up(clean) + g * (x - up(noisy))        g = min(1, E / N)

    E, N: energies of clean and noisy from 6 to 8 kHz around each 10 ms, averaged over 3 of these; g,
    the Wiener gain if E is the speech's energy, goes linearly from one to the next. Where nothing is
    removed, y is x, exactly.
    """
    samples = len(x)
    y = fit(resample(clean, SAMPLE_RATE, rate), samples).astype(np.float32)
    below = fit(resample(noisy, SAMPLE_RATE, rate), samples)
    gain = band_gain(noisy, clean)
    centres = np.arange(len(gain)) * (HOP / SAMPLE_RATE)
    for start in range(0, samples, BLOCK):
        part = slice(start, min(start + BLOCK, samples))
        times = np.arange(part.start, part.stop) / rate
        y[part] += np.interp(times, centres, gain) * (x[part] - below[part])
    return y


def band_gain(noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """min(1, E / N) of two (samples,) at 16 kHz, for every HOP samples from the first on."""
    return np.minimum(1.0, _energies(clean) / np.maximum(_energies(noisy), 1e-20))


def _energies(signal: np.ndarray) -> np.ndarray:
    """From LOWEST up, around every HOP samples; a thousand frames at a time, to bound the memory."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, WINDOW // 2), WINDOW)[::HOP]
    first = LOWEST * WINDOW // SAMPLE_RATE  # bin
    parts = [
        np.square(np.abs(np.fft.rfft(frames[i : i + 1000] * np.hanning(WINDOW))[:, first:])).sum(1)
        for i in range(0, len(frames), 1000)
    ]
    smooth = np.convolve(np.concatenate(parts), np.ones(SMOOTHING) / SMOOTHING)
    return smooth[SMOOTHING // 2 :][: len(frames)]
