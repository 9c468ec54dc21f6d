"""`modelscope server` and the hub's widget: each hole with the service open, and closed as by default."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import ROOT, noisy_speech
from loopback_hub import CLIENT_PREAMBLE, LoopbackHub

from modelscope_zipenhancer.audio.policy import SERVED
from modelscope_zipenhancer.errors import ForbiddenError, ZipEnhancerError
from modelscope_zipenhancer.names import TASK
from modelscope_zipenhancer.plugin.service import SERVICE, SentBytes, SentText

SPEECH = noisy_speech(1.0)


def file_of(x, kind="WAV", rate=16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, format=kind, subtype="PCM_16")
    return file.getvalue()


WAV = file_of(SPEECH)
BASE64 = base64.b64encode(WAV).decode()


@pytest.fixture(scope="module")
def ans(quick_model_dir):
    from modelscope.pipelines import pipeline

    return pipeline(TASK, model=quick_model_dir, device="cpu")


@pytest.fixture(scope="module")
def expected(ans) -> dict:
    return ans(WAV)


@pytest.fixture
def opened(monkeypatch):
    """Call it to open the service, as the environment variable does."""
    return lambda: monkeypatch.setenv(SERVICE, "open")


@pytest.fixture
def web():
    """The URL of a server on this machine that has the recording at /a.wav, and what was asked of it."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(302 if self.path == "/moved" else 200)
            if self.path == "/moved":
                self.send_header("Location", "/a.wav")
            self.send_header("Content-Length", "0" if self.path == "/moved" else str(len(WAV)))
            self.end_headers()
            if self.path != "/moved":
                self.wfile.write(WAV)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def ask(ans, given, **parameters) -> dict:
    """What the service does with a request: {"input": given, "parameters": parameters}."""
    from modelscope.utils.input_output import call_pipeline_with_json

    request = {"input": given, **({"parameters": parameters} if parameters else {})}
    return call_pipeline_with_json({"task_name": TASK}, ans, request)


def with_breaks(text: str) -> str:
    return "\n".join(text[i : i + 76] for i in range(0, len(text), 76))


