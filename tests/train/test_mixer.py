"""Mixtures, pairs of folders, rooms and clipping: what a network is trained on."""

import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from modelscope_zipenhancer.errors import AudioError, OptionError
from modelscope_zipenhancer.train.augment import (
    generated_noise,
    generated_response,
    rms,
    wandering_gain,
    with_direct_sound,
)
from modelscope_zipenhancer.train.folders import AudioFolder
from modelscope_zipenhancer.train.mixer import Mixer, MixOptions
from modelscope_zipenhancer.train.pairs import PairFolder


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
        Mixer(*folders, MixOptions(**plain, backwards=p)).one_noise(np.random.default_rng(3)) for p in (0, 1)
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
            heard, target = mixer.speech(np.random.default_rng(seed))
            assert np.array_equal(heard, target)
            found.append(int(np.argmax(np.abs(np.fft.rfft(target)))))  # Hz
        assert 850 <= min(found) <= max(found) <= 1200
        assert len(set(found)) > 10 if probability else set(found) == {1000}


@pytest.mark.parametrize("samples", [100, 8000])
def test_generated_noises_are_of_several_kinds_and_never_silent(folders, samples):
    noises = [generated_noise(np.random.default_rng(seed), samples, folders[0]) for seed in range(40)]
    assert {len(x) for x in noises} == {samples}
    assert all(np.isfinite(x).all() and rms(x) > 1e-4 for x in noises)
    peaks = [np.max(np.abs(x)) / rms(x) for x in noises]
    assert samples < 8000 or (min(peaks) < 5 and max(peaks) > 8)  # steady ones and clatter


def test_a_folder_without_audio_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(FileNotFoundError, match="no audio below"):
        AudioFolder(str(tmp_path))


ALWAYS = {"clean_only": 0.0, "noise_only": 0.0, "second_noise": 0.0, "speech_eq": 0.0}


def test_a_room_keeps_the_target_aligned_and_takes_its_late_reflections_away(folders):
    mixer = Mixer(*folders, MixOptions(crop_samples=8000, reverb=1.0))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        speech = mixer.clean.crop(rng, 8000)
        sound, target = mixer.in_a_room(rng, speech)
        assert len(sound) == len(target) == 8000
        for x in (sound, target):
            assert np.argmax(np.abs(correlate(x, speech))) == 7999  # no delay
        assert np.allclose(sound[:800], target[:800], atol=1e-5) and not np.allclose(sound, target, atol=1e-3)


def test_a_given_impulse_response_is_used_from_its_direct_sound_on(folders, tmp_path):
    response = np.zeros(4000)
    response[[300, 1000, 3000]] = 1.0, 0.5, 0.4  # 44 and 169 ms after the direct sound
    (tmp_path / "rooms").mkdir()
    soundfile.write(tmp_path / "rooms" / "hall.wav", response, 16_000, subtype="FLOAT")
    mixer = Mixer(*folders, MixOptions(reverb=1.0, real_room=1.0), AudioFolder(str(tmp_path / "rooms")))
    speech = np.zeros(4000, np.float32)
    speech[0] = 1
    sound, target = mixer.in_a_room(np.random.default_rng(0), speech)
    np.testing.assert_allclose(sound[[0, 700, 2700]], [1.0, 0.5, 0.4], atol=1e-5)
    np.testing.assert_allclose(target[[0, 700, 2700]], [1.0, 0.5, 0.0], atol=1e-5)


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


def test_clipping_is_in_the_mixture_alone(folders):
    mixer = Mixer(*folders, MixOptions(crop_samples=8000, clip=1.0, **ALWAYS))
    for seed in range(5):
        noisy, clean = mixer.pair(np.random.default_rng(seed))
        assert np.sum(np.abs(noisy) > 0.999 * np.abs(noisy).max()) > 10
        assert np.sum(np.abs(clean) > 0.999 * np.abs(clean).max()) < 10
        assert rms(noisy) == pytest.approx(1.0, abs=1e-3)


