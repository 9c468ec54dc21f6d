"""Losses: zero at the target, and what each sees and doesn't."""

import math

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT

from modelscope_zipenhancer.train import losses

PAIRS = {  # loss: arguments at the target, arguments elsewhere
    "magnitude_loss": lambda x, y: ((x.abs(), x.abs()), (x.abs(), y.abs())),
    "over_suppression_loss": lambda x, y: ((x.abs(), x.abs()), (x.abs(), y.abs())),
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


def test_the_over_suppression_loss_does_not_see_what_is_too_much():
    target = torch.rand(1, 6, 7)
    assert losses.over_suppression_loss(target + 1, target) == 0
    assert losses.over_suppression_loss(target - 1, target).item() == pytest.approx(1)


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
    root = ROOT / "examples"
    speech, rate = soundfile.read(root / "noisy_speech_enhanced.wav", dtype="float32")
    rng = np.random.default_rng(0)
    scores, found = [], []
    for level in (0.3, 0.1, 0.03, 0.01, 0.003):
        noisy = speech + level * speech.std() * rng.standard_normal(len(speech)).astype(np.float32)
        scores.append(pesq(rate, speech, noisy, "wb"))
        found.append(losses.perceptual_loss(*(torch.from_numpy(x)[None] for x in (noisy, speech))).item())
    assert scores == sorted(scores) and found == sorted(found, reverse=True)
