"""The application behind `zipenhancer serve`: recordings by POST, streams by WebSocket.

What comes in is a stranger's: bytes only, held to limits.Limits. What goes out is what a direct call of the
Enhancer gives, bit for bit.
"""

import asyncio
import hmac
import logging
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection

from .. import __version__
from ..audio.read import load
from ..audio.samples import pcm16
from ..audio.write import encode, output_rate
from ..enhance.enhancer import Enhancer
from ..enhance.grid import AHEAD_MS, CHUNK_MS, PAST_MS
from ..errors import AudioError, OptionError, ZipEnhancerError
from .limits import Cancelled, LimitedBodies, Limits, Refused, Workers, refusal
from .metrics import CONTENT_TYPE, Counted, Metrics

logger = logging.getLogger(__name__)
T = TypeVar("T")

ROUTES = ("/v1/enhance", "/v1/stream", "/healthz", "/metrics", "/docs", "/openapi.json")
ANSWERS = {"audio/wav": ".wav", "audio/flac": ".flac", "audio/ogg": ".opus"}  # the first unless asked
ALSO = {"audio/x-wav": "audio/wav", "audio/wave": "audio/wav", "audio/x-flac": "audio/flac"}
ALSO |= {"audio/opus": "audio/ogg", "application/ogg": "audio/ogg"}
# Types that a body may have besides audio/* and video/*: curl's own among them, and none.
BODIES = ("", "application/octet-stream", "application/ogg", "application/x-www-form-urlencoded")
SPOOLED = 1 << 20  # bytes of a body that are held in memory, the rest in a temporary file
SAMPLES = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
STREAM_CHANNELS = 8
STREAM_WINDOW = 6000.0  # ms of chunk, past and ahead together, at most: memory grows with their square
STREAM_REWORK = 20.0  # that many times as long as the chunk, at most: each sample is worked on so often
WORDS = {  # of the OpenAPI page
    401: "no API key, or a wrong one",
    406: "the Accept header names no format that there is",
    408: "the body comes too slowly",
    413: "the body, or the audio in it, is beyond the limits",
    415: "the body's Content-Type is no audio's",
    422: "no audio that can be read, or an option out of range",
    429: "busy; Retry-After says when to try again",
}


