"""Downloads, and what a source may be: the policy."""

import http.client
import io
import ipaddress
import socket
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from ..errors import AudioError, FetchError

FETCH_TIMEOUT = 20.0  # seconds without a byte before a URL counts as stalled
BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Policy:
    """What may be read, and how much of it. The default is for a program that trusts its caller.

    A server that is handed URLs and bytes by strangers closes it: Policy(max_bytes=..., max_duration=...,
    private_addresses=False, local_files=False).
    """

    max_bytes: int | None = None  # of a source, as it is stored or sent: a download, a pipe, bytes, a file
    fetch_seconds: float | None = 300.0  # for a whole download
    private_addresses: bool = True  # URLs of this machine and of the networks that it is in
    local_files: bool = True  # paths and file://
    max_duration: float | None = None  # seconds of audio, whatever the header says

    def check_bytes(self, count: int, name: str) -> None:
        """AudioError if a source of `count` bytes is beyond the limit."""
        if self.max_bytes is not None and count > self.max_bytes:
            raise AudioError(f"{name} is longer than the limit of {self.max_bytes} bytes")


OPEN = Policy()


def fetch(url: str, policy: Policy = OPEN) -> bytes:
    """Download a URL; FetchError when it fails, stalls, ends early or isn't allowed, redirects included."""
    name = shortened(url)
    deadline = time.monotonic() + (policy.fetch_seconds or float("inf"))
    whole = io.BytesIO()
    try:
        request = urllib.request.Request(_quoted(url), headers={"User-Agent": "modelscope-zipenhancer"})
        with _opener(policy).open(request, timeout=FETCH_TIMEOUT) as answer:
            promised = answer.length  # None where the server doesn't say
            if promised is not None:
                policy.check_bytes(promised, name)
            while part := answer.read1(BLOCK):  # what is there: a deadline holds on a slow line too
                whole.write(part)
                policy.check_bytes(whole.tell(), name)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not done after {policy.fetch_seconds:.0f} s")
        if promised is not None and whole.tell() < promised:
            raise FetchError(f"{name} ended early: {whole.tell()} of {promised} bytes came")
    except (FetchError, AudioError):
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise FetchError(f"{name} can't be fetched: {error}") from error
    return whole.getvalue()


def shortened(name: str) -> str:
    """A source's name as a message can hold it: the ends of a long one."""
    return name if len(name) <= 100 else f"{name[:20]}...{name[-77:]}"


def _quoted(url: str) -> str:
    """The URL as HTTP has it: spaces and letters beyond ASCII escaped, what is escaped already left."""
    parts = urllib.parse.urlsplit(url.strip())
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    path, query = (
        urllib.parse.quote(text, safe="/%:=&?~+!$,;'@()*[]|") for text in (parts.path, parts.query)
    )
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def _opener(policy: Policy) -> urllib.request.OpenerDirector:
    """What opens http and https, and no other scheme that a redirect may lead to."""
    if policy.private_addresses:
        return urllib.request.build_opener(_Redirects)
    no_proxy = urllib.request.ProxyHandler({})  # a proxy would look up the host where we don't see it
    return urllib.request.build_opener(no_proxy, _Redirects, _PublicHTTP, _PublicHTTPS)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, *args: Any) -> Any:
        url = args[-1]
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise FetchError(f"{shortened(request.full_url)} redirects to {shortened(url)}, which isn't HTTP")
        return super().redirect_request(request, *args)


def _check_public(host: str, address: str) -> None:
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if not ip.is_global or ip.is_multicast:
        raise FetchError(f"{host!r} isn't allowed here: an address of this machine or of a private network")


class _PublicConnection(http.client.HTTPConnection):
    """Connects to public addresses only."""

    def connect(self) -> None:
        for *_, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            _check_public(self.host, str(address[0]))
        super().connect()
        # Once more, of the address that it is: a name server may give another answer each time.
        _check_public(self.host, self.sock.getpeername()[0])


class _PublicTLSConnection(_PublicConnection, http.client.HTTPSConnection):
    """The same with TLS: its connect comes between, by the order of the bases."""


class _PublicHTTP(urllib.request.HTTPHandler):
    def http_open(self, request: Any) -> Any:
        return self.do_open(_PublicConnection, request)


class _PublicHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request: Any) -> Any:
        return self.do_open(_PublicTLSConnection, request)
