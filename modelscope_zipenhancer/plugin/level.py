"""The level at which ModelScope's pipelines enhance: their audio_norm, to its last bit, in little memory."""

from collections.abc import Iterable, Iterator

import numpy as np

ACTIVE_LEVEL = 10 ** (-25 / 20)  # RMS that audio_norm gives to the louder parts, -25 dBFS
BLOCK = 1 << 20  # samples that are in float64 at a time: an hour is never float64 as a whole


def audio_norm_factors(x: np.ndarray) -> tuple[float, float]:
    """The two factors by which ModelScope's audio_norm multiplies x (samples,).

    The first brings the RMS to -25 dBFS, the second that of the samples which are then above average.
    The network reads wrapped phase, so another rounding can be another sound. Silence gets ones.
    """

    def squares(factor: float) -> Iterator[np.ndarray]:
        for start in range(0, len(x), BLOCK):
            yield np.square(x[start : start + BLOCK].astype(np.float64) * factor)

    rms = (_sum(squares(1.0), len(x)) / len(x)) ** 0.5
    if rms == 0.0:
        return 1.0, 1.0
    first = ACTIVE_LEVEL / rms
    average = _sum(squares(first), len(x)) / len(x)
    louder = sum(int(np.count_nonzero(block > average)) for block in squares(first))
    if louder == 0:  # all samples are equally loud
        return first, 1.0
    rms = (_sum((block[block > average] for block in squares(first)), louder) / louder) ** 0.5
    return first, ACTIVE_LEVEL / rms


def multiplied(x: np.ndarray, factors: tuple[float, float], in_place: bool = False) -> np.ndarray:
    """x (samples,) times one factor, then the other, in float64; returned as float32."""
    first, second = factors
    out = x if in_place else np.empty(len(x), np.float32)
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        out[part] = x[part].astype(np.float64) * first * second
    return out


def _sum(blocks: Iterable[np.ndarray], count: int) -> np.float64:
    """numpy's sum of the `count` values in blocks, without having them all at once.

    numpy adds halves, halved again down to 128 values; so does this, down to BLOCK, for equal bits.
    """
    blocks = iter(blocks)
    left = np.empty(0)

    def take(n: int) -> np.ndarray:
        nonlocal left
        while len(left) < n:
            left = np.concatenate([left, next(blocks)])
        taken, left = left[:n], left[n:]
        return taken

    def halves(n: int) -> np.float64:
        if n <= BLOCK:
            return np.add.reduce(take(n))
        half = n // 2
        half -= half % 8
        return halves(half) + halves(n - half)

    return halves(count)
