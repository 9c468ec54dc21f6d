"""`zipenhancer train CONFIG`: the bundled configs, and the settings laid over them."""

import csv
import json
import os

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.cli import main
from modelscope_zipenhancer.errors import ConfigError, OptionError
from modelscope_zipenhancer.network.config import ModelConfig
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.train.config import CONFIGS, read_config
from modelscope_zipenhancer.train.mixer import Mixer
from modelscope_zipenhancer.train.pairs import PairFolder

NAMES = sorted(os.path.splitext(name)[0] for name in os.listdir(CONFIGS))


@pytest.mark.parametrize("name", NAMES)
def test_each_bundled_config_takes_a_step_on_a_cpu_and_leaves_a_model_that_loads(name, small_run, tmp_path):
    run = tmp_path / "run"
    settings = [*small_run, "train.steps=1", "train.precision=fp32", "train.weights.metric=0"]
    assert main(["train", name, "--out", str(run), "--device", "cpu", "--set", *settings]) == 0
    [row] = csv.DictReader((run / "log.csv").read_text().splitlines())
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


def test_a_setting_reaches_its_section_as_json_or_as_a_string(small_run):
    config = read_config(
        "tiny", [*small_run, "train.steps=7", "train.weights.phase=0.5", "data.snr_db=[1, 2]"]
    )
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
    with pytest.raises(ConfigError, match="unknown crop_sampels"):
        read_config(str(path), ["data.crop_sampels=16000"]).batches()
    with pytest.raises(OptionError, match="crop_samples is 200, expected a whole number from 201 on"):
        read_config(str(path), ["data.crop_samples=200"]).batches()


@pytest.mark.parametrize(
    "settings, said",
    [
        (["train.stepz=3"], "unknown stepz"),
        (["train.optimizer=sgd"], "'sgd', known are: adamw"),
        (["train.batch_size=0"], "train.batch_size is 0"),
        (["train.weights.fase=1"], "unknown fase"),
        (["train.weights.missing=1"], "called train.weights.over_suppression now"),
        (["train.weights.phase=-1"], "train.weights.phase is -1"),
        (["train.weights=1"], "train.weights is 1"),
        (["train.learning_rate=fast"], "train.learning_rate is 'fast'"),
        (["train.dropout=2"], "train.dropout is 2, expected a number from 0 to 1"),
        (["train.decay=-1"], "train.decay is -1"),
        (["train=null"], "train.steps is missing"),
        (["data=3"], "'data' is 3, expected an object"),
        (['valid={"clean": "a", "noise": "b", "snrs": [1]}'], "unknown snrs"),
        (['valid={"clean": "a"}'], "give valid.clean and valid.noise"),
        (["valid.clean=a", "valid.noise=b", "valid.snr=5"], "valid.snr is 5, expected a list"),
        (["valid.clean=a", "valid.noise=b", "valid.seed=-1"], "valid.seed is -1"),
        (["valid.clean=a", "valid.noise=b", "valid.count=0"], "valid.count is 0"),
        (["steps"], "expected key=value"),
        (["train.steps.more=1"], "nothing can be set in it"),
        (["modle=tiny"], "--set 'modle=tiny': unknown modle"),
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
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected an object"):
        read_config(tmp_path / "bad.json")


def test_a_run_whose_folder_is_a_file_is_refused_in_one_line(small_run, capsys, tmp_path):
    (tmp_path / "run").write_text("a file")
    assert main(["train", "tiny", "--out", str(tmp_path / "run"), "--set", *small_run, "train.steps=1"]) == 1
    assert "can't be made" in capsys.readouterr().err and (tmp_path / "run").read_text() == "a file"


def test_without_its_folders_a_config_says_what_to_give(capsys, tmp_path):
    assert main(["train", "tiny", "--out", str(tmp_path / "run")]) == 1
    assert "--set data.clean=DIR data.noise=DIR" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
