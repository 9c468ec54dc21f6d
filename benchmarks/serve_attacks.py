"""What strangers may try on `zipenhancer serve` and on `modelscope server`, and what comes back: a table.

    python benchmarks/serve_attacks.py [modelscope]

Each attack is one on a server of this machine in a process of its own, with tiny; behind each a plain
request must be answered with 200. Short forms: tests/web/test_serve.py, tests/plugin/test_service.py.
"""

import base64
import contextlib
import gzip
import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile
from serve_process import ROOT, post, rss_mb, serving

SECOND = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1


def file_of(x, kind="WAV", rate=16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, format=kind, subtype="PCM_16")
    return file.getvalue()


WAV = file_of(SECOND)
HEAD = "POST /v1/enhance HTTP/1.1\r\nHost: h\r\n"


def raw(port: int, *parts: bytes, wait: float = 60) -> str:
    """The status line that comes back, and when the connection ends."""
    begun = time.monotonic()
    said = b""
    with socket.create_connection(("127.0.0.1", port), wait) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            while part := connection.recv(65536):
                said += part
        except TimeoutError:
            return f"{_line(said)}; open after {wait:.0f} s"
        except ConnectionError:
            pass
    return f"{_line(said)}; closed after {time.monotonic() - begun:.1f} s"


def _line(said: bytes) -> str:
    return said.split(b"\r\n")[0].decode(errors="replace") if said else "nothing"


def drip(port: int, first: bytes, every: float) -> str:
    """A byte now and then: how long it goes on."""
    begun, said = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port)) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(first)
        connection.settimeout(every)
        while time.monotonic() - begun < 120:
            try:
                said = connection.recv(65536)
                break
            except TimeoutError:
                connection.sendall(b"x")
    return f"{_line(said)}; closed after {time.monotonic() - begun:.1f} s"


def said(answer: tuple) -> str:
    status, _, body = answer
    if status == 200:
        return "200"
    text = json.loads(body).get("error", "") if body[:1] == b"{" else body.decode(errors="replace")
    return f"{status} {text[:110]}"


def form(*files: tuple) -> tuple[bytes, str]:
    body = b""
    for name, content in files:
        body += b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n'
        body += content + b"\r\n"
    return body + b"--x--\r\n", "multipart/form-data; boundary=x"


def many_sockets(port: int) -> str:
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        begun = time.monotonic()
        answer = said(post(port, WAV))
        return f"a request meanwhile: {answer} in {time.monotonic() - begun:.1f} s"


def no_reader(port: int) -> str:
    """5 minutes of zeros, whose answer of 9.6 MB nobody reads."""
    zeros = file_of(np.zeros(16000 * 300, np.int16), "FLAC")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(f"{HEAD}Content-Length: {len(zeros)}\r\n\r\n".encode() + zeros)
        time.sleep(1)
        begun = time.monotonic()
        while time.monotonic() - begun < 240:
            connections = metric(port, "zipenhancer_running")
            if not connections:
                break
            time.sleep(1)
        worked = time.monotonic() - begun
        time.sleep(45)
        connection.settimeout(10)
        total = 0
        try:
            while part := connection.recv(1 << 20):
                total += len(part)
        except ConnectionError:
            pass
        return f"worked on for {worked:.0f} s; of 9.6 MB it can read {total / 1e6:.1f} MB afterwards: cut off"


def metric(port: int, name: str) -> float:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return 0.0


def streams(port: int, count: int) -> str:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    refused, opened = [], 0
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            try:
                stack.enter_context(connect(f"ws://127.0.0.1:{port}/v1/stream"))
                opened += 1
            except InvalidStatus as error:
                refused.append(error.response.status_code)
    return f"{opened} open, {len(refused)} refused with {sorted(set(refused))}"


def stream_closes(port: int, message, query: str = "") -> str:
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    try:
        with connect(f"ws://127.0.0.1:{port}/v1/stream{query}", compression=None) as connection:
            texts = [connection.recv(10)]
            try:
                connection.send(message)
                while True:
                    texts.append(connection.recv(70))
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else None
                words = json.loads(texts[-1]).get("error", "") if isinstance(texts[-1], str) else ""
                return f"closed with {code} {words}"
    except InvalidStatus as error:
        return f"{error.response.status_code} {json.loads(error.response.body)['error']}"


