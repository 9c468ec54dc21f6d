"""Validation in a run."""

import csv
import json

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer.cli import main


def test_validation_writes_its_figures_and_the_enhanced_audio(small_run, tmp_path):
    pytest.importorskip("pesq")
    run = tmp_path / "run"
    clean, noise = (setting.split("=")[1] for setting in small_run[:2])
    valid = json.dumps({"clean": clean, "noise": noise, "snr": [5], "count": 2})
    settings = [*small_run, "train.steps=2", "train.valid_every=1", f"valid={valid}", "init=tiny"]
    assert main(["train", "tiny", "--out", str(run), "--device", "cpu", "--set", *settings]) == 0
    rows = list(csv.DictReader((run / "valid.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert np.isfinite(float(rows[0]["si_sdr"])) and "si_sdr_gain" in rows[0]
    for pair in (run / "valid" / "noisy").iterdir():
        enhanced, rate = soundfile.read(run / "valid" / "enhanced" / pair.name)
        assert rate == 16_000 and enhanced.shape == soundfile.read(pair)[0].shape
