"""`modelscope server` and the hub's widget: what a request brings is a stranger's, and is treated so.

Both decode a request by ModelScope's utils/input_output.py and call the pipeline with what comes out, the
request's parameters as keyword arguments. So what is decoded there is marked, and the pipeline holds what is
marked to SERVED: no path of the server, no address of its network, no `output_path`, limits of length.
`modelscope server` gets limits of its bodies, a thread for the work, and answers in words besides.

MODELSCOPE_ZIPENHANCER_SERVICE=open in the environment: a request may do all that a program here may.
"""

import base64
import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ..audio.policy import OPEN, SERVED, Policy
from ..audio.read import bytes_in
from ..errors import OptionError, ZipEnhancerError
from ..names import TASK
from ..web.limits import LimitedBodies, Limits, Refused, Workers, refusal

logger = logging.getLogger(__name__)

SERVICE = "MODELSCOPE_ZIPENHANCER_SERVICE"  # environment variable
CLASSES = f"{__package__}.classes"
JSON_OVERHEAD = 1.4  # base64 is a third longer
MOST_ITEMS = 10_000  # in a request's JSON: each costs 60 bytes of memory, and of the text but two


class SentText(str):
    """Text that a request brought."""


class SentBytes(bytes):
    """Bytes that a request brought."""


def policy_of(source: object, own: Policy) -> Policy:
    """What holds for a source: the service's policy for what a request brought, else the pipeline's own."""
    return service_policy() if isinstance(source, (SentText, SentBytes)) else own


def service_policy() -> Policy:
    """SERVED, unless the environment opens the service."""
    return OPEN if os.environ.get(SERVICE, "").lower() == "open" else SERVED


# ---- modelscope/utils/input_output.py ------------------------------------------------------------


def mark_what_is_sent(module: ModuleType) -> Callable[[], None]:
    """Mark the input of a request for this task as a stranger's; returns what takes it back.

    It is a str or bytes as before, to FRCRN too. And base64 is found in a data URL, with spaces in it, and
    with the letters of URLs, where ModelScope's own decoder makes noise of it.
    """
    name = "service_base64_input_to_pipeline_input"
    function = getattr(module, name)

    def decoded(task_name: str, body: Any) -> tuple:
        return _decoded(body) if task_name == TASK else function(task_name, body)

    setattr(module, name, decoded)
    return lambda: setattr(module, name, function)


def _decoded(body: Any) -> tuple[SentText | SentBytes, dict]:
    if not isinstance(body, dict) or "input" not in body:
        raise OptionError('a request is {"input": {"audio": "base64, a data URL or a URL"}}')
    sent = body["input"]
    by_name = isinstance(sent, dict)
    if by_name:
        sent = next(iter(sent.values()), None)
    if not isinstance(sent, str):
        raise OptionError(f"input: text was expected, base64, a data URL or a URL, not {type(sent).__name__}")
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict) or not parameters.keys().isdisjoint(("self", "input")):
        raise OptionError("parameters: an object was expected, of the pipeline's options")
    audio = bytes_in(sent)
    if audio is None and by_name:  # ModelScope decodes this whatever it is
        with contextlib.suppress(ValueError):
            audio = base64.b64decode(sent, validate=True)
    return (SentText(sent) if audio is None else SentBytes(audio)), parameters


# ---- `modelscope server` -------------------------------------------------------------------------


def limit_requests(module: ModuleType) -> Callable[[], None]:
    """Put `Service` in front of the application of `modelscope server`; returns what takes it back."""
    function = module.get_app

    def limited(args: Any) -> Any:
        with _event_handlers():
            app = function(args)
        app.add_middleware(Service)
        return app

    module.get_app = limited
    return lambda: setattr(module, "get_app", function)


@contextlib.contextmanager
def _event_handlers() -> Iterator[None]:
    """Let FastAPI have the method that get_app starts the pipeline by.

    Starlette 1.0 took it away, and FastAPI kept it on its router only; without it `modelscope server` (1.40)
    ends with an AttributeError.
    """
    from fastapi import FastAPI

    if hasattr(FastAPI, "add_event_handler"):
        yield
        return
    FastAPI.add_event_handler = lambda app, *event: app.router.add_event_handler(*event)
    try:
        yield
    finally:
        del FastAPI.add_event_handler


class Service:
    """What is in front of `modelscope server` while it serves a pipeline of ours; others aren't touched."""

    def __init__(self, app: Callable) -> None:
        self.app = app
        self.limits = Limits(policy=service_policy(), body_overhead=JSON_OVERHEAD)
        self.workers = Workers(1, self.limits.queue)  # each call takes all of torch's cores
        self.limited = LimitedBodies(self._limited, self.limits)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        ours = scope["type"] == "http" and _is_ours(getattr(scope["app"].state, "pipeline", None))
        await (self.limited if ours else self.app)(scope, receive, send)

    async def _limited(self, scope: dict, receive: Callable, send: Callable) -> None:
        if (scope["method"], scope["path"]) != ("POST", "/call"):
            return await self.app(scope, receive, send)
        self.workers.check()
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        state = scope["app"].state
        # On a thread: ModelScope's own does it in the event loop, where nothing else goes on meanwhile.
        answer = await self.workers.run(lambda _: _call(state, body))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def _is_ours(pipeline: object) -> bool:
    return type(pipeline).__module__ == CLASSES


def _call(state: Any, body: bytearray) -> bytes:
    """What ModelScope's route does, in words where it fails."""
    from modelscope.utils import input_output

    try:
        if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MOST_ITEMS:
            raise Refused(413, f"the JSON has more than {MOST_ITEMS} items")
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(422, f"the body is no JSON that can be read: {error}") from error
        body.clear()
        result = input_output.call_pipeline_with_json(state.pipeline_info, state.pipeline, request)
        task = state.pipeline_info["task_name"]
        return json.dumps(input_output.pipeline_output_to_service_base64_output(task, result)).encode()
    except Refused:
        raise
    except ZipEnhancerError as error:
        raise refusal(error) from error
    except Exception as error:
        logger.exception("a request to /call failed")
        raise Refused(500, "the request failed; the server's log says why") from error
