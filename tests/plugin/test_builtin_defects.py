"""What ModelScope's built-in does wrong, shown on it and on ours, one by one (docs/differences.md)."""

import io
import itertools

import numpy as np
import pytest
import soundfile
import torch
from conftest import QUICK, load_builtin, noisy_speech, seeded_model, write_model_dir
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
from torch.utils._python_dispatch import TorchDispatchMode

from modelscope_zipenhancer.network.config import ModelConfig, StackConfig


@pytest.fixture(scope="module")
def ours(quick_model_dir):
    return pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir, device="cpu")


def wav_bytes(x) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, 16000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def samples_of(result) -> np.ndarray:
    return np.frombuffer(result["output_pcm"], np.int16).astype(np.float64)


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def stand_in(monkeypatch, ours, builtin, function):
    """Put function(float32 (samples,)) -> the same, in the place of both networks."""
    monkeypatch.setattr(ours, "backend", lambda x, gain=None: np.stack([function(item) for item in x]))

    def model(inputs):
        noisy = inputs["noisy"].numpy()
        return {"wav_l2": torch.from_numpy(np.stack([function(item) for item in noisy]))}

    monkeypatch.setattr(builtin, "model", model)


def test_the_end_of_a_long_recording_is_there(ours, builtin):
    source = wav_bytes(noisy_speech(11.0))  # one length in six, beyond 6 s on 1.40 and 10 s on 1.20
    last = slice(-4000, None)  # 250 ms
    assert not samples_of(builtin(source))[last].any()
    assert rms(samples_of(ours(source))[last]) > 1
    assert rms(samples_of(ours(source, stitch="builtin"))[last]) > 1


def test_the_output_is_as_long_as_the_input(ours, builtin):
    source = wav_bytes(noisy_speech(4.0)[:48050])
    assert len(samples_of(builtin(source))) == 48000
    assert len(samples_of(ours(source))) == 48050


def test_the_pieces_of_a_long_recording_join_without_a_step(ours, builtin, monkeypatch):
    pieces = itertools.count(1)

    def unequal_pieces(x):  # each piece on a plateau of its own: a hard splice is a step
        return np.full_like(x, next(pieces) / 100)

    stand_in(monkeypatch, ours, builtin, unequal_pieces)
    source = wav_bytes(noisy_speech(11.0))
    theirs = np.abs(np.diff(samples_of(builtin(source))[:-4000]))
    assert theirs.max() >= 0.01 * 32768 - 1
    assert np.abs(np.diff(samples_of(ours(source)))).max() <= 1


def test_full_scale_is_clipped_not_wrapped(ours, builtin, monkeypatch):
    stand_in(monkeypatch, ours, builtin, np.ones_like)
    source = wav_bytes(noisy_speech(2.0))
    assert samples_of(builtin(source)).min() == -32768
    assert set(samples_of(ours(source))) == {32767}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_silence_is_no_error_and_gives_silence(ours, builtin):
    silence = np.zeros(16000, np.float32)
    assert np.isnan(builtin.preprocess(wav_bytes(silence))["ndarray"]).all()
    assert not ours.preprocess(silence)["noisy"].any()
    assert not samples_of(ours(silence)).any()


def test_a_silent_piece_of_a_recording_gives_silence(ours, builtin):
    silent_piece = {"noisy": torch.zeros(1, 32000)}
    assert builtin.model(silent_piece)["wav_l2"].isnan().all()
    assert not ours.model(silent_piece)["wav_l2"].any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_channels_are_heard(ours, builtin):
    right_only = np.stack([np.zeros(32000, np.float32), noisy_speech(2.0)], 1)
    assert not np.nan_to_num(builtin.preprocess(wav_bytes(right_only))["ndarray"]).any()
    assert rms(samples_of(ours(wav_bytes(right_only)))) > 1


def test_nothing_is_printed(ours, builtin, capfd):
    source = wav_bytes(noisy_speech(11.0))
    builtin(source)
    assert "current_idx" in capfd.readouterr().out
    ours(source)
    assert capfd.readouterr().out == ""


def test_the_items_of_a_batch_do_not_change_each_other(ours, builtin):
    quiet = torch.from_numpy(noisy_speech(1.0, seed=1))[None]
    batch = {"noisy": torch.cat([quiet, quiet * 100])}

    def difference(model):
        alone = model({"noisy": quiet})["wav_l2"][0]
        return float((model(batch)["wav_l2"][0] - alone).norm() / alone.norm())

    with torch.no_grad():
        assert difference(builtin.model) > 0.1
        assert difference(ours.model) < 1e-3


def test_the_model_can_be_trained(tmp_path):
    folder = str(write_model_dir(tmp_path / "model", seeded_model(QUICK)))
    speech = torch.from_numpy(noisy_speech(1.0))[None]
    inputs = {"noisy": speech, "clean": speech}
    with pytest.raises(AttributeError):
        load_builtin(folder).model.train()(inputs)
    model = pipeline(Tasks.acoustic_noise_suppression, model=folder, device="cpu").model.train()
    model(inputs)["loss"].backward()


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation has made."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_attention_does_not_take_memory_for_all_bins_at_once(tmp_path):
    stack = StackConfig(1, 1, 1, 4, 4, 2, 4, 8, 3)
    folder = str(write_model_dir(tmp_path / "model", seeded_model(ModelConfig(4, 4, (stack,)))))
    seconds, heads, bins = 2, stack.heads, 101
    frames = 160 * seconds + 1
    inputs = {"noisy": torch.from_numpy(noisy_speech(seconds))[None]}
    largest = {}
    models = {
        "builtin": load_builtin(folder).model.eval(),
        "ours": pipeline(Tasks.acoustic_noise_suppression, model=folder, device="cpu").model,
    }
    for name, model in models.items():
        with torch.no_grad(), LargestTensor() as mode:
            model(inputs)
        largest[name] = mode.largest
    assert largest["builtin"] >= heads * bins * frames**2  # grows with the square of the length: 6 s, 1.5 GB
    assert largest["ours"] < largest["builtin"] / 5


def test_blocks_of_a_stream_keep_their_level(ours, builtin):
    loud, quiet = noisy_speech(2.0), noisy_speech(2.0) / 16

    def step(call):
        return rms(samples_of(call(wav_bytes(loud)))) / rms(samples_of(call(wav_bytes(quiet))))

    assert step(builtin) == pytest.approx(1.0, abs=0.1)  # the model card's sample: the level pumps
    assert step(lambda source: ours(source, level="input")) == pytest.approx(16.0, rel=0.2)
