"""Several processes that train one network."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from modelscope_zipenhancer.train.config import read_config
from modelscope_zipenhancer.train.loop import train


def test_two_processes_of_torchrun_train_one_network(small_run, tmp_path):
    settings = [*small_run, "train.steps=2", "train.learning_rate=1e-3"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["modelscope_zipenhancer.train", "tiny", "--device", "cpu", "--out"]
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "run", "--set", *settings], cwd=tmp_path, env=one, capture_output=True, text=True
    )
    if "without libuv support" in result.stderr:
        pytest.skip("this torch, as Debian's, is built without what its own torchrun needs")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
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
