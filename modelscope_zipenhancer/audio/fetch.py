"""Downloads."""

import base64
import contextlib
import http.client
import io
import ipaddress
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..errors import AudioError, FetchError
from ..worker_process import alive
from .policy import OPEN, Policy, shortened

FETCH_TIMEOUT = 20.0  # seconds without a byte before a URL counts as stalled
BLOCK = 1 << 20  # bytes read at a time


def fetch(url: str, policy: Policy = OPEN) -> bytes:
    """Download a URL.

    Raises FetchError when it fails, stalls, ends early or isn't allowed, LimitError when it is too large;
    after redirects too.
    """
    name = shortened(url)
    whole, late = io.BytesIO(), f"{name} can't be fetched: not done after {policy.fetch_seconds or 0:.0f} s"
    with _Deadline(policy.fetch_seconds) as deadline:
        try:
            with _opener(policy, deadline).open(_request(url), timeout=FETCH_TIMEOUT) as answer:
                promised = answer.length  # None where the server doesn't say
                if promised is not None:
                    policy.check_bytes(promised, name)
                came = 0

                def parts() -> Iterator[bytes]:
                    nonlocal came
                    while part := answer.read1(BLOCK):  # what is there: a deadline holds on a slow line too
                        alive()  # a slow line is no process that hangs
                        came += len(part)
                        yield part

                for part in _plain(parts(), answer.headers.get("Content-Encoding", "")):
                    whole.write(part)
                    policy.check_bytes(whole.tell(), name)
            if deadline.over():
                raise FetchError(late)
            if promised is not None and came < promised:
                raise FetchError(f"{name} ended early: {came} of {promised} bytes came")
        except (FetchError, AudioError):
            raise
        except (OSError, ValueError, zlib.error, http.client.HTTPException) as error:  # URLError: an OSError
            reason = getattr(error, "reason", None)
            if isinstance(reason, FetchError):  # ours, of an address, which urllib has wrapped
                raise reason from error
            message = late if deadline.over() else f"{name} can't be fetched: {error}"
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise FetchError(message) from error
    return whole.getvalue()


def _plain(parts: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """The body, in parts of at most BLOCK bytes, without the coding that a server gave it unasked.

    Raises ValueError for a coding other than gzip and deflate, zlib.error for what isn't coded as it says.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        yield from parts
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"its content coding is {coding!r}, expected gzip, deflate or none")
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # with either's header
    for part in parts:
        while part:
            yield decoder.decompress(part, BLOCK)  # not at once: a few bytes may stand for a gigabyte
            part = decoder.unconsumed_tail
    yield decoder.flush()
    if not decoder.eof:
        raise ValueError(f"its {coding} data ended early")


def _request(url: str) -> urllib.request.Request:
    """The URL as HTTP has it: spaces and letters beyond ASCII escaped, what is escaped already left.

    The user and password before a host are for that host alone: no redirect takes them along.
    """
    parts = urllib.parse.urlsplit(url.strip())
    user, _, host = parts.netloc.rpartition("@")
    host = host if host.isascii() else host.encode("idna").decode()
    path, query = (
        urllib.parse.quote(text, safe="/%:=&?~+!$,;'@()*[]|") for text in (parts.path, parts.query)
    )
    request = urllib.request.Request(urllib.parse.urlunsplit((parts.scheme, host, path, query, "")))
    request.add_header("User-Agent", "modelscope-zipenhancer")
    if user:
        user = user if ":" in user else f"{user}:"
        token = base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


class _Deadline:
    """Shuts the connections of a download when its time is up, whatever they are waiting for.

    A time-out of a socket is for each byte: headers that drip, or a TLS handshake, would go on for hours.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = time.monotonic() + seconds if seconds is not None else float("inf")
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut) if seconds is not None else None

    def over(self) -> bool:
        return time.monotonic() >= self._end

    def holds(self, connection: socket.socket) -> None:
        self._sockets.append(connection.dup())  # TLS takes the first descriptor away
        if self.over():  # after the timer: a redirect
            self._shut()

    def __enter__(self) -> "_Deadline":
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()
        for connection in self._sockets:
            connection.close()

    def _shut(self) -> None:
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)


def _opener(policy: Policy, deadline: _Deadline) -> urllib.request.OpenerDirector:
    """What opens http and https, and no other scheme that a redirect may lead to."""
    handlers = [_Redirects(), _HTTP(policy, deadline), _HTTPS(policy, deadline)]
    if not policy.private_addresses:
        handlers.append(urllib.request.ProxyHandler({}))  # it would look up the host where we don't see it
    return urllib.request.build_opener(*handlers)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, answer: Any, *args: Any) -> Any:
        url = args[-1]
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            answer.close()
            raise FetchError(f"{shortened(request.full_url)} redirects to {shortened(url)}, which isn't HTTP")
        return super().redirect_request(request, answer, *args)


class _HTTP(urllib.request.HTTPHandler):
    def __init__(self, policy: Policy, deadline: _Deadline) -> None:
        super().__init__()
        self._connection = partial(_Connection, policy=policy, deadline=deadline)

    def http_open(self, request: Any) -> Any:
        return self.do_open(self._connection, request)


class _HTTPS(urllib.request.HTTPSHandler):
    def __init__(self, policy: Policy, deadline: _Deadline) -> None:
        super().__init__()
        self._connection = partial(_TLSConnection, policy=policy, deadline=deadline)

    def https_open(self, request: Any) -> Any:
        return self.do_open(self._connection, request)


class _Connection(http.client.HTTPConnection):
    """Looks its host up once, and connects to the addresses that were checked.

    A second look-up could give another answer: a name server may change its mind (DNS rebinding).
    """

    def __init__(self, *args: Any, policy: Policy, deadline: _Deadline, **options: Any) -> None:
        super().__init__(*args, **options)
        self._policy, self._deadline = policy, deadline
        self._create_connection = self._connected  # what http.client makes its socket with

    def _connected(self, address: tuple[str, int], *args: Any) -> socket.socket:
        if self._policy.private_addresses:
            connection = socket.create_connection(address, *args)
        else:
            connection = _connect_public(*address, *args)
        self._deadline.holds(connection)
        return connection


class _TLSConnection(_Connection, http.client.HTTPSConnection):
    """The same with TLS, whose certificate is checked against the host's name."""


def _connect_public(host: str, port: int, *args: Any) -> socket.socket:
    """A connection to the first of a host's addresses that answers; FetchError if one of them is private."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        _check_public(host, address)
    problem = OSError(f"{host!r} has no address")
    for address in found:
        try:
            return socket.create_connection((address, port), *args)
        except OSError as error:
            problem = error
    raise problem


def _check_public(host: str, address: str) -> None:
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    # is_reserved: IPv6 addresses that stand for an IPv4 address, as a NAT64 gateway takes them, among others
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        raise FetchError(f"{host!r} isn't allowed here: an address of this machine or of a private network")
