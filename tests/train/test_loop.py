"""Losses, mixtures, and a loop that a kill doesn't disturb."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import SMALL

from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.spectrum import mag_pha_stft
from modelscope_zipenhancer.train import loop, losses
from modelscope_zipenhancer.train.config import TrainOptions
from modelscope_zipenhancer.train.loop import train
from modelscope_zipenhancer.train.mixer import Mixer, MixOptions
from modelscope_zipenhancer.train.objective import training_losses
from modelscope_zipenhancer.train.schedules import learning_rate

PAIRS = {  # loss: arguments at the target, arguments elsewhere
    "magnitude_loss": lambda x, y: ((x.abs(), x.abs()), (x.abs(), y.abs())),
    "missing_loss": lambda x, y: ((x.abs(), x.abs()), (x.abs(), y.abs())),
    "complex_loss": lambda x, y: ((x, x), (x, y)),
    "phase_loss": lambda x, y: ((x, x), (x, y)),
    "time_loss": lambda x, y: ((x, x), (x, y)),
    "snr_loss": lambda x, y: ((x, x), (x, y)),
    "perceptual_loss": lambda x, y: ((sound(x), sound(x)), (sound(x), sound(y))),
    "consistency_loss": lambda x, y: ((x, x), (x, y)),
}


def sound(x):
    """(2, 8000) of any numbers."""
    return x.flatten(1).repeat(1, 8000 // x[0].numel() + 1)[:, :8000] * torch.linspace(0.1, 1, 8000)


@pytest.mark.parametrize("name", PAIRS)
def test_a_loss_is_zero_at_the_target_positive_elsewhere_and_has_a_finite_gradient(name):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 6, 7, generator=generator).requires_grad_() for _ in range(2))
    same, other = PAIRS[name](x, y)
    loss = getattr(losses, name)
    assert loss(*same).item() == pytest.approx(0, abs=2e-3)  # the root of the perceptual loss has a floor
    value = loss(*other)
    value.backward()
    assert value.item() > 0 and x.grad.isfinite().all() and x.grad.any()


def test_the_loss_of_what_is_missing_does_not_see_what_is_too_much():
    target = torch.rand(1, 6, 7)
    assert losses.missing_loss(target + 1, target) == 0
    assert losses.missing_loss(target - 1, target).item() == pytest.approx(1)


def test_the_phase_loss_does_not_see_whole_turns():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 6, 7, generator=generator) * 6 - 3 for _ in range(2))
    turns = 2 * math.pi * torch.randint(-3, 4, x.shape, generator=generator)
    torch.testing.assert_close(losses.phase_loss(x + turns, y), losses.phase_loss(x, y), rtol=1e-5, atol=1e-5)


def test_a_phase_error_of_half_a_turn_costs_pi_in_each_wrapped_difference():
    x = torch.zeros(1, 3, 3)
    y = x.clone()
    y[0, 1, 1] = math.pi
    # one bin of nine; two of the six differences along each axis
    expected = math.pi / 9 + 2 * math.pi / 6 + 2 * math.pi / 6
    assert losses.phase_loss(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_the_snr_loss_is_the_ratio_above_minus_30_db_and_silent_targets_do_not_count():
    target = torch.tensor([[1.0, -1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    loss = losses.snr_loss(target + torch.tensor([[0.1], [1.0]]), target)
    assert loss.item() == pytest.approx((30 + 10 * math.log10(0.01 + 0.001)) / 2, rel=1e-4)


def test_the_perceptual_loss_grows_with_the_noise_and_silent_targets_do_not_count():
    rng = torch.Generator().manual_seed(0)
    clean = torch.sin(torch.arange(16_000) * 0.2)[None] * torch.repeat_interleave(
        torch.rand(16, generator=rng), 1000
    )
    noise = torch.randn(1, 16_000, generator=rng)
    values = [losses.perceptual_loss(clean + amount * noise, clean).item() for amount in (0, 0.01, 0.1, 1)]
    assert values[0] < 2e-3 and values == sorted(values) and values[-1] > 2 * values[1]
    # a louder copy is the same to the ear that has turned it down
    assert losses.perceptual_loss(3 * clean, clean).item() < 0.05
    silent = torch.zeros_like(clean)
    half = losses.perceptual_loss(torch.cat([clean + noise, noise]), torch.cat([clean, silent])).item()
    assert half == pytest.approx(values[-1] / 2, rel=1e-3)
    assert losses.perceptual_loss(noise, silent).item() == 0


def test_the_perceptual_loss_ranks_mixtures_as_pesq_does():
    pesq = pytest.importorskip("pesq").pesq
    root = Path(__file__).parents[2] / "examples"
    speech, rate = soundfile.read(root / "noisy_speech_enhanced.wav", dtype="float32")
    rng = np.random.default_rng(0)
    scores, found = [], []
    for level in (0.3, 0.1, 0.03, 0.01, 0.003):
        noisy = speech + level * speech.std() * rng.standard_normal(len(speech)).astype(np.float32)
        scores.append(pesq(rate, speech, noisy, "wb"))
        found.append(losses.perceptual_loss(*(torch.from_numpy(x)[None] for x in (noisy, speech))).item())
    assert scores == sorted(scores) and found == sorted(found, reverse=True)


def test_the_learning_rate_goes_up_stays_and_goes_down_to_nothing():
    options = TrainOptions(steps=1000, decay=300, warmup=100, learning_rate=1.0)
    rates = [learning_rate(options, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and rates[99:700] == [1.0] * 601
    assert all(b < a for a, b in zip(rates[700:], rates[701:])) and rates[-1] < 0.01


@pytest.mark.parametrize("metric", [0.0, 0.05])
def test_a_killed_run_goes_on_as_if_it_had_not_been(metric, folders, tmp_path):
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


def test_keeping_freed_memory_takes_effect_where_it_says_so(run_python):
    program = """
import platform
from modelscope_zipenhancer.train.allocator import keep_freed_memory
print(keep_freed_memory() == (platform.libc_ver()[0] == "glibc"), len(bytearray(200_000_000)))
"""
    assert run_python(program).split() == ["True", "200000000"]


def test_training_lowers_the_loss_on_one_batch(folders):
    from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer

    torch.manual_seed(0)
    model = ZipEnhancer(SMALL).train()
    noisy, clean = (
        torch.from_numpy(x) for x in Mixer(*folders, MixOptions(crop_samples=4000)).batch(0, 0, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(15):
        loss = training_losses(model, noisy, clean)[0]["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.8 * seen[0]


def test_every_loss_of_a_perfect_estimate_is_nearly_zero_but_for_the_gradient():
    x = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    mag, pha, _ = mag_pha_stft(x)

    class Perfect(torch.nn.Module):
        def forward(self, *_):
            return mag, pha, torch.stack([mag * pha.cos(), mag * pha.sin()], -1), None, {}

    values, _ = training_losses(Perfect(), x, x)
    assert values["loss"].item() < 2e-3
