"""What the tests share: networks with seeded weights, ModelScope's built-in, fresh interpreters."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Before torch is imported: beside other jobs, its threads wait for each other ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import soundfile
import torch

from modelscope_zipenhancer.names import CONFIG_FILE, WEIGHTS_FILE
from modelscope_zipenhancer.network.checkpoint import save_weights
from modelscope_zipenhancer.network.config import ModelConfig, StackConfig, model_dir_configuration
from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer

SMALL = ModelConfig(
    channels=8,
    pos_dim=8,
    stacks=(
        StackConfig(1, 1, 1, 2, 4, 2, 3, 16, 7),
        StackConfig(2, 3, 2, 2, 4, 2, 3, 16, 7),
    ),
)

# Runs 2 s in some hundredths of a second: for tests of what is around the network.
QUICK = ModelConfig(channels=4, pos_dim=4, stacks=(StackConfig(4, 4, 1, 1, 4, 2, 4, 8, 3),))
ROOT = Path(__file__).parents[1]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
SLOW_MS = 120_000  # that a page may take; the machine may be busy


def seeded_model(config: ModelConfig = SMALL, seed: int = 0) -> ZipEnhancer:
    """A network with random weights in every entry, the unused ones too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ZipEnhancer(config)
        with torch.no_grad():
            for entry in model.state_dict().values():
                entry.add_(0.05 * torch.randn_like(entry))
    return model.eval().requires_grad_(False)


def write_model_dir(path, model: ZipEnhancer):
    """A ModelScope model dir with the released layout of weights."""
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG_FILE).write_text(json.dumps(model_dir_configuration(model.config)))
    save_weights(model, str(path / WEIGHTS_FILE))
    return path


@pytest.fixture(scope="session")
def small_model() -> ZipEnhancer:
    return seeded_model()


@pytest.fixture(scope="session")
def small_model_dir(tmp_path_factory, small_model):
    return write_model_dir(tmp_path_factory.mktemp("model") / "small", small_model)


@pytest.fixture(scope="session")
def quick_model_dir(tmp_path_factory) -> str:
    return str(write_model_dir(tmp_path_factory.mktemp("model") / "quick", seeded_model(QUICK)))


def noisy_speech(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """Noise that swells and fades, float32 (samples,) at 16 kHz, exact in 16 bits."""
    samples = round(seconds * 16000)
    noise = np.random.default_rng(seed).standard_normal(samples)
    swell = 1.0 + np.sin(2 * np.pi * 3 * np.arange(samples) / 16000)
    return (np.clip(np.rint(level * noise * swell * 32768), -32768, 32767) / 32768).astype(np.float32)


def needs_ast_str() -> None:
    """Skip where modelscope's own description of a pipeline, for `modelscope server`, can't work."""
    if sys.version_info >= (3, 14):
        pytest.skip("modelscope 1.40.2 describes pipelines by ast.Str, which Python 3.14 hasn't")


def load_builtin(model_dir: str):
    """ModelScope's own pipeline with its own network, on the weights of a model dir."""
    from modelscope.models.audio.ans.zipenhancer import ZipenhancerDecorator
    from modelscope.pipelines.audio.ans_pipeline import ANSZipEnhancerPipeline

    section = json.loads((Path(model_dir) / CONFIG_FILE).read_text())["model"]
    model = ZipenhancerDecorator(model_dir, **section, device="cpu")
    return ANSZipEnhancerPipeline(model=model, device="cpu", preprocessor=False)


@pytest.fixture(scope="session")
def builtin(quick_model_dir):
    return load_builtin(quick_model_dir)


@pytest.fixture
def run_python(tmp_path):
    """Run code in a fresh interpreter, in a folder of its own; returns what it printed."""

    def run(code: str, **environment) -> str:
        settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=settings,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    return run


@pytest.fixture
def torch_form(monkeypatch):
    """The form for CPUs without its inner loops in C, as where they are not compiled."""
    monkeypatch.setattr("modelscope_zipenhancer.runtime.cpu.network.library", lambda *_: None)
    monkeypatch.setenv("ZIPENHANCER_NATIVE", "0")  # in processes that the test starts


@pytest.fixture(params=["C", "torch"])
def each_form(request):
    """The form for CPUs with its inner loops in C, and without."""
    from modelscope_zipenhancer.runtime.cpu.native.library import library, status

    if request.param == "torch":
        request.getfixturevalue("torch_form")
    elif library() is None:
        pytest.skip(status())


@pytest.fixture
def folders(tmp_path):
    """Clean and noise, as AudioFolders."""
    from modelscope_zipenhancer.train.folders import AudioFolder

    rng = np.random.default_rng(0)
    for kind, level in (("clean", 0.1), ("noise", 0.02)):
        (tmp_path / kind).mkdir()
        for i, rate in enumerate((16_000, 16_000, 44_100)):
            soundfile.write(tmp_path / kind / f"{i}.flac", rng.standard_normal(rate * 2) * level, rate)
    return AudioFolder(str(tmp_path / "clean")), AudioFolder(str(tmp_path / "noise"))


@pytest.fixture
def small_run(tmp_path) -> list[str]:
    """Settings of a training run that takes seconds: folders of bursts, one short crop a step."""
    rng = np.random.default_rng(0)
    for kind, level in (("clean", 0.1), ("noise", 0.02)):
        (tmp_path / kind).mkdir()
        for i in range(2):
            bursts = np.repeat(rng.random(8) > 0.4, 4000)
            soundfile.write(
                tmp_path / kind / f"{i}.wav", rng.standard_normal(32_000) * level * bursts, 16_000
            )
    folders = [f"data.{kind}={tmp_path / kind}" for kind in ("clean", "noise")]
    return [*folders, "data.crop_samples=4000", "train.batch_size=1", "train.warmup=1", "train.save_every=1"]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, by Playwright."""
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=CHROMIUM_ARGUMENTS)


@pytest.fixture
def new_page(browser):
    """Open a page; at the end it has complained of nothing."""
    complaints, contexts = [], []

    def open_page(url: str, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(SLOW_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
