"""Generated noises and rooms, gains."""

import numpy as np
import pytest

from modelscope_zipenhancer.train.augment import (
    generated_noise,
    generated_response,
    rms,
    wandering_gain,
    with_direct_sound,
)


@pytest.mark.parametrize("samples", [100, 8000])
def test_generated_noises_are_of_several_kinds_and_never_silent(folders, samples):
    noises = [generated_noise(np.random.default_rng(seed), samples, folders[0]) for seed in range(40)]
    assert {len(x) for x in noises} == {samples}
    assert all(np.isfinite(x).all() and rms(x) > 1e-4 for x in noises)
    peaks = [np.max(np.abs(x)) / rms(x) for x in noises]
    assert samples < 8000 or (min(peaks) < 5 and max(peaks) > 8)  # steady ones and clatter


@pytest.mark.parametrize("rt60", [0.2, 0.6])
def test_a_generated_response_falls_by_60_db_in_its_time(rt60):
    power = np.mean(
        [np.square(generated_response(np.random.default_rng(i), rt60)[160:]) for i in range(200)], axis=0
    )
    quarter = len(power) // 4
    fall = 10 * np.log10(power[:quarter].mean() / power[2 * quarter : 3 * quarter].mean())
    assert fall == pytest.approx(60 * 2 * quarter / (rt60 * 16_000), abs=2.5)


def test_a_generated_response_has_the_ratio_of_direct_sound_to_reflections_that_is_asked_for():
    for seed in range(20):
        response = generated_response(np.random.default_rng(seed), 0.4, ratio_db=(-12, 0)).astype(np.float64)
        ratio = -10 * np.log10(np.sum(response[1:] ** 2) / response[0] ** 2)
        assert -12.01 < ratio < 0.01


@pytest.mark.parametrize("rt60", [0.1, 0.4, 0.8])
def test_each_generated_response_has_its_reverberation_time(rt60):
    for seed in range(20):
        tail = generated_response(np.random.default_rng(seed), rt60)[160:].astype(np.float64)
        level = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2))  # Schroeder's integral
        fitted = np.flatnonzero((level < -5) & (level > -25))
        slope = np.polyfit(fitted / 16_000, level[fitted], 1)[0]  # dB per second
        assert -60 / slope == pytest.approx(rt60, rel=0.25)


def test_a_wandering_gain_stays_in_its_range():
    for seed in range(20):
        gain = wandering_gain(np.random.default_rng(seed), 1000, 20)
        assert gain.shape == (1000,) and 0.0999 < gain.min() < gain.max() <= 1.0


def test_a_hall_without_direct_sound_gets_some_and_a_room_is_left_alone():
    rng = np.random.default_rng(0)
    hall = (rng.standard_normal(40000) * np.exp(-np.arange(40000) / 20000)).astype(np.float32)
    changed = with_direct_sound(rng, hall)
    peak = int(np.argmax(np.abs(hall)))
    assert np.argmax(np.abs(changed)) == peak and changed[peak] == 1.0
    others = np.delete(changed, peak)
    assert -20.01 < -10 * np.log10(np.sum(np.square(others))) < 12.01  # ROOM_RATIO_DB
    room = np.zeros(100, np.float32)
    room[[0, 40, 50, 60]] = 1.0, 0.9, 0.9, 0.9  # the direct sound 4 dB below the others
    assert with_direct_sound(rng, room) is room