def ours(port: int):
    """(attack, what came back) on `zipenhancer serve`."""
    lying = bytearray(WAV)
    lying[40:44] = struct.pack("<I", 0xFFFFFFF0)
    lying[4:8] = struct.pack("<I", 0xFFFFFFF0)
    thousand = bytearray(WAV)
    thousand[22:24], thousand[32:34] = struct.pack("<H", 1024), struct.pack("<H", 2048)
    rate = bytearray(WAV)
    rate[24:28] = struct.pack("<I", 4_000_000_000)
    slow = bytearray(WAV)
    slow[24:28] = struct.pack("<I", 1)
    yield "a path as the body", said(post(port, b"/etc/passwd"))
    yield "a URL as the body", said(post(port, b"http://127.0.0.1:22/"))
    yield "JSON", said(post(port, b'{"input": "/etc/passwd"}', Content_Type="application/json"))
    yield "`output_path` in the query", said(post(port, WAV, "/v1/enhance?output_path=/tmp/x.wav"))
    zeros = file_of(np.zeros(16000 * 36_000, np.int16), "FLAC")
    yield f"10 h of zeros in {len(zeros) / 1e6:.1f} MB of FLAC", said(post(port, zeros))
    zeros = file_of(np.zeros((14_000_000, 8), np.int16), "FLAC", 48000)
    yield f"112 million samples in 8 channels, {len(zeros) / 1e6:.1f} MB", said(post(port, zeros))
    bomb = gzip.compress(bytes(1 << 28))
    yield "256 MB of zeros as Content-Encoding: gzip", said(post(port, bomb, Content_Encoding="gzip"))
    yield "a WAV header that promises 4 GB", said(post(port, bytes(lying)))
    yield "a WAV header with 1024 channels", said(post(port, bytes(thousand)))
    yield "a WAV header with 4 GHz", said(post(port, bytes(rate)))
    yield "a WAV header with 1 Hz (16000 s)", said(post(port, bytes(slow)))
    yield "20 MB, Content-Length right", said(post(port, bytes(20 << 20)))
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    yield "20 MB in chunks", raw(port, f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(), *[chunk] * 20)
    yield "Content-Length: 10^20", raw(port, f"{HEAD}Content-Length: 1{'0' * 20}\r\n\r\n".encode())
    begin = f"{HEAD}Content-Length: 100\r\n".encode()
    yield "Content-Length 100, 1 MB comes", raw(port, begin + b"\r\n", bytes(1 << 20))
    yield "two Content-Lengths", raw(port, begin + b"Content-Length: 5\r\n\r\n")
    yield "Content-Length 1 MB, nothing comes", raw(port, f"{HEAD}Content-Length: 1000000\r\n\r\n".encode())
    yield "a body of a byte a second", drip(port, f"{HEAD}Content-Length: 1000000\r\n\r\n".encode(), 1)
    yield "a header of a byte a second", drip(port, b"POST / HTTP/1.1\r\nX: ", 1)
    yield "a header of 1 MB", raw(port, b"GET / HTTP/1.1\r\nX: " + b"x" * (1 << 20))
    yield "nothing at all", raw(port)
    yield "1,000 open sockets", many_sockets(port)
    names = {"录音.wav": "Chinese", "../../etc/passwd": "..", "\u202egpj.exe": "right to left", "a\0b": "NUL"}
    for name, what in names.items():
        body, kind = form((name.encode(), WAV))
        yield f"a form, name of the file: {what}", said(post(port, body, Content_Type=kind))
    body, kind = form((b"x" * 100_000, WAV))
    yield "a form, name of 100,000 letters", said(post(port, body, Content_Type=kind))
    body, kind = form(*[(b"", b"x")] * 10_000)
    yield "a form of 10,000 fields", said(post(port, body, Content_Type=kind))
    yield "a stream: 2 MB in a message", stream_closes(port, bytes(2 << 20))
    yield "a stream: text", stream_closes(port, "hello")
    yield "a stream: NaN", stream_closes(port, np.full(100, np.nan, "<f4").tobytes(), "?format=f32le")
    yield "a stream: past_ms=1e9", stream_closes(port, b"", "?past_ms=1e9")
    yield "a stream: nothing for a minute", stream_closes(port, b"")
    yield "100 streams", streams(port, 100)
    yield "an answer that nobody reads", no_reader(port)