def write_pairs(folder, names, rate=16_000, samples=9000):
    rng = np.random.default_rng(0)
    for side, own in zip(("noisy", "clean"), names):
        (folder / side).mkdir(exist_ok=True)
        for i, name in enumerate(own):
            x = 0.1 * np.sin(np.arange(samples) * 0.01 * (i + 1))
            x = x + (side == "noisy") * 0.01 * rng.standard_normal(samples)
            soundfile.write(folder / side / name, x, rate)
    return str(folder / "noisy"), str(folder / "clean")


@pytest.mark.parametrize(
    "names",
    [
        (["p226_001.wav", "p226_002.wav"],) * 2,  # VoiceBank+DEMAND
        (
            ["book_x_snr5_fileid_1.wav", "book_y_snr0_fileid_2.wav"],
            ["clean_fileid_1.wav", "clean_fileid_2.wav"],
        ),
    ],
    ids=["equal names", "fileid"],
)
def test_pairs_of_two_folders_are_cropped_alike_at_16_khz(tmp_path, names):
    folder = PairFolder(*write_pairs(tmp_path, names, rate=48_000, samples=48_000), crop_samples=4000)
    noisy, clean = folder.batch(3, 5, 4)
    assert noisy.shape == clean.shape == (4, 4000) and noisy.dtype == clean.dtype == np.float32
    for x, y in zip(noisy, clean):
        assert rms(x) == pytest.approx(1.0, abs=1e-3)
        assert rms(x - y) < 0.2  # the same stretch of the same recording
    for x, y in zip(folder.batch(3, 5, 4), (noisy, clean)):
        np.testing.assert_array_equal(x, y)


def test_a_recording_without_a_twin_is_named(tmp_path):
    with pytest.raises(AudioError, match="1 recordings have no twin.*b.wav"):
        PairFolder(*write_pairs(tmp_path, (["a.wav", "b.wav"], ["a.wav"])))


def test_twins_of_other_lengths_are_named_and_counted(tmp_path):
    noisy, clean = write_pairs(tmp_path, (["a.wav", "b.wav"],) * 2)
    soundfile.write(tmp_path / "clean" / "b.wav", np.ones(8000) * 0.1, 16_000)
    with pytest.raises(AudioError, match="1 of 2 pairs.*b.wav.*8000 samples"):
        PairFolder(noisy, clean)


def test_a_silent_clean_recording_is_not_trained_on_and_named(tmp_path, caplog):
    noisy, clean = write_pairs(tmp_path, (["a.wav", "b.wav"],) * 2)
    soundfile.write(tmp_path / "clean" / "b.wav", np.zeros(9000), 16_000)
    folder = PairFolder(noisy, clean, crop_samples=9000)
    for number in range(4):
        assert folder.batch(0, number, 4)[1].any(axis=1).all()
    assert [record.message for record in caplog.records if "b.wav" in record.message][1:] == []
    assert "b.wav" in caplog.text


def test_a_file_that_cannot_be_opened_is_named_and_left_out(folders, tmp_path, caplog):
    (tmp_path / "clean" / "broken.wav").write_bytes(b"RIFF nothing")
    assert len(AudioFolder(str(tmp_path / "clean")).files) == 3
    assert "broken.wav" in caplog.text


