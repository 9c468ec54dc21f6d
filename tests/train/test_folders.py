"""Folders of recordings: sources, crops, what is left out."""

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer.errors import AudioError
from modelscope_zipenhancer.train.folders import AudioFolder, Recording


def test_a_folder_without_audio_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(FileNotFoundError, match="no audio below"):
        AudioFolder(str(tmp_path))


def test_a_file_that_cannot_be_opened_is_named_and_left_out(folders, tmp_path, caplog):
    (tmp_path / "clean" / "broken.wav").write_bytes(b"RIFF nothing")
    assert len(AudioFolder(str(tmp_path / "clean")).recordings) == 3
    assert "broken.wav" in caplog.text


def test_a_folder_of_which_nothing_can_be_opened_is_refused(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(AudioError, match="none of the 1 recordings"):
        AudioFolder(str(tmp_path))


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


def test_what_soundfile_cannot_open_is_left_out_though_it_may_be_enhanced(folders, tmp_path, caplog):
    (tmp_path / "clean" / "phone.m4a").write_bytes(b"\x00\x00\x00\x20ftypM4A ")
    (tmp_path / "clean" / ".hidden.wav").write_bytes(b"not looked at")
    assert len(AudioFolder(tmp_path / "clean").recordings) == 3
    assert "phone.m4a" in caplog.text and "hidden" not in caplog.text


def test_a_stretch_of_a_recording_is_where_it_says_at_any_rate_and_speed(tmp_path):
    soundfile.write(tmp_path / "ramp.wav", np.linspace(0, 0.9, 44_100), 44_100, subtype="FLOAT")
    ramp = Recording.from_file(str(tmp_path / "ramp.wav"))
    assert (ramp.samples(), ramp.samples(speed=2.0)) == (16_000, 8000)
    half = ramp.read(4000, start=22_050)
    np.testing.assert_allclose(half[100:-100], np.linspace(0.45, 0.675, 4000)[100:-100], atol=1e-3)
    fast = ramp.read(10_000, speed=2.0)  # there are 8000, then zeros
    np.testing.assert_allclose(fast[100:7900], np.linspace(0, 0.9, 8000)[100:7900], atol=1e-3)
    assert fast.shape == (10_000,) and not fast[8000:].any()
