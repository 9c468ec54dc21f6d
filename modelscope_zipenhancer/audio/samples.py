"""Samples in memory: types and their full scale, channels, 16 bits.

Audio is float32 (samples, channels), full scale +-1; a mono waveform is (samples,).
"""

import logging
from typing import NamedTuple

import numpy as np

from ..errors import AudioError

logger = logging.getLogger(__name__)

BLOCK = 1 << 20  # samples or bytes handled at a time, to bound the memory
LOUDEST = 1e10  # no full scale is that of audio: int32 has 2e9; the squares of more aren't float32
CANCELLED = 10**-0.6  # of the channels' mean power is left in the mean of two: it has cancelled


class Recording(NamedTuple):
    """What was read, and what the listener should know about it."""

    samples: np.ndarray  # float32 (samples, channels)
    sample_rate: int  # Hz
    warnings: tuple[str, ...] = ()  # "12.3 s of 60.0 s are missing: the file was cut off"


class Samples:
    """Blocks of float32 (samples, channels) put together, whatever length they come to in the end."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self._x = np.empty((0, channels), np.float32)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, block: np.ndarray) -> None:
        end = self._length + len(block)
        if end > len(self._x):  # in place where the system can: no second copy of the whole
            room = max(end, len(self._x) + max(BLOCK // 8 // self.channels, len(self._x) // 8))
            self._x.resize((room, self._x.shape[1]), refcheck=False)
        self._x[self._length : end] = block
        self._length = end

    def take(self) -> np.ndarray:
        """All of them; the object is done with."""
        self._x.resize((self._length, self._x.shape[1]), refcheck=False)
        return self._x


def to_float32(x: np.ndarray, name: str) -> np.ndarray:
    """Samples of any type that audio comes in to float32 at full scale +-1, the axes as they were.

    Integers are scaled by the full scale of their type: int16, int32, int8, and uint8 around 128, as WAV
    has them. Raises AudioError, which calls the samples `name`, for other types; int64 is among them: no
    audio comes in it, and the level can't be told from the values of a block (docs/differences.md).
    """
    if np.issubdtype(x.dtype, np.floating):
        return x.astype(np.float32, copy=False)
    if x.dtype == np.uint8:
        return (x.astype(np.float32) - np.float32(128)) * np.float32(1 / 128)
    if x.dtype.newbyteorder("=") in (np.int8, np.int16, np.int32):
        scale = np.float32(-1.0 / np.iinfo(x.dtype).min)  # a power of two: exact
        return np.multiply(x, scale, dtype=np.float32, casting="unsafe")
    seen = f"{name} holds {x.dtype}"
    if np.issubdtype(x.dtype, np.integer) and x.size:
        seen += f" from {x.min()} to {x.max()}, whose full scale can't be known: if these are 16-bit values, "
        raise AudioError(f"{seen}pass them .astype(numpy.int16)")
    raise AudioError(f"{seen}, expected float, int16, int32 or uint8 samples")


def check_level(x: np.ndarray, name: str) -> None:
    """AudioError if whole recordings in int32 hold 16-bit values: at the level of int32 they are silence.

    What 24 bits or float32 left of a very quiet recording has other values: zeros in its last bits.
    """
    if x.dtype.newbyteorder("=") != np.int32 or x.size == 0:
        return
    low, high = int(x.min()), int(x.max())
    if -32768 <= low <= high <= 32767 and low < high and np.any(x & 0xFF):
        raise AudioError(
            f"{name} holds int32 from {low} to {high}, nothing beside the full scale of {2**31}: if these "
            "are 16-bit values, pass them .astype(numpy.int16); if it is that quiet, / 2.0**31"
        )


def to_mono(x: np.ndarray) -> np.ndarray:
    """(samples, channels) -> (samples,): the mean of the channels.

    Where that cancels, as two channels in antiphase do, the loudest channel, with a warning: where less
    than a quarter of the channels' mean power is left (6 dB; 3 dB are lost by two unrelated channels. Of
    more channels, correspondingly less).
    """
    channels = x.shape[1]
    if channels == 1:
        return x[:, 0]
    mean = x.mean(axis=1)
    power, left = np.zeros(channels), 0.0
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK].astype(np.float64)
        power += np.einsum("sc,sc->c", part, part)
        part = mean[start : start + BLOCK].astype(np.float64)
        left += float(part @ part)
    if left >= CANCELLED * 2 / channels * power.mean():
        return mean
    loudest = int(np.argmax(power))
    logger.warning(
        "the channels cancel each other (in antiphase?): channel %d of %d, the loudest, is taken instead of "
        "their mean",
        loudest + 1,
        channels,
    )
    return np.ascontiguousarray(x[:, loudest])


def pcm16(x: np.ndarray) -> np.ndarray:
    """Full scale +-1 to int16, rounded and clipped, never wrapped."""
    return to_pcm(x, 16)


def to_pcm(x: np.ndarray, bits: int) -> np.ndarray:
    """Full scale +-1 to int16, or to int32 of which the upper `bits` are used; rounded and clipped."""
    full, unused = 1 << (bits - 1), 0 if bits == 16 else 32 - bits
    out = np.empty(x.shape, np.int16 if bits == 16 else np.int32)
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        scaled = x[part] * float(full) if bits == 16 else x[part].astype(np.float64) * full
        out[part] = np.clip(np.rint(scaled), -full, full - 1)
        if unused:
            out[part] <<= unused
    return out


def beyond_full_scale(x: np.ndarray) -> int:
    """How many samples are beyond +-1: what `to_pcm` clips."""
    return sum(int(np.count_nonzero(np.abs(x[i : i + BLOCK]) > 1.0)) for i in range(0, len(x), BLOCK))


def is_audible(x: np.ndarray) -> np.ndarray:
    """Of each sample, whether it can be one: no NaN, not infinite, not beyond LOUDEST."""
    return np.abs(x) <= LOUDEST


def check_finite(x: np.ndarray, name: str) -> np.ndarray:
    if x.size == 0:
        raise AudioError(f"{name} holds no samples")
    for start in range(0, len(x), BLOCK):
        good = is_audible(x[start : start + BLOCK])
        if not good.all():
            first = start + int(np.argmin(good.all(axis=1)))
            if np.isfinite(x[first]).all():
                raise AudioError(
                    f"{name} has samples beyond {LOUDEST:g}, the first at {first}: is it damaged?"
                )
            raise AudioError(
                f"{name} has NaN or infinite samples, the first at {first}; "
                "replace them (numpy.nan_to_num) or export the recording again"
            )
    return x
