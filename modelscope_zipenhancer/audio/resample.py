"""From one sample rate to another: whole recordings, and streams."""

from functools import lru_cache

import numpy as np
import soxr

from ..errors import OptionError


def resample(x: np.ndarray, rate: int, target: int) -> np.ndarray:
    """(samples,) at `rate` -> float64 (ceil(samples * target / rate),) at `target`, both in Hz.

    librosa's default (soxr_hq) in float64, as ModelScope's pipelines resample.
    """
    if rate == target:
        return x
    import librosa  # seconds to import, and most recordings have the right rate

    return librosa.resample(x.astype(np.float64), orig_sr=rate, target_sr=target)


def stream_resampler(rate: int, target: int) -> soxr.ResampleStream:
    """The resampler of one channel that keeps arriving; its delay is `resampler_delay`'s."""
    return soxr.ResampleStream(rate, target, 1)


def fit(x: np.ndarray, samples: int) -> np.ndarray:
    """Cut (samples,) or add zeros to exactly `samples`: a resampler rounds a length up or down."""
    return x[:samples] if len(x) >= samples else np.pad(x, (0, samples - len(x)))


def check_rate(rate: int) -> int:
    """The rate in Hz if it can be one, else OptionError."""
    try:
        if 1000 <= rate <= 768_000 and rate == int(rate):
            return int(rate)
    except TypeError:  # a text, say
        pass
    raise OptionError(f"a sample rate of {rate!r} Hz: expected a whole number from 1000 to 768000")


@lru_cache(maxsize=64)
def resampler_delay(rate: int, target: int) -> float:
    """The longest that soxr's stream holds a sample back, in seconds; found by trying.

    It computes in blocks of its own, so this is several times its filter's delay.
    """
    if rate == target:
        return 0.0
    resampler = stream_resampler(rate, target)
    block = np.zeros(max(1, rate // 1000), np.float32)
    returned, longest = 0, 0.0
    for fed in range(0, 2 * rate, len(block)):
        longest = max(longest, (fed + len(block)) / rate - returned / target)
        returned += len(resampler.resample_chunk(block))
    return longest
