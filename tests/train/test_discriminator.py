"""The metric discriminator: what it learns, and what doesn't count."""

import numpy as np
import pytest
import torch

from modelscope_zipenhancer.train.discriminator import (
    MetricDiscriminator,
    discriminator_loss,
    generator_loss,
    normalised_pesq,
)


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
