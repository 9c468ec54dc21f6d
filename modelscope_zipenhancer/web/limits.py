"""What strangers may do to a service: how much, how slowly, how many at a time; and the words for too much.

Standard library only. What a source may be is the policy's (audio/policy.py), which `Limits` holds.
"""

import asyncio
import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ..audio.policy import SERVED, Policy
from ..errors import (
    AudioError,
    AudioNotFoundError,
    DeviceMemoryError,
    FetchError,
    ForbiddenError,
    LimitError,
    OptionError,
    ZipEnhancerError,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

PIECE = 1 << 16  # bytes of an answer that are sent at a time
DRAIN_SECONDS = 5.0  # for which the rest of a refused body is read: a client that is cut off hears no answer


@dataclass(frozen=True)
class Limits:
    """Of a service."""

    policy: Policy = SERVED
    body_overhead: float = 1.01  # how much larger a body may be than the audio in it: multipart's lines
    patience: float = 10.0  # seconds until a request's header is there, or the first of its body
    slowest: int = 16 << 10  # bytes a second, on the average, of a body, or of a reader of an answer
    queue: int = 32  # recordings that wait, besides those that are worked on
    uploads: int = 128  # bodies that are read at a time
    streams: int = 64  # at a time
    stream_idle: float = 60.0  # seconds that a stream may send nothing
    stop_seconds: float = 30.0  # for what is running when the service is stopped

    @property
    def max_body(self) -> float:
        """Bytes of the largest body that is read."""
        most = self.policy.max_bytes
        return math.inf if most is None else most * self.body_overhead + 4096


class Refused(Exception):
    """A request that isn't answered with audio: an HTTP status, and words."""

    def __init__(self, status: int, words: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(words)
        self.status, self.words, self.headers = status, words, headers or {}


def refusal(error: ZipEnhancerError) -> Refused:
    """What a caller over HTTP hears of an error of this package."""
    if isinstance(error, LimitError):
        status = 413
    elif isinstance(error, ForbiddenError):
        status = 403
    elif isinstance(error, (AudioError, AudioNotFoundError, OptionError, FetchError)):
        status = 422
    elif isinstance(error, DeviceMemoryError):
        status = 503
    else:
        status = 500
    return Refused(status, str(error))


# ---- bodies and answers --------------------------------------------------------------------------


class LimitedBodies:
    """An ASGI application in front of another: bodies have a size and a pace, so have readers of answers.

    A body beyond the limit gets 413, whether it says so in its header or not, one that drips 408. What
    the application inside raises as Refused is answered in words; in front of it (the first bytes of the
    answer are sent) nobody can be told.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = _Body(receive, self.limits)
        answer = _Answer(send, self.limits)
        try:
            body.check_declared(scope["headers"])
            await self.app(scope, body.receive, answer.send)
        except Refused as refused:
            if answer.begun:
                raise
            await answer.refuse(refused, body)
        except asyncio.TimeoutError:  # of the answer: its reader has stopped
            if not answer.begun:
                raise


class _Body:
    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._begun: float | None = None
        self._bytes, self.ended = 0, False

    def check_declared(self, headers: list[tuple[bytes, bytes]]) -> None:
        declared = dict(headers).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._limits.max_body:
            raise self._too_large()

    async def receive(self) -> Message:
        if self.ended:  # what follows is a disconnection, which has all the time
            return await self._receive()
        self._begun = self._begun or time.monotonic()
        left = self._begun + self._limits.patience + self._bytes / self._limits.slowest - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except asyncio.TimeoutError:
            raise Refused(
                408, f"the body is too slow: {self._bytes} bytes came in {self._seconds():.0f} s"
            ) from None
        self._bytes += len(message.get("body", b""))
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        if self._bytes > self._limits.max_body:
            raise self._too_large()
        return message

    async def drain(self) -> None:
        """Read the rest away, for a while: else the client is cut off before it reads the answer."""
        end = time.monotonic() + DRAIN_SECONDS
        while not self.ended and (left := end - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self._receive(), left)
            except asyncio.TimeoutError:
                return
            self.ended = message["type"] != "http.request" or not message.get("more_body", False)

    def _seconds(self) -> float:
        return time.monotonic() - (self._begun or time.monotonic())

    def _too_large(self) -> Refused:
        most = self._limits.policy.max_bytes or 0
        return Refused(413, f"the body is larger than the limit of {most} bytes of audio")


class _Answer:
    def __init__(self, send: Send, limits: Limits) -> None:
        self._send, self._limits = send, limits
        self.begun = False

    async def send(self, message: Message) -> None:
        """In pieces: a piece waits until the one before it is on its way, and not for ever."""
        self.begun = True
        body = memoryview(message.get("body", b""))
        if message["type"] != "http.response.body" or len(body) <= PIECE:
            return await self._piece(message)
        for start in range(0, len(body), PIECE):
            last = start + PIECE >= len(body)
            more = not last or message.get("more_body", False)
            await self._piece(
                {"type": message["type"], "body": bytes(body[start : start + PIECE]), "more_body": more}
            )

    async def _piece(self, message: Message) -> None:
        pace = PIECE / self._limits.slowest
        await asyncio.wait_for(self._send(message), self._limits.patience + pace)

    async def refuse(self, refused: Refused, body: _Body) -> None:
        content = json.dumps({"error": refused.words}, ensure_ascii=False).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **refused.headers}
        if not body.ended:
            headers["connection"] = "close"
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refused.status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": content, "more_body": True})
        await body.drain()
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


# ---- work ----------------------------------------------------------------------------------------


class Cancelled(Exception):
    """Whoever asked for the work has gone."""


class Workers:
    """A bounded pool of threads: `queue` items wait at most, the next is refused with 429."""

    def __init__(self, threads: int, queue: int, name: str = "zipenhancer") -> None:
        self.threads, self.queue = threads, queue
        self._pool = ThreadPoolExecutor(threads, name)
        self._lock = threading.Lock()
        self.pending = self.running = 0
        self._seconds = 1.0  # that an item takes, by and large

    @property
    def waiting(self) -> int:
        """Items without a thread yet."""
        return self.pending - self.running

    def check(self) -> None:
        """Refused, 429, if there is no place; before a body is read, say."""
        if self.pending >= self.threads + self.queue:
            wait = math.ceil(min(60.0, max(1.0, self._seconds * self.pending / self.threads)))
            raise Refused(
                429,
                f"busy: {self.pending} recordings are worked on or wait; try again in {wait} s",
                {"retry-after": str(wait)},
            )

    async def run(self, function: Callable[[threading.Event], T]) -> T:
        """function(gone) on one of the threads; raises Refused if there is no place.

        gone: set when whoever asked has been cancelled. The function should look at it, and raise Cancelled.
        """
        self.check()
        gone = threading.Event()

        def work() -> T:
            with self._lock:
                self.running += 1
            begun = time.monotonic()
            try:
                if gone.is_set():
                    raise Cancelled
                return function(gone)
            finally:
                with self._lock:
                    self.running -= 1
                    self.pending -= 1
                    self._seconds += 0.2 * (time.monotonic() - begun - self._seconds)

        with self._lock:
            self.pending += 1
        future = self._pool.submit(work)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            gone.set()
            if future.cancel():
                with self._lock:
                    self.pending -= 1
            raise

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
