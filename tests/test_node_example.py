"""examples/node/: the package's sound, by ONNX Runtime in Node.js."""

import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from conftest import ROOT, noisy_speech

from modelscope_zipenhancer import Enhancer

FOLDER = ROOT / "examples" / "node"
MODEL = ROOT / "modelscope_zipenhancer" / "models" / "tiny" / "model.onnx"

if not shutil.which("node"):
    pytest.skip("no Node.js here", allow_module_level=True)
if not (FOLDER / "node_modules").exists():
    pytest.skip("examples/node/node_modules is missing: npm install there", allow_module_level=True)


def node(*args):
    command = ["node", str(FOLDER / "enhance.mjs"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("seconds, offset", ((0.4, 0.0), (5.0, 0.2), (13.0, 0.0)))
def test_a_recording_comes_out_as_from_python(tmp_path, seconds, offset):
    x = np.stack([noisy_speech(seconds), 0.5 * noisy_speech(seconds)[::-1]], 1) + offset
    x[:2000] = 0  # zeros at the start are no part of what has an offset
    soundfile.write(tmp_path / "in.wav", x, 16000, subtype="FLOAT")
    done = node(MODEL, tmp_path / "in.wav", tmp_path / "out.wav")
    assert (done.returncode, done.stderr) == (0, "")
    y, rate = soundfile.read(tmp_path / "out.wav")
    expected = Enhancer.from_pretrained("tiny", backend="onnx")(x.astype(np.float32), 16000)
    assert rate == 16000 and y.shape == x.shape
    assert np.abs(y - expected).max() < 1 / 32768


def test_another_sample_rate_is_refused_with_words_and_nothing_is_written(tmp_path):
    soundfile.write(tmp_path / "in.wav", noisy_speech(1.0), 8000)
    done = node(MODEL, tmp_path / "in.wav", tmp_path / "out.wav")
    assert done.returncode == 2 and "8000 Hz: 16000 are needed" in done.stderr
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("subtype", ("PCM_24", "ALAW", "ULAW"))
def test_telephony_sounds_as_from_python(tmp_path, subtype):
    soundfile.write(tmp_path / "in.wav", noisy_speech(1.0), 16000, subtype=subtype)
    assert node(MODEL, tmp_path / "in.wav", tmp_path / "out.wav").returncode == 0
    y, _ = soundfile.read(tmp_path / "out.wav")
    assert np.abs(y - Enhancer.from_pretrained("tiny", backend="onnx")(tmp_path / "in.wav")).max() < 1e-4


@pytest.mark.parametrize("subtype, said", (("IMA_ADPCM", "is coded"), (None, "can't be read as a WAV file")))
def test_what_it_can_not_read_is_refused_with_words(tmp_path, subtype, said):
    if subtype:
        soundfile.write(tmp_path / "in.wav", noisy_speech(1.0), 16000, subtype=subtype)
    else:
        (tmp_path / "in.wav").write_bytes(b"no WAV file")
    done = node(MODEL, tmp_path / "in.wav", tmp_path / "out.wav")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out.wav").exists()
