"""Downloads from a server of the test, and what a policy keeps away."""

import gzip
import socket
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from recordings import by_soundfile, speech

from modelscope_zipenhancer.audio import fetch as fetching
from modelscope_zipenhancer.audio.fetch import fetch
from modelscope_zipenhancer.audio.policy import Policy
from modelscope_zipenhancer.audio.read import load, name_of
from modelscope_zipenhancer.errors import AudioError, FetchError

WAV = by_soundfile("WAV", "PCM_16", speech(16000), 16000)


@pytest.fixture
def server():
    """(URL of the server, paths that were asked for, {path: what answers: a function of the handler})"""
    asked, answers = [], {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(self.path)
            self.close_connection = True
            answers[self.path.partition("?")[0]](self)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}", asked, answers
        http.shutdown()


def sends(body: bytes, status: int = 200, length: int | None = None, **headers):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_the_password_of_a_url_goes_to_its_host_alone_and_is_in_no_message(server):
    url, _, answers = server
    sent = []

    def noted(answer):
        def noting(handler):
            sent.append(handler.headers.get("Authorization"))
            answer(handler)

        return noting

    answers["/a.wav"] = noted(sends(b"", 302, Location="/b.wav"))
    answers["/b.wav"] = noted(sends(WAV))
    with_password = url.replace("//", "//me:s@e%20cret@")
    assert load(f"{with_password}/a.wav").samples.shape == load(WAV).samples.shape
    assert sent == ["Basic bWU6c0BlIGNyZXQ=", None]
    answers["/d.wav"] = noted(sends(WAV))
    load(url.replace("//", "//me@") + "/d.wav")
    assert sent[-1] == "Basic bWU6"
    answers["/c.wav"] = sends(b"", 404)
    with pytest.raises(FetchError, match="c.wav can't be fetched") as error:
        load(f"{with_password}/c.wav")
    assert "cret" not in str(error.value) and name_of(f"{with_password}/a.wav") == f"{url}/a.wav"


