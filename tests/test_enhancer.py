"""The library's object and the command over it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer import cli
from modelscope_zipenhancer.enhancer import MODELS, Enhancer, find_model
from modelscope_zipenhancer.errors import ModelNotFoundError
from modelscope_zipenhancer.model import load_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "noisy_speech.wav"
BUNDLED = sorted(path.name for path in MODELS.iterdir() if path.is_dir())


def level_db(x):
    return 10 * np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-12)


@pytest.fixture(scope="module")
def tiny():
    return Enhancer.from_pretrained("tiny", device="cpu")


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_is_small_and_5_times_cheaper_than_s(name):
    from torch.utils.flop_counter import FlopCounterMode

    from modelscope_zipenhancer.model import ZipEnhancer

    model = load_model(find_model(name))
    assert sum(p.numel() for p in model.parameters()) <= 500_000
    assert (MODELS / name / "pytorch_model.bin").stat().st_size < 2_000_000

    def flops(network):
        import torch

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.rand(1, 201, 161), torch.rand(1, 201, 161))
        return counter.get_total_flops()

    assert flops(ZipEnhancer()) > 5 * flops(model)


def test_tiny_silences_the_pauses_of_the_example_and_leaves_the_speech(tiny):
    noisy, _ = soundfile.read(EXAMPLE)
    clean = tiny(EXAMPLE)
    assert clean.shape == noisy.shape and clean.dtype == np.float32
    pause = slice(0, 6000)  # the recording starts with half a second of noise alone
    assert level_db(noisy[pause]) - level_db(clean[pause]) > 15
    speech = slice(8000, -8000)
    assert -6 < level_db(clean[speech]) - level_db(noisy[speech]) < 0


def test_the_level_of_the_input_is_kept(tiny):
    x, _ = soundfile.read(EXAMPLE, frames=40_000)
    quiet = tiny(x / 64)
    assert level_db(quiet * 64) == pytest.approx(level_db(tiny(x)), abs=0.1)


def test_a_stereo_recording_at_another_rate_comes_back_mono_at_16_khz(tiny):
    x = np.random.default_rng(0).standard_normal((44_100, 2)) * 0.1
    assert tiny(x, sample_rate=44_100).shape == (16_000,)


def test_silence_gives_silence(tiny):
    assert not tiny(np.zeros(16_000)).any()
    assert not tiny(np.zeros(160_000)).any()


def test_threads_that_share_an_enhancer_get_what_each_would_get_alone(tiny):
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(16_000).astype(np.float32) * 0.1 for _ in range(4)]
    alone = [tiny(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for x, y in zip(alone, pool.map(tiny, inputs)):
            np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("name", ["tyni", "./nowhere", "a/b/c", ""])
def test_an_unknown_model_is_named_and_the_known_ones_are_listed(name):
    with pytest.raises(ModelNotFoundError, match="tiny") as caught:
        Enhancer.from_pretrained(name)
    assert isinstance(caught.value, FileNotFoundError) and repr(name) in str(caught.value)


# ---- the command -------------------------------------------------------------------------------


def test_the_command_writes_a_wav_and_says_where_and_how_fast(tmp_path, capsys):
    out = tmp_path / "clean.wav"
    assert cli.main(["enhance", str(EXAMPLE), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert str(out) in said and "RTF" in said and "tiny" in said
    info = soundfile.info(out)
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert info.frames == soundfile.info(EXAMPLE).frames


def test_without_an_output_name_the_input_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["enhance", str(EXAMPLE)]) == 0
    assert os.listdir(tmp_path) == ["noisy_speech_enhanced.wav"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.wav"], "no audio file at 'missing.wav'"),
        ([str(EXAMPLE), "-o", "nowhere/out.wav"], "there is no folder"),
        ([str(EXAMPLE), "-o", "out.xyz"], "unknown audio format '.xyz'"),
        ([str(EXAMPLE), "-o", str(EXAMPLE)], "is the input"),
        ([str(EXAMPLE), "--model", "nonesuch"], "unknown model 'nonesuch'"),
    ],
)
def test_a_failure_is_one_line_with_the_remedy_and_a_code(arguments, message, tmp_path, monkeypatch, capsys):
    before = EXAMPLE.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["enhance", *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert os.listdir(tmp_path) == [] and EXAMPLE.read_bytes() == before


def test_the_package_and_its_command_run_as_a_module():
    command = [sys.executable, "-m", "modelscope_zipenhancer", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
