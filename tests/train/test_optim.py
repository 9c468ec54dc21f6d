"""ScaledAdam, Eden, and the metric discriminator."""

import numpy as np
import pytest
import torch

from modelscope_zipenhancer.train.discriminator import (
    MetricDiscriminator,
    discriminator_loss,
    generator_loss,
    normalised_pesq,
)
from modelscope_zipenhancer.train.optim import ScaledAdam
from modelscope_zipenhancer.train.schedules import eden


def test_edens_rate_by_hand():
    assert eden(1.0, 0, 0, warmup=500) == 0.5
    assert eden(1.0, 250, 0, step_scale=1e9, warmup=500) == pytest.approx(0.75)
    # both past their scales by sqrt(3): (3 + 1) ** -0.25 twice
    assert eden(2.0, 300, 6, step_scale=300 / 3**0.5, epoch_scale=6 / 3**0.5, warmup=1) == pytest.approx(1.0)


def test_the_first_step_of_scaled_adam_is_lr_of_a_tensors_rms_plus_its_scale():
    p = torch.nn.Parameter(torch.tensor([3.0, -1.0, 2.0, 2.0]))
    before = p.detach().clone()
    p.grad = torch.tensor([1.0, -2.0, 0.5, 4.0])  # p . grad > 0: the scale shrinks
    ScaledAdam([p], lr=0.01).step()
    rms = before.square().mean().sqrt()
    expected = before - 0.01 * rms * p.grad.sign() - 0.001 * before
    torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)


def test_scaled_adams_relative_step_does_not_depend_on_a_tensors_size():
    start, gradient = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    moved = []
    for size in (1.0, 0.01):
        p = torch.nn.Parameter(start * size)
        optimizer = ScaledAdam([p], lr=0.02)
        for _ in range(3):
            p.grad = gradient / size
            optimizer.step()
        moved.append(p.detach() / size)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_a_tensor_that_starts_at_zero_is_learnt_whatever_the_size_of_its_gradient(size):
    target = 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    p = torch.nn.Parameter(torch.zeros(64))
    optimizer = ScaledAdam([p], lr=0.04)
    for _ in range(400):
        p.grad = size * (p.detach() - target)
        optimizer.step()
    assert (p - target).norm() < 0.05 * target.norm()


def fit(steps, optimizer_steps=None):
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    y = x @ torch.randn(4, 3)
    model = torch.nn.Linear(4, 3)
    optimizer = ScaledAdam(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        if step == optimizer_steps:  # a process that was killed
            saved = model.state_dict(), optimizer.state_dict()
            model = torch.nn.Linear(4, 3)
            optimizer = ScaledAdam(model.parameters(), lr=0.5)
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_scaled_adam_lowers_a_loss_and_goes_on_from_its_state_bit_for_bit():
    unbroken = fit(60)
    assert unbroken[-1] < 0.7 * unbroken[0]
    assert fit(60, optimizer_steps=30) == unbroken


def test_the_discriminator_scores_between_0_and_1_whatever_the_length():
    torch.manual_seed(0)
    discriminator = MetricDiscriminator(4)
    for frames in (40, 161):
        score = discriminator(torch.rand(3, 201, frames), torch.rand(3, 201, frames))
        assert score.shape == (3,) and (score > 0).all() and (score < 1).all()


def test_items_without_a_score_do_not_count_and_give_no_nan():
    torch.manual_seed(0)
    discriminator = MetricDiscriminator(4).eval()
    clean, mag = torch.rand(2, 2, 64, 40)
    scores = torch.tensor([0.3, 0.0])
    one = discriminator_loss(discriminator, clean, mag, scores, torch.tensor([True, False]))
    alone = discriminator_loss(discriminator, clean[:1], mag[:1], scores[:1], torch.tensor([True]))
    torch.testing.assert_close(one, alone)
    none = discriminator_loss(discriminator, clean, mag, scores, torch.tensor([False, False]))
    none.backward()
    assert none.item() == 0


def test_a_nan_estimate_that_is_not_valid_leaves_the_discriminators_gradient_finite():
    torch.manual_seed(0)
    discriminator = MetricDiscriminator(4)
    clean, mag = torch.rand(2, 2, 64, 40)
    mag[1] = torch.nan
    loss = discriminator_loss(
        discriminator, clean, mag, torch.tensor([0.3, 0.0]), torch.tensor([True, False])
    )
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in discriminator.parameters())


def test_the_generators_loss_reaches_the_magnitude_but_not_the_discriminator():
    torch.manual_seed(0)
    discriminator = MetricDiscriminator(4)
    clean, mag = torch.rand(2, 2, 64, 40)
    mag.requires_grad_()
    generator_loss(discriminator, clean, mag).backward()
    assert mag.grad.isfinite().all() and mag.grad.any()
    assert all(p.grad is None for p in discriminator.parameters())


def test_the_discriminator_learns_to_tell_better_from_worse():
    torch.manual_seed(0)
    discriminator = MetricDiscriminator(4)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=5e-3)
    clean = torch.rand(8, 64, 32)
    amount = torch.linspace(0, 1, 8)
    mag = clean + amount[:, None, None] * torch.rand(8, 64, 32)
    valid = torch.ones(8, dtype=torch.bool)
    for _ in range(60):
        loss = discriminator_loss(discriminator, clean, mag, 1 - amount, valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    score = discriminator(clean, mag)
    assert score[:3].mean() > score[-3:].mean() + 0.2


def test_pesq_is_between_0_and_1_and_silence_has_none():
    pytest.importorskip("pesq")
    rng = np.random.default_rng(0)
    bursts = np.repeat(rng.random(16) > 0.4, 2000)
    speech = torch.from_numpy((rng.standard_normal(32_000) * bursts * 0.1).astype(np.float32))
    clean = torch.stack([speech, torch.zeros(32_000)])
    scores, valid = normalised_pesq(clean, clean + 0.001)
    assert valid.tolist() == [True, False] and 0 < scores[0] <= 1.05 and scores[1] == 0
