"""examples/web/ in a headless Chromium: sound in, the package's sound out, words for what can't be read."""

import functools
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from conftest import CHROMIUM, ROOT, SLOW_MS, noisy_speech

from modelscope_zipenhancer import Enhancer

WEB = ROOT / "examples" / "web"
EXAMPLE = ROOT / "examples" / "noisy_speech.wav"
if not CHROMIUM:
    pytest.skip("no Chromium here", allow_module_level=True)
if not (WEB / "vendor" / "model.onnx").exists():
    pytest.skip("examples/web/vendor is missing: npm install there", allow_module_level=True)
pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def site():
    """The address where serve.py serves the page."""
    bundled = ROOT / "modelscope_zipenhancer" / "models" / "tiny" / "model.onnx"
    copied = (WEB / "vendor" / "model.onnx").read_bytes()
    assert copied == bundled.read_bytes(), "examples/web/vendor has other weights: npm install there again"
    command = [sys.executable, str(WEB / "serve.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield server.stdout.readline().split()[0]
        server.terminate()


@pytest.fixture
def page(new_page, site):
    return new_page(site)


@pytest.fixture(scope="module")
def enhancer():
    """By ONNX Runtime, too: torch draws the phase of a first frame otherwise (docs/deployment.md)."""
    pytest.importorskip("onnxruntime")
    return Enhancer.from_pretrained("tiny", backend="onnx", threads=1)


def expected(enhancer, path: Path) -> np.ndarray:
    x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return enhancer.enhance(x, rate)[:, 0]


def finish(page) -> str:
    """Wait for the end of a job; its words."""
    page.wait_for_selector("#result:not([hidden]), #error:not([hidden])")
    return page.inner_text("#error" if page.is_visible("#error") else "#status")


def downloaded(page, path: Path) -> np.ndarray:
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(path)
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000
    return samples


def snr(reference: np.ndarray, x: np.ndarray) -> float:
    return 10 * np.log10(np.sum(reference**2) / np.sum((reference - x) ** 2))


def test_file_in_progress_enhanced_audio_and_pictures_out(page, enhancer, tmp_path):
    page.evaluate(
        """() => {
            window.seen = [];
            const look = () => seen.push(document.getElementById("progress").value);
            new MutationObserver(look).observe(document.getElementById("progress"), { attributes: true });
        }"""
    )
    requests = []
    page.on("request", lambda request: requests.append(request))
    page.set_input_files("#file", EXAMPLE)
    assert re.search("0:08 enhanced in .* threads?$", finish(page))
    assert sorted(set(page.evaluate("seen"))) == page.evaluate("seen")[-4:] != []  # up to the end, by chunks
    reference = expected(enhancer, EXAMPLE)
    got = downloaded(page, tmp_path / "got.wav")
    assert len(got) == len(reference) and snr(reference, got) > 60
    for player in ("before", "after"):
        colours = page.evaluate(
            """(id) => {
                const canvas = document.getElementById("picture-" + id);
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                return new Set(new Uint32Array(data.buffer)).size;
            }""",
            player,
        )
        assert colours > 200
        assert page.evaluate(f"document.getElementById('{player}').duration") == pytest.approx(
            len(got) / 16000
        )
    # Nothing leaves the machine: nothing is sent, and nobody else is asked.
    assert {request.method for request in requests} == {"GET"}
    assert {urlsplit(request.url).netloc for request in requests} <= {urlsplit(page.url).netloc, ""}


@pytest.mark.parametrize("samples, offset", ((1, 0.0), (16000, 0.0), (120001, 0.2)))
def test_any_length_comes_back_as_long_and_as_from_python(page, enhancer, tmp_path, samples, offset):
    x, _ = soundfile.read(EXAMPLE)
    soundfile.write(tmp_path / "x.wav", x[8000 : 8000 + samples] + offset, 16000)
    page.set_input_files("#file", tmp_path / "x.wav")
    finish(page)
    got, reference = downloaded(page, tmp_path / "got.wav"), expected(enhancer, tmp_path / "x.wav")
    assert len(got) == samples
    assert samples == 1 or snr(reference, got) > 60


def test_other_rates_and_channels_become_16_khz_mono(page, tmp_path):
    soundfile.write(tmp_path / "x.flac", np.stack([noisy_speech(3.0)] * 2, axis=1), 48000)
    page.set_input_files("#file", tmp_path / "x.flac")
    finish(page)
    assert downloaded(page, tmp_path / "got.wav").shape == (16000,)


def test_silence_that_is_dropped_stays_silence(page, tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(8000), 16000)
    files = page.evaluate_handle(
        """(bytes) => {
            const files = new DataTransfer();
            for (const name of ["x.wav", "y.wav"]) files.items.add(new File([new Uint8Array(bytes)], name));
            return files;
        }""",
        list((tmp_path / "x.wav").read_bytes()),
    )
    page.dispatch_event("h1", "drop", {"dataTransfer": files})
    assert re.match("x.wav: .* One file at a time: this is the first.$", finish(page))
    got = downloaded(page, tmp_path / "got.wav")
    assert len(got) == 8000 and not got.any()


@pytest.mark.parametrize(
    "kind, said",
    (
        ("broken", "x.wav can't be read as audio"),
        ("empty", "x.wav can't be read as audio|x.wav has no sound in it"),
        ("long", "x.wav is 10:01 long. The limit is 10 minutes"),
        ("nan", "x.wav has samples that aren't numbers"),
    ),
)
def test_what_cant_be_enhanced_is_said_in_words(page, tmp_path, kind, said):
    path = tmp_path / "x.wav"
    if kind == "broken":
        path.write_bytes(bytes(range(256)) * 40)
    elif kind == "nan":
        soundfile.write(path, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    else:
        soundfile.write(path, np.zeros(0 if kind == "empty" else 8000 * 601), 8000, subtype="PCM_U8")
    page.set_input_files("#file", path)
    assert re.match(said, finish(page))
    assert not page.is_visible("#result") and not page.is_visible("#busy")


def test_cancel_ends_a_job_and_the_next_one_works(page, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.tile(noisy_speech(8.0), 10), 16000)
    soundfile.write(tmp_path / "short.wav", noisy_speech(1.0), 16000)
    page.set_input_files("#file", tmp_path / "long.wav")
    page.wait_for_selector("#progress[value]")
    page.click("#cancel")
    assert page.inner_text("#status") == "Cancelled." and not page.is_visible("#busy")
    page.set_input_files("#file", tmp_path / "short.wav")
    assert finish(page).startswith("short.wav: 0:01 enhanced")


def test_a_model_that_is_missing_is_said_and_the_next_try_works(browser, site, tmp_path):
    with browser.new_context() as context:
        context.route("**/model.onnx", lambda route: route.abort())
        page = context.new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(site)
        soundfile.write(tmp_path / "x.wav", noisy_speech(1.0), 16000)
        page.set_input_files("#file", tmp_path / "x.wav")
        assert re.match("The model didn't run: .*run npm install in this folder", finish(page))
        context.unroute("**/model.onnx")
        page.set_input_files("#file", tmp_path / "x.wav")
        assert finish(page).startswith("x.wav: 0:01 enhanced")


def test_a_recording_from_the_microphone(page, tmp_path):
    page.click("#record")
    page.wait_for_selector("#status:text('Recording 0:02')")
    page.click("#record")
    assert finish(page).startswith("recording: 0:0")
    assert len(downloaded(page, tmp_path / "got.wav")) > 16000


def test_the_keyboard_is_enough(page):
    focused = "document.activeElement.id"
    order = []
    for _ in range(3):
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
    assert order == ["file", "record", "example"]
    page.keyboard.press("Enter")
    assert finish(page).startswith("noisy_speech.wav")
    for element in page.query_selector_all("button, input, audio, canvas, a, progress"):
        assert element.evaluate(
            "e => Boolean(e.ariaLabel || e.labels?.length || e.textContent.trim()"
            " || document.getElementById(e.getAttribute('aria-labelledby')))"
        )


def test_chinese_where_the_browser_speaks_it(new_page, site, tmp_path):
    page = new_page(site, locale="zh-CN")
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.inner_text("label[for=file]") == "选择文件"
    (tmp_path / "x.wav").write_bytes(b"not audio")
    page.set_input_files("#file", tmp_path / "x.wav")
    assert finish(page).startswith("x.wav 无法作为音频读取")


def test_every_sentence_is_there_in_both_languages(page):
    source = (WEB / "words.js").read_text(encoding="utf-8")
    english, chinese = (re.findall(r"^  (\w+): ", part, re.M) for part in source.split("const CHINESE"))
    assert english == chinese and len(english) > 20


@pytest.mark.parametrize("width", (390, 1440))
def test_nothing_is_wider_than_the_window(new_page, site, width):
    page = new_page(site, viewport={"width": width, "height": 844})
    page.click("#example")
    finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_host_without_the_headers_gives_one_thread_and_says_so(new_page):
    handler = functools.partial(QuietHandler, directory=str(WEB))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = new_page(f"http://127.0.0.1:{server.server_port}/")
        assert not page.evaluate("crossOriginIsolated")
        page.click("#example")
        assert "on one thread. This server doesn't allow threads" in finish(page)
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_memory_is_flat_over_ten_files(browser, page, tmp_path):
    soundfile.write(tmp_path / "x.wav", noisy_speech(5.0), 16000)
    session = browser.new_browser_cdp_session()

    def resident() -> float:
        """MB of the tabs' processes."""
        page.context.new_cdp_session(page).send("HeapProfiler.collectGarbage")
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        tabs = [Path(f"/proc/{p['id']}/status") for p in processes if p["type"] == "renderer"]
        sizes = [re.search(r"VmRSS:\s*(\d+)", tab.read_text()) for tab in tabs]
        return sum(int(size[1]) for size in sizes) / 1024

    sizes = []
    for _ in range(12):
        page.set_input_files("#file", tmp_path / "x.wav")
        page.wait_for_selector("#busy:not([hidden])")
        finish(page)
        sizes.append(resident())
    assert sizes[-1] < sizes[1] + 20, sizes
