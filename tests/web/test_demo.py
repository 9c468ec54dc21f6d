"""`zipenhancer demo`: the page in a headless Chromium, its interface without one, and its command."""

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from conftest import ROOT, SLOW_MS, noisy_speech

from modelscope_zipenhancer import Enhancer, cli
from modelscope_zipenhancer.audio.policy import Policy
from modelscope_zipenhancer.audio.samples import pcm16
from modelscope_zipenhancer.errors import LimitError
from modelscope_zipenhancer.web import jobs, picture
from modelscope_zipenhancer.web.words import WORDS, is_chinese, text

EXAMPLE = ROOT / "examples" / "noisy_speech.wav"


@pytest.fixture(scope="module")
def site(quick_model_dir, tmp_path_factory):
    """The address of the page, served by the command; when that ends, nothing of its visitors is left."""
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "modelscope_zipenhancer", "demo", "--port", "0"]
    command += ["--model", quick_model_dir]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    settings["TMPDIR"] = str(tmp_path_factory.mktemp("of the server"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=settings, text=True) as server:
        yield server.stdout.readline().split()[0]
        assert server.poll() is None, "the server has died"
        server.terminate()
        assert server.wait(60) == 0
    assert not [path for path in Path(settings["TMPDIR"]).rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def enhancer():
    return Enhancer.from_pretrained("tiny")


def expected(enhancer, path: Path, **options) -> np.ndarray:
    """int16 (samples, channels), as the page should give it back."""
    x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return pcm16(enhancer.enhance(x, rate, **options))


def levels(x: np.ndarray) -> np.ndarray:
    """RMS of frames of 50 ms, in dB."""
    frames = x[: len(x) // 800 * 800].reshape(-1, 800)
    return 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-12)


def assert_denoised(before: np.ndarray, after: np.ndarray) -> None:
    """Noise is lower by 15 dB, speech as loud within 1 dB."""
    frames = levels(before), levels(after)
    pauses = frames[0] < np.percentile(frames[0], 10)
    loud = frames[0] > np.percentile(frames[0], 90)
    noise, kept = (np.mean(10 ** (part[pauses] / 10)) for part in frames)
    assert 10 * np.log10(noise / kept) > 15
    noisy, clean = (np.mean(10 ** (part[loud] / 10)) for part in frames)
    assert abs(10 * np.log10((noisy - noise) / clean)) < 1


# ---- what it does, without a page ----------------------------------------------------------------


def test_a_file_becomes_two_files_pictures_and_levels(enhancer, tmp_path):
    seen = []
    done = jobs.process(EXAMPLE, tmp_path, enhancer, progress=lambda *step: seen.append(step))
    after, rate = soundfile.read(done.after, dtype="int16", always_2d=True)
    assert rate == 16000 and np.array_equal(after, expected(enhancer, EXAMPLE))
    before, _ = soundfile.read(done.before, dtype="int16")
    assert np.array_equal(before, soundfile.read(EXAMPLE, dtype="int16")[0])
    assert done.backgrounds[0] - done.backgrounds[1] > 15 and abs(np.subtract(*done.levels)) < 3
    assert seen[0][0] == "reading" and seen[-1][0] == "drawing"
    assert [part for step, part, _ in seen if step == "enhancing"] == sorted(
        part for step, part, _ in seen if step == "enhancing"
    )
    assert all("data:image/png;base64," in html for html in (done.before_picture, done.after_picture))


def test_no_more_is_read_than_the_policy_allows(enhancer, tmp_path):
    for policy in (Policy(max_bytes=1000), Policy(max_duration=1.0)):
        with pytest.raises(LimitError):
            jobs.process(EXAMPLE, tmp_path, enhancer, policy=policy)
    assert not list(tmp_path.iterdir())


def test_whoever_leaves_is_stopped_at_the_next_chunk(enhancer, tmp_path):
    visitors, chunks = jobs.Jobs(2), []
    assert visitors.enter("a visitor") and visitors.enter("another") and not visitors.enter("a third")
    with pytest.raises(jobs.Stopped), visitors.running("a visitor") as check:

        def progress(step: str, done: float, total: float) -> None:
            check()
            if step == "enhancing":
                chunks.append(done)
                visitors.leave("another" if len(chunks) == 1 else "a visitor")

        jobs.process(EXAMPLE, tmp_path, enhancer, progress=progress)
    assert len(chunks) == 2 and not list(tmp_path.iterdir())
    assert visitors.enter("a visitor") and visitors.enter("a third")
    visitors.leave("nobody")
    with visitors.running("a visitor") as check:
        check()


def test_who_enters_and_does_not_come_keeps_nobody_out_for_ever(monkeypatch):
    visitors, now = jobs.Jobs(2), [0.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    assert visitors.enter("nobody") and visitors.enter("at work")
    with visitors.running("at work") as check:
        now[0] = jobs.LAPSE - 1
        assert not visitors.enter("a third")
        now[0] = jobs.LAPSE + 1
        assert visitors.enter("a third") and not visitors.enter("a fourth")
        check()
        with visitors.running("nobody"):  # who came late is worked on all the same
            pass


def test_pictures_show_where_there_is_sound(tmp_path):
    from PIL import Image

    tone = 0.1 * np.sin(2 * np.pi * 6000 * np.arange(32000) / 16000)[:, None].astype(np.float32)
    tone[:16000] = 0
    for html in picture.figures(tone, np.zeros_like(tone), 16000, 16000, ("up to {top} kHz", '"')):
        data = re.search(r"base64,([^\"]+)", html)[1]
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            shades = np.asarray(image.convert("L"), np.float32)
        if "up to 8 kHz" in html:
            row, column = np.unravel_index(shades.argmax(), shades.shape)
            assert abs(row / len(shades) - 0.25) < 0.02 and column > shades.shape[1] / 2
            assert shades[:, : shades.shape[1] // 3].max() < 30
        else:
            assert 'alt="&quot;"' in html and shades.max() < 30


def test_sentences_are_there_in_both_languages_with_the_same_values():
    for key, (english, chinese) in WORDS.items():
        assert (
            re.findall(r"{\w+}", english)
            and set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", chinese))
            or "{" not in english + chinese
        ), key
    assert is_chinese("zh-CN,zh;q=0.9,en;q=0.8") and is_chinese("ZH")
    assert not is_chinese("en-GB,zh;q=0.5") and not is_chinese(None)
    assert text("enhancing", True, done="1", total="2") == "正在增强：1 / 2"


# ---- its interface, without a browser ------------------------------------------------------------


@pytest.fixture(scope="module")
def client(site):
    return pytest.importorskip("gradio_client").Client(site, verbose=False)


def test_its_interface_gives_back_what_the_package_does(client, enhancer, tmp_path):
    from gradio_client import handle_file

    path = tmp_path / "stereo.flac"
    soundfile.write(path, np.stack([noisy_speech(2.0), noisy_speech(2.0, seed=1)], axis=1), 16000)
    *_, after, download = client.predict(handle_file(path), "tiny", 12, False, api_name="/enhance")
    for file in (after, download):
        got, _ = soundfile.read(file, dtype="int16", always_2d=True)
        assert np.array_equal(got, expected(enhancer, path, strength=12))


@pytest.mark.parametrize(
    "path", ("{here}/secret.wav", "http://127.0.0.1:9/x.wav", "https://example.com/x.wav")
)
def test_it_reads_no_path_of_the_server_and_fetches_no_url(site, tmp_path, path):
    path = path.format(here=tmp_path)
    soundfile.write(tmp_path / "secret.wav", noisy_speech(1.0), 16000)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    status, answer = request(f"{site}gradio_api/call/enhance", {"data": [file, "tiny", 40, False]})
    assert status == 200
    status, answer = request(f"{site}gradio_api/call/enhance/{json.loads(answer)['event_id']}")
    assert status == 200 and answer.startswith("event: error") and "spectrogram" not in answer
    assert request(f"{site}gradio_api/file={path}")[0] == 403
    assert request(f"{site}gradio_api/file={path.replace(':', '%3A')}")[0] == 403


@pytest.mark.parametrize("path", ("upload", "queue/join"))
def test_it_takes_no_more_than_10_mb(site, path):
    status, answer = request(f"{site}gradio_api/{path}", {"data": ["A" * (11 << 20)]})
    assert status == 413 and "limit of 10485760 bytes" in answer


def request(url: str, content: dict | None = None) -> tuple[int, str]:
    """Status and text of the answer."""
    data = None if content is None else json.dumps(content).encode()
    asked = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# ---- the command ---------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_said_in_one_line(capsys):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli.main(["demo", "--port", port]) == 2
    said = capsys.readouterr().err
    assert port in said and "--port 0" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, said",
    (
        (["--model", "no-such-model"], "unknown model 'no-such-model'"),
        (["--model", "examples"], "configuration.json"),
        (["--host", "no.such.host.invalid"], "--host 127.0.0.1"),
        (["--port", "70000"], "--port 70000"),
        (["--at-once", "0"], "--at-once 0"),
        (["--device", "no-such-device"], "no-such-device"),
    ),
)
def test_what_cant_be_served_is_said_in_one_line(arguments, said, capsys, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.chdir(ROOT)
    assert cli.main(["demo", "--port", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'modelscope_zipenhancer[demo]'" in error and error.count("\n") == 1


# ---- the page ------------------------------------------------------------------------------------


@pytest.fixture
def open_page(new_page, site):
    def open_it(**options):
        page = new_page(site, **options)
        page.wait_for_selector("#enhance")
        return page

    return open_it


@pytest.fixture
def page(open_page):
    return open_page()


def upload(page, path) -> None:
    """Choose a file, and wait until it is there."""
    page.wait_for_selector("#source input[type=file]", state="attached")
    with page.expect_response("**/upload**"):
        page.set_input_files("#source input[type=file]", path)
    page.wait_for_selector("#source [aria-label='Clear'], #source audio", state="attached")


def finish(page) -> str:
    """Wait for the end of a job; its words."""
    page.wait_for_selector("#status [role]")
    page.wait_for_selector("#enhance")
    return page.inner_text("#status [role]")


def enhanced(page, folder: Path) -> np.ndarray:
    """Press the button, wait, download: int16 (samples, channels)."""
    page.click("#enhance")
    finish(page)
    return downloaded(page, folder)


def downloaded(page, folder: Path) -> np.ndarray:
    with page.expect_download() as download:
        page.click("#download")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name.endswith("_enhanced.wav")
    return soundfile.read(path, dtype="int16", always_2d=True)[0]


def test_an_upload_comes_back_denoised_with_pictures(page, enhancer, tmp_path):
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    upload(page, EXAMPLE)
    got = enhanced(page, tmp_path)
    assert re.search(r"^noisy_speech.wav: 0:09.0 enhanced", finish(page))
    assert np.array_equal(got, expected(enhancer, EXAMPLE))
    before = soundfile.read(EXAMPLE)[0]
    assert_denoised(before, got[:, 0] / 32768)
    for side in ("before", "after"):
        colours = page.evaluate(
            """(side) => {
                const image = document.querySelector(`#picture-${side} img`);
                const canvas = Object.assign(document.createElement("canvas"),
                    { width: image.naturalWidth, height: image.naturalHeight });
                const context = canvas.getContext("2d");
                context.drawImage(image, 0, 0);
                const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
                return new Set(new Uint32Array(data.buffer)).size;
            }""",
            side,
        )
        assert colours > 100
        # What is heard: the player's own bytes, decoded.
        page.wait_for_function(f"document.querySelector('#{side} audio').duration > 0")
        heard = page.evaluate(
            """async (side) => {
                const { src } = document.querySelector(`#${side} audio`);
                const bytes = await (await fetch(src)).arrayBuffer();
                const audio = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes);
                return Array.from(audio.getChannelData(0));
            }""",
            side,
        )
        sound = before if side == "before" else got[:, 0] / 32768
        assert len(heard) == len(sound) and np.abs(np.array(heard) - sound).max() < 1e-4
    facts = page.inner_text("#facts")
    assert re.search(r"Level\n−2\d\.\d → −2\d\.\d dBFS", facts) and "RTF 0." in facts
    assert hosts <= {urlsplit(page.url).netloc, ""}  # nobody else is asked


def test_players_stop_each_other_and_a_picture_is_a_slider(page):
    page.click("#example-rain")
    page.wait_for_selector("#source [aria-label='Clear']")
    page.click("#enhance")
    finish(page)
    at = "document.querySelector('#{} audio').currentTime"
    playing = "!document.querySelector('#{} audio').paused"
    page.wait_for_function("document.querySelector('#after audio').duration > 0")
    page.evaluate("document.querySelectorAll('#result audio').forEach((audio) => (audio.muted = true))")
    width = page.evaluate("document.querySelector('#picture-before .picture').clientWidth")
    page.click("#picture-before .picture", position={"x": width / 2, "y": 40})
    assert page.evaluate(at.format("before")) == pytest.approx(5.5, abs=0.2)
    page.evaluate("document.querySelector('#before audio').play()")
    page.wait_for_function(playing.format("before"))
    page.evaluate("document.querySelector('#after audio').play()")
    page.wait_for_function(f"document.querySelector('#before audio').paused && {playing.format('after')}")
    assert page.evaluate(at.format("after")) >= 5.2


def test_options_are_heard(page, enhancer, quick_model_dir, tmp_path):
    soundfile.write(tmp_path / "x.wav", noisy_speech(1.5), 48000)
    upload(page, tmp_path / "x.wav")
    page.fill("#strength input[type=number]", "9")
    page.press("#strength input[type=number]", "Enter")
    page.check("#bandwidth input")
    got = enhanced(page, tmp_path)
    assert np.array_equal(got, expected(enhancer, tmp_path / "x.wav", strength=9, bandwidth="full"))
    page.check(f"#model input[value='{quick_model_dir}']")
    got = enhanced(page, tmp_path)
    quick = Enhancer.from_pretrained(quick_model_dir)
    assert np.array_equal(got, expected(quick, tmp_path / "x.wav", strength=9, bandwidth="full"))


def test_two_visitors_at_once_get_their_own(open_page, enhancer, tmp_path):
    pages = [open_page(), open_page()]
    for i, page in enumerate(pages):
        soundfile.write(tmp_path / f"{i}.wav", noisy_speech(5.0, seed=i), 16000)
        upload(page, tmp_path / f"{i}.wav")
    for page in pages:
        page.click("#enhance")
    for i, page in enumerate(pages):
        assert finish(page).startswith(f"{i}.wav: 0:05.0 enhanced")
        assert np.array_equal(downloaded(page, tmp_path), expected(enhancer, tmp_path / f"{i}.wav"))


def test_cancel_ends_a_long_job_and_the_next_one_works(page, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.tile(noisy_speech(10.0), 30), 16000)
    soundfile.write(tmp_path / "short.wav", noisy_speech(1.0), 16000)
    upload(page, tmp_path / "long.wav")
    page.click("#enhance")
    page.wait_for_selector("#status :text('Enhancing: 0:0')")
    page.click("#cancel")
    assert finish(page) == "Cancelled." and not page.is_visible("#result")
    page.click("#source [aria-label='Clear']")
    upload(page, tmp_path / "short.wav")
    assert len(enhanced(page, tmp_path)) == 16000


def test_a_reload_in_mid_run_leaves_the_server_healthy(browser, site, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.tile(noisy_speech(10.0), 30), 16000)
    with browser.new_context() as context:  # gradio complains of the connection that is cut
        page = context.new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(site)
        upload(page, tmp_path / "long.wav")
        page.click("#enhance")
        page.wait_for_selector("#status :text('Enhancing: 0:0')")
        page.reload()
        upload(page, EXAMPLE)
        assert len(enhanced(page, tmp_path)) == 143565


@pytest.mark.parametrize(
    "language, kind, said",
    (
        ("en", "none", "There is no recording yet"),
        ("en", "large", "x.wav is too large. The limits are 10 MB and 15 minutes"),
        ("en", "long", "x.wav is too large. The limits are 10 MB and 15 minutes"),
        ("en", "empty", "x.wav can't be read as audio"),
        ("en", "broken", "x.wav can't be read as audio"),
        ("zh-CN", "large", "x.wav 太大。上限为 10 MB 和 15 分钟"),
        ("zh-CN", "broken", "x.wav 无法作为音频读取"),
    ),
)
def test_what_cant_be_enhanced_is_said_in_words(browser, site, tmp_path, language, kind, said):
    path = tmp_path / "x.wav"
    if kind == "broken":
        path.write_bytes(bytes(range(256)) * 40)
    elif kind == "large":
        path.write_bytes(bytes(11 << 20))
    else:
        soundfile.write(path, np.zeros(8000 * 901 if kind == "long" else 0), 8000, subtype="PCM_U8")
    with browser.new_context(locale=language) as context:  # gradio's player complains of broken files
        page = context.new_page()
        page.set_default_timeout(SLOW_MS)
        page.goto(site)
        page.wait_for_selector("#enhance")
        if kind == "large":
            page.set_input_files("#source input[type=file]", path)
            assert page.inner_text("#too-large").startswith(said)
            upload(page, EXAMPLE)
            assert not page.is_visible("#too-large")
            return
        if kind != "none":
            upload(page, path)
        page.click("#enhance")
        assert finish(page).startswith(said)
        assert page.get_attribute("#status [role]", "role") == "alert" and not page.is_visible("#result")


def test_a_recording_from_the_microphone(page, tmp_path):
    page.click("#source [aria-label='Record audio']")
    page.click("#source button:has-text('Record')")
    page.wait_for_timeout(2000)
    page.click("#source button:has-text('Stop')")
    page.wait_for_selector("#source [aria-label='Clear']")
    assert len(enhanced(page, tmp_path)) > 16000


def test_the_keyboard_is_enough_and_everything_has_a_name(page):
    focused = "document.activeElement.closest('[id]').id"
    order = []
    while "example-fan" not in order and len(order) < 12:
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
    assert order[0] == "source"
    page.keyboard.press("Enter")
    page.wait_for_selector("#source [aria-label='Clear']")
    while order[-1] != "enhance" and len(order) < 30:
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
    page.keyboard.press("Enter")
    assert finish(page).startswith("fan.mp3")
    for element in page.query_selector_all("button, input, audio, img, a"):
        if element.is_visible():
            assert element.evaluate(
                "e => Boolean(e.ariaLabel || e.title || e.alt || e.labels?.length || e.textContent.trim())"
            ), element.evaluate("e => e.outerHTML")


def test_chinese_where_the_browser_speaks_it(open_page):
    page = open_page(locale="zh-CN")
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.inner_text("#enhance") == "增强" and page.inner_text("h1") == "去掉噪声，留下语音"
    page.click("#example-fan")
    page.wait_for_selector("#source [aria-label]")
    page.click("#enhance")
    assert finish(page) == "fan.mp3：已增强 0:09.0。"
    assert "背景噪声" in page.inner_text("#facts")
    assert page.get_attribute("#picture-after img", "alt") == "增强后的语谱图，0 到 8 kHz"


@pytest.mark.parametrize("width", (390, 1440))
def test_nothing_is_wider_than_the_window(open_page, width):
    page = open_page(viewport={"width": width, "height": 844})
    page.click("#example-fan")
    page.wait_for_selector("#source [aria-label='Clear']")
    page.click("#enhance")
    finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
