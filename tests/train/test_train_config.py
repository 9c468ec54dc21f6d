"""`zipenhancer train CONFIG`: the bundled configs, the settings laid over them, and whole small runs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.cli import main
from modelscope_zipenhancer.enhance.enhancer import find_model
from modelscope_zipenhancer.errors import CheckpointError, ConfigError
from modelscope_zipenhancer.network.config import ModelConfig
from modelscope_zipenhancer.train.config import CONFIGS, read_config
from modelscope_zipenhancer.train.loop import train
from modelscope_zipenhancer.train.mixer import Mixer
from modelscope_zipenhancer.train.pairs import PairFolder

NAMES = sorted(os.path.splitext(name)[0] for name in os.listdir(CONFIGS))


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for kind, level in (("clean", 0.1), ("noise", 0.02)):
        (tmp_path / kind).mkdir()
        for i in range(2):
            bursts = np.repeat(rng.random(8) > 0.4, 4000)
            soundfile.write(
                tmp_path / kind / f"{i}.wav", rng.standard_normal(32_000) * level * bursts, 16_000
            )
    return [f"data.clean={tmp_path / 'clean'}", f"data.noise={tmp_path / 'noise'}"]


SMALL_RUN = ["data.crop_samples=4000", "train.batch_size=1", "train.warmup=1", "train.save_every=1"]


@pytest.mark.parametrize("name", NAMES)
def test_each_bundled_config_takes_a_step_on_a_cpu_and_leaves_a_model_that_loads(name, folders, tmp_path):
    run = tmp_path / "run"
    settings = [*folders, *SMALL_RUN, "train.steps=1", "train.precision=fp32", "train.weights.metric=0"]
    assert main(["train", name, "--out", str(run), "--device", "cpu", "--set", *settings]) == 0
    [row] = csv.DictReader((run / "log.csv").open())
    assert np.isfinite(float(row["loss"])) and float(row["loss"]) > 0
    trained = ModelConfig.from_model_dir(str(run))
    assert trained == read_config(name).model
    if name == "tiny":
        assert trained == ModelConfig.from_model_dir(find_model("tiny"))
        y = Enhancer.from_pretrained(str(run), "cpu")(np.ones(1000, np.float32))
        assert y.shape == (1000,) and np.isfinite(y).all()


def test_s_is_the_released_size_and_m_is_larger():
    assert read_config("s").model == ModelConfig()
    assert read_config("m").model.channels > ModelConfig().channels


def test_a_setting_reaches_its_section_as_json_or_as_a_string(folders):
    config = read_config("tiny", [*folders, "train.steps=7", "train.weights.phase=0.5", "data.snr_db=[1, 2]"])
    assert config.train.steps == 7 and config.train.weights["phase"] == 0.5
    assert config.train.weights["magnitude"] == read_config("tiny").train.weights["magnitude"]
    batches = config.batches()
    assert isinstance(batches, Mixer) and batches.options.snr_db == (1, 2)


def test_noisy_and_clean_folders_are_taken_as_pairs(tmp_path):
    for side in ("noisy", "clean"):
        (tmp_path / side).mkdir()
        soundfile.write(tmp_path / side / "a.wav", np.full(9000, 0.1), 16_000)
    path = tmp_path / "pairs.json"
    data = {"noisy": str(tmp_path / "noisy"), "clean": str(tmp_path / "clean"), "crop_samples": 3000}
    path.write_text(json.dumps({"model": "tiny", "data": data, "train": {"steps": 1}}))
    batches = read_config(str(path)).batches()
    assert isinstance(batches, PairFolder) and batches.batch(0, 0, 2)[0].shape == (2, 3000)


@pytest.mark.parametrize(
    "settings, said",
    [
        (["train.stepz=3"], "unknown stepz"),
        (["train.optimizer=sgd"], "'sgd', known are: adamw"),
        (["train.batch_size=0"], "train.batch_size is 0"),
        (["train.weights.fase=1"], "unknown fase"),
        (["steps"], "expected key=value"),
        (["train.steps.more=1"], "nothing can be set in it"),
        (["modle=tiny"], "unknown modle"),
        (["model=1"], "'model' is 1"),
    ],
)
def test_a_setting_that_is_not_understood_is_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        read_config("tiny", settings)


def test_a_config_that_is_not_there_or_no_json_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nor one of m, s, tiny"):
        read_config("huge")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        read_config(str(tmp_path / "bad.json"))


def test_without_its_folders_a_config_says_what_to_give(capsys, tmp_path):
    assert main(["train", "tiny", "--out", str(tmp_path / "run")]) == 1
    assert "--set data.clean=DIR data.noise=DIR" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_fine_tuning_starts_from_the_weights_of_the_model_it_names(folders, tmp_path):
    config = read_config(
        "tiny", [*folders, *SMALL_RUN, "init=tiny", "train.steps=1", "train.learning_rate=0"]
    )
    train(config.model, config.batches(), config.train, str(tmp_path), init=config.init, device="cpu")
    for name, value in torch.load(Path(find_model("tiny"), "pytorch_model.bin"), weights_only=True).items():
        kept = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)[name]
        torch.testing.assert_close(kept, value)


def test_a_checkpoint_of_another_run_is_refused(folders, tmp_path):
    def run(*settings):
        config = read_config("tiny", [*folders, *SMALL_RUN, "train.steps=1", *settings])
        train(config.model, config.batches(), config.train, str(tmp_path / "run"), device="cpu")

    run()
    with pytest.raises(CheckpointError, match="choose another folder"):
        run("train.optimizer=scaled_adam")


def test_validation_writes_its_figures_and_the_enhanced_audio(folders, tmp_path):
    pytest.importorskip("pesq")
    run = tmp_path / "run"
    clean, noise = (setting.split("=")[1] for setting in folders)
    valid = json.dumps({"clean": clean, "noise": noise, "snr": [5], "count": 2})
    settings = [*folders, *SMALL_RUN, "train.steps=2", "train.valid_every=1", f"valid={valid}", "init=tiny"]
    assert main(["train", "tiny", "--out", str(run), "--device", "cpu", "--set", *settings]) == 0
    rows = list(csv.DictReader((run / "valid.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert np.isfinite(float(rows[0]["si_sdr"])) and "si_sdr_gain" in rows[0]
    for pair in (run / "valid" / "noisy").iterdir():
        enhanced, rate = soundfile.read(run / "valid" / "enhanced" / pair.name)
        assert rate == 16_000 and enhanced.shape == soundfile.read(pair)[0].shape


def test_two_processes_of_torchrun_train_one_network(folders, tmp_path):
    settings = [*folders, *SMALL_RUN, "train.steps=2", "train.learning_rate=1e-3"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["modelscope_zipenhancer.train", "tiny", "--device", "cpu", "--out"]
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "run", "--set", *settings], cwd=tmp_path, env=one, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2"]  # one process writes
    # a process with the two batches as one takes the same steps: the gradients were averaged
    config = read_config("tiny", [*settings, "train.batch_size=2"])

    class Both:
        source = config.batches()

        def batch(self, seed, number, size):
            halves = [self.source.batch(seed, 2 * number + rank, 1) for rank in range(2)]
            return tuple(np.concatenate(side) for side in zip(*halves))

    train(config.model, Both(), config.train, str(tmp_path / "alone"), device="cpu")
    two, alone = (torch.load(tmp_path / n / "pytorch_model.bin", weights_only=True) for n in ("run", "alone"))
    for name in two:
        torch.testing.assert_close(two[name], alone[name], rtol=1e-3, atol=2e-5)
