"""Audio that keeps arriving, at any rate and in blocks of any size: the engine between two resamplers.

The network sees both ways in time, so enhancing a stream means waiting for a chunk of it: `latency_ms`.
"""

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import numpy as np

from ..audio.resample import check_rate, fit, resampler_delay, stream_resampler
from ..audio.samples import LOUDEST, is_audible, to_float32
from ..errors import AudioError, OptionError, StreamError
from ..names import SAMPLE_RATE
from ..runtime.backend import Backend
from .grid import Grid
from .overlap_add import StreamingSession


class Stream:
    """`feed` blocks, `flush` at the end; what comes back is exactly as long as what went in.

    It doesn't depend on the sizes of the blocks. For one stream, fed by one thread at a time.
    """

    def __init__(
        self, backend: Backend, grid: Grid, sample_rate: int = SAMPLE_RATE, channels: int = 1
    ) -> None:
        """sample_rate: in Hz, of the blocks that go in and come out."""
        self.sample_rate, self.channels = check_rate(sample_rate), channels
        if not (isinstance(channels, (int, np.integer)) and channels >= 1):
            raise OptionError(f"channels={channels!r}: 1 or more")
        self._grid, self._flushed, self._failed = grid, False, False
        self._axes = 1 if channels == 1 else 2  # of the last block
        self._lanes = [_Lane(backend, grid, sample_rate) for _ in range(channels)]

    @property
    def latency_ms(self) -> float:
        """The longest that a sample is held back, in ms; the time for computing comes on top."""
        rate = self.sample_rate
        seconds = resampler_delay(rate, SAMPLE_RATE) + resampler_delay(SAMPLE_RATE, rate)
        return 1000 * (seconds + self._grid.latency / SAMPLE_RATE)

    def feed(self, block: np.ndarray) -> np.ndarray:
        """Take the next samples, return the finished ones: any number, perhaps none, float32.

        block: (samples,) or (samples, channels), float at full scale +-1 or signed integer. What comes
        back has as many axes. Raises AudioError for a block that doesn't fit or holds NaN; the stream
        can go on after that. StreamError after `flush`, or when the network has failed before.
        """
        if self._flushed:
            raise StreamError("this stream has been flushed: start a new one")
        block = self._checked(block)
        self._axes = block.ndim
        lanes = block[:, None] if block.ndim == 1 else block
        with self._whole():
            return self._joined([lane.feed(lanes[:, i]) for i, lane in enumerate(self._lanes)], block.ndim)

    def flush(self) -> np.ndarray:
        """The end: return the rest, with as many axes as the last block.

        Raises StreamError when the network has failed before.
        """
        self._flushed = True
        with self._whole():
            return self._joined([lane.flush() for lane in self._lanes], self._axes)

    def run(self, blocks: Iterable) -> Iterator[np.ndarray]:
        """Yield enhanced blocks for an iterable of blocks, the rest at its end."""
        for block in blocks:
            if len(enhanced := self.feed(block)):
                yield enhanced
        yield self.flush()

    async def run_async(self, blocks: AsyncIterable) -> AsyncIterator[np.ndarray]:
        """`run` for an asynchronous iterable; the event loop goes on while the network computes."""
        import asyncio

        async for block in blocks:
            if len(enhanced := await asyncio.to_thread(self.feed, block)):
                yield enhanced
        yield await asyncio.to_thread(self.flush)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """What fails within leaves the stream in pieces: no sample after it would be where it belongs."""
        if self._failed:
            raise StreamError("this stream has failed, its sound has a gap: start a new one")
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    def _joined(self, lanes: list, axes: int) -> np.ndarray:
        return lanes[0] if axes == 1 else np.stack(lanes, axis=1)

    def _checked(self, block: Any) -> np.ndarray:
        block = to_float32(np.asarray(block), "a block")
        wanted = "(samples,)" if self.channels == 1 else f"(samples, {self.channels})"
        if block.shape[1:] != (self.channels,) and (self.channels > 1 or block.ndim != 1):
            raise AudioError(f"a block of shape {block.shape}: this stream takes {wanted}")
        if not is_audible(block).all():
            raise AudioError(
                f"a block with NaN or infinite samples, or beyond {LOUDEST:g}: replace them (nan_to_num)"
            )
        return block


class _Lane:
    """One channel: resampled to the network's rate, enhanced, resampled back, exactly as long."""

    def __init__(self, backend: Backend, grid: Grid, rate: int) -> None:
        self._session = StreamingSession(backend, grid)
        self._resamplers = None
        if rate != SAMPLE_RATE:
            self._resamplers = stream_resampler(rate, SAMPLE_RATE), stream_resampler(SAMPLE_RATE, rate)
        self._held = 0  # samples that came in and have not come back

    def feed(self, block: np.ndarray) -> np.ndarray:
        self._held += len(block)
        if self._resamplers is None:
            enhanced = self._session.feed(block)
        else:
            down, up = self._resamplers
            block = down.resample_chunk(np.ascontiguousarray(block))
            enhanced = up.resample_chunk(self._session.feed(block))
        self._held -= len(enhanced)
        return enhanced

    def flush(self) -> np.ndarray:
        if self._resamplers is None or self._held == 0:
            rest = self._session.flush()
        else:
            down, up = self._resamplers
            end = down.resample_chunk(np.zeros(0, np.float32), last=True)
            end = np.concatenate([self._session.feed(end), self._session.flush()])
            rest = fit(up.resample_chunk(end, last=True), self._held)
        self._held = 0
        return rest
