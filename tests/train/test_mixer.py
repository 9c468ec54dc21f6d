"""Mixtures: what is in them and in their targets."""

import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from modelscope_zipenhancer.errors import AudioError, OptionError
from modelscope_zipenhancer.train.augment import rms
from modelscope_zipenhancer.train.folders import AudioFolder
from modelscope_zipenhancer.train.mixer import Mixer, MixOptions


def test_a_batch_is_fixed_by_seed_and_step_alone(folders):
    options = MixOptions(crop_samples=4000)
    first = Mixer(*folders, options).batch(seed=1, number=7, size=3)
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


def test_noise_may_run_backwards(folders):
    plain = {"real_noise": 1.0, "noise_eq": 0.0, "speed": 0.0}
    sounds = [
        Mixer(*folders, MixOptions(**plain, backwards=p)).draw_noise(np.random.default_rng(3)) for p in (0, 1)
    ]
    assert np.array_equal(sounds[0], sounds[1][::-1]) and not np.array_equal(*sounds)


def test_speech_may_be_played_at_another_speed_in_its_target_too(tmp_path):
    tone = np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000)
    soundfile.write(tmp_path / "tone.wav", tone, 16_000)
    tones = AudioFolder(str(tmp_path))
    options = {"crop_samples": 16_000, "speech_eq": 0.0}
    for probability in (0.0, 1.0):
        mixer, found = Mixer(tones, tones, MixOptions(**options, speech_speed=probability)), []
        for seed in range(20):
            speech = mixer.draw_speech(np.random.default_rng(seed))
            found.append(int(np.argmax(np.abs(np.fft.rfft(speech)))))  # Hz
        assert 850 <= min(found) <= max(found) <= 1200
        assert len(set(found)) > 10 if probability else set(found) == {1000}


ALWAYS = {"clean_only": 0.0, "noise_only": 0.0, "second_noise": 0.0, "speech_eq": 0.0}


def test_a_room_stays_in_the_target_and_delays_nothing(folders):
    options = {"crop_samples": 8000, "noise_only": 0.0, "second_noise": 0.0, "speech_eq": 0.0}
    dry, room = (Mixer(*folders, MixOptions(**options, clean_only=1.0, reverb=p)) for p in (0.0, 1.0))
    for seed in range(8):
        speech = dry.pair(np.random.default_rng(seed))[1]
        noisy, target = room.pair(np.random.default_rng(seed))
        assert rms(noisy - target) == pytest.approx(0.01, rel=0.01)  # 40 dB below: the noise alone
        assert np.argmax(np.abs(correlate(target, speech))) == 7999
        assert not np.allclose(target, speech, atol=0.1)


def test_a_given_impulse_response_is_used_from_its_direct_sound_on(folders, tmp_path):
    response = np.zeros(4000)
    response[[300, 1000, 3000]] = 1.0, 0.5, 0.4
    (tmp_path / "rooms").mkdir()
    soundfile.write(tmp_path / "rooms" / "hall.wav", response, 16_000, subtype="FLOAT")
    mixer = Mixer(*folders, MixOptions(reverb=1.0, real_room=1.0), AudioFolder(str(tmp_path / "rooms")))
    speech = np.zeros(4000, np.float32)
    speech[0] = 1
    heard = mixer.reverberate(np.random.default_rng(0), speech)
    np.testing.assert_allclose(heard[[0, 700, 2700]], [1.0, 0.5, 0.4], atol=1e-5)


def test_clipping_is_in_the_mixture_alone(folders):
    mixer = Mixer(*folders, MixOptions(crop_samples=8000, clip=1.0, **ALWAYS))
    for seed in range(5):
        noisy, clean = mixer.pair(np.random.default_rng(seed))
        assert np.sum(np.abs(noisy) > 0.999 * np.abs(noisy).max()) > 10
        assert np.sum(np.abs(clean) > 0.999 * np.abs(clean).max()) < 10
        assert rms(noisy) == pytest.approx(1.0, abs=1e-3)


def test_a_mixture_in_a_room_has_the_ratio_asked_for_and_a_target_in_step(folders):
    options = MixOptions(crop_samples=8000, reverb=1.0, snr_db=(60.0, 60.0), **ALWAYS)
    for seed in range(8):
        noisy, clean = Mixer(*folders, options).pair(np.random.default_rng(seed))
        assert rms(noisy) == pytest.approx(1.0, abs=1e-3)
        assert np.argmax(np.abs(correlate(noisy, clean))) == 7999
        np.testing.assert_allclose(noisy[:800], clean[:800], atol=0.02)  # with the same gain