def make_app(
    enhancer: Enhancer,
    limits: Limits = Limits(),
    threads: int = 1,
    api_keys: Iterable[str] = (),
    model: str = "tiny",
) -> FastAPI:
    """The application.

    Args:
        enhancer: shared by all requests. On a GPU its backend puts what the threads ask for into batches.
        limits: of everything that a request brings, and of how many there are at a time.
        threads: recordings that are worked on at a time; streams have as many threads again, so that a
            stream doesn't wait behind an hour of audio.
        api_keys: one of them must come as `Authorization: Bearer KEY` or `X-API-Key: KEY`; none: nobody's.
        model: what /healthz calls the model.

    Returns:
        The application; `app.state.service` is its Service.
    """
    service = Service(enhancer, limits, threads)
    keys = tuple(key.encode() for key in api_keys)

    def check_key(connection: HTTPConnection) -> None:
        _check_key(connection, keys)

    app = FastAPI(
        title="ZipEnhancer",
        version=__version__,
        description=f"Removes noise from recordings of speech, with the model {model}. "
        "Streams: WebSocket /v1/stream (docs/deployment.md).",
        redoc_url=None,
        responses={status: {"description": words} for status, words in WORDS.items()},
    )
    app.state.service = service
    app.add_middleware(LimitedBodies, limits=limits)
    app.add_middleware(Counted, metrics=service.metrics, routes=ROUTES, clock=time.monotonic)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
        return JSONResponse({"error": said}, 422)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the request failed; the server's log says why"}, 500)

    @app.post(
        "/v1/enhance",
        response_class=Response,
        dependencies=[Depends(check_key)],
        responses={200: {"description": "the enhanced recording", "content": {t: {} for t in ANSWERS}}},
        openapi_extra={"requestBody": {"required": True, "content": _body_schemas()}},
    )
    async def enhance(
        request: Request,
        strength: Annotated[float | None, Query(ge=0, description="dB of noise removed at most")] = None,
        bandwidth: Annotated[Literal["low", "full"], Query(description="full keeps 8 kHz and above")] = "low",
        gain: Literal["chunk", "recording"] = "chunk",
        mono: Annotated[bool, Query(description="mix the channels")] = False,
        sample_rate: Annotated[
            int | None, Query(ge=8000, le=48000, description="of the answer; by default the recording's")
        ] = None,
        strict: Annotated[bool, Query(description="refuse a recording that was cut off")] = False,
    ) -> Response:
        """Remove the noise from a recording: any audio as the body, or as the file of a form."""
        options = {
            "strength": strength,
            "bandwidth": bandwidth,
            "gain": gain,
            "mono": mono,
            "output_rate": sample_rate,
        }
        return await service.enhance(request, options, strict)

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        """PCM in, PCM out, while it arrives."""
        try:
            _check_key(socket, keys)
            await service.stream(socket)
        except Refused as error:
            answer = JSONResponse({"error": error.words}, error.status, error.headers)
            await socket.send_denial_response(answer)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """Whether the server takes requests."""
        state = "stopping" if service.stopping.is_set() else "ok"
        return JSONResponse(
            {"status": state, "model": model, "version": __version__}, 200 if state == "ok" else 503
        )

    @app.get("/metrics", dependencies=[Depends(check_key)])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return app


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
        kind = _answer_type(request.headers.get("accept", ""))
        self.recordings.check()  # before the body is read, and once more when it is here
        upload = await self._upload(request)
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

    async def _upload(self, request: Request) -> BinaryIO:
        """The recording in the body, as a temporary file."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "a Content-Encoding isn't read: send the file as it is")
        form = kind == "multipart/form-data"
        if not form and kind not in BODIES and kind.partition("/")[0] not in ("audio", "video"):
            raise Refused(
                415, f"Content-Type {kind[:80]!r}: audio was expected, application/octet-stream or a form"
            )
        if self.uploads >= self.limits.uploads:
            raise Refused(429, f"busy: {self.uploads} bodies are being read", {"retry-after": "2"})
        self.uploads += 1
        try:
            return await (_form_file(request) if form else _body_file(request))
        except ClientDisconnect as error:
            raise Refused(499, "the client has gone") from error
        finally:
            self.uploads -= 1

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
        options, samples = _stream_options(socket)
        try:
            session = self.enhancer.stream(**options)
        except OptionError as error:
            raise refusal(error) from error
        self.streams += 1
        try:
            await _StreamSession(self, socket, session, samples).run()
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


class _StreamSession:
    """One WebSocket: blocks of PCM in, what is finished out, one after the other.

    The next block is read when this one's answer is on its way: a client that sends faster than its blocks
    are enhanced, or doesn't read, is slowed down by TCP.
    """

    def __init__(self, service: Service, socket: WebSocket, session: Any, samples: np.dtype) -> None:
        self.service, self.socket, self.session, self.samples = service, socket, session, samples
        self._left = b""  # part of a sample, whose other part is in the next message
        self._sent = 0  # samples of each channel

    async def run(self) -> None:
        await self.socket.accept()
        described = {"sample_rate": self.session.sample_rate, "channels": self.session.channels}
        await self._say({**described, "latency_ms": round(self.session.latency_ms, 1)})
        try:
            code = await self._blocks()
        except (OptionError, AudioError) as error:
            self.service.metrics.errors.labels(type(error).__name__).inc()
            await self._say({"error": str(error)})
            code = 1007
        except (asyncio.TimeoutError, RuntimeError):  # it doesn't read, or has gone: nobody hears an answer
            return
        if code is not None:
            await self.socket.close(code)

    async def _blocks(self) -> int | None:
        """The code to close with; None if the client has closed."""
        stopping = asyncio.ensure_future(self.service.stopping.wait())
        try:
            while True:
                arriving = asyncio.ensure_future(self.socket.receive())
                idle = self.service.limits.stream_idle
                await asyncio.wait((arriving, stopping), timeout=idle, return_when=asyncio.FIRST_COMPLETED)
                if not arriving.done():
                    arriving.cancel()
                    if not stopping.done():
                        await self._say({"error": f"nothing came for {idle:g} s"})
                        return 1008
                    await self._answer(self.session.flush)
                    await self._say({"samples": self._sent, "error": "the server is stopping"})
                    return 1012
                message = arriving.result()
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
        if len(block):
            await self._answer(lambda: self.session.feed(block))

    async def _answer(self, function: Callable[[], np.ndarray]) -> None:
        begun = time.monotonic()
        enhanced = await self.service.stream_steps.run(lambda _: function())
        if not len(enhanced):
            return
        self._sent += len(enhanced)
        self.service.metrics.enhanced(
            "/v1/stream", len(enhanced) / self.session.sample_rate, time.monotonic() - begun
        )
        whole = pcm16(enhanced) if self.samples.kind == "i" else enhanced
        await self._within_time(self.socket.send_bytes(whole.astype(self.samples, copy=False).tobytes()))

    async def _say(self, words: dict[str, Any]) -> None:
        await self._within_time(self.socket.send_json(words))

    async def _within_time(self, sending: Awaitable[None]) -> None:
        await asyncio.wait_for(sending, self.service.limits.stream_idle)


# ---- what a request says -------------------------------------------------------------------------


def _check_key(connection: HTTPConnection, keys: tuple[bytes, ...]) -> None:
    if not keys:
        return
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else connection.headers.get("x-api-key", "")
    # No `any`: how long it takes must not tell which key is nearly right.
    if not sum(hmac.compare_digest(given.encode(), key) for key in keys):
        raise Refused(401, "an API key is needed: Authorization: Bearer KEY", {"www-authenticate": "Bearer"})


def _answer_type(accept: str) -> str:
    """The type of the answer by an Accept header: one of ANSWERS, or Refused 406."""
    best, most = None, 0.0
    for part in (accept or "*/*").lower().split(","):
        kind, *parameters = (text.strip() for text in part.split(";"))
        quality = next((_number(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
        kind = ALSO.get(kind, kind)
        if kind in ("*/*", "audio/*"):
            kind = next(iter(ANSWERS))
        if kind in ANSWERS and quality > most:
            best, most = kind, quality
    if best is None:
        raise Refused(406, f"Accept: {accept[:80]!r} names none of {', '.join(ANSWERS)}")
    return best


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


async def _body_file(request: Request) -> BinaryIO:
    """The body in a temporary file, from its begin."""
    file = tempfile.SpooledTemporaryFile(SPOOLED)
    try:
        async for part in request.stream():
            file.write(part)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file  # type: ignore[return-value]


async def _form_file(request: Request) -> BinaryIO:
    """The first file of a form, whatever its field is called."""
    form = await request.form(max_files=1, max_fields=20)
    file = next((value.file for value in form.values() if isinstance(value, UploadFile)), None)
    if file is None:
        await form.close()
        raise Refused(422, "the form has no file: curl -F file=@noisy.wav")
    return file


def _stream_options(socket: WebSocket) -> tuple[dict[str, Any], np.dtype]:
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


def _body_schemas() -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": binary}, "required": ["file"]}
    return {
        "audio/*": {"schema": binary},
        "application/octet-stream": {"schema": binary},
        "multipart/form-data": {"schema": form},
    }