def test_a_folder_of_which_nothing_can_be_opened_is_refused(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(AudioError, match="none of the 1 recordings"):
        AudioFolder(str(tmp_path))


def test_twins_of_other_rates_and_broken_ones_are_counted_and_the_first_three_named(tmp_path):
    noisy, clean = write_pairs(tmp_path, ([f"{i}.wav" for i in range(6)],) * 2)
    for i in range(4):
        soundfile.write(tmp_path / "clean" / f"{i}.wav", np.ones(9000) * 0.1, 8000)
    (tmp_path / "clean" / "2.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(AudioError, match="4 of 6 pairs.*0.wav.*8000 Hz.*1.wav.*2.wav.*opened.*and 1 more"):
        PairFolder(noisy, clean)


def test_a_short_pair_is_padded_with_zeros(tmp_path):
    folder = PairFolder(*write_pairs(tmp_path, (["a.wav"],) * 2, samples=1000), crop_samples=4000)
    noisy, clean = folder.batch(0, 0, 1)
    assert noisy[0, :1000].any() and not noisy[0, 1000:].any() and not clean[0, 1000:].any()
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


def test_short_recordings_follow_one_another_instead_of_silence(tmp_path):
    soundfile.write(tmp_path / "word.wav", np.full(8000, 0.5), 16_000)
    folder = AudioFolder(str(tmp_path))
    for seed in range(10):
        x = folder.crop(np.random.default_rng(seed), 64_000)
        silent = np.diff(np.flatnonzero(np.abs(np.r_[1.0, x, 1.0]) > 0.1)) - 1
        assert len(x) == 64_000 and np.mean(np.abs(x) > 0.1) > 0.5
        assert silent.max() < 8000  # pauses of at most half a second


def test_a_source_is_drawn_with_the_root_of_its_duration(tmp_path):
    for name, level, seconds in (("large", 0.5, 16), ("small", 0.25, 1)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "x.wav", np.full(seconds * 16_000, level), 16_000)
    folder = AudioFolder(str(tmp_path))
    drawn = [folder.crop(np.random.default_rng(seed), 100).max() > 0.4 for seed in range(500)]
    assert np.mean(drawn) == pytest.approx(4 / 5, abs=0.06)


def test_a_target_with_a_floor_is_speech_and_noise_so_much_lower(folders):
    options = {"crop_samples": 8000, "noise_only": 0.0}
    noisy, clean = Mixer(*folders, MixOptions(**options)).pair(np.random.default_rng(5))
    _, floored = Mixer(*folders, MixOptions(**options, floor_db=20)).pair(np.random.default_rng(5))
    np.testing.assert_allclose(floored, clean + 0.1 * (noisy - clean), atol=1e-5)
    with pytest.raises(OptionError, match="floor_db"):
        MixOptions(floor_db=-3)


def test_a_changing_level_is_in_the_target_too_and_changing_noise_is_not(tmp_path):
    soundfile.write(tmp_path / "tone.wav", np.sin(np.arange(160_000) * 0.5), 16_000)
    tones = AudioFolder(str(tmp_path))
    plain = {"speech_eq": 0.0, "noise_eq": 0.0, "crop_samples": 32_000}
    x, target = Mixer(tones, tones, MixOptions(**plain, level_change=1.0)).speech(np.random.default_rng(1))
    assert np.array_equal(x, target)
    blocks = [rms(b) for b in np.split(x, 20)]
    assert 1.5 < max(blocks) / min(blocks) < 10.1
    steady = Mixer(tones, tones, MixOptions(**plain, real_noise=1.0)).one_noise(np.random.default_rng(1))
    changing = Mixer(tones, tones, MixOptions(**plain, real_noise=1.0, noise_change=1.0)).one_noise(
        np.random.default_rng(1)
    )
    assert rms(np.array([rms(b) for b in np.split(steady, 20)]) - 1) < 0.05
    assert max(rms(b) for b in np.split(changing, 20)) > 1.2


def test_a_wandering_gain_stays_in_its_range():
    for seed in range(20):
        gain = wandering_gain(np.random.default_rng(seed), 1000, 20)
        assert gain.shape == (1000,) and 0.0999 < gain.min() < gain.max() <= 1.0


def test_a_hall_without_direct_sound_gets_some_and_a_room_is_left_alone():
    rng = np.random.default_rng(0)
    hall = (rng.standard_normal(8000) * np.exp(-np.arange(8000) / 2000)).astype(np.float32)
    changed = with_direct_sound(rng, hall)
    peak = int(np.argmax(np.abs(hall)))
    assert np.argmax(np.abs(changed)) == peak and changed[peak] == 1.0
    others = np.delete(changed, peak)
    assert 0.99 < 1 / np.sum(np.square(others)) < 10 ** (12.1 / 10)
    room = np.zeros(100, np.float32)
    room[[0, 50]] = 1.0, 0.5
    assert with_direct_sound(rng, room) is room
