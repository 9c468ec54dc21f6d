"""uvicorn, as strangers meet it: silent connections are closed, streams end whole when it stops."""

import math
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ..errors import OptionError
from .limits import Limits

IDLE_CONNECTIONS = 200  # that wait for a request's header as long as they may; of more, the oldest
CROWDED_PATIENCE = 2.0  # seconds that the others have: the next one to be heard may be among them
MESSAGE_BYTES = 1 << 20  # of a message on a WebSocket, at most
FRAMES = 1024  # of a message, at most


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address of this machine; port 0 is any that is free. Raises OptionError."""
    if not 0 <= port <= 65535:
        raise OptionError(f"--port {port}: 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"--host {host!r}: no such address ({error})") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
        return bound
    except OSError as error:
        bound.close()
        remedy = "stop what listens there, or give another --port"
        raise OptionError(f"port {port} of {host!r} can't be had ({error}): {remedy}") from error


def make_server(app: FastAPI, limits: Limits, **options: Any) -> "Server":
    """A server for an application of make_app; `server.run(sockets=[listen(...)])` runs it until a signal."""
    config = uvicorn.Config(
        app,
        http="h11",  # httptools holds a header of any length in memory
        ws=StreamProtocol,
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,  # of zeros it makes a thousand times as many
        ws_ping_interval=None,  # a client that is slowed down doesn't answer; streams have an idle time
        timeout_graceful_shutdown=math.ceil(limits.stop_seconds),
        server_header=False,
        **options,
    )
    return Server(config, app, limits)


class StreamProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, without what grows in it: answers to pings that nobody reads, and empty frames."""

    _pieces = 0  # of the message that is coming

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # a refusal is an answer: uvicorn would log an error of ours

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > 4 * MESSAGE_BYTES:
            self.transport.abort()

    def handle_cont(self, event: Any) -> None:
        self._pieces = 0 if event.fin else self._pieces + 1
        if self._pieces > FRAMES:
            self.transport.abort()
        else:
            super().handle_cont(event)


class Server(uvicorn.Server):
    """Runs an application of make_app."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, limits: Limits) -> None:
        super().__init__(config)
        self._service, self._limits = app.state.service, limits
        self._idle: dict[Any, tuple[Any, float]] = {}  # connection: its last request, and since when

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        self._close_idle()
        return await super().on_tick(counter)

    def _close_idle(self) -> None:
        """Close connections whose request's header doesn't come, or whose answer isn't taken.

        uvicorn has a time for what is between two requests, and none for the first: a thousand open sockets
        would be all that the process may have.
        """
        now, idle = time.monotonic(), {}
        for connection in self.server_state.connections:
            if not hasattr(connection, "cycle"):  # a WebSocket, of which only the end is timed here
                last = connection
                waits = connection.transport.is_closing()
            else:
                last = connection.cycle
                waits = last is None or last.response_complete or connection.transport.is_closing()
            if waits:
                before, since = self._idle.get(connection, (last, now))
                idle[connection] = (last, since if before is last else now)
        oldest = sorted(idle, key=lambda connection: idle[connection][1])
        crowd = max(0, len(oldest) - IDLE_CONNECTIONS)
        for i, connection in enumerate(oldest):
            patience = self._limits.patience
            if now - idle[connection][1] > (min(patience, CROWDED_PATIENCE) if i < crowd else patience):
                connection.transport.abort()
                del idle[connection]
        self._idle = idle

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new; streams send what they have, then the recordings that are here are finished."""
        for server in self.servers:
            server.close()
        await self._service.stop()
        await super().shutdown(sockets)
        self._service.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal stops the server, which is no failure; a second Ctrl-C doesn't wait."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
