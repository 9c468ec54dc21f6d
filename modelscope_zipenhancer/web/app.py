"""The application behind `zipenhancer serve`: recordings by POST, streams by WebSocket.

What comes in is a stranger's: bytes only, held to limits.Limits. What goes out is what a direct call of the
Enhancer gives, bit for bit.
"""

import time
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from .. import __version__
from ..enhance.enhancer import Enhancer
from .limits import LimitedBodies, Limits, Refused
from .metrics import CONTENT_TYPE, Counted
from .request import ANSWERS, check_key
from .service import Service

ROUTES = ("/v1/enhance", "/v1/stream", "/healthz", "/metrics", "/docs", "/openapi.json")
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

    def keyed(connection: HTTPConnection) -> None:
        check_key(connection, keys)

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
        dependencies=[Depends(keyed)],
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
            keyed(socket)
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

    @app.get("/metrics", dependencies=[Depends(keyed)])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return app


def _body_schemas() -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": binary}, "required": ["file"]}
    return {
        "audio/*": {"schema": binary},
        "application/octet-stream": {"schema": binary},
        "multipart/form-data": {"schema": form},
    }
