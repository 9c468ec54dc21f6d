"""`zipenhancer serve`: the answers are those of a direct call, and what strangers do has an end."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
from conftest import ROOT, noisy_speech
from serving import ask, raw, rest_of, serving

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.audio.policy import Policy
from modelscope_zipenhancer.audio.samples import pcm16
from modelscope_zipenhancer.audio.write import encode
from modelscope_zipenhancer.cli import main
from modelscope_zipenhancer.web.limits import Limits

SPEECH = noisy_speech(1.5)


def file_of(x=SPEECH, kind="WAV", rate=16000, subtype="PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, format=kind, subtype=subtype)
    return file.getvalue()


WAV = file_of()


@pytest.fixture(scope="module")
def enhancer(quick_model_dir):
    return Enhancer.from_pretrained(quick_model_dir, device="cpu")


@pytest.fixture(scope="module")
def port(enhancer):
    with serving(enhancer) as server:
        yield server.port


def form_of(*files: tuple) -> tuple:
    """(body, content type) of a form; files: (field, file name as bytes, content)."""
    body = b""
    for field, name, content in files:
        head = f'Content-Disposition: form-data; name="{field}"; filename="'.encode() + name + b'"\r\n'
        body += b"--limit\r\n" + head + b"Content-Type: audio/wav\r\n\r\n" + content + b"\r\n"
    return body + b"--limit--\r\n", "multipart/form-data; boundary=limit"


# ---- recordings ----------------------------------------------------------------------------------


def test_a_recording_comes_back_as_a_direct_call_gives_it(port, enhancer):
    answer = ask(port, body=WAV)
    assert answer.status == 200 and answer.headers["content-type"] == "audio/wav"
    assert answer.body == encode(enhancer(WAV), 16000)
    assert answer.headers["x-audio-seconds"] == "1.500"
    body, kind = form_of(("file", b"noisy.wav", WAV))
    assert ask(port, body=body, Content_Type=kind).body == answer.body


@pytest.mark.parametrize(
    "query, options",
    [
        ("strength=6", {"strength": 6}),
        ("mono=true", {"mono": True}),
        ("bandwidth=full", {"bandwidth": "full"}),
        ("gain=recording", {"gain": "recording"}),
        ("sample_rate=16000", {"output_rate": 16000}),
    ],
)
def test_options_are_those_of_the_enhancer(query, options, port, enhancer):
    stereo = file_of(np.stack([SPEECH, SPEECH[::-1]], axis=1), rate=44100)
    expected = encode(enhancer(stereo, **options), options.get("output_rate", 44100))
    assert ask(port, path=f"/v1/enhance?{query}", body=stereo).body == expected


@pytest.mark.parametrize(
    "accept, kind, container",
    [
        ("", "audio/wav", "WAV"),
        ("*/*", "audio/wav", "WAV"),
        ("audio/*;q=0.5, text/html", "audio/wav", "WAV"),
        ("audio/flac", "audio/flac", "FLAC"),
        ("audio/wav;q=0.1, audio/flac;q=0.9", "audio/flac", "FLAC"),
        ("audio/ogg; codecs=opus", "audio/ogg", "OGG"),
        ("audio/opus", "audio/ogg", "OGG"),
    ],
)
def test_the_accept_header_names_the_format(accept, kind, container, port, enhancer):
    answer = ask(port, body=WAV, Accept=accept)
    assert answer.headers["content-type"] == kind
    assert soundfile.info(io.BytesIO(answer.body)).format == container
    if container == "FLAC":
        x, _ = soundfile.read(io.BytesIO(answer.body), dtype="int16")
        assert np.array_equal(x, pcm16(enhancer(WAV)))


@pytest.mark.parametrize(
    "request_, status, words",
    [
        ({"Accept": "text/html"}, 406, "names none of audio/wav"),
        ({"Accept": "audio/wav;q=0"}, 406, "names none of"),
        ({"Content_Type": "application/json", "body": b'{"input": "/etc/passwd"}'}, 415, "application/json"),
        ({"Content_Type": "text/plain"}, 415, "audio was expected"),
        ({"Content_Encoding": "gzip"}, 415, "Content-Encoding"),
        ({"body": b""}, 422, "is empty"),
        ({"body": b"/etc/passwd"}, 422, "no audio that can be read"),
        ({"body": b"http://127.0.0.1/a.wav"}, 422, "no audio that can be read"),
        ({"body": WAV[:44]}, 422, "without audio"),
        ({"body": file_of(np.zeros(16000 * 901, np.int16), "FLAC")}, 413, "limit of 900 s"),
        ({"body": file_of(np.zeros((4_000_000, 8), np.int16), "FLAC", 48000)}, 413, "more samples"),
        ({"body": file_of(np.zeros((100, 9), np.int16))}, 413, "9 channels, more than the limit of 8"),
        ({"body": file_of(np.zeros((500_000, 8), np.int16), "FLAC", 1000)}, 413, "mono=1 mixes"),
        ({"Accept": "audio/flac", "body": file_of(np.zeros(9, np.int16), rate=700_000)}, 422, "700000 Hz"),
        ({"path": "/v1/enhance?strength=-1"}, 422, "strength: "),
        ({"path": "/v1/enhance?strength=nan"}, 422, "strength"),
        ({"path": "/v1/enhance?sample_rate=1"}, 422, "sample_rate: "),
        ({"path": "/v1/enhance?bandwidth=wide"}, 422, "bandwidth: "),
        ({"path": "/v1/nothing"}, 404, "Not Found"),
        ({"method": "GET"}, 405, "Method Not Allowed"),
    ],
)
def test_what_can_not_be_is_refused_in_words(request_, status, words, port):
    answer = ask(port, **{"body": WAV, **request_})
    assert answer.status == status, answer.body
    assert words in answer.error


def test_a_recording_that_was_cut_off_is_enhanced_with_a_warning_or_refused(port):
    answer = ask(port, body=WAV[:20000])
    assert answer.status == 200 and "are missing" in answer.headers["x-warning"]
    assert ask(port, path="/v1/enhance?strict=1", body=WAV[:20000]).status == 422


@pytest.mark.parametrize(
    "name",
    ["录音.wav", "../../etc/passwd", "a\\..\\b.wav", "\u202egpj.exe", "😀" * 2000, "", "nul\0.wav"],
)
def test_the_name_of_a_file_in_a_form_does_nothing(name, port, enhancer):
    body, kind = form_of(("anything", name.encode(), WAV))
    answer = ask(port, body=body, Content_Type=kind)
    if len(name) > 1000:  # longer than a header may be
        assert answer.status == 400 and answer.error
    elif name:
        assert answer.status == 200 and answer.body == encode(enhancer(WAV), 16000)
    else:  # a field that isn't a file
        assert answer.status in (200, 422)


def test_forms_have_one_file_and_few_fields(port):
    for files in (
        (),
        (("a", b"a.wav", WAV), ("b", b"b.wav", WAV)),
        [(f"f{i}", b"", b"x") for i in range(3000)],
    ):
        body, kind = form_of(*files)
        assert ask(port, body=body, Content_Type=kind).status in (400, 422)
    assert ask(port, body=b"nonsense", Content_Type="multipart/form-data").status in (400, 422)


def test_a_form_in_a_charset_that_there_is_not_is_refused(port):
    body, kind = form_of(("file", b"a.wav", WAV))
    answer = ask(port, body=body, Content_Type=f"{kind}; charset=undefined")
    assert answer.status == 422 and "the form can't be read" in answer.error


def test_several_clients_at_once_get_each_their_own(port, enhancer):
    files = [file_of(noisy_speech(0.5 + 0.1 * i, seed=i)) for i in range(8)]
    expected = [encode(enhancer(data), 16000) for data in files]
    got = {}

    def client(i):
        for _ in range(3):
            got.setdefault(i, []).append(ask(port, body=files[i % 8]).body == expected[i % 8])

    threads = [threading.Thread(target=client, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: [True] * 3 for i in range(16)}


def test_the_page_the_health_and_the_metrics(port):
    ask(port, body=WAV)
    ask(port, body=b"no audio")
    ask(port, path="/random/path")
    assert json.loads(ask(port, "GET", "/healthz").body)["status"] == "ok"
    page = json.loads(ask(port, "GET", "/openapi.json").body)
    posted = page["paths"]["/v1/enhance"]["post"]
    assert {"200", "401", "413", "415", "422", "429"} <= set(posted["responses"])
    assert "multipart/form-data" in posted["requestBody"]["content"]
    assert ask(port, "GET", "/docs").status == 200
    text = ask(port, "GET", "/metrics").body.decode()
    for line in (
        r'requests_total\{route="/v1/enhance",status="200"\} [1-9]',
        r'requests_total\{route="other",status="404"\} [1-9]',
        r'audio_seconds_total\{route="/v1/enhance"\} [1-9]',
        r"rtf_count [1-9]",
        r"queue 0",
        r"streams 0",
        r'errors_total\{kind="AudioError"\} [1-9]',
    ):
        assert re.search(f"^zipenhancer_{line}", text, re.M), line
    assert "/random" not in text


def test_a_key_is_needed_where_there_is_one(enhancer):
    connect = pytest.importorskip("websockets.sync.client", reason="the [serve] extra").connect
    from websockets.exceptions import InvalidStatus

    with serving(enhancer, api_keys=("right", "right too")) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"X_API_Key": "rightx"},
            {"X_API_Key": "\xff"},
        ):
            answer = ask(server.port, body=WAV, **headers)
            assert answer.status == 401 and "API key" in answer.error
            assert answer.headers["www-authenticate"] == "Bearer"
        assert ask(server.port, "GET", "/metrics").status == 401
        assert ask(server.port, "GET", "/healthz").status == 200
        beside = {"Authorization": "Bearer a proxy's", "X_API_Key": "right"}
        for headers in ({"Authorization": "Bearer right"}, {"X_API_Key": "right too"}, beside):
            assert ask(server.port, body=WAV, **headers).status == 200
        with pytest.raises(InvalidStatus, match="401"):
            connect(f"ws://127.0.0.1:{server.port}/v1/stream")
        key = {"Authorization": "Bearer right"}
        with connect(f"ws://127.0.0.1:{server.port}/v1/stream", additional_headers=key) as connection:
            assert json.loads(connection.recv(10))["sample_rate"] == 16000


# ---- streams -------------------------------------------------------------------------------------


def streamed(port, blocks, query="", **options):
    """(what the server said first, all bytes that came, what it said last, the code that it closed with)"""
    connect = pytest.importorskip("websockets.sync.client", reason="the [serve] extra").connect
    from websockets.exceptions import ConnectionClosed

    texts, pcm = [], b""
    with connect(f"ws://127.0.0.1:{port}/v1/stream{query}", compression=None, **options) as connection:
        try:
            for block in blocks:
                connection.send(block)
            while True:
                message = connection.recv(30)
                if isinstance(message, bytes):
                    pcm += message
                else:
                    texts.append(json.loads(message))
        except ConnectionClosed as closed:
            return texts, pcm, closed.rcvd.code if closed.rcvd else None


def blocks_of(data: bytes, size: int) -> list:
    return [*(data[i : i + size] for i in range(0, len(data), size)), "flush"]


@pytest.mark.parametrize("size", [1, 333, 4000, 100_000])
def test_a_stream_comes_back_as_a_direct_call_gives_it_in_blocks_of_any_size(size, port, enhancer):
    x = pcm16(SPEECH[: 200 if size == 1 else None])
    texts, pcm, code = streamed(port, blocks_of(x.tobytes(), size))
    stream = enhancer.stream()
    expected = np.concatenate([stream.feed(x), stream.flush()])
    assert pcm == pcm16(expected).tobytes() and code == 1000
    assert texts == [
        {"sample_rate": 16000, "channels": 1, "latency_ms": round(stream.latency_ms, 1)},
        {"samples": len(x)},
    ]


def test_a_stream_has_options(port, enhancer):
    options = {"sample_rate": 48000, "channels": 2, "chunk_ms": 500.0, "past_ms": 250.0, "strength": 12.0}
    x = np.stack([SPEECH, SPEECH[::-1]], axis=1)
    query = "?format=f32le&" + "&".join(f"{name}={value:g}" for name, value in options.items())
    _, pcm, code = streamed(port, blocks_of(x.tobytes(), 10_001), query)
    stream = enhancer.stream(**options)
    expected = np.concatenate([stream.feed(x), stream.flush()])
    assert pcm == expected.tobytes() and code == 1000


@pytest.mark.parametrize(
    "query, words",
    [
        ("?sample_rate=fast", "a number was expected"),
        ("?sample_rate=1", "sample rate of 1 Hz"),
        ("?channels=0", "1 to 8"),
        ("?channels=1000", "1 to 8"),
        ("?format=mp3", "s16le or f32le"),
        ("?strength=-3", "strength"),
        ("?chunk_ms=nan", "chunk_ms"),
        ("?chunk_ms=1e9", "at most 6000"),
        ("?past_ms=1e9", "at most 6000"),
        ("?chunk_ms=1", "20 times chunk_ms"),
        ("?output_path=/tmp/a", "'output_path' is no option"),
    ],
)
def test_a_stream_that_can_not_be_is_refused_before_it_begins(query, words, port, caplog):
    connect = pytest.importorskip("websockets.sync.client", reason="the [serve] extra").connect
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}/v1/stream{query}")
    assert refused.value.response.status_code == 422
    assert words in json.loads(refused.value.response.body)["error"]
    assert "handshake" not in caplog.text  # uvicorn's error, of an answer that is meant


def test_messages_that_a_stream_does_not_take_end_it_with_words(port):
    texts, _, code = streamed(port, ["hello"])
    assert code == 1003 and '"flush"' in texts[-1]["error"]
    nan = np.full(1000, np.nan, "<f4").tobytes()
    texts, _, code = streamed(port, [nan], "?format=f32le")
    assert code == 1007 and "NaN" in texts[-1]["error"]
    _, _, code = streamed(port, [bytes(2 << 20)])
    assert code in (1009, None)  # the reset of a socket with unread bytes may overtake the code
    assert ask(port, body=WAV).status == 200


def test_a_stream_whose_network_fails_ends_with_words_and_is_in_the_log(caplog):
    def failing(waveform, gain=None):
        raise RuntimeError("CUDA error: out of luck")

    with serving(Enhancer(failing)) as server:
        texts, _, code = streamed(server.port, [bytes(64_000), "flush"])
        assert code == 1011 and "the server failed" in texts[-1]["error"] and "luck" not in str(texts)
        assert b'zipenhancer_errors_total{kind="RuntimeError"} 1' in ask(server.port, "GET", "/metrics").body
    assert "out of luck" in caplog.text


def test_streams_have_a_number_and_an_idle_time(enhancer):
    connect = pytest.importorskip("websockets.sync.client", reason="the [serve] extra").connect
    from websockets.exceptions import InvalidStatus

    with serving(enhancer, Limits(streams=1, stream_idle=0.5, stop_seconds=5)) as server:
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        with connect(url):
            with pytest.raises(InvalidStatus) as refused:
                connect(url)
            assert refused.value.response.status_code == 429
        texts, _, code = streamed(server.port, [])
        assert code == 1008 and texts[-1] == {"error": "nothing came for 0.5 s"}


def test_a_stream_is_read_no_faster_than_it_is_enhanced(enhancer, monkeypatch):
    """Back-pressure: what is sent ahead of the work waits with the client."""
    connect = pytest.importorskip("websockets.sync.client", reason="the [serve] extra").connect
    from websockets.exceptions import ConnectionClosed

    with serving(enhancer) as server:
        go = threading.Event()
        run = server.service.stream_steps.run

        async def held(function):
            while not go.is_set():
                await asyncio.sleep(0.01)
            return await run(function)

        monkeypatch.setattr(server.service.stream_steps, "run", held)
        sent = 0
        block = bytes(1 << 19)

        def send(connection):
            nonlocal sent
            with contextlib.suppress(ConnectionClosed, OSError):
                for _ in range(100):
                    connection.send(block)
                    sent += len(block)

        with connect(f"ws://127.0.0.1:{server.port}/v1/stream", compression=None) as connection:
            thread = threading.Thread(target=send, args=(connection,), daemon=True)
            thread.start()
            time.sleep(1)
            stuck = sent
            time.sleep(0.5)
            assert sent == stuck < 100 * len(block)
            connection.socket.shutdown(socket.SHUT_RDWR)
            go.set()
        thread.join(10)
        assert not thread.is_alive()
        assert ask(server.port, body=WAV).status == 200


def frame(kind: int, data: bytes, last: bool = True) -> bytes:
    """A frame from a client, masked with zeros."""
    length = bytes([0xFE]) + len(data).to_bytes(2, "big") if len(data) > 125 else bytes([0x80 + len(data)])
    return bytes([kind + 0x80 * last]) + length + bytes(4) + data


@contextlib.contextmanager
def open_stream(port, query=""):
    """A WebSocket by hand."""
    head = f"GET /v1/stream{query} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with raw(port, head.encode()) as connection:
        assert b"101" in connection.recv(4096)
        yield connection


def test_the_work_on_a_long_message_ends_when_its_client_goes(enhancer):
    with serving(enhancer, Limits(stop_seconds=5)) as server:
        query, block = (
            "?sample_rate=1000&chunk_ms=300&past_ms=5600&ahead_ms=50",
            np.ones(30_000, "<i2").tobytes(),
        )
        with open_stream(server.port, query) as connection:
            connection.sendall(frame(2, block))
            wait_until(lambda: server.service.streams == 1)
            time.sleep(0.2)
        wait_until(lambda: server.service.streams == 0)
        began = time.monotonic()
        assert len(streamed(server.port, [bytes(32000), "flush"])[1]) == 32000
        assert time.monotonic() - began < 20  # 600 s of work, were it done to its end


@pytest.mark.parametrize("flood", [frame(9, b"x" * 125), frame(0, b"", last=False)])
def test_pings_and_empty_frames_without_end_are_given_up(enhancer, flood):
    with serving(enhancer) as server, open_stream(server.port) as connection:
        connection.sendall(frame(2, b"", last=False))
        connection.settimeout(10)
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                connection.sendall(flood * 1000)


def test_a_client_that_does_not_read_its_stream_is_given_up_with_its_socket(enhancer):
    with (
        serving(enhancer, Limits(stream_idle=0.5, patience=0.5, stop_seconds=5)) as server,
        open_stream(server.port, "?format=f32le") as connection,
    ):
        connection.setblocking(False)
        block = memoryview(frame(2, bytes(64_000)) * 100)
        end = time.monotonic() + 60
        while server.server.server_state.connections and time.monotonic() < end:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                block = block[connection.send(block) :] or block
            time.sleep(0.01)
        assert not server.server.server_state.connections


# ---- too much, too slow --------------------------------------------------------------------------


@pytest.fixture
def slow(enhancer, monkeypatch):
    """A server of one thread with one place to wait, whose work goes on when .go is set."""
    go = threading.Event()
    enhance = Enhancer.enhance

    def held(self, *args, progress=None, **options):
        while not go.wait(0.02):
            progress(0, 1)
        return enhance(self, *args, progress=progress, **options)

    monkeypatch.setattr(Enhancer, "enhance", held)
    with serving(enhancer, Limits(queue=1, stop_seconds=10), threads=1) as server:
        server.go = go
        yield server
        go.set()


def wait_until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it has not happened in 10 s")


def in_threads(port, count) -> tuple:
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(port, body=WAV))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return answers, threads


def test_who_finds_no_place_is_told_when_to_come_again(slow):
    answers, threads = in_threads(slow.port, 2)
    wait_until(lambda: slow.service.recordings.pending == 2)
    refused = ask(slow.port, body=WAV)
    assert refused.status == 429 and int(refused.headers["retry-after"]) >= 1 and "busy" in refused.error
    assert ask(slow.port, body=WAV, Content_Type="text/plain").status == 415  # to come again would be no use
    assert ask(slow.port, "GET", "/healthz").status == 200
    slow.go.set()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200, 200]
    assert ask(slow.port, body=WAV).status == 200


def test_the_work_for_a_client_that_has_gone_ends(slow):
    head = f"POST /v1/enhance HTTP/1.1\r\nHost: h\r\nContent-Length: {len(WAV)}\r\n\r\n".encode()
    with raw(slow.port, head, WAV), raw(slow.port, head, WAV):
        wait_until(lambda: slow.service.recordings.pending == 2)
    wait_until(lambda: slow.service.recordings.pending == 0)  # without .go
    slow.go.set()
    assert ask(slow.port, body=WAV).status == 200


def test_a_server_that_is_stopped_finishes_what_is_there(slow):
    answers, threads = in_threads(slow.port, 2)
    wait_until(lambda: slow.service.recordings.pending == 2)
    stopping = threading.Thread(target=slow.stop)
    stopping.start()
    wait_until(lambda: slow.service.stopping.is_set())
    time.sleep(0.3)
    with pytest.raises(OSError):
        ask(slow.port, body=WAV)
    slow.go.set()
    for thread in (*threads, stopping):
        thread.join()
    assert [answer.status for answer in answers] == [200, 200]


def test_a_server_that_gives_no_time_ends_at_once(enhancer, monkeypatch):
    def held(self, *args, progress=None, **options):
        while True:
            time.sleep(0.02)
            progress(0, 1)

    monkeypatch.setattr(Enhancer, "enhance", held)
    with serving(enhancer, Limits(stop_seconds=0), threads=1) as server:
        _, (thread,) = in_threads(server.port, 1)
        wait_until(lambda: server.service.recordings.pending == 1)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10
    thread.join(10)


def test_a_stream_whose_server_is_stopped_gets_what_it_has_sent(enhancer):
    connect = pytest.importorskip("websockets.sync.client", reason="the [serve] extra").connect
    from websockets.exceptions import ConnectionClosed

    x = pcm16(SPEECH)
    with serving(enhancer) as server:
        with connect(f"ws://127.0.0.1:{server.port}/v1/stream") as connection:
            connection.recv()
            connection.send(x.tobytes())
            stream = enhancer.stream()
            expected = [pcm16(stream.feed(x)).tobytes()]
            got = connection.recv(10) if expected[0] else b""
            threading.Thread(target=server.stop).start()
            got += connection.recv(10)
            assert got == expected[0] + pcm16(stream.flush()).tobytes()
            assert json.loads(connection.recv(10)) == {"samples": len(x), "error": "the server is stopping"}
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(10)
            assert closed.value.rcvd.code == 1012
        server.stop()


QUICK_LIMITS = Limits(policy=Policy(max_bytes=100_000), patience=0.5, slowest=50_000, stop_seconds=5)


@pytest.fixture(scope="module")
def strict_port(enhancer):
    with serving(enhancer, QUICK_LIMITS) as server:
        yield server.port


def test_a_body_beyond_the_limit_is_refused_however_it_says_its_length(strict_port):
    large = file_of(noisy_speech(10.0))  # 320 KB
    answer = ask(strict_port, body=large)
    assert answer.status == 413 and "100000 bytes" in answer.error
    body, kind = form_of(("file", b"a.wav", large))
    assert ask(strict_port, body=body, Content_Type=kind).status == 413
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    head = b"POST /v1/enhance HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    with raw(strict_port, head, *[chunk] * 4, b"0\r\n\r\n") as connection:
        assert b" 413 " in rest_of(connection)
    head = b"POST /v1/enhance HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n"
    with raw(strict_port, head) as connection:  # refused before anything has come
        assert b" 413 " in connection.recv(1000)
    head = b"POST /v1/enhance HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n"
    with raw(strict_port, head, bytes(1000)) as connection:  # the rest is no request
        said = rest_of(connection)
        assert b" 422 " in said and b" 400 " in said
    begin = b"POST /v1/enhance HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
    with raw(strict_port, begin, b"Content-Length: 6\r\n\r\n") as connection:
        assert b" 400 " in rest_of(connection)
    with raw(strict_port, begin, b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n") as connection:
        assert b" 422 " in connection.recv(1000)  # chunked, as HTTP has it: an empty body


def test_a_body_that_drips_is_given_up(strict_port):
    head = f"POST /v1/enhance HTTP/1.1\r\nHost: h\r\nContent-Length: {len(WAV)}\r\n\r\n".encode()
    with raw(strict_port, head) as connection:  # and nothing more
        assert b" 408 " in connection.recv(1000)
    with raw(strict_port, head + b"x") as connection:
        begun = time.monotonic()
        connection.settimeout(0.02)
        said = b""
        while b"}" not in said and time.monotonic() - begun < 20:  # the answer's head may come by itself
            if not said:
                connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                said += connection.recv(1000)
        assert b" 408 " in said and b"too slow" in said
    assert ask(strict_port, body=WAV).status == 200


def test_a_connection_that_sends_no_header_is_closed(strict_port):
    for begin in (b"", b"POST /v1/enh", b"POST / HTTP/1.1\r\nHost: h\r\nX: "):
        with raw(strict_port, begin) as connection:
            begun = time.monotonic()
            assert rest_of(connection) == b""
            assert time.monotonic() - begun < 10
    with raw(strict_port, b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000) as connection:
        assert b" 400 " in rest_of(connection)


def test_open_sockets_keep_nobody_out_and_are_closed(enhancer):
    with serving(enhancer, Limits(patience=30, stop_seconds=5)) as server, contextlib.ExitStack() as stack:
        for i in range(400):
            stack.enter_context(raw(server.port))
            if i % 50 == 0:
                assert ask(server.port, "GET", "/healthz").status == 200
        assert ask(server.port, body=WAV).status == 200
        wait_until(lambda: len(server.server.server_state.connections) <= 200)


def test_a_client_that_does_not_read_its_answer_is_given_up(enhancer):
    long = file_of(np.zeros(16000 * 600, np.int16), "FLAC")  # its answer has 19 MB
    limits = Limits(patience=0.3, slowest=1 << 20, stop_seconds=5)
    with serving(enhancer, limits) as server:
        server.service.enhancer = Silent()
        head = f"POST /v1/enhance HTTP/1.1\r\nHost: h\r\nContent-Length: {len(long)}\r\n\r\n".encode()
        with raw(server.port, head, long):
            wait_until(lambda: server.service.recordings.pending == 0 and server.server.server_state.tasks)
            wait_until(lambda: not server.server.server_state.tasks)
            wait_until(lambda: not server.server.server_state.connections)


class Silent:
    """An Enhancer that takes no time."""

    def enhance(self, x, rate, **options):
        return np.zeros_like(x)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_told_to_stop(quick_model_dir):
    command = [
        sys.executable,
        "-m",
        "modelscope_zipenhancer",
        "serve",
        "--port",
        "0",
        "--model",
        quick_model_dir,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ZIPENHANCER_API_KEY": "one, two"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stderr.readline()
        port = int(re.search(r"http://127.0.0.1:(\d+) serves", said)[1])
        assert ask(port, body=WAV).status == 401
        assert ask(port, body=WAV, X_API_Key="two").status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_port_that_is_taken_is_a_line_with_the_remedy(port, capsys):
    assert main(["serve", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"port {port}" in said and "another --port" in said


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--host", "no.such.host.invalid"], "no such address"),
        (["--port", "99999"], "99999"),
        (["--model", "no_such_model"], "unknown model 'no_such_model'"),
        (["--model", "/tmp"], "configuration.json"),
        (["--queue", "-1"], "--queue -1"),
        (["--max-mb", "0"], "--max-mb 0"),
        (["--backend", "java"], "unknown backend 'java'"),
        (["--device", "tpu9"], "tpu9"),
    ],
)
def test_what_can_not_be_served_is_a_line_and_code_2(arguments, words, capsys):
    arguments = arguments if "--port" in arguments else ["--port", "0", *arguments]
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said, said


def test_without_the_extra_a_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "modelscope_zipenhancer.web.app", raising=False)
    assert main(["serve", "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'modelscope_zipenhancer[serve]'" in said
