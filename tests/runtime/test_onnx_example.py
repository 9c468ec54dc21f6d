"""examples/onnx_numpy.py: numpy, soundfile and onnxruntime only, and the package's sound."""

import ast
import importlib.util
import sys

import numpy as np
import pytest
import soundfile
from conftest import QUICK, ROOT, noisy_speech, seeded_model

from modelscope_zipenhancer.enhance import overlap_add
from modelscope_zipenhancer.enhance.offset import WithoutOffset

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from modelscope_zipenhancer.runtime.onnx import OnnxBackend  # noqa: E402
from modelscope_zipenhancer.runtime.onnx_export import export_onnx  # noqa: E402

EXAMPLE = ROOT / "examples" / "onnx_numpy.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("onnx_numpy", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return export_onnx(seeded_model(QUICK), tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_it_is_short_and_needs_nothing_else():
    source = EXAMPLE.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 80
    nodes = [*ast.walk(ast.parse(source))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"sys", "numpy", "onnxruntime", "soundfile"}
    assert not any(isinstance(node, ast.ImportFrom) for node in nodes)


@pytest.mark.parametrize("samples, offset", ((16000, 0.0), (16000, 0.1), (120001, 0.3)))
def test_it_hears_no_offset(example, samples, offset):
    class Session:
        def run(self, names, inputs):
            self.heard = inputs["waveform"][0]
            return [inputs["waveform"]]

    session, backend = Session(), WithoutOffset(lambda waveform: waveform)
    x = noisy_speech(13.0)[:samples] + np.float32(offset)
    expected = overlap_add.enhance(backend, x)
    assert np.abs(example.enhance(session, x) - expected).max() < 1e-6
    assert abs(session.heard[session.heard != 0].mean()) < 0.01


@pytest.mark.parametrize(
    "samples", (1, 32000, 96000, 96001, 112000, 112001, 119000, 120000, 120001, 128000, 168000, 200001)
)
def test_it_cuts_and_joins_as_the_package_does(example, samples):
    def backend(waveform, gain=None):
        return waveform * np.float32(0.5) + np.float32(0.1) * waveform[:, ::-1]

    class Session:
        def run(self, names, inputs):
            return [backend(inputs["waveform"])]

    x = noisy_speech(13.0)[:samples]
    expected = overlap_add.enhance(WithoutOffset(backend), x)
    assert np.abs(example.enhance(Session(), x) - expected).max() < 1e-6


def test_file_in_file_out(example, graph, tmp_path, monkeypatch):
    x = np.stack([noisy_speech(7.3), 0.1 * noisy_speech(7.3, seed=1)], axis=1)
    soundfile.write(tmp_path / "noisy.wav", x, 16000, subtype="PCM_16")
    monkeypatch.setattr(sys, "argv", ["", graph, str(tmp_path / "noisy.wav"), str(tmp_path / "clean.wav")])
    x, _ = soundfile.read(tmp_path / "noisy.wav", dtype="float32")
    example.main()
    got, rate = soundfile.read(tmp_path / "clean.wav", dtype="float32")
    assert rate == 16000 and got.shape == x.shape
    for channel in (0, 1):
        expected = overlap_add.enhance(OnnxBackend(graph), x[:, channel])
        assert np.abs(got[:, channel] - expected).max() < 1e-4


def test_another_rate_is_said(example, graph, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "noisy.wav", noisy_speech(0.5), 44100)
    monkeypatch.setattr(sys, "argv", ["", graph, str(tmp_path / "noisy.wav"), str(tmp_path / "clean.wav")])
    with pytest.raises(SystemExit, match="16000 Hz"):
        example.main()
    assert not (tmp_path / "clean.wav").exists()
