"""The pipeline and the model, called in all the ways in which ModelScope's users call them."""

import base64
import io
import json
import math
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from conftest import load_builtin, needs_ast_str, noisy_speech
from loopback_hub import LoopbackHub
from modelscope.models import Model
from modelscope.pipelines import pipeline
from modelscope.utils.audio.audio_utils import audio_norm
from modelscope.utils.constant import Tasks

from modelscope_zipenhancer import errors
from modelscope_zipenhancer.audio import samples
from modelscope_zipenhancer.network.checkpoint import save_weights
from modelscope_zipenhancer.plugin import classes as plugin
from modelscope_zipenhancer.plugin import level

SPEECH = noisy_speech(2.5)


def wav_bytes(x=SPEECH, sample_rate=16000, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, sample_rate, **{"format": "WAV", "subtype": "PCM_16", **options})
    return file.getvalue()


def samples_of(result) -> np.ndarray:
    """The int16 samples of a result, as float64 in steps of the 16 bits."""
    return np.frombuffer(result["output_pcm"], np.int16).astype(np.float64)


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.fixture(scope="module")
def ans(quick_model_dir):
    return pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir, device="cpu")


@pytest.fixture(scope="module")
def expected(ans) -> dict:
    return ans(wav_bytes())


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "held",
    [
        lambda x: x,
        lambda x: (x, 16000),
        lambda x: {"array": x, "sampling_rate": 16000},
        lambda x: (torch.from_numpy(x), 16000),
    ],
)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_the_callers_samples_stay_as_they_are(ans, held, read_only):
    x = SPEECH.astype(np.float32)
    before = x.copy()
    x.flags.writeable = not read_only
    ans(held(x))
    np.testing.assert_array_equal(x, before)


@pytest.fixture
def wav_path(tmp_path):
    path = tmp_path / "noisy.wav"
    path.write_bytes(wav_bytes())
    return path


# ---- what goes in --------------------------------------------------------------------------------