def theirs(folder: str):
    """(attack, what came back, with the service open) on `modelscope server`."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/a.wav")
            self.send_header("Content-Length", "0" if self.path == "/moved" else str(len(WAV)))
            self.end_headers()
            self.wfile.write(b"" if self.path == "/moved" else WAV)

        def log_message(self, *args):
            pass

    inside = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=inside.serve_forever, daemon=True).start()
    port = inside.server_address[1]
    written, secret = f"{folder}/written.wav", f"{folder}/secret.wav"
    with open(secret, "wb") as file:
        file.write(WAV)

    def bytes64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    zeros = file_of(np.zeros(16000 * 3600, np.int16), "FLAC")
    attacks = {
        "a recording in base64": {"input": {"audio": bytes64(WAV)}},
        "`output_path`": {"input": bytes64(WAV), "parameters": {"output_path": written}},
        "a path": {"input": {"audio": secret}},
        "a path that isn't there": {"input": {"audio": "/no/such.wav"}},
        "file://": {"input": f"file://{secret}"},
        "a URL on loopback": {"input": {"audio": f"http://127.0.0.1:{port}/a.wav"}},
        "its address as one number": {"input": f"http://2130706433:{port}/a.wav"},
        "by a redirect on loopback": {"input": f"http://127.0.0.1:{port}/moved"},
        "a DNS name to loopback": {"input": f"http://{socket.gethostname()}:{port}/a.wav"},
        "a link-local URL": {"input": "http://169.254.169.254/latest/meta-data"},
        "1 h of zeros": {"input": bytes64(zeros)},
    }
    results: dict = {name: [] for name in attacks}
    extra: dict = {}
    for environment in ({}, {"MODELSCOPE_ZIPENHANCER_SERVICE": "open"}):
        with modelscope_server(folder, environment) as at:
            for name, request in attacks.items():
                if os.path.exists(written):
                    os.unlink(written)
                asked.clear()
                if environment and name in ("a link-local URL", "1 h of zeros"):
                    results[name].append("not tried: it takes minutes")
                    continue
                answer = said(
                    post(at, json.dumps(request).encode(), "/call", Content_Type="application/json")
                )
                if os.path.exists(written):
                    answer += ", written"
                if asked:
                    answer += f", fetched {asked[-1]}"
                results[name].append(answer)
            if environment:
                continue
            as_json = {"Content_Type": "application/json"}
            extra["JSON of 40 MB"] = said(
                post(at, b'{"input": "' + b"A" * (40 << 20) + b'"}', "/call", **as_json)
            )
            extra["JSON of 3 million lists"] = said(post(at, b"[" + b"[]," * 3_000_000, "/call", **as_json))
            extra["JSON 9,000 deep"] = said(post(at, b"[" * 9000, "/call", **as_json))
            begin = b"POST /call HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"
            extra["a body of a byte a second"] = drip(at, begin, 1)
    for name, (closed, opened) in results.items():
        yield name, closed, opened
    for name, answer in extra.items():
        yield name, answer, ""


SERVER = """
import sys
import modelscope_zipenhancer  # as the entry point of an installed package does
from types import SimpleNamespace
from modelscope.server.api_server import get_app
from modelscope.pipelines import pipeline
from modelscope_zipenhancer.network.pretrained import find_model
import uvicorn
app = get_app(SimpleNamespace())
app.router.on_startup.clear()
app.state.pipeline = pipeline("acoustic-noise-suppression", model=find_model("tiny"))
app.state.pipeline_info = {"task_name": "acoustic-noise-suppression"}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""


@contextlib.contextmanager
def modelscope_server(folder: str, environment: dict):
    """The application of `modelscope server` with tiny, which is on no hub; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    with open(f"{folder}/log", "wb") as log:
        command = [sys.executable, "-c", SERVER, str(port)]
        process = subprocess.Popen(command, env=settings, stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.poll() is None, open(f"{folder}/log").read()[-2000:]
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait(20)


def main() -> None:
    import tempfile

    if sys.argv[1:] != ["modelscope"]:
        attack_ours()
    with tempfile.TemporaryDirectory() as folder:
        print("| `modelscope server` | came back | with MODELSCOPE_ZIPENHANCER_SERVICE=open |\n|---|---|---|")
        for attack, closed, opened in theirs(folder):
            print(f"| {attack} | {closed} | {opened} |".replace(folder, "/tmp/x"), flush=True)


def attack_ours() -> None:
    print("| `zipenhancer serve` | came back |\n|---|---|", flush=True)
    with serving("--device", "cpu", OMP_NUM_THREADS="1") as (process, port):
        assert post(port, WAV)[0] == 200
        for attack, answer in ours(port):
            print(f"| {attack} | {answer} |", flush=True)
            assert post(port, WAV)[0] == 200, attack
        print(f"\nresident {rss_mb(process):.0f} MB, peak {rss_mb(process, peak=True):.0f} MB\n")


if __name__ == "__main__":
    main()
