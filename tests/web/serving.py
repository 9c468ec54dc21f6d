"""A server of the test's own in a thread, and clients of it; and what an attacker writes by hand."""

import contextlib
import http.client
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the [serve] extra")


@contextlib.contextmanager
def serving(enhancer, limits=None, threads=2, api_keys=()):
    """zipenhancer serve in a thread: .port, .app, .stop() which returns when it has ended."""
    from modelscope_zipenhancer.web.app import make_app
    from modelscope_zipenhancer.web.limits import Limits
    from modelscope_zipenhancer.web.server import listen, make_server

    limits = limits or Limits(stop_seconds=5)
    app = make_app(enhancer, limits, threads, api_keys, "quick")
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = make_server(app, limits, access_log=False, log_level="error")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)

    def stop():
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()

    try:
        yield SimpleNamespace(port=port, app=app, service=app.state.service, server=server, stop=stop)
    finally:
        stop()


class Answer(SimpleNamespace):
    """status, headers, body."""

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


def ask(port, method="POST", path="/v1/enhance", body=b"", **headers) -> Answer:
    """One request; names of headers with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "application/octet-stream", **named})
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(status=answer.status, headers=found, body=answer.read())


@contextlib.contextmanager
def raw(port, *parts: bytes):
    """A socket to the server, the parts sent."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        for part in parts:
            connection.sendall(part)
        yield connection


def rest_of(connection) -> bytes:
    """All that comes until the server closes; also by a reset."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            found += part
    return found
