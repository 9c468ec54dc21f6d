"""The chunk grid and the overlap-add: recordings of any length, and streams, through a backend.

numpy only: nothing here knows what the backend (runtime/backend.py) computes.
"""

from collections.abc import Callable, Iterator

import numpy as np

from ..audio.samples import BLOCK
from ..errors import StreamError
from ..runtime.backend import Backend, preferred_batch_size
from .grid import MINIMUM, ONE_PASS, Grid
from .offset import counts, extent

GAINS = ("chunk", "recording")


class StreamingSession:
    """Audio that keeps arriving: `feed` blocks of any size, `flush` at the end.

    What comes back doesn't depend on the sizes of the blocks, and is as long as what went in.
    """

    def __init__(self, backend: Backend, grid: Grid = Grid(), gain: float | None = None) -> None:
        """gain: one factor to unit RMS for all chunks. By default each chunk is scaled by itself.

        The network was trained on stretches of unit RMS, and its instance norms take the level of
        what it reads away: at another level it is off by that level (docs/design.md has figures).
        The scale of a chunk is undone behind the network, so levels don't pump.
        """
        self.grid = grid
        self._backend, self.batch_size = backend, preferred_batch_size(backend)
        self._gain = () if gain is None else (np.array([gain], np.float32),)
        # The last `window` samples or more; before the signal there was silence.
        self._buffer = np.zeros(grid.window, np.float32)
        self._next = grid.window - grid.past  # where in the buffer the next chunk starts
        self._pending = 0  # samples that came in and have not come back
        self._tail: np.ndarray | None = None  # the end of the last chunk, faded out
        self._rise = ((np.arange(grid.fade) + 0.5) / max(1, grid.fade)).astype(np.float32)
        self._flushed = False

    def feed(self, block: np.ndarray) -> np.ndarray:
        """Take float32 (samples,) at 16 kHz, return what is finished: (any number of samples,)."""
        if self._flushed:
            raise StreamError("this session has been flushed: start a new one")
        grid = self.grid
        self._buffer = np.concatenate([self._buffer, np.asarray(block, np.float32)])
        self._pending += len(block)
        done = [np.zeros(0, np.float32)]
        complete = (len(self._buffer) - self._next - grid.window) // grid.hop + 1
        starts = [self._next + i * grid.hop for i in range(complete)]
        for enhanced in self._enhance([self._buffer[start : start + grid.window] for start in starts]):
            piece = self._join(enhanced[grid.past : grid.window - grid.ahead])
            self._tail = piece[grid.hop :] * self._rise[::-1]
            done.append(piece[: grid.hop])
        self._pending -= grid.hop * len(starts)
        self._next += grid.hop * len(starts)
        spare = min(self._next, len(self._buffer) - grid.window)
        self._buffer = self._buffer[spare:].copy() if spare > 0 else self._buffer
        self._next -= max(0, spare)
        return np.concatenate(done)

    def flush(self) -> np.ndarray:
        """The end of the signal: return the rest. The session takes no more."""
        if self._flushed or self._pending == 0:
            self._flushed = True
            return np.zeros(0, np.float32)
        self._flushed = True
        # One more chunk of the same length that ends where the signal ends, not one padded with zeros.
        (enhanced,) = self._enhance([self._buffer[-self.grid.window :]])
        return self._join(enhanced[-self._pending :])

    def _join(self, piece: np.ndarray) -> np.ndarray:
        """Cross-fade from the last chunk into `piece`; linear, the weights sum to one."""
        if self._tail is not None:
            fade = min(len(piece), self.grid.fade)
            piece = piece.copy()
            piece[:fade] = piece[:fade] * self._rise[:fade] + self._tail[:fade]
        return piece

    def _enhance(self, chunks: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield each chunk enhanced, as many at a time as the backend wants."""
        for start in range(0, len(chunks), self.batch_size):
            batch = np.stack(chunks[start : start + self.batch_size])
            yield from self._backend(batch, *(np.repeat(gain, len(batch)) for gain in self._gain))


def enhance(
    backend: Backend,
    x: np.ndarray,
    grid: Grid = Grid(),
    gain: str = "chunk",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Enhance a whole recording.

    Args:
        backend: what enhances chunks of it.
        x: float32 (samples,) at 16 kHz.
        grid: how it is cut beyond 6 s; up to there it is one chunk.
        gain: beyond 6 s, 'chunk': each chunk is brought to unit RMS by itself; 'recording': all by the
            recording's factor.
        progress: called as progress(samples done, samples) after each chunk, or batch of them.

    Returns:
        float32 (samples,), at the same level.
    """
    samples = len(x)
    out, done = np.empty(samples, np.float32), 0
    for piece in pieces(backend, x, grid, gain):
        out[done : done + len(piece)] = piece
        done += len(piece)
        if progress and len(piece):
            progress(done, samples)
    assert done == samples, (done, samples)
    return out


def pieces(backend: Backend, x: np.ndarray, grid: Grid = Grid(), gain: str = "chunk") -> Iterator[np.ndarray]:
    """What `enhance` returns, piece by piece: for recordings whose output should not be held twice."""
    x = np.asarray(x, np.float32)
    if len(x) <= ONE_PASS:
        padded = np.pad(x, (0, max(0, MINIMUM - len(x))))
        return iter([backend(padded[None])[0][: len(x)]])
    one = _unit_rms_gain(x) if gain == "recording" else None
    return _chunks(StreamingSession(backend, grid, one), x)


def _unit_rms_gain(x: np.ndarray) -> float | None:
    """The factor that brings (samples,) to unit RMS, without an offset that counts; None of silence."""
    sound = x[extent(x)]
    blocks = np.array_split(sound, 1 + len(sound) // BLOCK)  # an hour is never float64 as a whole
    energy = float(sum(np.sum(np.square(block, dtype=np.float64)) for block in blocks))
    total = float(sum(np.sum(block, dtype=np.float64) for block in blocks))
    if counts(total, energy, len(sound)):
        energy -= total**2 / len(sound)
    return (len(x) / energy) ** 0.5 if energy > 0 else None


def _chunks(session: StreamingSession, x: np.ndarray) -> Iterator[np.ndarray]:
    grid = session.grid
    start, stop = 0, (session.batch_size - 1) * grid.hop + grid.latency  # completes the first batch
    while start < len(x):
        yield session.feed(x[start:stop])
        start, stop = stop, stop + session.batch_size * grid.hop
    yield session.flush()