@pytest.mark.parametrize("part", [0, 1000, len(WAV) // 2, len(WAV) - 1])
def test_a_download_that_ends_before_its_content_length_is_a_fetch_error(server, part):
    url, _, answers = server
    answers["/a.wav"] = sends(WAV[:part], length=len(WAV))
    with pytest.raises(FetchError, match=f"a.wav ended early: {part} of {len(WAV)} bytes came"):
        load(f"{url}/a.wav")


@pytest.mark.parametrize(
    "coding, coded", [("gzip", gzip.compress), ("X-GZip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_body_that_a_server_compressed_unasked_is_the_recording(server, coding, coded):
    url, _, answers = server
    answers["/a.wav"] = sends(coded(WAV), **{"Content-Encoding": coding})
    assert fetch(f"{url}/a.wav") == WAV


def test_a_compressed_body_that_is_cut_or_is_none_or_of_another_coding_is_a_fetch_error(server):
    url, _, answers = server
    packed = gzip.compress(WAV)
    for coding, body, said in (
        ("gzip", packed[:-20], "its gzip data ended early"),
        ("gzip", WAV, "can't be fetched"),
        ("br", packed, "its content coding is 'br', expected gzip, deflate or none"),
    ):
        answers["/a.wav"] = sends(body, **{"Content-Encoding": coding})
        with pytest.raises(FetchError, match=said):
            fetch(f"{url}/a.wav")


def test_a_limit_of_bytes_is_of_what_a_compressed_body_stands_for(server):
    url, _, answers = server
    answers["/a.wav"] = sends(gzip.compress(bytes(50_000_000)), **{"Content-Encoding": "gzip"})
    with pytest.raises(AudioError, match="longer than the limit of 10000000 bytes"):
        fetch(f"{url}/a.wav", Policy(max_bytes=10_000_000))


def test_a_long_download_gives_signs_of_life(server, monkeypatch):
    url, _, answers = server
    signs = []
    monkeypatch.setattr(fetching, "alive", lambda: signs.append(1))
    answers["/a.wav"] = sends(bytes(3 << 20))
    fetch(f"{url}/a.wav")
    assert len(signs) >= 3


def test_a_chunked_download_that_ends_early_is_a_fetch_error(server):
    url, _, answers = server

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s" % (len(WAV), WAV[:500]))

    answers["/a.wav"] = answer
    with pytest.raises(FetchError, match="a.wav can't be fetched"):
        load(f"{url}/a.wav")


@pytest.mark.parametrize(
    "asked_for, sent",
    [
        ("/my talk.wav", "/my%20talk.wav"),
        ("/my%20talk.wav", "/my%20talk.wav"),
        ("/Gespräch.wav", "/Gespr%C3%A4ch.wav"),
        ("/录音.wav?name=录 音&x=1+2", "/%E5%BD%95%E9%9F%B3.wav?name=%E5%BD%95%20%E9%9F%B3&x=1+2"),
        ("/a.wav#t=1", "/a.wav"),
    ],
)
def test_a_url_is_quoted_as_http_has_it(server, asked_for, sent):
    url, asked, answers = server
    answers[sent.partition("?")[0]] = sends(WAV)
    assert fetch(url + asked_for) == WAV
    assert asked == [sent]


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://exa mple.org/a.wav", "http://a:b/c.wav", "http://a\0b/"]
)
def test_a_url_that_can_not_be_is_a_fetch_error(url):
    with pytest.raises(FetchError, match="can't be fetched"):
        load(url)


def test_a_limit_of_bytes_ends_a_download(server):
    url, _, answers = server
    answers["/a.wav"] = sends(WAV)

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    answers["/endless.wav"] = endless
    for path in ("/a.wav", "/endless.wav"):
        with pytest.raises(AudioError, match="longer than the limit of 1000 bytes"):
            fetch(url + path, Policy(max_bytes=1000))


@pytest.mark.parametrize(
    "begins", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: ", b"H", b""]
)
def test_a_limit_of_seconds_holds_on_a_line_that_drips(server, begins):
    url, _, answers = server
    stop = threading.Event()

    def drips(handler):
        handler.wfile.write(begins)
        try:
            while not stop.wait(0.05):
                handler.wfile.write(b"x" if begins else b"")
        except OSError:
            pass

    answers["/a.wav"] = drips
    with pytest.raises(FetchError, match="not done after"):
        fetch(f"{url}/a.wav", Policy(fetch_seconds=0.3))
    stop.set()


CLOSED = Policy(private_addresses=False)


def test_a_closed_policy_reaches_no_address_of_this_machine(server):
    url, asked, answers = server
    answers["/a.wav"] = sends(WAV)
    port = url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0", "127.1"):
        with pytest.raises(FetchError, match="isn't allowed here|can't be fetched"):
            fetch(f"http://{host}:{port}/a.wav", CLOSED)
    assert asked == []
    assert fetch(f"{url}/a.wav") == WAV  # the default is open


PRIVATE = ["10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"]

WITHIN = ["::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001:0:7f00:1::1"]  # NAT64, 6to4, Teredo


@pytest.mark.parametrize(
    "address",
    [*PRIVATE, "::1", "fe80::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", *WITHIN],
)
def test_a_closed_policy_knows_the_private_addresses(address):
    with pytest.raises(FetchError, match="isn't allowed here"):
        fetching._check_public("host", address)
    for public in ("93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34"):
        fetching._check_public("host", public)


@pytest.fixture
def names(monkeypatch):
    """{host: the addresses that its look-ups give, in turn}, and the look-ups."""
    table, looked_up, true = {}, [], socket.getaddrinfo

    def lookup(host, port, *args, **kwargs):
        if host not in table:
            return true(host, port, *args, **kwargs)
        looked_up.append(host)
        address = table[host][min(looked_up.count(host), len(table[host])) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return table, looked_up


def test_a_name_that_leads_to_this_machine_is_refused_by_a_closed_policy_alone(server, names):
    url, asked, answers = server
    answers["/a.wav"] = sends(WAV)
    names[0]["inside.example"] = ["127.0.0.1"]
    target = f"http://inside.example:{url.rpartition(':')[2]}/a.wav"
    assert fetch(target) == WAV
    with pytest.raises(FetchError, match="isn't allowed here"):
        fetch(target, CLOSED)
    assert len(asked) == 1


def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_connected_to(
    server, names, monkeypatch
):
    url, asked, answers = server
    answers["/a.wav"] = sends(WAV)
    names[0]["rebinding.example"] = ["93.184.216.34", "127.0.0.1"]
    target = f"http://rebinding.example:{url.rpartition(':')[2]}/a.wav"
    connected, true = [], socket.create_connection

    def connect(address, *args):
        connected.append(address[0])
        if address[0] != "127.0.0.1":
            raise ConnectionRefusedError("the test has no network")
        return true(address, *args)

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(FetchError, match="no network"):
        fetch(target, CLOSED)
    assert (names[1], connected, asked) == (["rebinding.example"], ["93.184.216.34"], [])
    # A host that has a public and a private address is refused as a whole.
    both = [(2, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: both)
    with pytest.raises(FetchError, match="isn't allowed here"):
        fetch("http://both.example/a.wav", CLOSED)
    assert len(connected) == 1


def test_redirects_are_followed_and_checked_by_the_same_policy(server, monkeypatch):
    url, asked, answers = server
    answers["/a.wav"] = sends(WAV)
    answers["/moved"] = sends(b"", 302, Location=f"{url}/a.wav")
    answers["/file"] = sends(b"", 302, Location="file:///etc/passwd")
    answers["/ftp"] = sends(b"", 302, Location="ftp://127.0.0.1/a.wav")
    answers["/round"] = sends(b"", 302, Location=f"{url}/round")
    assert fetch(f"{url}/moved") == WAV
    for path in ("/file", "/ftp", "/round"):
        with pytest.raises(FetchError):
            fetch(url + path)
    # the first address is allowed, where it leads to isn't
    port = int(url.rpartition(":")[2])
    allowed, check = ["public.example"], fetching._check_public
    monkeypatch.setattr(
        fetching,
        "_check_public",
        lambda host, address: None if host in allowed else check(host, address),
    )
    true = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **kwargs: true("127.0.0.1" if host in allowed else host, *args, **kwargs),
    )
    assert fetch(f"http://public.example:{port}/a.wav", CLOSED) == WAV
    asked.clear()
    with pytest.raises(FetchError, match="isn't allowed here"):
        fetch(f"http://public.example:{port}/moved", CLOSED)
    assert asked == ["/moved"]


def test_a_closed_policy_asks_no_proxy(server, monkeypatch):
    url, asked, answers = server
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(FetchError):
        fetch("http://127.0.0.1:9/a.wav", CLOSED)
    assert asked == []
