"""A stream by WebSocket: its options, and its blocks in and out."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect

from ..audio.samples import pcm16
from ..enhance.grid import AHEAD_MS, CHUNK_MS, PAST_MS
from ..enhance.streaming import Stream
from ..errors import AudioError, OptionError
from .limits import Refused, Workers
from .metrics import Metrics

logger = logging.getLogger(__name__)

SAMPLES = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
STREAM_CHANNELS = 8
STEP_SECONDS = 1.0  # of audio that are fed at a time
STREAM_WINDOW = 6000.0  # ms of chunk, past and ahead together, at most: memory grows with their square
STREAM_REWORK = 20.0  # that many times as long as the chunk, at most: each sample is worked on so often


def stream_options(socket: WebSocket) -> tuple[dict[str, Any], np.dtype]:
    """Those of Enhancer.stream, and the type of the samples, by the query; Refused 422 for what can't be."""
    query = dict(socket.query_params)
    kinds = {"sample_rate": int, "channels": int, "strength": float}
    kinds |= {"chunk_ms": float, "past_ms": float, "ahead_ms": float}
    options: dict[str, Any] = {"chunk_ms": CHUNK_MS, "past_ms": PAST_MS, "ahead_ms": AHEAD_MS}
    samples = query.pop("format", "s16le")
    try:
        for name, text in query.items():
            options[name] = kinds[name](text)
    except KeyError:
        known = ", ".join(("format", *kinds))
        raise Refused(422, f"{name[:40]!r} is no option of a stream, these are: {known}") from None
    except ValueError:
        raise Refused(422, f"{name}={text[:40]!r}: a number was expected") from None
    if samples not in SAMPLES:
        raise Refused(422, f"format={samples[:40]!r}: {' or '.join(SAMPLES)}")
    if not 1 <= options.get("channels", 1) <= STREAM_CHANNELS:
        raise Refused(422, f"channels={options['channels']}: 1 to {STREAM_CHANNELS}")
    window = sum(options[name] for name in ("chunk_ms", "past_ms", "ahead_ms"))
    if not window <= min(STREAM_WINDOW, STREAM_REWORK * options["chunk_ms"]):  # nan, too
        raise Refused(
            422,
            f"chunk_ms, past_ms and ahead_ms are {window:g} ms together: at most {STREAM_WINDOW:g}, and "
            f"{STREAM_REWORK:g} times chunk_ms",
        )
    return options, SAMPLES[samples]


class _Gone(Exception):
    """The client doesn't read, or has gone: nobody hears an answer."""


class StreamSession:
    """One WebSocket: blocks of PCM in, what is finished out, one after the other.

    The next block is read when this one's answer is on its way: a client that sends faster than its blocks
    are enhanced, or doesn't read, is slowed down by TCP.

    Args:
        socket: not accepted yet.
        session, samples: by `stream_options`; the type of the samples, both ways.
        steps: the threads for the session's work.
        metrics: counts it.
        idle: seconds that the client may send nothing, or not read.
        stopping: set when the server stops.
    """

    def __init__(
        self,
        socket: WebSocket,
        session: Stream,
        samples: np.dtype,
        steps: Workers,
        metrics: Metrics,
        idle: float,
        stopping: asyncio.Event,
    ) -> None:
        self.socket, self.session, self.samples = socket, session, samples
        self.steps, self.metrics, self.idle, self.stopping = steps, metrics, idle, stopping
        self._left = b""  # part of a sample, whose other part is in the next message
        self._sent = 0  # samples of each channel

    async def run(self) -> None:
        await self.socket.accept()
        described = {"sample_rate": self.session.sample_rate, "channels": self.session.channels}
        with contextlib.suppress(_Gone):
            await self._say({**described, "latency_ms": round(self.session.latency_ms, 1)})
            try:
                code = await self._blocks()
            except _Gone:
                raise
            except (OptionError, AudioError) as error:
                self.metrics.errors.labels(type(error).__name__).inc()
                await self._say({"error": str(error)})
                code = 1007
            except Exception as error:  # of the network, say: the client hears that it isn't its doing
                logger.exception("a stream failed")
                self.metrics.errors.labels(type(error).__name__).inc()
                await self._say({"error": "the server failed, its log says how"})
                code = 1011
            if code is not None:
                await self._within_time(self.socket.close(code))

    async def _blocks(self) -> int | None:
        """The code to close with; None if the client has closed."""
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            while True:
                arriving = asyncio.ensure_future(self.socket.receive())
                await asyncio.wait(
                    (arriving, stopping), timeout=self.idle, return_when=asyncio.FIRST_COMPLETED
                )
                if not arriving.done():
                    arriving.cancel()
                    if not stopping.done():
                        await self._say({"error": f"nothing came for {self.idle:g} s"})
                        return 1008
                    await self._answer(self.session.flush)
                    await self._say({"samples": self._sent, "error": "the server is stopping"})
                    return 1012
                try:
                    message = arriving.result()
                except RuntimeError as error:  # Starlette's, of a socket that is closed
                    raise _Gone from error
                if message["type"] == "websocket.disconnect":
                    return None
                if message.get("text") == "flush":
                    await self._answer(self.session.flush)
                    await self._say({"samples": self._sent})
                    return 1000
                if message.get("bytes") is None:
                    await self._say({"error": 'a text message can only be "flush"; PCM goes in binary ones'})
                    return 1003
                await self._feed(message["bytes"])
        finally:
            stopping.cancel()

    async def _feed(self, data: bytes) -> None:
        data = self._left + data
        whole = len(data) - len(data) % (self.samples.itemsize * self.session.channels)
        self._left = data[whole:]
        block = np.frombuffer(data[:whole], self.samples)
        if self.session.channels > 1:
            block = block.reshape(-1, self.session.channels)
        # Piece by piece: a message of 1 MB at 1 kHz would be minutes of work that nothing ends.
        step = max(1, int(self.session.sample_rate * STEP_SECONDS))
        for start in range(0, len(block), step):
            await self._answer(functools.partial(self.session.feed, block[start : start + step]))

    async def _answer(self, function: Callable[[], np.ndarray]) -> None:
        begun = time.monotonic()
        enhanced = await self.steps.run(lambda _: function())
        if not len(enhanced):
            return
        self._sent += len(enhanced)
        self.metrics.enhanced(
            "/v1/stream", len(enhanced) / self.session.sample_rate, time.monotonic() - begun
        )
        whole = pcm16(enhanced) if self.samples.kind == "i" else enhanced
        await self._within_time(self.socket.send_bytes(whole.astype(self.samples, copy=False).tobytes()))

    async def _say(self, words: dict[str, Any]) -> None:
        await self._within_time(self.socket.send_json(words))

    async def _within_time(self, sending: Awaitable[None]) -> None:
        try:
            await asyncio.wait_for(sending, self.idle)
        except (asyncio.TimeoutError, RuntimeError, WebSocketDisconnect) as error:
            raise _Gone from error
