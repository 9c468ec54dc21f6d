"""The loop: a kill doesn't disturb it, it starts from a model, and dropout is as the run says."""

import csv
import math
from pathlib import Path

import pytest
import torch
from conftest import SMALL

from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.train import loop, losses
from modelscope_zipenhancer.train.config import TrainOptions, read_config
from modelscope_zipenhancer.train.loop import train
from modelscope_zipenhancer.train.mixer import Mixer, MixOptions
from modelscope_zipenhancer.train.objective import training_losses


@pytest.mark.parametrize("metric", [0.0, 0.05])
def test_a_killed_run_is_resumed_as_if_it_had_not_been(metric, folders, tmp_path):
    if metric:
        pytest.importorskip("pesq")
    mixer = Mixer(*folders, MixOptions(crop_samples=8000 if metric else 2000))
    weights = losses.WEIGHTS | {"metric": metric}

    def run(name, *steps):
        for upto in steps:
            options = TrainOptions(upto, warmup=2, batch_size=2, save_every=1, weights=weights)
            train(SMALL, mixer, options, str(tmp_path / name))
        with open(tmp_path / name / "log.csv", newline="") as file:
            lines = list(csv.DictReader(file))
        return [{key: x for key, x in line.items() if key != "seconds_per_step"} for line in lines]

    unbroken = run("unbroken", 4)
    assert unbroken == run("killed", 2, 4)
    assert len(unbroken) == 4 and all(math.isfinite(float(x)) for line in unbroken for x in line.values())
    assert ("discriminator" in unbroken[0]) == bool(metric)
    assert load_model(str(tmp_path / "killed")).config.channels == SMALL.channels
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == [
        "checkpoint.pt",
        "configuration.json",
        "log.csv",
        "pytorch_model.bin",
    ]


def test_a_run_that_was_killed_at_its_last_step_is_finished_by_the_next(folders, tmp_path, monkeypatch):
    mixer, options = Mixer(*folders, MixOptions(crop_samples=2000)), TrainOptions(1, batch_size=1)

    def killed(*args):
        raise KeyboardInterrupt

    validated = []
    for name in ("save_model_dir", "add_row"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(loop, name, killed)
            train(SMALL, mixer, options, str(tmp_path), validate=lambda model: {"x": 1.0})
    train(SMALL, mixer, options, str(tmp_path), validate=lambda model: validated.append(1) or {"x": 1.0})
    assert validated == [1] and (tmp_path / "valid.csv").read_text().split() == ["step,x", "1,1.0"]
    assert load_model(str(tmp_path)).config.channels == SMALL.channels


def test_dropout_is_the_models_own_unless_the_run_says_otherwise(folders, tmp_path, monkeypatch):
    seen = []

    def losses_seen(model, *args):
        seen.append({m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)})
        return training_losses(model, *args)

    monkeypatch.setattr(loop, "training_losses", losses_seen)
    mixer = Mixer(*folders, MixOptions(crop_samples=2000))
    for i, dropout in enumerate((None, 0.0)):
        train(SMALL, mixer, TrainOptions(1, batch_size=1, dropout=dropout), str(tmp_path / str(i)))
    assert seen == [{SMALL.dropout}, {0.0}]


def test_fine_tuning_starts_from_the_weights_of_the_model_it_names(small_run, tmp_path):
    config = read_config("tiny", [*small_run, "init=tiny", "train.steps=1", "train.learning_rate=0"])
    train(config.model, config.batches(), config.train, str(tmp_path), init=config.init, device="cpu")
    for name, value in torch.load(Path(find_model("tiny"), "pytorch_model.bin"), weights_only=True).items():
        kept = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)[name]
        torch.testing.assert_close(kept, value)
