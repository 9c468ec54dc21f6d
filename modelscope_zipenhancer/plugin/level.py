"""The level at which ModelScope's pipelines enhance: the factors of their audio_norm."""

import numpy as np

ACTIVE_LEVEL = 10 ** (-25 / 20)  # RMS that audio_norm gives to the louder parts, -25 dBFS
BLOCK = 1 << 20  # samples that are in float64 at a time: an hour is never float64 as a whole


def audio_norm_factors(x: np.ndarray) -> tuple:
    """The two factors by which ModelScope's audio_norm multiplies x (samples,), to its last bit.

    The first brings the RMS to -25 dBFS, the second that of the samples which are then above average.
    The network reads wrapped phase, so another rounding can be another sound. Silence gets ones.
    """

    def squares(factor):
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


def _sum(blocks, count: int) -> np.float64:
    """numpy's sum of the `count` values in an iterator of blocks, without having them all at once.

    numpy adds halves, halved again down to 128 values; so does this, down to BLOCK, for equal bits.
    """
    left = np.empty(0)

    def take(n):
        nonlocal left
        while len(left) < n:
            left = np.concatenate([left, next(blocks)])
        taken, left = left[:n], left[n:]
        return taken

    def halves(n):
        if n <= BLOCK:
            return np.add.reduce(take(n))
        half = n // 2
        half -= half % 8
        return halves(half) + halves(n - half)

    return halves(count)
