"""A run's folder: what it is resumed from."""

import os

import pytest
import torch

from modelscope_zipenhancer import cli
from modelscope_zipenhancer.errors import CheckpointError
from modelscope_zipenhancer.train import loop
from modelscope_zipenhancer.train.config import read_config
from modelscope_zipenhancer.train.loop import train
from modelscope_zipenhancer.train.run_folder import add_row, resume


def test_a_checkpoint_of_another_run_is_refused(small_run, tmp_path):
    def run(*settings):
        config = read_config("tiny", [*small_run, "train.steps=1", *settings])
        train(config.model, config.batches(), config.train, str(tmp_path / "run"), device="cpu")

    run()
    with pytest.raises(CheckpointError, match="choose another folder"):
        run("train.optimizer=scaled_adam")


def test_a_run_that_began_before_its_parts_were_renamed_is_resumed(small_run, tmp_path):
    pytest.importorskip("pesq")

    def run(name, steps):
        settings = ["data.crop_samples=8000", "train.decay=0", "train.weights.metric=0.1"]
        config = read_config("tiny", [*small_run, *settings, f"train.steps={steps}"])
        train(config.model, config.batches(), config.train, tmp_path / name, device="cpu")
        return torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)

    unbroken, state = run("unbroken", 2), run("old", 1)
    former = {"ema": "average", "discriminator": "judge", "discriminator_optimizer": "judge_optimizer"}
    torch.save({former.get(name, name): part for name, part in state.items()}, tmp_path / "old/checkpoint.pt")
    resumed = run("old", 2)
    assert resumed["step"] == 2
    for part in ("ema", "discriminator"):
        assert all(torch.equal(x, resumed[part][name]) for name, x in unbroken[part].items())


def test_a_damaged_checkpoint_is_refused_and_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK but not for long")
    with pytest.raises(CheckpointError, match="checkpoint.pt can't be resumed from"):
        resume(tmp_path, {}, "adamw", "cpu")
    assert resume(tmp_path / "nowhere", {}, "adamw", "cpu") == 0


@pytest.mark.skipif(os.name == "nt", reason="limits of Unix")
def test_a_disk_that_is_full_is_an_output_error_and_leaves_nothing(tmp_path, run_python):
    program = f"""
import resource, signal, torch
from modelscope_zipenhancer.errors import OutputError
from modelscope_zipenhancer.train.run_folder import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
try:
    save_checkpoint({str(tmp_path)!r}, {{"model": torch.nn.Linear(100, 100)}}, "adamw", 1)
except OutputError as error:
    print(error)
"""
    assert "checkpoint.pt' can't be written: File too large" in run_python(program)
    assert not os.listdir(tmp_path)


def test_rows_after_the_checkpoint_are_replaced_and_new_columns_added(tmp_path):
    for step, row in ((1, {"loss": 0.5}), (2, {"loss": 0.4}), (2, {"loss": 0.3, "snr": 9.0})):
        add_row(tmp_path / "log.csv", step, row)
    assert (tmp_path / "log.csv").read_text().split() == ["step,loss,snr", "1,0.5,", "2,0.3,9.0"]


def test_ctrl_c_says_from_where_the_same_command_goes_on(small_run, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", interrupted)
    command = ["train", "tiny", "--out", str(tmp_path / "run"), "--set", *small_run]
    assert cli.main(command) == 130
    assert "interrupted: there is no checkpoint yet" in capsys.readouterr().err
    (tmp_path / "run" / "checkpoint.pt").touch()
    assert cli.main(command) == 130
    assert f"interrupted: the same command goes on from {tmp_path / 'run'}" in capsys.readouterr().err
