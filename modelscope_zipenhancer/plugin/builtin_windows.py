"""The built-in's way through a long recording: windows of 2 s, spliced hard. For comparison.

`enhance/overlap_add.py` is what this package does instead, cross-fades; here is the old way as an
option of the pipeline, stitch='builtin'.
"""

from collections.abc import Iterator

import numpy as np

from ..enhance import overlap_add
from ..enhance.grid import ONE_PASS
from ..names import SAMPLE_RATE
from ..runtime.backend import Backend

WINDOW = 2 * SAMPLE_RATE  # samples
STRIDE = 3 * SAMPLE_RATE // 2  # samples: a window every 1.5 s
DROPPED = (WINDOW - STRIDE) // 2  # samples, 250 ms at each end of a window that are not used


def pieces(backend: Backend, x: np.ndarray) -> Iterator[np.ndarray]:
    """The enhanced recording, piece by piece, in the built-in's windows.

    Up to 6 s it is one pass, as everywhere. The built-in leaves the end of the last window unwritten,
    up to 250 ms of zeros; here it is kept, so that as many samples come out as went in.

    Args:
        backend: what enhances windows of it, one at a time.
        x: float32 (samples,) at 16 kHz.
    """
    if len(x) <= ONE_PASS:
        yield from overlap_add.pieces(backend, x)
        return
    starts = range(0, len(x) - WINDOW + STRIDE, STRIDE)
    for start in starts:
        chunk = x[start : start + WINDOW]
        padded = np.pad(chunk, (0, WINDOW - len(chunk)))
        first = 0 if start == 0 else DROPPED
        last = len(chunk) if start == starts[-1] else WINDOW - DROPPED
        yield backend(padded[None])[0][first:last]
