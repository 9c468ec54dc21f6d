"""What the server's routes do: recordings and streams, by an Enhancer, on bounded pools of threads."""

import asyncio
import threading
import time
from collections.abc import Awaitable
from typing import Any, BinaryIO, TypeVar

from fastapi import Request, Response, WebSocket

from ..audio.read import load
from ..audio.write import check_format, encode, output_rate
from ..enhance.enhancer import Enhancer
from ..errors import OptionError, OutputError, ZipEnhancerError
from .limits import Cancelled, Limits, Refused, Workers, refusal
from .metrics import Metrics
from .request import ANSWERS, answer_type, is_form, uploaded
from .stream import StreamSession, stream_options

T = TypeVar("T")


class Service:
    """What the routes do: recordings and streams, by an Enhancer, on bounded pools of threads."""

    def __init__(self, enhancer: Enhancer, limits: Limits, threads: int) -> None:
        self.enhancer, self.limits = enhancer, limits
        self.recordings = Workers(threads, limits.queue, "recordings")
        # On a GPU a thread for each: what they ask for at the same time is one batch.
        on_gpu = enhancer.recordings_at_once > 1
        self.stream_steps = Workers(limits.streams if on_gpu else threads, limits.streams, "streams")
        self.uploads = self.streams = 0
        self.stopping = asyncio.Event()
        self.metrics = metrics = Metrics()
        metrics.gauge("queue", "Recordings that wait", lambda: self.recordings.waiting)
        metrics.gauge("running", "Recordings that are worked on", lambda: self.recordings.running)
        metrics.gauge("streams", "Streams that are open", lambda: self.streams)
        metrics.gauge("uploads", "Bodies that are being read", lambda: self.uploads)

    async def enhance(self, request: Request, options: dict[str, Any], strict: bool) -> Response:
        """POST /v1/enhance."""
        kind, form = answer_type(request.headers.get("accept", "")), is_form(request)
        self.recordings.check()  # before the body is read, and once more when it is here
        if self.uploads >= self.limits.uploads:
            raise Refused(429, f"busy: {self.uploads} bodies are being read", {"retry-after": "2"})
        self.uploads += 1
        try:
            upload = await uploaded(request, form)
        finally:
            self.uploads -= 1
        try:
            answer = await _unless_gone(
                request, self.recordings.run(lambda gone: self._enhanced(upload, options, strict, kind, gone))
            )
        except ZipEnhancerError as error:
            self.metrics.errors.labels(type(error).__name__).inc()
            raise refusal(error) from error
        finally:
            upload.close()
        return answer

    def _enhanced(
        self, upload: BinaryIO, options: dict[str, Any], strict: bool, kind: str, gone: threading.Event
    ) -> Response:
        """On a thread: read, enhance, encode."""

        def progress(*_: int) -> None:
            if gone.is_set():
                raise Cancelled

        begun = time.monotonic()
        policy, suffix = self.limits.policy, ANSWERS[kind]
        recording = load(upload.read(), strict=strict, policy=policy)
        upload.close()
        x, rate = recording.samples, recording.sample_rate
        target = options["output_rate"] or rate
        channels = 1 if options["mono"] else x.shape[1]
        policy.check_length(-(-len(x) * target // rate), channels, target, "the answer")
        # Each channel is worked on by itself: of more than two, the limit is that of two.
        policy.check_length(
            len(x) * max(1, channels // 2), 1, rate, "the audio in all channels (mono=1 mixes them)"
        )
        try:
            check_format(f"answer{suffix}", target, channels)
        except OutputError as error:  # said before the work, and no fault of the server's
            raise OptionError(str(error)) from error
        y = self.enhancer.enhance(x, rate, progress=progress, **options)
        seconds = len(x) / rate
        answer = Response(encode(y, target, suffix), media_type=kind)
        work = time.monotonic() - begun
        self.metrics.enhanced("/v1/enhance", seconds, work)
        answer.headers["x-audio-seconds"] = f"{seconds:.3f}"
        answer.headers["x-sample-rate"] = str(output_rate(suffix, target))
        answer.headers["x-rtf"] = f"{work / seconds:.4f}"
        if recording.warnings:
            answer.headers["x-warning"] = "; ".join(recording.warnings).encode("ascii", "replace").decode()
        return answer

    async def stream(self, socket: WebSocket) -> None:
        """WS /v1/stream; Refused before it is accepted."""
        if self.stopping.is_set():
            raise Refused(503, "the server is stopping")
        if self.streams >= self.limits.streams:
            raise Refused(429, f"busy: {self.streams} streams are open", {"retry-after": "2"})
        options, samples = stream_options(socket)
        try:
            session = self.enhancer.stream(**options)
        except OptionError as error:
            raise refusal(error) from error
        self.streams += 1
        try:
            await StreamSession(
                socket,
                session,
                samples,
                self.stream_steps,
                self.metrics,
                self.limits.stream_idle,
                self.stopping,
            ).run()
        finally:
            self.streams -= 1

    async def stop(self) -> None:
        """Let the streams send what they have, and end; the recordings that are here are finished."""
        self.stopping.set()
        end = time.monotonic() + self.limits.stop_seconds
        while self.streams and time.monotonic() < end:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """The threads end with what they are doing."""
        self.recordings.close()
        self.stream_steps.close()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of the work, which is cancelled as soon as the client has gone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # after the body: its end or a disconnection
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            raise Refused(499, "the client has gone")
        return working.result()
    finally:
        leaving.cancel()
