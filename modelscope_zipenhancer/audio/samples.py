"""Samples in memory: channels, full scale, 16 bits.

Audio is float32 (samples, channels), full scale +-1; a mono waveform is (samples,).
"""

import numpy as np

from ..errors import AudioError

BLOCK = 1 << 20  # samples or bytes handled at a time, to bound the memory


def to_mono(x: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,): the mean of the channels."""
    return x[:, 0] if x.shape[1] == 1 else x.mean(axis=1)


def pcm16(x: np.ndarray) -> np.ndarray:
    """Full scale +-1 to int16, rounded and clipped, never wrapped."""
    out = np.empty(x.shape, np.int16)
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        out[part] = np.clip(np.rint(x[part] * 32768.0), -32768, 32767)
    return out


def check_finite(x: np.ndarray, name: str) -> np.ndarray:
    if x.size == 0:
        raise AudioError(f"{name} holds no samples")
    for start in range(0, len(x), BLOCK):
        finite = np.isfinite(x[start : start + BLOCK])
        if not finite.all():
            first = start + int(np.argmin(finite.all(axis=1)))
            raise AudioError(
                f"{name} has NaN or infinite samples, the first at {first}; "
                "replace them (numpy.nan_to_num) or export the recording again"
            )
    return x