FORMS = {
    "base64 by name": {"audio": BASE64},
    "base64 by another name": {"input": BASE64},
    "bare base64": BASE64,
    "bare base64 in lines": with_breaks(BASE64),
    "base64 in lines by name": {"audio": with_breaks(BASE64)},
    "base64 with the letters of URLs": {"audio": BASE64.replace("+", "-").replace("/", "_").rstrip("=")},
    "a bare data URL": f"data:audio/wav;base64,{BASE64}",
    "a data URL by name": {"audio": f"data:audio/x-wav;base64,{BASE64}"},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_request_brings_audio_as(form, ans, expected):
    assert ask(ans, FORMS[form]) == expected


def test_the_answer_is_json_and_holds_the_direct_calls_samples(ans, expected):
    from modelscope.utils.input_output import pipeline_output_to_service_base64_output

    answer = pipeline_output_to_service_base64_output(TASK, ask(ans, {"audio": BASE64}, level="input"))
    pcm = base64.b64decode(json.loads(json.dumps(answer))["output_pcm"])
    assert pcm == ans(WAV, level="input")["output_pcm"] != expected["output_pcm"]


# ---- the holes -----------------------------------------------------------------------------------


def test_a_request_can_not_write_a_file_on_the_server(ans, opened, tmp_path):
    path = tmp_path / "written.wav"
    for given in FORMS.values():
        with pytest.raises(ForbiddenError, match="output_path isn't allowed here"):
            ask(ans, given, output_path=str(path))
    with pytest.raises(ForbiddenError, match="isn't allowed here"):  # nor hear whether there is such a folder
        ask(ans, BASE64, output_path="/no/such/folder/a.wav")
    assert not path.exists()
    assert ask(ans, BASE64, output_path=None)  # as a form sends it that is left empty
    opened()
    ask(ans, BASE64, output_path=str(path))
    assert path.exists()


def test_a_request_can_not_read_a_file_of_the_server(ans, opened, expected, tmp_path):
    (tmp_path / "secret.wav").write_bytes(WAV)
    path = tmp_path / "secret.wav"
    ways = (str(path), {"audio": str(path)}, path.as_uri(), {"audio": path.as_uri()}, f" {path}")
    for given in ways:
        with pytest.raises(ForbiddenError, match="is a path, which isn't allowed here"):
            ask(ans, given)
    said = set()
    for name in ("secret.wav", "sacred.wav"):  # nor hear whether it is there
        for given in (str(tmp_path / name), {"audio": str(tmp_path / name)}):
            with pytest.raises(ForbiddenError) as refused:
                ask(ans, given)
            said.add(str(refused.value).replace(name, "NAME"))
    assert len(said) == 1
    opened()
    for given in ways[:4]:
        assert ask(ans, given) == expected


def test_a_request_can_not_send_the_server_to_addresses_of_its_own_network(
    ans, opened, expected, web, monkeypatch
):
    import socket

    url, asked = web
    port = url.rpartition(":")[2]
    true = socket.getaddrinfo
    monkeypatch.setattr(  # a name anywhere that leads here
        socket,
        "getaddrinfo",
        lambda host, *a, **k: true("127.0.0.1" if host == "inside.example" else host, *a, **k),
    )
    ways = [
        f"{url}/a.wav",
        f"{url}/moved",
        f"http://localhost:{port}/a.wav",
        f"http://2130706433:{port}/a.wav",
    ]
    ways += [f"http://inside.example:{port}/a.wav", f"http://[::ffff:127.0.0.1]:{port}/a.wav"]
    for way in ways:
        for given in (way, {"audio": way}):
            with pytest.raises(ZipEnhancerError, match="isn't allowed here"):
                ask(ans, given)
    assert asked == []
    opened()
    for way in (ways[0], ways[1], ways[4]):
        assert ask(ans, way) == expected
    assert asked


def test_a_request_can_not_bring_an_archive_of_zeros(ans, opened):
    zeros = {"audio": base64.b64encode(file_of(np.zeros(16000 * 901, np.int16), "FLAC")).decode()}
    assert len(zeros["audio"]) < 400_000
    with pytest.raises(ZipEnhancerError, match="longer than the limit of 900 s"):
        ask(ans, zeros)
    wide = base64.b64encode(file_of(np.zeros((5_000_000, 8), np.int16), "FLAC", 48000)).decode()
    with pytest.raises(ZipEnhancerError, match="more samples than the limit"):
        ask(ans, wide)
    long = base64.b64encode(WAV[:44] + bytes(SERVED.max_bytes)).decode()
    with pytest.raises(ZipEnhancerError, match="longer than the limit of 10485760 bytes"):
        ask(ans, long)
    opened()
    assert len(ans.preprocess(SentBytes(base64.b64decode(zeros["audio"])))["noisy"]) == 16000 * 901


@pytest.mark.parametrize(
    "request_, says",
    [
        ({}, "a request is"),
        ([], "a request is"),
        ({"input": None}, "text was expected"),
        ({"input": 5}, "text was expected"),
        ({"input": ["/etc/passwd"]}, "text was expected"),
        ({"input": {}}, "text was expected"),
        ({"input": {"audio": {"audio": BASE64}}}, "text was expected"),
        ({"input": BASE64, "parameters": ["level"]}, "parameters: an object"),
        ({"input": BASE64, "parameters": {"input": "/etc/passwd"}}, "parameters: an object"),
        ({"input": BASE64, "parameters": {"self": 1}}, "parameters: an object"),
        ({"input": BASE64, "parameters": {"level": "loud"}}, "level='loud'"),
        ({"input": BASE64, "parameters": {"sample_rate": "fast"}}, "sample_rate="),
        ({"input": {"audio": "录音.wav"}}, "is a path"),
        ({"input": "x" * 10_000}, "is a path"),
        ({"input": "data:audio/wav;base64,%%%"}, "base64"),
    ],
)
def test_a_request_that_can_not_be_is_an_error_in_words(request_, says, ans):
    from modelscope.utils.input_output import call_pipeline_with_json

    with pytest.raises(ZipEnhancerError, match=says):
        call_pipeline_with_json({"task_name": TASK}, ans, request_)


def test_parameters_that_are_no_options_of_the_pipeline_are_ignored_a_policy_too(ans, expected):
    assert ask(ans, BASE64, policy={"local_files": True}, batch_size=2, preprocess_params=1) == expected
    with pytest.raises(ForbiddenError):
        ask(ans, "/etc/passwd", policy={"local_files": True})


def test_a_program_reads_and_writes_as_it_likes_unless_it_says_otherwise(quick_model_dir, ans, tmp_path, web):
    from modelscope.pipelines import pipeline

    (tmp_path / "a.wav").write_bytes(WAV)
    assert ans(str(tmp_path / "a.wav"), output_path=str(tmp_path / "b.wav")) == ans(f"{web[0]}/a.wav")
    closed = pipeline(TASK, model=quick_model_dir, device="cpu", policy=SERVED)
    for call in (
        lambda: closed(str(tmp_path / "a.wav")),
        lambda: closed(f"{web[0]}/a.wav"),
        lambda: closed(WAV, output_path=str(tmp_path / "c.wav")),
    ):
        with pytest.raises(ZipEnhancerError, match="isn't allowed here"):
            call()


def test_other_tasks_and_frcrn_get_what_they_always_got(monkeypatch):
    from modelscope.utils import input_output

    given = input_output.service_base64_input_to_pipeline_input(TASK, {"input": {"audio": BASE64}})
    assert given == (WAV, {}) and isinstance(given[0], SentBytes)
    given = input_output.service_base64_input_to_pipeline_input(TASK, {"input": "http://h/a.wav"})
    assert given == ("http://h/a.wav", {}) and isinstance(given[0], SentText)
    other = "speech-separation"
    given = input_output.service_base64_input_to_pipeline_input(other, {"input": {"audio": BASE64}})
    assert given == (WAV, {}) and type(given[0]) is bytes


@pytest.mark.parametrize("first", ["modelscope_zipenhancer", "modelscope.utils.input_output"])
def test_requests_are_held_whatever_is_imported_first(first, run_python, quick_model_dir):
    said = run_python(f"""
import {first}
from modelscope.utils.input_output import call_pipeline_with_json  # by name, before this package
import modelscope_zipenhancer
from modelscope.pipelines import pipeline
ans = pipeline({TASK!r}, model={quick_model_dir!r}, device="cpu")
try:
    call_pipeline_with_json({{"task_name": {TASK!r}}}, ans, {{"input": "/etc/passwd"}})
except Exception as error:
    print(type(error).__name__)
""")
    assert said.split()[-1] == "ForbiddenError"


# ---- `modelscope server` -------------------------------------------------------------------------


class Answered(SimpleNamespace):
    """status, headers, body."""

    @property
    def json(self):
        return json.loads(self.body)


def through(app, body: bytes = b"", method="POST", path="/call", parts=None, headers=()) -> Answered:
    """What an ASGI application answers; parts: of the body, one by one, a number is a pause in seconds."""
    answered = Answered(status=None, headers={}, body=b"")
    waiting = list([body] if parts is None else parts)

    async def receive():
        while waiting:
            part = waiting.pop(0)
            if isinstance(part, float):
                await asyncio.sleep(part)
                continue
            return {"type": "http.request", "body": part, "more_body": bool(waiting)}
        await asyncio.sleep(60)

    async def send(message):
        if message["type"] == "http.response.start":
            answered.status = message["status"]
            answered.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        answered.body += message.get("body", b"")

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": list(headers), "http_version": "1.1", "scheme": "http", "root_path": ""}
    asyncio.run(app(scope, receive, send))
    return answered


@pytest.fixture
def served(ans):
    """The application of `modelscope server`, with our pipeline in it."""
    pytest.importorskip("fastapi", reason="the [serve] extra")
    from modelscope.server.api_server import get_app

    app = get_app(SimpleNamespace())
    app.state.pipeline, app.state.pipeline_info = ans, {"task_name": TASK, "schema": None}
    app.state.pipeline_sample = None
    return app


def test_modelscope_server_answers_in_words(served, expected):
    answer = through(served, json.dumps({"input": {"audio": BASE64}}).encode())
    assert answer.status == 200
    assert base64.b64decode(answer.json["output_pcm"]) == expected["output_pcm"]
    for body, status, words in (
        (b'{"input": "/etc/passwd"}', 403, "is a path"),
        (b'{"input": {"audio": "http://127.0.0.1/a.wav"}}', 422, "isn't allowed here"),
        (b'{"input": "aGVsbG8="}', 403, "is a path"),
        (b'{"input": "data:audio/wav;base64,aGVsbG8="}', 422, "is no audio"),
        (b"{", 422, "no JSON"),
        (b"[" * 5000, 422, "no JSON"),
        (b"[" * 20_000, 413, "more than 10000 items"),
        (b'{"input": [' + b"1," * 20_000, 413, "more than 10000 items"),
    ):
        answer = through(served, body)
        assert (answer.status, words in answer.json["error"]) == (status, True), (body[:40], answer.body)
    assert through(served, method="GET", path="/describe").status == 200


def test_a_body_that_is_too_large_is_refused_by_its_header_or_by_its_bytes(served):
    declared = [(b"content-length", b"20000000")]
    answer = through(served, b"{}", headers=declared)
    assert answer.status == 413 and "10485760 bytes" in answer.json["error"]
    answer = through(served, parts=[bytes(1 << 20)] * 20, headers=[(b"content-length", b"100")])
    assert answer.status == 413 and answer.headers["connection"] == "close"


def test_what_is_a_hole_in_modelscopes_own_is_one_if_the_service_is_open(served, opened, ans):
    from modelscope.server.api_server import get_app

    opened()
    app = get_app(SimpleNamespace())
    app.state.pipeline, app.state.pipeline_info = ans, {"task_name": TASK}
    answer = through(app, parts=[bytes(1 << 20)] * 20)
    assert answer.status == 422  # all of it was read


def test_a_pipeline_of_another_package_is_served_as_ever(served):
    class Other:
        def __call__(self, given, **parameters):
            return {"text": f"{len(given)} {type(given).__name__}"}

    served.state.pipeline, served.state.pipeline_info = Other(), {"task_name": "text-classification"}
    body = json.dumps({"input": "x" * 20_000_000}).encode()
    assert through(served, body, headers=[(b"content-type", b"application/json")]).json == {
        "text": "20000000 str"
    }


def test_the_command_modelscope_server_runs_our_pipeline_closed(quick_model_dir, tmp_path, expected):
    """The real command, a model of a hub on this machine, nothing else done."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason="the [serve] extra")
    pytest.importorskip("modelscope_hub", reason="modelscope 1.20 has no plugins of its command")
    model = "damo/speech_zipenhancer_ans_multiloss_16k_base"
    with LoopbackHub({model: quick_model_dir}) as hub, running(hub, model, tmp_path) as port:
        assert post(port, {"input": {"audio": BASE64}})[0] == 200
        answer = post(port, {"input": {"audio": f"data:audio/wav;base64,{BASE64}"}})[1]
        assert base64.b64decode(answer["output_pcm"]) == expected["output_pcm"]
        status, answer = post(port, {"input": BASE64, "parameters": {"output_path": str(tmp_path / "x.wav")}})
        assert status == 403 and "output_path" in answer["error"] and not (tmp_path / "x.wav").exists()


@contextlib.contextmanager
def running(hub, model, folder):
    """`modelscope server` for a model of a hub; its port."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The entry point, as an installed package has it, for a checkout that is not installed.
    info = folder / "modelscope_zipenhancer_test-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: modelscope_zipenhancer_test\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[modelscope_hub.cli_plugins]\n"
        "zipenhancer = modelscope_zipenhancer.cli.modelscope:ZipEnhancerCommand\n"
    )
    environment = {
        **os.environ,
        **hub.environment(folder / "cache"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
    }
    code = f"{CLIENT_PREAMBLE}\nimport sys\nfrom modelscope_hub.cli.main import run_cmd\nsys.exit(run_cmd())"
    options = ["server", "--model_id", model, "--revision", "master"]
    command = [sys.executable, "-c", code, *options, "--host", "127.0.0.1", "--port", str(port)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            process.wait(20)


def post(port: int, request: dict) -> tuple:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/call", json.dumps(request), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    status, body = answer.status, json.loads(answer.read())
    connection.close()
    return status, body
