"""The ONNX file: what it computes, what it says about itself, and that it is whole or not there."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import QUICK, SMALL, noisy_speech, seeded_model, write_model_dir

from modelscope_zipenhancer.cli import main
from modelscope_zipenhancer.enhance.grid import ONE_PASS, Grid
from modelscope_zipenhancer.errors import MissingPackageError, ModelNotFoundError, OptionError, OutputError
from modelscope_zipenhancer.names import ONNX_FILE
from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.config import ModelConfig, StackConfig
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.network.spectrum import analyse

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from modelscope_zipenhancer.files import sha256  # noqa: E402
from modelscope_zipenhancer.runtime import onnx_export  # noqa: E402
from modelscope_zipenhancer.runtime.onnx_export import definition, export_onnx, weights_sha256  # noqa: E402

# Not of one sample: of that the second frame is real or imaginary, too, and its phases are chance.
LENGTHS = (2, 99, 100, 399, 400, 16000, 33333, 96000)


def open_session(path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def snr(expected, got) -> float:
    return 10 * np.log10(np.sum(expected**2) / max(np.sum((expected - got) ** 2), 1e-30))


@pytest.fixture(scope="module")
def tiny():
    return load_model(find_model("tiny"))


@pytest.fixture(scope="module")
def bundled():
    return open_session(f"{find_model('tiny')}/{ONNX_FILE}")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "quick.onnx"
    export_onnx(seeded_model(QUICK), path)
    return path


def test_the_bundled_file_is_made_from_the_bundled_weights(bundled, tiny):
    said = bundled.get_modelmeta().custom_metadata_map
    remedy = "make it again: zipenhancer export tiny -o modelscope_zipenhancer/models/tiny/model.onnx"
    assert said["weights_sha256"] == weights_sha256(tiny), remedy
    assert said["checkpoint_sha256"] == sha256(f"{find_model('tiny')}/pytorch_model.bin"), remedy
    assert said["magnitude_bound"] == f"{tiny.config.magnitude_bound:g}", remedy


@pytest.mark.parametrize("samples", LENGTHS)
def test_the_bundled_file_computes_what_torch_computes(bundled, tiny, samples):
    x = noisy_speech(6.0, seed=3)[None, :samples]
    (got,) = bundled.run(None, {"waveform": x})
    assert got.shape == x.shape and got.dtype == np.float32
    with torch.inference_mode():
        assert snr(definition(tiny, torch.from_numpy(x)).numpy(), got) > 60


def test_a_batch_is_its_items_with_a_gain_each(bundled, tiny):
    x = np.stack([noisy_speech(1.0, seed, level) for seed, level in enumerate((0.1, 0.001, 0.3, 0.02))])
    (got,) = bundled.run(None, {"waveform": x})
    assert got.shape == x.shape
    for one, item in zip(x, got):
        assert snr(bundled.run(None, {"waveform": one[None]})[0], item) > 90
    gain = np.array([3.0, 500.0, 1.0, 20.0], np.float32)
    (got,) = bundled.run(None, {"waveform": x, "gain": gain})
    with torch.inference_mode():
        expected = definition(tiny, torch.from_numpy(x), torch.from_numpy(gain)).numpy()
    assert min(map(snr, expected, got)) > 60
    (one,) = bundled.run(None, {"waveform": x, "gain": gain[:1]})
    assert snr(bundled.run(None, {"waveform": x, "gain": np.repeat(gain[:1], 4)})[0], one) > 90


@pytest.mark.parametrize("samples", (1, 400, 16000))
def test_silence_gives_zeros_beside_sound_too(bundled, samples):
    x = np.zeros((2, samples), np.float32)
    assert not bundled.run(None, {"waveform": x})[0].any()
    x[1] = noisy_speech(2.0)[1000 : 1000 + samples]
    (got,) = bundled.run(None, {"waveform": x})
    assert not got[0].any() and np.isfinite(got).all() and got[1].any()


def test_only_the_first_frame_has_phases_by_chance(tiny):
    """Why `definition` is compared with: that frame's spectrum is real, and rounding chooses pi or -pi.

    With numpy's FFT for torch's, the same bins of the same frame jump, and no others.
    """
    x = torch.from_numpy(noisy_speech(2.0, seed=5))[None]
    x = x / x.square().mean().sqrt()
    phase = analyse(x)[1][0].numpy()
    padded = np.pad(x[0].numpy(), 200, mode="reflect").astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::100]
    spectrum = np.fft.rfft(frames * torch.hann_window(400, dtype=torch.float64).numpy()).T
    assert np.abs(spectrum.imag[:, 0]).max() < 1e-12 * np.abs(spectrum[:, 0]).max()
    jumps = np.abs(phase - np.angle(spectrum + 1e-5)) > 3
    assert jumps[:, 0].any() and not jumps[:, 1:].any()
    assert (spectrum.real[jumps[:, 0], 0] < 0).all()


@pytest.mark.parametrize(
    "config",
    (
        SMALL,
        ModelConfig(8, 8, (StackConfig(1, 1, 2, 1, 4, 2, 3, 16, 7), StackConfig(8, 1, 1, 2, 4, 2, 3, 16, 7))),
        ModelConfig(8, 8, (StackConfig(1, 5, 1, 2, 4, 2, 3, 16, 7),)),
        replace(SMALL, magnitude_bound=1),
    ),
)
def test_any_shape_of_network_is_exported(config, tmp_path):
    model = seeded_model(config)
    with torch.no_grad():  # PReLU beyond 1, which is not max(x, slope * x)
        model.dense_encoder.dense_conv_1[2].weight.copy_(torch.linspace(-1.5, 2.5, 8))
    session = open_session(export_onnx(model, tmp_path / "model.onnx"))
    for samples in (2, 777, 16000):
        x = noisy_speech(1.0, seed=2)[None, :samples]
        with torch.inference_mode():
            expected = definition(model, torch.from_numpy(x)).numpy()
        assert snr(expected, session.run(None, {"waveform": x})[0]) > 60


def test_a_network_in_training_is_exported_for_inference_and_stays_in_training(tmp_path):
    model = seeded_model(QUICK).train()
    session = open_session(export_onnx(model, tmp_path / "model.onnx"))
    assert model.training
    x = noisy_speech(0.5)[None]
    with torch.inference_mode():
        expected = definition(seeded_model(QUICK), torch.from_numpy(x)).numpy()
    assert snr(expected, session.run(None, {"waveform": x})[0]) > 60


def test_groups_of_sequences_do_not_change_the_result(tmp_path, monkeypatch):
    from modelscope_zipenhancer.runtime import onnx_layer

    model, x = seeded_model(SMALL), noisy_speech(1.0)[None]
    whole = open_session(export_onnx(model, tmp_path / "a.onnx")).run(None, {"waveform": x})[0]
    monkeypatch.setattr(onnx_layer, "TOKENS", 350)
    groups = open_session(export_onnx(model, tmp_path / "b.onnx")).run(None, {"waveform": x})[0]
    assert snr(whole, groups) > 90


def test_the_card_form_has_the_cards_names_axes_and_metadata(tmp_path):
    model = seeded_model(SMALL)
    session = open_session(export_onnx(model, tmp_path / "card.onnx", form="card"))
    assert [(x.name, x.shape) for x in session.get_inputs()] == [
        ("noisy_mag", ["N", 201, "T"]),
        ("noisy_pha", ["N", 201, "T"]),
    ]
    assert [(x.name, x.shape) for x in session.get_outputs()] == [
        ("amp_g", ["N", 201, "T"]),
        ("pha_g", ["N", 201, "T"]),
    ]
    assert session.get_modelmeta().custom_metadata_map == {"model_type": "ZipEnhancerS", "version": "1"}
    for batch, frames in ((1, 41), (2, 161)):
        mag, pha = torch.rand(batch, 201, frames), 6 * torch.rand(batch, 201, frames) - 3
        amp_g, pha_g = session.run(None, {"noisy_mag": mag.numpy(), "noisy_pha": pha.numpy()})
        with torch.inference_mode():
            expected_mag, expected_pha, *_ = model(mag, pha)
        assert snr(expected_mag.numpy(), amp_g) > 60
        turn = np.abs(np.exp(1j * pha_g) - np.exp(1j * expected_pha.numpy()))
        assert np.median(turn) < 1e-4 and np.abs(pha_g).max() <= np.float32(np.pi)


def test_the_files_opset_operators_and_metadata(quick):
    proto = onnx.load(quick)
    assert [(x.domain, x.version) for x in proto.opset_import] == [("", 17)]
    assert proto.ir_version == 8
    said = {x.key: x.value for x in proto.metadata_props}
    assert said["sample_rate"] == "16000" and said["licence"] == "Apache-2.0"
    assert said["weights_sha256"] == weights_sha256(seeded_model(QUICK))
    assert "checkpoint_sha256" not in said and said["version"]
    window, hop, fade = (samples / 16000 for samples in (Grid().window, Grid().hop, Grid().fade))
    assert said["chunks"] == (
        f"up to {ONE_PASS // 16000} s at once; beyond, {window:g} s every {hop:g} s, "
        f"cross-faded over {fade:g} s"
    )


def test_weights_in_half_precision_make_a_smaller_file(tmp_path):
    model = seeded_model(SMALL)
    x = noisy_speech(1.0)[None]
    sizes, results = [], []
    for precision in ("fp32", "fp16"):
        path = export_onnx(model, tmp_path / f"{precision}.onnx", precision=precision)
        sizes.append(sum(len(x.raw_data) for x in onnx.load(path).graph.initializer))
        results.append(open_session(path).run(None, {"waveform": x})[0])
    assert sizes[1] < sizes[0]
    assert snr(*results) > 40


def test_an_export_that_differs_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(onnx_export, "snr_to_definition", lambda *_: 20.0)
    with pytest.raises(OutputError, match="20.0 dB"):
        export_onnx(seeded_model(QUICK), path)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_what_can_not_be_exported_is_named(tmp_path, monkeypatch):
    model = seeded_model(QUICK)
    for options in ({"form": "hub"}, {"precision": "int8"}):
        with pytest.raises(OptionError, match=next(iter(options.values()))):
            export_onnx(model, tmp_path / "model.onnx", **options)
    with pytest.raises(OutputError, match="no folder"):
        export_onnx(model, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(ModelNotFoundError, match="configuration.json"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'modelscope_zipenhancer\[onnx\]'"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_exports(tmp_path, capsys):
    folder = write_model_dir(tmp_path / "model", seeded_model(QUICK))
    path = folder / "model.onnx"
    assert main(["export", str(folder), "-o", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    said = open_session(path).get_modelmeta().custom_metadata_map
    assert said["checkpoint_sha256"] == sha256(str(folder / "pytorch_model.bin"))
    assert main(["export", str(tmp_path / "none"), "-o", str(path)]) == 1
    assert "none" in capsys.readouterr().err
