"""Learning rates by hand."""

import pytest

from modelscope_zipenhancer.train.config import TrainOptions
from modelscope_zipenhancer.train.schedules import eden, learning_rate


def test_the_learning_rate_goes_up_stays_and_goes_down_to_nothing():
    options = TrainOptions(steps=1000, decay=300, warmup=100, learning_rate=1.0)
    rates = [learning_rate(options, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and rates[99:700] == [1.0] * 601
    assert all(b < a for a, b in zip(rates[700:], rates[701:])) and rates[-1] < 0.01


def test_edens_rate_by_hand():
    assert eden(1.0, 0, 0, warmup=500) == 0.5
    assert eden(1.0, 250, 0, step_scale=1e9, warmup=500) == pytest.approx(0.75)
    # both past their scales by sqrt(3): (3 + 1) ** -0.25 twice
    assert eden(2.0, 300, 6, step_scale=300 / 3**0.5, epoch_scale=6 / 3**0.5, warmup=1) == pytest.approx(1.0)


def test_a_cosine_falls_from_the_end_of_the_warmup_to_nothing():
    options = TrainOptions(steps=1100, warmup=100, learning_rate=1.0, schedule="cosine")
    rates = [learning_rate(options, step) for step in (49, 100, 600, 1100)]
    assert rates == pytest.approx([0.5, 1.0, 0.5, 0.0])
