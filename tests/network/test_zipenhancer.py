"""The network against modelscope's built-in on the same weights, and the laws of `denoise`."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, seeded_model, write_model_dir
from modelscope.models.audio.ans.zipenhancer import AttrDict
from modelscope.models.audio.ans.zipenhancer import ZipEnhancer as BuiltIn

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.errors import CheckpointError, ConfigError, ModelNotFoundError
from modelscope_zipenhancer.network.checkpoint import load_model, load_network, load_weights
from modelscope_zipenhancer.network.config import ModelConfig, StackConfig
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.network.spectrum import mag_pha_istft, mag_pha_stft, unit_rms_gain
from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer
from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork
from modelscope_zipenhancer.runtime.pytorch import TorchBackend

SIZES = {
    "released S": ModelConfig(),
    "small": SMALL,
    "one downsampled stack": ModelConfig(16, 24, (StackConfig(2, 2, feedforward_dim=96),)),
    "odd factors, two layers": ModelConfig(
        12, 8, (StackConfig(1, 2, 2, 3, 5, 2, 4, 20, 9), StackConfig(4, 3, 1, 2))
    ),
}


def built_in(config: ModelConfig) -> BuiltIn:
    return BuiltIn(AttrDict({k: v for k, v in config.to_dict().items() if k != "type"})).eval()


def spectra(frames: int, batch: int = 1):
    generator = torch.Generator().manual_seed(frames)
    mag = torch.rand(batch, 201, frames, generator=generator)
    return mag, (torch.rand(batch, 201, frames, generator=generator) - 0.5) * 6.28


def relative_error(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize("size", SIZES)
def test_the_network_equals_the_built_in_on_identical_spectra_for_any_size(size):
    ours, theirs = seeded_model(SIZES[size]), built_in(SIZES[size])
    theirs.load_state_dict(ours.state_dict())  # strict: every key and shape is the same
    ours.load_state_dict(theirs.state_dict())
    for frames in (7, 161):
        with torch.no_grad():
            a, b = ours(*spectra(frames)), theirs(*spectra(frames))
        assert len(a) == len(b) == 5 and a[3] is None and a[4] == {}
        for x, y in zip(a[:3], b[:3]):
            assert x.shape == y.shape
            assert relative_error(x, y) < 1e-5


def test_no_bin_comes_out_larger_than_the_bound_times_the_largest_around_it():
    mag, pha = spectra(38, batch=2)
    mag[:, 60:120, 10:30] *= 1e-3  # nearly nothing, where a mapping makes something
    free, held = (seeded_model(replace(SMALL, magnitude_bound=bound)) for bound in (None, 2.5))
    with torch.no_grad():
        expected, phase, *_ = free(mag, pha)
        result, phase_too, result_complex, *_ = held(mag, pha)
        in_training = held.train()(mag, pha)[0]
    edge = torch.nn.functional.pad(mag, (1, 1, 1, 1))
    around = torch.stack([edge[:, i : i + 201, j : j + 38] for i in range(3) for j in range(3)]).amax(0)
    most = around * 2.5**0.3
    assert (result == torch.minimum(expected, most)).all()
    assert 0.05 < (result < expected).float().mean() < 0.95
    assert torch.equal(phase, phase_too)
    assert relative_error(result_complex.norm(dim=-1), result) < 1e-6
    assert (in_training > most).any()  # there it would take the gradient away


def test_in_float64_it_computes_the_same():
    network, x = seeded_model(SMALL), spectra(38)
    with torch.no_grad():
        expected = network(*x)[2]
        result = network.double()(*(part.double() for part in x))[2]
    assert result.dtype == torch.float64 and relative_error(expected, result) < 1e-5


def test_the_released_layout_has_453_entries_and_2_044_436_numbers():
    model = ZipEnhancer()
    assert len(model.state_dict()) == 453
    stored = {value.data_ptr(): value.numel() for value in model.state_dict().values()}
    assert sum(stored.values()) == 2_044_436


def test_every_parameter_gets_a_gradient():
    model = ZipEnhancer(SMALL).train()
    mag, pha, *_ = model(*spectra(20))
    (mag.sum() + pha.sin().sum()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # convolutions before an instance norm: their bias is taken away again
    assert all(name.endswith(".bias") for name in without)


# ---- waveforms ---------------------------------------------------------------------------------


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("samples", [1, 5, 199, 201, 400, 16_000, 16_001, 16_099, 48_050])
def test_output_is_exactly_as_long_as_input(small_model, samples):
    y = small_model.denoise(noise(2, samples))
    assert y.shape == (2, samples) and y.isfinite().all()


def test_silence_gives_silence_alone_and_beside_speech(small_model):
    x = noise(3, 8000)
    x[1] = 0.0
    y = small_model.denoise(x)
    assert y.isfinite().all() and not y[1].any() and y[0].any() and y[2].any()


def test_each_item_of_a_batch_has_its_own_gain(small_model):
    x = noise(2, 8000) * torch.tensor([[1.0], [1e-3]])
    together = small_model.denoise(x)
    for i in range(2):
        assert relative_error(together[i], small_model.denoise(x[i : i + 1])[0]) < 1e-3


@pytest.mark.parametrize("factor", [2.0**-10, 0.25, 8.0])  # powers of two: no rounding, no phase jumps
def test_the_level_of_the_output_follows_the_level_of_the_input(small_model, factor):
    x = noise(1, 8000)
    assert relative_error(small_model.denoise(x * factor), small_model.denoise(x) * factor) < 1e-5


def test_a_given_gain_replaces_the_items_own(small_model):
    x = noise(1, 8000)
    own = unit_rms_gain(x)
    torch.testing.assert_close(small_model.denoise(x, own[:, 0]), small_model.denoise(x))
    assert relative_error(small_model.denoise(x, own[:, 0] * 2), small_model.denoise(x)) > 1e-3


def test_the_inverse_stft_gives_the_waveform_back_whatever_its_length():
    for samples in (401, 1000, 1099):
        x = noise(1, samples)
        mag, pha, _ = mag_pha_stft(x)
        back = mag_pha_istft(mag, pha, length=samples)
        assert back.shape == x.shape
        assert relative_error(back, x) < 2e-2  # the constants in magnitude and phase stay


# ---- weights -----------------------------------------------------------------------------------


def layouts(entries: dict) -> dict:
    prefixed = {f"model.{key}": value for key, value in entries.items()}
    return {
        "released": {"generator": entries},
        "trainer": {"state_dict": prefixed},
        "bare": entries,
        "bare with prefix": prefixed,
    }


@pytest.mark.parametrize("layout", ["released", "trainer", "bare", "bare with prefix"])
def test_every_checkpoint_layout_in_use_loads_strictly(layout, tmp_path, small_model):
    path = tmp_path / "weights.bin"
    torch.save(layouts(small_model.state_dict())[layout], path)
    model = ZipEnhancer(SMALL)
    load_weights(model, str(path))
    for key, value in model.state_dict().items():
        assert torch.equal(value, small_model.state_dict()[key]), key


def test_saved_weights_load_in_the_built_in(tmp_path, small_model):
    folder = write_model_dir(tmp_path / "saved", small_model)
    checkpoint = torch.load(folder / "pytorch_model.bin", weights_only=True)
    built_in(SMALL).load_state_dict(checkpoint["generator"])
    assert sorted(p.name for p in folder.iterdir()) == ["configuration.json", "pytorch_model.bin"]


def test_weights_of_another_network_are_refused_with_the_keys_listed(tmp_path, small_model):
    path = tmp_path / "other.bin"
    torch.save({"generator": {"encoder.weight": torch.zeros(3)}}, path)
    with pytest.raises(CheckpointError, match="missing: TSConformer.*unknown: encoder.weight"):
        load_weights(ZipEnhancer(SMALL), str(path))
    with pytest.raises(ValueError, match="of another shape"):
        load_weights(ZipEnhancer(ModelConfig(16, 8, SMALL.stacks)), _saved(tmp_path, small_model))


def _saved(tmp_path, model):
    return str(write_model_dir(tmp_path / "m", model) / "pytorch_model.bin")


class Harmful:
    def __reduce__(self):
        return print, ("code from a checkpoint ran",)


@pytest.mark.parametrize("content", [b"", b"garbage", {"config": 3}, [1, 2], Harmful()])
def test_files_that_are_no_weights_are_refused_and_never_run(content, tmp_path, capsys):
    path = tmp_path / "bad.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match="bad.bin"):
        load_weights(ZipEnhancer(SMALL), str(path))
    assert capsys.readouterr().out == ""


WEIGHT = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
ODD = {
    "a name that is none": ({**WEIGHT, 3: torch.zeros(1)}, "no ZipEnhancer weights but .*3"),
    "names of several kinds": ({3: "x", "b": 4, None: 5}, "no ZipEnhancer weights but"),
    "without memory": ({**WEIGHT, "bias": torch.zeros(2, device="meta")}, "no ZipEnhancer weights"),
    "sparse": ({**WEIGHT, "weight": torch.zeros(2, 2).to_sparse()}, "no ZipEnhancer weights"),
    "complex": ({**WEIGHT, "bias": torch.zeros(2, dtype=torch.complex64)}, "no ZipEnhancer weights"),
    "NaN": ({**WEIGHT, "bias": torch.full((2,), torch.nan)}, "NaN or infinite weights: bias"),
    "expanded": ({**WEIGHT, "weight": torch.zeros(1).expand(2000, 2000)}, "less than its entries say"),
}


@pytest.mark.parametrize("kind", ODD)
def test_entries_that_are_no_weights_are_refused(kind, tmp_path):
    content, message = ODD[kind]
    torch.save(content, tmp_path / "odd.bin")
    with pytest.raises(CheckpointError, match=f"odd.bin .*{message}"):
        load_weights(torch.nn.Linear(2, 2), str(tmp_path / "odd.bin"))


def test_a_checkpoint_that_grows_when_it_is_unpacked_is_refused(tmp_path):
    torch.save({**WEIGHT, "more": torch.zeros(1_000_000)}, tmp_path / "plain.bin")
    packed = zipfile.ZipFile(tmp_path / "packed.bin", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.bin") as plain, packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "packed.bin").stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="more than the file has"):
        load_weights(torch.nn.Linear(2, 2), str(tmp_path / "packed.bin"))


def test_a_network_is_built_only_if_the_weights_are_there_for_it(tmp_path, small_model):
    """A configuration.json of some bytes may ask for a network of any size."""
    path = _saved(tmp_path, small_model)
    large = ModelConfig(60_000, 8, (StackConfig(heads=60_000, feedforward_dim=60_000),))  # 200 GB
    with pytest.raises(CheckpointError, match="of another shape"):
        load_network(large, path)
    deep = ModelConfig(8, 8, (StackConfig(layers=60_000),))
    with pytest.raises(CheckpointError, match="has 360 entries, its configuration.json 60000 layers"):
        load_network(deep, path)


def test_code_in_a_model_dir_is_not_run_whatever_its_configuration_says(tmp_path, small_model):
    folder = write_model_dir(tmp_path / "m", small_model)
    whole = json.loads((folder / "configuration.json").read_text())
    whole |= {
        "allow_remote": True,
        "plugins": ["evil"],
        "model": {**whole["model"], "trust_remote_code": True},
    }
    (folder / "configuration.json").write_text(json.dumps(whole))
    for name in ("ms_wrapper.py", "modeling.py", "__init__.py", "setup.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    y = Enhancer.from_pretrained(str(folder), device="cpu")(np.zeros(400, np.float32))
    assert len(y) == 400 and not (tmp_path / "ran").exists()


def test_a_model_dir_without_its_files_is_named(tmp_path, small_model_dir):
    with pytest.raises(ModelNotFoundError, match="configuration.json"):
        load_model(str(tmp_path))
    (tmp_path / "configuration.json").write_text((small_model_dir / "configuration.json").read_text())
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin"):
        load_model(str(tmp_path))


# ---- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_configuration_is_written_and_read_back(size):
    for config in (SIZES[size], replace(SIZES[size], magnitude_bound=2.5)):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_one_number_in_a_configuration_stands_for_every_stack():
    section = ModelConfig().to_dict()
    for key in ("num_heads", "feedforward_dim", "encoder_dim", "num_encoder_layers"):
        section["former_conf"][key] = section["former_conf"][key][0]
    section["former_conf"]["query_head_dim"] = [12]
    section["former_conf"].pop("f_downsampling_factor")
    assert ModelConfig.from_dict(section) == ModelConfig()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dense_channel": "64"}, "model.dense_channel is '64'"),
        ({"dense_channel": None}, "model.dense_channel is None"),
        ({"model_num_spks": 2}, "model.model_num_spks is 2, unsupported"),
        ({"former_conf": None}, "model.former_conf is None"),
        ({"former_conf.causal": True}, "model.former_conf.causal is True, unsupported"),
        ({"former_conf.encoder_dim": [64, 32, 64, 64]}, "encoder_dim has 32, unsupported"),
        ({"former_conf.cnn_module_kernel": 14}, "cnn_module_kernel has 14, must be odd"),
        ({"former_conf.pos_dim": 25}, "pos_dim is 25, must be even"),
        ({"former_conf.num_heads": [4, 4]}, "num_heads is .4, 4., expected"),
        ({"former_conf.feedforward_dim": -1}, "feedforward_dim is -1"),
        ({"former_conf.downsampling_factor": []}, "downsampling_factor is "),
        ({"former_conf.downsampling_factor": [1, 102, 2, 1]}, "downsampling by 102, more than 101"),
        ({"magnitude_bound": "4"}, "model.magnitude_bound is '4', expected a number from 1 to 65536"),
        ({"magnitude_bound": 0.5}, "model.magnitude_bound is 0.5, expected"),
        ({"magnitude_bound": float("nan")}, "model.magnitude_bound is nan, expected"),
        ({"dense_channel": 10**12}, "model.dense_channel is 1000000000000, .* 65536 at most"),
        ({"former_conf.num_encoder_layers": 10**9}, "num_encoder_layers is 1000000000, .* 65536 at most"),
    ],
)
def test_an_unsupported_value_is_refused_by_name(change, message):
    section = ModelConfig().to_dict()
    for key, value in change.items():
        *path, last = key.split(".")
        target = section[path[0]] if path else section
        target[last] = value
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(section)


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}', "[" * 200_000], ids=range(4))
def test_a_configuration_that_is_none_is_refused_with_its_path(text, tmp_path):
    (tmp_path / "configuration.json").write_text(text)
    with pytest.raises(ValueError, match="configuration.json"):
        ModelConfig.from_model_dir(str(tmp_path))


def test_a_configuration_that_is_a_folder_is_refused_with_its_path(tmp_path):
    (tmp_path / "configuration.json").mkdir()
    with pytest.raises(ConfigError, match="configuration.json can't be read"):
        ModelConfig.from_model_dir(str(tmp_path))


def test_the_backend_takes_and_gives_arrays(small_model):
    x = noise(2, 4000).numpy()
    y = TorchBackend(small_model)(x, np.array([3.0, 4.0], np.float32))
    assert (y.dtype, y.shape) == (np.float32, x.shape)


def test_the_fast_form_is_what_runs_on_a_cpu_and_it_sees_new_weights():
    model = seeded_model()
    backend = TorchBackend(model)
    x = noise(1, 4000)
    assert isinstance(backend.form(), CpuNetwork)
    assert backend.form() is backend.form()
    before = backend(x.numpy())
    model.load_state_dict(seeded_model(seed=1).state_dict())
    after = backend(x.numpy())
    assert relative_error(torch.from_numpy(after), model.denoise(x)) < 1e-3
    assert not np.allclose(before, after)


def test_a_model_is_loaded_by_its_name_or_its_folder():
    by_name, by_folder = load_model("tiny"), load_model(find_model("tiny"))
    for one, other in zip(by_name.parameters(), by_folder.parameters()):
        assert torch.equal(one, other) and not one.requires_grad
    with pytest.raises(ModelNotFoundError, match="unknown model 'tinny': give one of tiny"):
        load_model("tinny")
