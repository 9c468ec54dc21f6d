"""Losses, mixtures, and a loop that a kill doesn't disturb."""

import math

import numpy as np
import pytest
import soundfile
import torch
from conftest import SMALL

from modelscope_zipenhancer.model import load_model, mag_pha_stft
from modelscope_zipenhancer.train import losses
from modelscope_zipenhancer.train.data import AudioFolder, Mixer, MixOptions, rms
from modelscope_zipenhancer.train.loop import TrainOptions, learning_rate, train, training_losses

PAIRS = {  # loss: arguments at the target, arguments elsewhere
    "magnitude_loss": lambda x, y: ((x.abs(), x.abs()), (x.abs(), y.abs())),
    "complex_loss": lambda x, y: ((x, x), (x, y)),
    "phase_loss": lambda x, y: ((x, x), (x, y)),
    "time_loss": lambda x, y: ((x, x), (x, y)),
    "consistency_loss": lambda x, y: ((x, x), (x, y)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_loss_is_zero_at_the_target_positive_elsewhere_and_has_a_finite_gradient(name):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 6, 7, generator=generator).requires_grad_() for _ in range(2))
    same, other = PAIRS[name](x, y)
    loss = getattr(losses, name)
    assert loss(*same).item() == 0
    value = loss(*other)
    value.backward()
    assert value.item() > 0 and x.grad.isfinite().all() and x.grad.any()


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


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for kind, level in (("clean", 0.1), ("noise", 0.02)):
        (tmp_path / kind).mkdir()
        for i, rate in enumerate((16_000, 16_000, 44_100)):
            soundfile.write(tmp_path / kind / f"{i}.flac", rng.standard_normal(rate * 2) * level, rate)
    return AudioFolder(str(tmp_path / "clean")), AudioFolder(str(tmp_path / "noise"))


def test_a_batch_is_fixed_by_seed_and_step_alone(folders):
    options = MixOptions(crop_samples=4000)
    first = Mixer(*folders, options).batch(seed=1, step=7, size=3)
    mixer = Mixer(*folders, options)
    mixer.batch(1, 6, 3)
    for x, y in zip(first, mixer.batch(1, 7, 3)):
        assert x.shape == (3, 4000) and x.dtype == np.float32
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(first[0], mixer.batch(1, 8, 3)[0])


def test_a_mixture_has_unit_rms_and_a_ratio_within_the_range_asked_for(folders):
    options = MixOptions(crop_samples=8000, snr_db=(3.0, 9.0), clean_only=0.0, noise_only=0.0)
    mixer = Mixer(*folders, options)
    for step in range(40):
        noisy, clean = mixer.pair(np.random.default_rng(step))
        ratio = 20 * np.log10(rms(clean) / rms(noisy - clean))
        assert rms(noisy) == pytest.approx(1.0, abs=1e-3)
        assert 2.99 < ratio < 9.01
        assert np.isfinite(noisy).all()


def test_a_pause_is_noise_alone_with_silence_as_its_target(folders):
    mixer = Mixer(*folders, MixOptions(crop_samples=8000, noise_only=1.0))
    noisy, clean = mixer.pair(np.random.default_rng(0))
    assert rms(noisy) == pytest.approx(1.0, abs=1e-3) and not clean.any()


def test_a_folder_without_audio_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(FileNotFoundError, match="no audio below"):
        AudioFolder(str(tmp_path))


def test_the_learning_rate_goes_up_stays_and_goes_down_to_nothing():
    options = TrainOptions(steps=1000, decay=300, warmup=100, learning_rate=1.0)
    rates = [learning_rate(options, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and rates[99:700] == [1.0] * 601
    assert all(b < a for a, b in zip(rates[700:], rates[701:])) and rates[-1] < 0.01


def test_a_killed_run_goes_on_as_if_it_had_not_been(folders, tmp_path):
    mixer = Mixer(*folders, MixOptions(crop_samples=2000))

    def run(name, *steps):
        for upto in steps:
            options = TrainOptions(steps=upto, decay=0, warmup=2, batch_size=2, save_every=1)
            train(SMALL, mixer, options, str(tmp_path / name))
        lines = (tmp_path / name / "log.csv").read_text().splitlines()
        return [line.split(",")[:8] for line in lines]  # all but the time

    assert run("unbroken", 4) == run("killed", 2, 4)
    assert load_model(str(tmp_path / "killed")).config.channels == SMALL.channels
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == [
        "checkpoint.pt",
        "configuration.json",
        "log.csv",
        "pytorch_model.bin",
    ]


def test_training_lowers_the_loss_on_one_batch(folders):
    from modelscope_zipenhancer.model import ZipEnhancer

    torch.manual_seed(0)
    model = ZipEnhancer(SMALL).train()
    noisy, clean = (
        torch.from_numpy(x) for x in Mixer(*folders, MixOptions(crop_samples=4000)).batch(0, 0, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(15):
        loss = training_losses(model, noisy, clean)["loss"]
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

    values = training_losses(Perfect(), x, x)
    assert values["loss"].item() < 2e-3
