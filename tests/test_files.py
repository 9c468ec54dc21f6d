"""Files that are whole or not there, and the one walk over the recordings in folders."""

import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelscope_zipenhancer.audio.write import FORMATS
from modelscope_zipenhancer.errors import AudioError, AudioNotFoundError, OutputError
from modelscope_zipenhancer.files import (
    RECORDING_SUFFIXES,
    check_folder,
    recordings,
    remove_leftovers,
    replacing,
)


def touch(*paths) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def below(folder, **options) -> list:
    return [os.path.relpath(path, folder) for path in recordings(folder, **options)]


def test_recordings_come_by_folder_and_name_and_hidden_ones_are_left_out(tmp_path):
    names = [
        "b.wav",
        "a.M4A",
        "notes.txt",
        ".x.wav",
        ".git/y.wav",
        "deep/er/c.flac",
        "deep/d.webm",
        "a-b/e.wav",
    ]
    touch(*(tmp_path / name for name in names))
    assert below(tmp_path) == ["a.M4A", "b.wav", "a-b/e.wav", "deep/d.webm", "deep/er/c.flac"]


def test_whatever_can_be_written_is_taken_for_a_recording():
    assert set(FORMATS) <= RECORDING_SUFFIXES


def test_the_folder_to_skip_is_left_out_however_it_is_spelled(tmp_path):
    touch(tmp_path / "a.wav", tmp_path / "out/a.wav")
    assert below(tmp_path, skip=tmp_path / "x" / ".." / "out") == ["a.wav"]
    assert below(tmp_path, skip=tmp_path) == ["a.wav", "out/a.wav"]


def test_a_linked_folder_is_followed_once_and_a_loop_ends(tmp_path):
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    touch(folder / "a.wav", folder / "z/b.wav", elsewhere / "c.wav", elsewhere / "deep/d.wav")
    (folder / "link").symlink_to(elsewhere)
    (folder / "link2").symlink_to(elsewhere)
    (folder / "also-z").symlink_to(folder / "z")  # z has a name of its own there
    (elsewhere / "deep" / "up").symlink_to(folder)
    (folder / "z" / "self").symlink_to(folder / "z")
    (folder / "nowhere").symlink_to(tmp_path / "nowhere")
    assert below(folder) == ["a.wav", "link/c.wav", "link/deep/d.wav", "z/b.wav"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
def test_a_latin_1_name_leads_to_its_file(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav"), "wb") as file:
        file.write(b"there")
    (path,) = recordings(tmp_path)
    with open(path, "rb") as file:
        assert file.read() == b"there"


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(AudioNotFoundError, match="nowhere.*No such file"):
        list(recordings(tmp_path / "nowhere"))


def test_what_goes_wrong_while_writing_is_an_output_error_that_names_the_output(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("before")
    with (
        pytest.raises(OutputError, match=r"out.txt' can't be written: No space left") as caught,
        replacing(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "a temporary name")
    assert "temporary" not in str(caught.value) and isinstance(caught.value.__cause__, OSError)
    for error in (AudioNotFoundError("mine"), AudioError("mine")):
        with pytest.raises(type(error), match="^mine$"), replacing(path):
            raise error
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["out.txt"]


def test_what_ended_processes_left_of_an_output_is_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.communicate()
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    zombie.stdout.read()
    time.sleep(0.2)  # it has closed its output, and ends
    long = "a" * 230 + ".wav"
    names = [f"x.wav.{ended.pid}-1.part", f"x.wav.{os.getpid()}-1.part", f"y.wav.{ended.pid}-1.part", "x.wav"]
    touch(*(tmp_path / name for name in names))
    if sys.platform == "linux":
        touch(tmp_path / f"x.wav.{zombie.pid}-1.part")
    with contextlib.suppress(KeyboardInterrupt), replacing(tmp_path / long) as temporary:
        left = temporary.replace(str(os.getpid()), str(ended.pid))
        touch(Path(left))
        raise KeyboardInterrupt
    remove_leftovers([str(tmp_path / "x.wav"), str(tmp_path / long), str(tmp_path / "no" / "z.wav")])
    zombie.wait()
    zombie.stdout.close()
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


def test_an_output_whose_folder_is_missing_or_that_is_a_folder_is_refused(tmp_path):
    for path, said in ((tmp_path / "no" / "x.json", "no folder .*no'"), (tmp_path, "it is a folder")):
        with pytest.raises(OutputError, match=said):
            check_folder(path)
    assert check_folder(tmp_path / "x.json") == str(tmp_path / "x.json")
