"""The model card's four samples against a hub on this machine, only the host of the URLs changed.

Where ModelScope or torch of today break a sample for any implementation, that is shown with the
built-in, and ours runs with the smallest change that helps.
"""

import io
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import QUICK, noisy_speech, seeded_model, write_model_dir
from loopback_hub import CLIENT_PREAMBLE, LoopbackHub

from modelscope_zipenhancer.network.spectrum import mag_pha_stft

SAMPLES = Path(__file__).parent / "model_card"
MODEL = "damo/speech_zipenhancer_ans_multiloss_16k_base"
SPEECH = noisy_speech(4.5)
MODELSCOPE = tuple(int(part) for part in version("modelscope").split(".")[:2])
BUILTIN = {"MODELSCOPE_ZIPENHANCER_DISABLE": "1"}


def speech_wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SPEECH, 16000, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_model_dir(tmp_path_factory.mktemp("card") / "model", seeded_model(QUICK))


@pytest.fixture
def hub(model_dir):
    with LoopbackHub({MODEL: model_dir}, {"/test/audios/speech_with_noise1.wav": speech_wav()}) as hub:
        yield hub


@pytest.fixture
def run_sample(run_python, hub, tmp_path):
    """Run a sample, with the changes (old, new) made to it; its output.wav and .onnx are in tmp_path."""

    def run(name: str, changes=(), **environment) -> str:
        sample = (SAMPLES / name).read_text(encoding="utf-8")
        sample = sample.replace("https://modelscope.oss-cn-beijing.aliyuncs.com", hub.url)
        for old, new in changes:
            assert old in sample
            sample = sample.replace(old, new)
        program = f"import modelscope_zipenhancer\n{CLIENT_PREAMBLE}\n{sample}"
        return run_python(program, **hub.environment(tmp_path / "cache"), **environment)

    return run


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.fixture
def expected(model_dir):
    """The pipeline's samples for the card's recording, in steps of the 16 bits."""
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks

    result = pipeline(Tasks.acoustic_noise_suppression, model=str(model_dir), device="cpu")(SPEECH)
    return np.frombuffer(result["output_pcm"], np.int16).astype(np.float64)


def test_the_file_sample(run_sample, expected, tmp_path):
    assert "done" in run_sample("file.py")
    written, sample_rate = soundfile.read(tmp_path / "output.wav", dtype="int16")
    assert sample_rate == 16000 and np.array_equal(written, expected)


def test_the_streaming_sample(run_sample, tmp_path):
    run_sample("stream.py")
    written, sample_rate = soundfile.read(tmp_path / "output.wav")
    assert sample_rate == 16000 and len(written) == len(SPEECH)
    assert all(rms(written[start : start + 16000]) > 1e-5 for start in range(0, 64000, 16000))


# The path of the cache, as snapshot_download tells it on every version.
ONNX_PATH_CHANGES = (
    (
        "import get_modelscope_cache_dir",
        "import get_modelscope_cache_dir\nfrom modelscope import snapshot_download",
    ),
    (
        'get_modelscope_cache_dir(), "hub/damo/speech_zipenhancer_ans_multiloss_16k_base/onnx_model.onnx"',
        f'snapshot_download("{MODEL}"), "onnx_model.onnx"',
    ),
)


@pytest.fixture
def hub_with_onnx(hub, model_dir, tmp_path):
    """The repository has the network as onnx_model.onnx, which the third sample calls."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from modelscope_zipenhancer.runtime.onnx_export import export_onnx

    export_onnx(seeded_model(QUICK), model_dir / "onnx_model.onnx", form="card")
    yield hub
    (model_dir / "onnx_model.onnx").unlink()


@pytest.mark.skipif(MODELSCOPE < (1, 30), reason="on this version the sample's path is right")
def test_the_path_in_the_onnx_sample_is_not_there_today_with_the_built_in_either(run_sample, hub_with_onnx):
    pytest.importorskip("onnxruntime")
    with pytest.raises(AssertionError, match="onnx_model.onnx failed|doesn't exist|NoSuchFile|NO_SUCHFILE"):
        run_sample("onnx_call.py", **BUILTIN)


def test_the_onnx_sample(run_sample, hub_with_onnx, expected, tmp_path):
    pytest.importorskip("onnxruntime")
    run_sample("onnx_call.py", ONNX_PATH_CHANGES if MODELSCOPE >= (1, 30) else ())
    written, sample_rate = soundfile.read(tmp_path / "output.wav", dtype="int16")
    assert sample_rate == 16000
    difference = written - expected[: len(written)]
    assert rms(difference) < 0.2 * rms(expected)


@pytest.mark.skipif(torch.__version__ < "2.9", reason="on this version the sample's export works")
def test_the_export_sample_fails_with_todays_torch_and_the_built_in_too(run_sample):
    pytest.importorskip("onnx")
    # Without onnxscript for want of it, with it as 'dynamic_axes' can't be converted.
    with pytest.raises(AssertionError, match="onnxscript|dynamic_axes"):
        run_sample("onnx_export.py", **BUILTIN)


def test_the_export_sample_makes_a_file_that_takes_any_number_of_frames(run_sample, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    changes = [("verbose=False", "verbose=False, dynamo=False")] if torch.__version__ >= "2.9" else []
    run_sample("onnx_export.py", changes)
    path = tmp_path / "ans_pipeline_onnx.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["model_type"] == "ZipEnhancerS"
    for frames in (41, 700):
        wave = torch.from_numpy(noisy_speech(5.0))[None, : (frames - 1) * 100]
        mag, pha, _ = mag_pha_stft(wave / wave.square().mean().sqrt())
        amp_g, _ = session.run(None, {"noisy_mag": mag.numpy(), "noisy_pha": pha.numpy()})
        network = seeded_model(QUICK)(mag, pha)[0].numpy()
        assert amp_g.shape == (1, 201, frames)
        assert np.linalg.norm(amp_g - network) < 1e-4 * np.linalg.norm(network)