def test_a_silent_impulse_response_is_named(folders, tmp_path):
    (tmp_path / "rooms").mkdir()
    soundfile.write(tmp_path / "rooms" / "nothing.wav", np.zeros(100), 16_000)
    mixer = Mixer(*folders, MixOptions(reverb=1.0, real_room=1.0), AudioFolder(str(tmp_path / "rooms")))
    with pytest.raises(AudioError, match="nothing.wav.*silent"):
        mixer.batch(0, 0, 1)


@pytest.mark.parametrize(
    "bad", [{"reverb": 1.5}, {"clip": -0.1}, {"speed": "often"}, {"crop_samples": 0}, {"snr_db": (9, 3)}]
)
def test_an_option_that_cannot_be_is_named(bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        MixOptions(**bad)


def test_a_target_with_a_floor_is_speech_and_noise_so_much_lower(folders):
    options = {"crop_samples": 8000, "noise_only": 0.0}
    noisy, clean = Mixer(*folders, MixOptions(**options)).pair(np.random.default_rng(5))
    _, floored = Mixer(*folders, MixOptions(**options, floor_db=20)).pair(np.random.default_rng(5))
    np.testing.assert_allclose(floored, clean + 0.1 * (noisy - clean), atol=1e-5)
    with pytest.raises(OptionError, match="floor_db"):
        MixOptions(floor_db=-3)


def test_speech_and_noise_that_change_their_level_stay_in_their_ranges(tmp_path):
    soundfile.write(tmp_path / "tone.wav", np.sin(np.arange(160_000) * 0.5), 16_000)
    tones = AudioFolder(str(tmp_path))
    plain = {"speech_eq": 0.0, "noise_eq": 0.0, "crop_samples": 32_000}
    x = Mixer(tones, tones, MixOptions(**plain, level_change=1.0)).draw_speech(np.random.default_rng(1))
    blocks = [rms(b) for b in np.split(x, 20)]
    assert 1.5 < max(blocks) / min(blocks) < 10.1
    steady = Mixer(tones, tones, MixOptions(**plain, real_noise=1.0)).draw_noise(np.random.default_rng(1))
    changing = Mixer(tones, tones, MixOptions(**plain, real_noise=1.0, noise_change=1.0)).draw_noise(
        np.random.default_rng(1)
    )
    assert rms(np.array([rms(b) for b in np.split(steady, 20)]) - 1) < 0.05
    assert max(rms(b) for b in np.split(changing, 20)) > 1.2


def test_batches_are_those_that_were_recorded(tmp_path):
    time = np.arange(20_000) / 16_000
    folders = {"clean": ("a", "a/b", "a-b"), "noise": ("",), "rooms": ("",)}
    for kind, sources in folders.items():
        for i, source in enumerate(sources):
            (tmp_path / kind / source).mkdir(parents=True, exist_ok=True)
            for j, rate in enumerate((16_000, 22_050)):
                x = 0.3 * np.sin(2 * np.pi * (200 * (i + 1) + 70 * j) * time * (1 + time)) * np.sin(9 * time)
                if kind == "rooms":
                    x = np.exp(-30 * time) * np.cos(900 * time * time)
                soundfile.write(tmp_path / kind / source / f"{j}.wav", x, rate)
    clean, noise, rooms = (AudioFolder(tmp_path / kind) for kind in folders)
    often = {"speech_speed": 0.5, "reverb": 0.5, "clip": 0.3, "level_change": 0.5, "noise_change": 0.5}
    often |= {"floor_db": 20.0, "second_noise": 0.6}
    for options, expected in (({}, (2436518.09, 2025223.48)), (often, (2427449.64, 1924637.83))):
        sides = Mixer(clean, noise, MixOptions(crop_samples=24_000, **options), rooms).batch(5, 17, 16)
        sums = [np.sum(np.arange(1, 17)[:, None] * np.abs(side.astype(np.float64))) for side in sides]
        assert sums == pytest.approx(expected, rel=1e-4)  # recorded; FFTs differ in their last bits
