"""Folders of paired recordings."""

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer.errors import AudioError
from modelscope_zipenhancer.train.augment import rms
from modelscope_zipenhancer.train.pairs import PairFolder


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


def test_an_unpaired_recording_is_named(tmp_path):
    with pytest.raises(AudioError, match="1 recordings are unpaired.*b.wav"):
        PairFolder(*write_pairs(tmp_path, (["a.wav", "b.wav"], ["a.wav"])))


def test_references_of_other_lengths_are_named_and_counted(tmp_path):
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


def test_references_of_other_rates_and_broken_ones_are_counted_and_the_first_three_named(tmp_path):
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