KINDS = {
    "a path": str,
    "a Path": lambda path: path,
    "bytes": lambda path: path.read_bytes(),
    "a BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "an open file": lambda path: open(path, "rb"),
    "an array": lambda path: SPEECH,
    "an array of doubles in a row": lambda path: SPEECH[None].astype(np.float64),
    "an int16 array": lambda path: (SPEECH * 32768).astype(np.int16),
    "a tensor": lambda path: torch.from_numpy(SPEECH),
    "base64": lambda path: base64.b64encode(path.read_bytes()).decode(),
    "a data URL": lambda path: "data:audio/wav;base64," + base64.b64encode(path.read_bytes()).decode(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_gives_the_same_sound(kind, ans, expected, wav_path):
    source = KINDS[kind](wav_path)
    assert ans(source) == expected
    if isinstance(source, io.BufferedReader):
        source.close()


def test_a_url_gives_the_same_sound(ans, expected):
    with LoopbackHub({}, files={"/a/noisy.wav": wav_bytes()}) as hub:
        assert ans(f"{hub.url}/a/noisy.wav") == expected


def test_a_list_gives_a_list(ans, expected, wav_path):
    assert ans([str(wav_path), wav_bytes(), SPEECH]) == [expected] * 3


def test_a_batch_size_makes_no_difference(ans, expected, wav_path):
    short = ans(SPEECH[:8000])
    assert ans([str(wav_path), SPEECH[:8000], SPEECH], batch_size=2) == [expected, short, expected]


def test_a_dataset_is_worked_off_as_it_is_read(ans, expected, wav_path):
    from modelscope.msdatasets import MsDataset

    results = ans(MsDataset.load([str(wav_path), "/nowhere.wav"], target="audio"))
    assert next(results) == expected
    with pytest.raises(errors.AudioNotFoundError):
        next(results)


def test_arguments_that_nobody_knows_are_ignored(quick_model_dir, expected):
    ans = pipeline(
        Tasks.acoustic_noise_suppression, model=quick_model_dir, disable_update=True, disable_pbar=True
    )
    assert ans(SPEECH, disable_pbar=True, language="en") == expected


def test_several_threads_share_one_pipeline(ans):
    inputs = [noisy_speech(0.5, seed) for seed in range(6)]
    alone, together = [ans(x) for x in inputs], [None] * 6

    def work(i):
        together[i] = ans(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_list_is_not_written_over_itself_into_one_file(ans, tmp_path):
    two = [wav_bytes(noisy_speech(0.5)), wav_bytes(noisy_speech(0.7))]
    with pytest.raises(errors.OptionError, match="names one file, and there are several recordings"):
        ans(two, output_path=str(tmp_path / "out.wav"))
    assert not list(tmp_path.iterdir())
    ans(two[:1], output_path=str(tmp_path / "out.wav"))
    assert soundfile.info(tmp_path / "out.wav").frames == 8000


def test_stereo_in_antiphase_is_heard_as_the_built_in_hears_it(ans, builtin):
    x = noisy_speech(3.0)
    heard = ans(wav_bytes(np.stack([x, -x], 1)))["output_pcm"]
    assert heard == ans(wav_bytes(x))["output_pcm"] and any(heard)


def test_one_gain_for_a_recording_is_a_choice(ans):
    x = np.concatenate([noisy_speech(5.0), noisy_speech(5.0) / 8])
    chunk, recording = (samples_of(ans(wav_bytes(x), gain=gain)) for gain in ("chunk", "recording"))
    assert np.array_equal(chunk, samples_of(ans(wav_bytes(x)))) and not np.array_equal(chunk, recording)
    short = wav_bytes(noisy_speech(3.0))
    assert ans(short, gain="recording")["output_pcm"] == ans(short)["output_pcm"]
    with pytest.raises(errors.OptionError, match="gain='file': 'chunk' or 'recording'"):
        ans(short, gain="file")


def test_noise_is_turned_down_by_strength_at_most_and_0_gives_the_recording_back(ans, quick_model_dir):
    heard = audio_norm(SPEECH)
    none, ten, whole = (samples_of(ans(SPEECH, strength=strength)) for strength in (0, 10, None))
    assert np.abs(none / 32768 - heard).max() < 1e-4
    assert np.abs(ten - (whole + 10**-0.5 * (none - whole))).max() < 2.5  # of 16 bits, rounded three times
    other = plugin.ZipEnhancerPipeline(model=quick_model_dir, strength=10)
    assert np.array_equal(samples_of(other(SPEECH)), ten)
    assert np.array_equal(samples_of(other(SPEECH, strength=math.inf)), whole)
    with pytest.raises(errors.OptionError, match="strength='a': the dB by which noise"):
        ans(SPEECH, strength="a")
    with pytest.raises(errors.OptionError, match="strength=-1: the dB by which noise"):
        plugin.ZipEnhancerPipeline(model=quick_model_dir, strength=-1)


def test_strict_in_words_is_refused_not_taken_for_true(ans):
    with pytest.raises(errors.OptionError, match="strict='false': True or False"):
        ans(np.zeros(1000, np.float32), strict="false")


def test_a_recording_that_was_cut_off_is_enhanced_as_far_as_it_goes_unless_strict(ans):
    whole = wav_bytes(noisy_speech(2.0))
    assert len(ans(whole[: len(whole) // 2])["output_pcm"]) == pytest.approx(len(whole) // 2, abs=64)
    with pytest.raises(errors.AudioError, match="missing"):
        ans(whole[: len(whole) // 2], strict=True)


@pytest.mark.parametrize("level", ["modelscope", "input"])
def test_an_offset_is_heard_only_where_the_built_in_would_hear_it(ans, level):
    x = noisy_speech(3.0)
    x -= x.mean()
    y, with_offset = (samples_of(ans(wav_bytes(z), level=level)) for z in (x, x + np.float32(0.25)))
    error = np.linalg.norm(with_offset - y) / np.linalg.norm(y)
    # roundings alone make 0.3: the network has random weights and reads wrapped phase
    assert error < 0.5 if level == "input" else error > 0.8


@pytest.mark.parametrize("samples", [1, 100, 401, 12800, 16000, 32001, 96000, 100003])
def test_as_many_samples_come_out_as_went_in(samples, ans):
    assert len(ans(noisy_speech(7.0)[:samples])["output_pcm"]) == 2 * samples


@pytest.mark.parametrize("samples", [1, 16000, 112000])
def test_silence_stays_silence(samples, ans):
    assert not any(ans(wav_bytes(np.zeros(samples)))["output_pcm"])


def test_silence_within_a_recording_leaves_the_rest_alone(ans):
    x = noisy_speech(8.0)
    x[3 * 16000 : 6 * 16000] = 0.0
    y = samples_of(ans(x))
    assert rms(y[: 2 * 16000]) > 1 and rms(y[-16000:]) > 1


def test_channels_are_averaged(ans):
    left, right = noisy_speech(0.5, seed=1), noisy_speech(0.5, seed=2)
    assert ans(np.stack([left, right], 1)) == ans((left + right) / 2)


def test_other_rates_are_brought_to_16_khz(ans):
    result = ans(wav_bytes(noisy_speech(1.0), sample_rate=8000))
    assert len(result["output_pcm"]) == 2 * 32000
    assert ans(noisy_speech(1.0), sample_rate=8000) == result


# ---- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg"])
def test_the_suffix_of_output_path_names_the_format(suffix, ans, expected, tmp_path):
    path = tmp_path / f"clean{suffix}"
    assert ans(SPEECH, output_path=str(path)) == expected
    written, sample_rate = soundfile.read(path, dtype="int16")
    assert sample_rate == 16000 and written.ndim == 1
    if suffix in (".wav", ".flac"):
        assert written.tobytes() == expected["output_pcm"]


def test_an_output_path_of_none_writes_nothing(ans, expected):
    assert ans(SPEECH, output_path=None) == expected


@pytest.mark.parametrize("name", ["missing/clean.wav", "clean.xyz"])
def test_an_impossible_output_path_fails_before_the_work(name, ans, tmp_path, monkeypatch):
    monkeypatch.setattr(ans, "backend", lambda *args: pytest.fail("the work has started"))
    with pytest.raises(errors.OutputError, match=name):
        ans(SPEECH, output_path=tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_callers_array_is_left_as_it_was(ans):
    for x in (SPEECH.astype(np.float32), torch.from_numpy(SPEECH.astype(np.float32))):
        before = x.copy() if isinstance(x, np.ndarray) else x.clone()
        ans(x)
        assert (x == before).all()


def test_a_long_recording_is_in_memory_once_as_it_comes_and_once_as_16_bits(ans, tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal(60 * 16_000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "long.wav", x, 16_000)
    monkeypatch.setattr(ans, "backend", lambda waveform, gain=None: waveform)
    for module in (level, samples):
        monkeypatch.setattr(module, "BLOCK", 1 << 14)
    tracemalloc.start()
    try:
        result = ans(str(tmp_path / "long.wav"), output_path=str(tmp_path / "out.wav"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(samples_of(result)) == len(x)
    blocks = 3 * 2**20  # levelling, chunks
    assert peak < x.nbytes + 1.2 * x.nbytes / 2 + blocks, peak


def test_nothing_is_printed(ans, capfd):
    ans(noisy_speech(7.0))
    assert capfd.readouterr().out == ""


BAD_INPUTS = {
    "nothing": (b"", errors.AudioError, ValueError),
    "garbage": (b"no audio at all" * 20, errors.AudioError, ValueError),
    "NaN": (np.full(100, np.nan, np.float32), errors.AudioError, ValueError),
    "a missing path": ("/nowhere/noisy.wav", errors.AudioNotFoundError, FileNotFoundError),
    "no input": (None, errors.AudioError, ValueError),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_input_is_one_family_and_what_callers_catch(kind, ans):
    source, error, builtin_error = BAD_INPUTS[kind]
    with pytest.raises(error) as caught:
        ans(source)
    assert isinstance(caught.value, errors.ZipEnhancerError) and isinstance(caught.value, builtin_error)


BAD_OPTIONS = {
    "a level that is none": ({"level": "louder"}, errors.OptionError, "level='louder'"),
    "a level in a list, as JSON can have it": ({"level": ["input"]}, errors.OptionError, "level="),
    "a stitch that is none": ({"stitch": "zigzag"}, errors.OptionError, "stitch='zigzag'"),
    "a stitch in a list": ({"stitch": ["builtin"]}, errors.OptionError, "stitch="),
    "a word for a rate": ({"sample_rate": "fast"}, errors.OptionError, "sample_rate='fast'"),
    "a rate that can't be": ({"sample_rate": -8000}, errors.OptionError, "-8000"),
    "a rate in a list": ({"sample_rate": [16000]}, errors.OptionError, "sample_rate="),
    "a number for a path": ({"output_path": 5}, errors.OptionError, "written to 5: a path was expected"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_an_option_that_can_not_be_is_one_of_the_family_before_the_work(kind, ans, monkeypatch):
    options, error, message = BAD_OPTIONS[kind]
    monkeypatch.setattr(ans, "backend", lambda *args: pytest.fail("the work has started"))
    with pytest.raises(error, match=message) as caught:
        ans(SPEECH, **options)
    assert isinstance(caught.value, errors.ZipEnhancerError) and isinstance(caught.value, ValueError)


def test_a_rate_may_come_as_text_as_in_json(ans):
    assert ans(noisy_speech(1.0), sample_rate="8000") == ans(noisy_speech(1.0), sample_rate=8000)


def test_a_model_that_does_not_fit_on_the_device_is_one_of_the_family(quick_model_dir, monkeypatch):
    def full(self, *args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(plugin.ZipEnhancerModel, "to", full)
    with pytest.raises(errors.DeviceMemoryError, match="doesn't fit on") as caught:
        pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir, device="cpu")
    assert isinstance(caught.value, MemoryError)


# ---- the level -----------------------------------------------------------------------------------


def test_by_default_the_level_is_modelscopes_whatever_came_in(ans):
    assert ans(SPEECH) == ans(SPEECH / 8) != ans(SPEECH / 8, level="input")


def test_level_input_gives_the_recordings_own_level_back(ans, quick_model_dir):
    scale = ans.preprocess(SPEECH)["scale"]
    own = samples_of(ans(SPEECH, level="input"))
    np.testing.assert_allclose(own, samples_of(ans(SPEECH)) / scale, atol=0.51 + 0.5 / scale)
    always = pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir, level="input")
    assert always(SPEECH) == ans(SPEECH, level="input")
    assert always(SPEECH, level="modelscope") == ans(SPEECH)


def test_an_unknown_level_is_refused_by_name(ans, quick_model_dir):
    with pytest.raises(ValueError, match="'louder'"):
        ans(SPEECH, level="louder")
    with pytest.raises(ValueError, match="'louder'"):
        pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir, level="louder")


@pytest.mark.parametrize("samples", [2, 999, 1000, 1001, 20000, 54321])
def test_the_level_is_audio_norms_to_the_last_bit_also_in_blocks(samples, ans, monkeypatch):
    monkeypatch.setattr(level, "BLOCK", 1000)
    x = noisy_speech(4.0)[100 : 100 + samples]
    norm = audio_norm(x.astype(np.float64)).astype(np.float32)
    assert ans.preprocess(x)["noisy"].tobytes() == norm.tobytes()


@pytest.mark.parametrize("x", [[0.5], [0.25] * 50, [0.5, -0.5] * 30])
def test_samples_that_are_all_equally_loud_are_levelled_too(x, ans):
    noisy = ans.preprocess(np.array(x, np.float32))["noisy"]
    assert rms(noisy) == pytest.approx(10 ** (-25 / 20))


# ---- as the built-in -----------------------------------------------------------------------------


def test_the_network_is_the_built_ins(ans, builtin):
    torch.manual_seed(0)
    mag, pha = torch.rand(2, 201, 50), torch.rand(2, 201, 50) * 6 - 3
    with torch.no_grad():
        ours, theirs = ans.model.model(mag, pha), builtin.model.model(mag, pha)
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours[:3], theirs[:3]):
        assert (a - b).norm() / b.norm() < 1e-5
    assert len(ans.model.model.TSConformer.encoders) == len(builtin.model.model.TSConformer.encoders)


@pytest.mark.parametrize("seconds", [0.8, 2.0, 4.7, 6.0])
def test_up_to_6_seconds_the_sound_is_the_built_ins(seconds, ans, builtin):
    source = wav_bytes(noisy_speech(seconds))
    theirs = samples_of(builtin(source))
    ours = samples_of(ans(source))[: len(theirs)]
    assert rms(ours - theirs) < 1.0  # of 65,536 steps; it truncates where we round


def test_with_its_windows_the_sound_is_the_built_ins_beyond_6_seconds_too(ans, builtin):
    source = wav_bytes(noisy_speech(10.2))  # 1.20 starts at 10 s; a length at which it writes all
    theirs = samples_of(builtin(source))
    ours = samples_of(ans(source, stitch="builtin"))
    assert len(ours) == len(theirs)
    assert rms(ours - theirs) < 1.0
    assert rms(ours - samples_of(ans(source))) > 1.0


def test_an_unknown_stitch_is_refused_by_name(ans):
    with pytest.raises(ValueError, match="'zigzag'"):
        ans(SPEECH, stitch="zigzag")


# ---- which model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "gpu", "cuda", "cuda:0"])
def test_every_device_string_works_and_means_the_cpu_where_there_is_no_other(
    device, quick_model_dir, expected
):
    ans = pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir, device=device)
    result = ans(SPEECH)
    if torch.cuda.is_available() and device != "cpu":
        assert ans.device.type == "cuda" and len(result["output_pcm"]) == len(expected["output_pcm"])
    else:
        assert ans.device.type == "cpu" and result == expected


def test_a_model_instance_will_do(quick_model_dir, expected):
    model = Model.from_pretrained(quick_model_dir)
    assert isinstance(model, plugin.ZipEnhancerModel)
    assert pipeline(Tasks.acoustic_noise_suppression, model=model)(SPEECH) == expected


def test_an_instance_of_the_built_in_is_refused_clearly(builtin):
    with pytest.raises(errors.ModelTypeError, match="load it again") as caught:
        pipeline(Tasks.acoustic_noise_suppression, model=builtin.model)
    assert isinstance(caught.value, errors.ZipEnhancerError) and isinstance(caught.value, TypeError)


def test_a_task_and_a_pipeline_name_are_both_understood(quick_model_dir, expected):
    ans = pipeline(
        Tasks.acoustic_noise_suppression,
        model=quick_model_dir,
        pipeline_name="speech_zipenhancer_ans_multiloss_16k_base",
    )
    assert isinstance(ans, plugin.ZipEnhancerPipeline) and ans(SPEECH) == expected


def broken_model_dir(quick_model_dir, folder, **changes) -> str:
    from pathlib import Path

    for name in ("configuration.json", "pytorch_model.bin"):
        data = (Path(quick_model_dir) / name).read_bytes()
        (folder / name).write_bytes(changes.get(name.partition(".")[0], lambda data: data)(data))
    return str(folder)


def test_weights_of_another_model_are_refused_with_their_names(quick_model_dir, tmp_path):
    def other(_):
        torch.save({"generator": {"lstm.weight": torch.zeros(1)}}, tmp_path / "other")
        return (tmp_path / "other").read_bytes()

    with pytest.raises(errors.CheckpointError, match="lstm.weight"):
        pipeline(
            Tasks.acoustic_noise_suppression,
            model=broken_model_dir(quick_model_dir, tmp_path, pytorch_model=other),
        )


def test_an_unsupported_configuration_is_refused_by_name(quick_model_dir, tmp_path):
    def two_speakers(data):
        return data.replace(b'"model_num_spks": 1', b'"model_num_spks": 2')

    with pytest.raises(errors.ConfigError, match="model_num_spks is 2"):
        pipeline(
            Tasks.acoustic_noise_suppression,
            model=broken_model_dir(quick_model_dir, tmp_path, configuration=two_speakers),
        )


# ---- the model by itself -------------------------------------------------------------------------


@pytest.fixture
def model(quick_model_dir):
    return Model.from_pretrained(quick_model_dir, device="cpu")


def test_the_model_enhances_each_item_of_a_batch_as_if_alone(model):
    x = torch.from_numpy(np.stack([noisy_speech(1.0, 1), noisy_speech(1.0, 2) / 50]))
    together = model({"noisy": x})["wav_l2"]
    assert together.shape == x.shape
    for i in range(2):
        alone = model({"noisy": x[i : i + 1]})["wav_l2"]
        assert (together[i] - alone[0]).norm() / alone.norm() < 1e-3


def test_with_clean_speech_the_model_returns_what_modelscopes_trainers_need(model):
    clean = torch.from_numpy(np.stack([noisy_speech(1.0, 1), np.zeros(16000, np.float32)]))
    noisy = clean + 0.01 * torch.randn(2, 16000, generator=torch.manual_seed(0))
    noisy[1] = 0.0
    inputs = {"noisy": noisy, "clean": clean}
    assert {"wav_l2", "loss", "log_vars"} == set(model(inputs))
    model.train()
    outputs = model(inputs)
    outputs["loss"].backward()
    assert all(isinstance(value, float) for value in outputs["log_vars"].values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_pipeline_that_has_run_can_still_be_trained(quick_model_dir):
    ans = pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir, device="cpu")
    ans(SPEECH)
    x = torch.from_numpy(SPEECH)[None]
    ans.model.train()({"noisy": x, "clean": x})["loss"].backward()


def saved_plainly(model, path):
    torch.save(model.state_dict(), path)  # as ModelScope's trainers do


def saved_without_prefix(model, path):
    torch.save(model.model.state_dict(), path)


def saved_in_a_state_dict(model, path):
    torch.save({"state_dict": model.state_dict()}, path)


def saved_as_released(model, path):
    save_weights(model.model, path)


@pytest.mark.parametrize(
    "save", [saved_plainly, saved_without_prefix, saved_in_a_state_dict, saved_as_released]
)
def test_weights_load_in_every_layout_that_is_about(save, model, quick_model_dir, tmp_path, expected):
    folder = broken_model_dir(quick_model_dir, tmp_path)
    save(model, f"{folder}/pytorch_model.bin")
    assert pipeline(Tasks.acoustic_noise_suppression, model=folder)(SPEECH) == expected


def test_what_is_saved_loads_here_and_in_the_built_in(model, tmp_path, expected):
    with torch.no_grad():
        model.model.mask_decoder.mask_conv[-1].bias.add_(0.1)
    folder = tmp_path / "saved"
    model.save_pretrained(str(folder))
    again = pipeline(Tasks.acoustic_noise_suppression, model=str(folder))
    assert again(SPEECH) != expected
    assert rms(samples_of(again(SPEECH))[:40000] - samples_of(load_builtin(str(folder))(wav_bytes()))) < 1.0


def test_a_model_made_directly_saves_its_configuration_too(quick_model_dir, tmp_path, expected):
    plugin.ZipEnhancerModel(quick_model_dir).save_pretrained(tmp_path / "saved")
    assert pipeline(Tasks.acoustic_noise_suppression, model=str(tmp_path / "saved"))(SPEECH) == expected


def test_a_folder_that_can_not_be_made_to_save_in_is_one_of_the_family(model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.OutputError, match="file"):
        model.save_pretrained(tmp_path / "file" / "saved")


def test_a_disk_that_is_full_when_a_model_is_saved_is_one_of_the_family(model, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(errors.OutputError, match="No space left on device"):
        model.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.bin*"))


# ---- as a service --------------------------------------------------------------------------------


def test_modelscope_server_can_call_it_and_describe_it(ans, expected, wav_path):
    needs_ast_str()
    from modelscope.utils.input_output import (
        call_pipeline_with_json,
        get_pipeline_information_by_pipeline,
        pipeline_output_to_service_base64_output,
    )

    information = get_pipeline_information_by_pipeline(ans)
    schema = json.loads(json.dumps(information.schema))
    assert {"sample_rate", "strict", "level", "stitch", "gain", "strength", "output_path"} == set(
        schema["parameters"]["properties"]
    )
    body = base64.b64encode(wav_path.read_bytes()).decode()
    for given in ({"input": body}, body):
        result = call_pipeline_with_json(information, ans, {"input": given})
        assert result == expected
    answer = pipeline_output_to_service_base64_output(information.task_name, result)
    assert base64.b64decode(json.loads(json.dumps(answer))["output_pcm"]) == expected["output_pcm"]
    parameters = {"level": "input"}
    result = call_pipeline_with_json(information, ans, {"input": {"input": body}, "parameters": parameters})
    assert result == ans(SPEECH, level="input")


# ---- modelscope's own tests of this task, restated -----------------------------------------------


def test_modelscopes_test_with_a_file(quick_model_dir, wav_path, tmp_path):
    ans = pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir)
    output = tmp_path / "output.wav"
    ans(str(wav_path), output_path=str(output))
    assert soundfile.info(output).frames == len(SPEECH)


def test_modelscopes_test_with_bytes(quick_model_dir, wav_path, tmp_path):
    ans = pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir)
    output = tmp_path / "output.wav"
    with open(wav_path, "rb") as file:
        ans(file.read(), output_path=str(output))
    assert soundfile.info(output).frames == len(SPEECH)


def test_modelscopes_test_with_a_url(quick_model_dir, tmp_path):
    ans = pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir)
    output = tmp_path / "output.wav"
    with LoopbackHub({}, files={"/speech_with_noise1.wav": wav_bytes()}) as hub:
        ans(f"{hub.url}/speech_with_noise1.wav", output_path=str(output))
    assert soundfile.info(output).frames == len(SPEECH)


def test_the_pipeline_takes_a_precision(quick_model_dir, monkeypatch):
    monkeypatch.setattr("modelscope_zipenhancer.runtime.pytorch.library", lambda dtype: None)
    with pytest.raises(ValueError, match="'bf16' can't be had"):
        pipeline(Tasks.acoustic_noise_suppression, model=quick_model_dir, precision="bf16", device="cpu")
