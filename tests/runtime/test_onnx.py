"""ONNX Runtime behind the protocol of backends: the same sound as torch's, without torch."""

import json
import pickle
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from conftest import QUICK, ROOT, SMALL, noisy_speech, seeded_model, write_model_dir

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.cli import main
from modelscope_zipenhancer.enhance import overlap_add
from modelscope_zipenhancer.errors import (
    AudioError,
    CheckpointError,
    MissingPackageError,
    ModelNotFoundError,
    OptionError,
)
from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.runtime.backend import load_backend

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from modelscope_zipenhancer.runtime import onnx as onnx_backend  # noqa: E402
from modelscope_zipenhancer.runtime.onnx_export import definition, export_onnx  # noqa: E402


def snr(expected, got) -> float:
    return 10 * np.log10(np.sum(expected**2) / max(np.sum((expected - got) ** 2), 1e-30))


class Definition:
    """The network's definition as a backend."""

    preferred_batch_size = 1

    def __init__(self, model) -> None:
        self.model = model

    def __call__(self, waveform, gain=None):
        gain = None if gain is None else torch.from_numpy(gain)
        with torch.inference_mode():
            return definition(self.model, torch.from_numpy(waveform), gain).numpy()


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory, small_model):
    folder = write_model_dir(tmp_path_factory.mktemp("onnx") / "small", small_model)
    export_onnx(folder, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def card_dir(tmp_path_factory, small_model):
    """As the hub has it: no model.onnx, but onnx_model.onnx."""
    folder = write_model_dir(tmp_path_factory.mktemp("onnx") / "card", small_model)
    export_onnx(small_model, folder / "onnx_model.onnx", form="card")
    return folder


@pytest.fixture(scope="module")
def speech():
    """2 s of examples/noisy_speech.wav, float32."""
    return soundfile.read(ROOT / "examples" / "noisy_speech.wav", dtype="float32")[0][:32000]


@pytest.mark.parametrize("seconds, gain", ((30.0, "chunk"), (10.0, "recording")))
def test_a_recording_in_chunks_is_that_of_torch(seconds, gain):
    x = noisy_speech(seconds, seed=1)
    x[:60000] *= 0.1
    ours = Enhancer.from_pretrained("tiny", backend="onnx", threads=1)
    torchs = Enhancer(Definition(load_model(find_model("tiny"))))
    got = ours(x, gain=gain)
    assert got.shape == x.shape
    assert snr(torchs(x, gain=gain), got) > 60


def test_a_stream_is_that_of_torch():
    x = noisy_speech(3.0, seed=1)
    results = []
    for backend in ("torch", "onnx"):
        stream = Enhancer.from_pretrained("tiny", backend=backend).stream()
        results.append(np.concatenate([stream.feed(x[:30000]), stream.feed(x[30000:]), stream.flush()]))
    assert results[1].shape == x.shape
    assert snr(*results) > 40  # the first frame of each chunk, see test_onnx_export.py


@pytest.mark.parametrize("samples", (2, 99, 100, 399, 400, 16000, 33333))
def test_the_cards_graph_with_the_signal_in_numpy_is_that_of_torch(card_dir, small_model, samples):
    backend = load_backend("onnx", card_dir, threads=1)
    x = np.stack([noisy_speech(3.0, seed)[1000 : 1000 + samples] for seed in (0, 1, 2)])
    x[2] = 0
    expected = Definition(small_model)
    got = backend(x)
    assert got.shape == x.shape and got.dtype == np.float32 and not got[2].any()
    assert snr(expected(x), got) > 60
    gain = np.array([3.0, 7.0, 1.0], np.float32)
    assert snr(expected(x, gain), backend(x, gain)) > 60


def test_optimizers_that_are_left_out_would_change_nothing(small_dir, speech, monkeypatch):
    few = load_backend("onnx", small_dir, threads=1)
    monkeypatch.setattr(onnx_backend, "IDLE_OPTIMIZERS", [])
    every = load_backend("onnx", small_dir, threads=1)
    assert snr(every(speech[None]), few(speech[None])) > 80


def test_of_two_graphs_the_one_from_waveform_to_waveform_runs(small_dir, card_dir, tmp_path):
    shutil.copytree(small_dir, tmp_path / "both")
    shutil.copy(card_dir / "onnx_model.onnx", tmp_path / "both")
    assert load_backend("onnx", tmp_path / "both").path.endswith("/model.onnx")


def test_the_route_imports_neither_torch_nor_modelscope(run_python, tmp_path):
    soundfile.write(tmp_path / "noisy.wav", noisy_speech(0.5), 16000)
    said = run_python(
        "import sys, modelscope_zipenhancer\n"
        "enhancer = modelscope_zipenhancer.Enhancer.from_pretrained('tiny', backend='onnx')\n"
        "enhancer.enhance_file('noisy.wav', 'clean.wav')\n"
        "print(*(name for name in ('torch', 'modelscope', 'librosa', 'onnx') if name in sys.modules))\n"
        "from modelscope_zipenhancer.cli import main\n"
        "assert main(['enhance', 'noisy.wav', '-o', 'again.wav', '--backend', 'onnx']) == 0\n"
        "two = ['enhance', 'noisy.wav', 'clean.wav', '-o', 'two', '--backend', 'onnx', '--jobs', '2']\n"
        "assert main(two) == 0\n"
        "print(*(name for name in ('torch', 'modelscope', 'librosa', 'onnx') if name in sys.modules))\n"
    )
    lines = said.splitlines()
    assert lines[0] == lines[-1] == "", said
    assert (tmp_path / "clean.wav").read_bytes() == (tmp_path / "again.wav").read_bytes()


def test_the_command_enhances_with_it(tmp_path, speech):
    soundfile.write(tmp_path / "noisy.wav", speech, 16000)
    for backend in ("torch", "onnx"):
        command = ["enhance", str(tmp_path / "noisy.wav"), "-o", str(tmp_path / f"{backend}.wav")]
        assert main([*command, "--backend", backend]) == 0
    torchs, ours = (soundfile.read(tmp_path / f"{backend}.wav")[0] for backend in ("torch", "onnx"))
    assert snr(torchs, ours) > 35


def test_the_pipeline_runs_it(speech):
    from modelscope.pipelines import pipeline

    results = []
    for backend in ("torch", "onnx"):
        ans = pipeline("acoustic-noise-suppression", model=find_model("tiny"), device="cpu", backend=backend)
        results.append(np.frombuffer(ans(speech)["output_pcm"], np.int16).astype(np.float64))
    assert ans.backend.path.endswith("model.onnx")
    assert len(results[0]) == len(results[1]) and snr(*results) > 35


def test_a_pickled_backend_is_its_path_and_works(small_dir):
    backend = load_backend("onnx", small_dir)
    sent = pickle.dumps(backend)
    assert len(sent) < 1000
    x = noisy_speech(0.5)[None]
    assert np.array_equal(pickle.loads(sent)(x), backend(x))


def test_threads_are_as_many_as_asked_for(small_dir, monkeypatch):
    assert load_backend("onnx", small_dir, threads=2).threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert load_backend("onnx", small_dir).threads == 3
    for value, threads in (("2,1", 2), ("many", 0)):  # of nested loops; of no meaning
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert load_backend("onnx", small_dir).threads == threads
    for threads in (0, "2", 1.5):
        with pytest.raises(OptionError, match=f"threads={threads!r}: a whole number"):
            load_backend("onnx", small_dir, threads=threads)


def test_devices_are_execution_providers_by_name(small_dir, monkeypatch):
    everything = [*onnx_backend.PROVIDERS.values()]
    asked = []
    monkeypatch.setattr(onnx_backend, "available", lambda runtime: everything)

    class Session:
        def __init__(self, path, options, providers, **_):
            asked.append(providers)
            raise RuntimeError("no device")

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    for device in ("cuda:1", "coreml", "cpu"):
        with pytest.raises(CheckpointError, match="no device"):
            load_backend("onnx", small_dir, device=device)
    cpu = "CPUExecutionProvider"
    assert asked == [
        [("CUDAExecutionProvider", {"device_id": "1"}), cpu],
        ["CoreMLExecutionProvider", cpu],
        [cpu],
    ]


def test_options_that_can_not_be_had_are_named(small_dir):
    with pytest.raises(OptionError, match="CUDAExecutionProvider isn't there, these are: .*CPUExecution"):
        load_backend("onnx", small_dir, device="cuda")
    with pytest.raises(OptionError, match="TpuProvider"):
        load_backend("onnx", small_dir, providers=["TpuProvider"])
    with pytest.raises(OptionError, match="'mps' isn't.*coreml"):
        load_backend("onnx", small_dir, device="mps")
    with pytest.raises(OptionError, match="precision='fp16'.*export"):
        load_backend("onnx", small_dir, precision="fp16")
    with pytest.raises(OptionError, match="compile"):
        load_backend("onnx", small_dir, compile=True)


def test_a_missing_onnxruntime_is_named_with_what_to_install(small_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'modelscope_zipenhancer\[onnx\]'"):
        load_backend("onnx", small_dir)


def test_a_model_dir_without_a_graph_is_named_with_the_command(tmp_path, small_model):
    folder = write_model_dir(tmp_path / "model", small_model)
    with pytest.raises(ModelNotFoundError, match=f"zipenhancer export {folder} -o {folder}/model.onnx"):
        load_backend("onnx", folder)


def test_a_graph_made_from_other_weights_is_refused(small_dir, tmp_path):
    folder = write_model_dir(tmp_path / "model", seeded_model(SMALL, seed=1))
    shutil.copy(small_dir / "model.onnx", folder)
    with pytest.raises(CheckpointError, match="other weights.*zipenhancer export"):
        load_backend("onnx", folder)


def test_a_graph_made_with_another_bound_than_the_configuration_has_is_refused(tmp_path):
    folder = write_model_dir(tmp_path / "model", seeded_model(replace(QUICK, magnitude_bound=2)))
    export_onnx(str(folder), folder / "model.onnx")
    load_backend("onnx", folder)
    configuration = json.loads((folder / "configuration.json").read_text())
    for bound in ({"magnitude_bound": 3}, {}):
        configuration["model"].pop("magnitude_bound", None)
        configuration["model"] |= bound
        (folder / "configuration.json").write_text(json.dumps(configuration))
        with pytest.raises(CheckpointError, match="another magnitude_bound than (3|none), of conf"):
            load_backend("onnx", folder)


@pytest.mark.parametrize("length", (0, 100, 0.5, -1))
def test_a_file_cut_short_is_named(small_dir, tmp_path, length):
    data = (small_dir / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(length * len(data)) if isinstance(length, float) else length])
    with pytest.raises(CheckpointError, match=r"model.onnx can't be read as an ONNX graph|is no ZipEnhancer"):
        load_backend("onnx", tmp_path)


def test_a_damaged_graph_is_refused_without_a_word_by_onnxruntime(tmp_path, capfd):
    import fuzzing  # whose long form found these

    good = fuzzing.graph_seeds()["waveform"]
    for wrong in (b"\xf4aveform", b"\x00aveform"):
        (tmp_path / "model.onnx").write_bytes(good.replace(b"waveform", wrong))
        with pytest.raises(CheckpointError, match="model.onnx"):
            load_backend("onnx", tmp_path)
    assert capfd.readouterr() == ("", "")


def other_graph(path, inputs: dict) -> None:
    import onnx
    from onnx import TensorProto, helper

    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in inputs.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None) for name in inputs]
    graph = helper.make_graph(nodes, "other", infos, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize(
    "inputs",
    (
        {"image": ["N", 3, 224, 224]},
        {"noisy_mag": ["N", "T", 201], "noisy_pha": ["N", "T", 201]},
        {"noisy_mag": ["N", 257, "T"], "noisy_pha": ["N", 257, "T"]},
    ),
)
def test_a_graph_of_another_model_or_with_other_axes_is_named(inputs, tmp_path):
    other_graph(tmp_path / "onnx_model.onnx", inputs)
    with pytest.raises(CheckpointError, match=f"no ZipEnhancer graph.*{next(iter(inputs))}.*expected"):
        load_backend("onnx", tmp_path)


def test_nan_is_an_error_as_everywhere(small_dir):
    x = noisy_speech(0.5)
    x[77] = np.nan
    with pytest.raises(AudioError):
        Enhancer.from_pretrained(small_dir, backend="onnx")(x)


def test_modelscopes_exporter_writes_the_file(tmp_path):
    from modelscope.exporters import Exporter
    from modelscope.models import Model

    folder = str(write_model_dir(tmp_path / "model", seeded_model(QUICK)))
    x = noisy_speech(0.5)[None]
    for i, model in enumerate((folder, Model.from_pretrained(folder, device="cpu"))):
        out = tmp_path / f"out{i}"
        assert Exporter.from_model(model).export_onnx(output_dir=str(out)) == {"model": f"{out}/model.onnx"}
        assert snr(Definition(seeded_model(QUICK))(x), load_backend("onnx", out)(x)) > 60
    with pytest.raises(OptionError, match="opset=13"):
        Exporter.from_model(folder).export_onnx(output_dir=folder, opset=13)


def test_pieces_of_any_grid_go_through_it(small_dir):
    backend = load_backend("onnx", small_dir)
    x = noisy_speech(7.0)
    assert sum(map(len, overlap_add.pieces(backend, x))) == len(x)
