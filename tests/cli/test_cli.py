"""The command: one recording, many, pipes; and what it does when things go wrong."""

import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer import cli
from modelscope_zipenhancer.audio.write import FORMATS
from modelscope_zipenhancer.cli.enhance import SUFFIXES
from modelscope_zipenhancer.enhance.enhancer import Enhancer

EXAMPLE = Path(__file__).parents[2] / "examples" / "noisy_speech.wav"


def noise(samples=1600, channels=1):
    return 0.1 * np.random.default_rng(samples).standard_normal((samples, channels))


def write(path, samples=1600, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(samples, channels), rate)
    return path


@pytest.fixture
def identity(monkeypatch):
    """No network: what is read is written."""
    load = classmethod(lambda cls, **arguments: cls(lambda waveform, gain=None: waveform))
    monkeypatch.setattr(Enhancer, "from_pretrained", load)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def enhance(*arguments):
    return cli.main(["enhance", *map(str, arguments)])


# ---- one recording -----------------------------------------------------------------------------


def test_the_command_writes_a_wav_and_says_where_and_how_fast(tmp_path, capsys):
    out = tmp_path / "clean.wav"
    assert enhance(EXAMPLE, "-o", out) == 0
    said = capsys.readouterr()
    assert str(out) in said.out and "RTF" in said.out and "tiny" in said.out and said.err == ""
    info = soundfile.info(out)
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert info.frames == soundfile.info(EXAMPLE).frames


def test_without_an_output_name_the_input_names_it(here, identity):
    assert enhance(EXAMPLE) == 0
    assert enhance(EXAMPLE, "--format", "flac") == 0
    assert tree(here) == ["noisy_speech_enhanced.flac", "noisy_speech_enhanced.wav"]


def test_an_output_that_is_a_folder_gets_the_name_of_the_input(here, identity):
    write(here / "a.flac")
    (here / "out").mkdir()
    assert enhance("a.flac", "-o", "out") == 0
    assert enhance("a.flac", "-o", "new/", "--format", "wav") == 0
    assert tree(here) == ["a.flac", "new/a.wav", "out/a.flac"]


def test_rate_and_channels_are_the_inputs_unless_told(here, identity):
    write(here / "in.wav", 4410, 44_100, channels=2)
    assert enhance("in.wav", "-o", "same.wav") == 0
    assert enhance("in.wav", "-o", "mono.wav", "--mono", "--sample-rate", 16_000) == 0
    infos = [soundfile.info(name) for name in ("same.wav", "mono.wav")]
    assert [(i.samplerate, i.channels, i.frames) for i in infos] == [(44_100, 2, 4410), (16_000, 1, 1600)]


def test_strength_and_bandwidth_reach_the_sound(here, monkeypatch):
    load = classmethod(lambda cls, **arguments: cls(lambda waveform, gain=None: 0 * waveform))
    monkeypatch.setattr(Enhancer, "from_pretrained", load)
    write(here / "in.wav", 48_000, 48_000)
    assert enhance("in.wav", "-o", "out.wav", "--strength", 20, "--bandwidth", "full") == 0
    levels = [np.std(soundfile.read(name)[0][2000:-2000]) for name in ("in.wav", "out.wav")]
    band = np.sqrt(1 / 3 + 2 / 3 * 0.1**2)  # below 8 kHz 0.1; above it the Wiener gain of that, 0.01
    assert levels[1] / levels[0] == pytest.approx(0.1 * band, rel=0.1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.wav"], "no audio file at 'missing.wav'"),
        ([EXAMPLE, "-o", "nowhere/out.wav"], "there is no folder"),
        ([EXAMPLE, "-o", "out.xyz"], "unknown audio format '.xyz'"),
        ([EXAMPLE, "-o", EXAMPLE], "is the input: name another with -o, or pass --overwrite"),
        ([EXAMPLE, "--model", "nonesuch"], "unknown model 'nonesuch': give one of tiny"),
        ([EXAMPLE, "--plot", "picture.jpg"], "name it .png"),
        ([EXAMPLE, "--report", "nowhere/report.json"], "there is no folder"),
        (["empty"], "no recordings in the folder 'empty'"),
        (["empty/*.wav"], "no file matches"),
        (["http://127.0.0.1:9/x.wav"], "can't be fetched"),
        ([EXAMPLE.as_uri(), "-o", EXAMPLE], "is the input: name another with -o, or pass --overwrite"),
    ],
)
def test_a_failure_is_one_line_with_the_remedy_and_a_code(arguments, message, here, capsys):
    before = EXAMPLE.read_bytes()
    (here / "empty").mkdir()
    (here / "empty" / "notes.txt").write_text("no audio")
    assert enhance(*arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert tree(here) == ["empty/notes.txt"] and EXAMPLE.read_bytes() == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a.wav", "--strength", "-1"], "strength=-1"),
        (["a.wav", "--sample-rate", "1"], "1 Hz"),
        (["a.wav", "--jobs", "0"], "--jobs 0"),
        (["a.wav", "--backend", "magic"], "unknown backend 'magic', known are: torch"),
        (["a.wav", "--device", "gpu"], "device 'gpu'"),
        (["a.wav", "--rate", "16000"], "give - as the input"),
        (["a.wav", "-", "-o", "x"], "give no other input"),
        (["-", "--resume"], "--resume: not with -"),
        (["-", "--rate", "8000", "--format", "wav"], "not for raw PCM"),
        (["-", "--rate", "8000", "--bits", "24"], "not for raw PCM"),
        (["-", "--rate", "0"], "a sample rate of 0 Hz"),
        (["-", "--bitrate", "64"], "bitrate=64.0: .wav has none"),
        (["-", "--format", "mp3", "--bitrate", "-5"], "bitrate=-5.0"),
        (["http://[x/a.wav", "-o", "out.wav"], "is no URL"),
        (["a.wav", "-o", "out.wav", "--report", "a.wav"], "--report 'a.wav' is a recording of this run"),
        (["a.wav", "-o", "out.wav", "--report", "out.wav"], "--report 'out.wav' is a recording of this run"),
        (["a.wav", "b.wav", "-o", "out.wav"], "name a folder"),
        (["a.wav", "b.wav", "-o", "out", "--plot", "p.png"], "--plot draws one recording, these are 2"),
        (["a.wav", "-o", "out.wav", "--format", "flac"], "disagree"),
        (["a.wav", "-o", ".", "--resume", "--overwrite"], "leave one out"),
        (["a.wav", "sub/a.wav"], "would both become 'a_enhanced.wav'"),
    ],
)
def test_called_wrongly_it_says_so_in_one_line_and_does_nothing(arguments, message, here, capsys):
    for name in ("a.wav", "b.wav", "sub/a.wav"):
        write(here / name)
    assert enhance(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err
    assert tree(here) == ["a.wav", "b.wav", "sub/a.wav"]


def test_a_folder_that_can_not_be_made_is_named(here, identity, monkeypatch, capsys):
    write(here / "in" / "a.wav")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", denied)
    assert enhance("in", "-o", "out") == 1
    assert "the folder 'out' can't be made: Permission denied" in capsys.readouterr().err


def test_an_input_is_written_over_only_when_told_so(here, identity):
    write(here / "in" / "a.wav")
    assert enhance("in", "-o", "in") == 1
    assert enhance("in", "-o", "in", "--overwrite") == 0
    assert tree(here) == ["in/a.wav"]


def test_a_picture_of_before_and_after(here, identity):
    pytest.importorskip("matplotlib")
    write(here / "a.wav", 48_000, 48_000, channels=2)
    assert enhance("a.wav", "-o", "b.wav", "--sample-rate", 16_000, "--plot", "a.png") == 0
    assert (here / "a.png").read_bytes().startswith(b"\x89PNG") and tree(here) == ["a.png", "a.wav", "b.wav"]


@pytest.mark.parametrize("samples", [1, 10, 700, 100_000])
def test_a_picture_of_any_length_can_be_drawn(samples, tmp_path):
    pytest.importorskip("matplotlib")
    from modelscope_zipenhancer.evaluate.spectrogram import save_plot

    x = noise(samples, 2).astype(np.float32)
    save_plot(tmp_path / "p.png", x, 0 * x, 44_100, 16_000)
    assert os.listdir(tmp_path) == ["p.png"]


# ---- many --------------------------------------------------------------------------------------


def test_before_is_what_was_there_before_the_output_took_its_place(here, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    silent = classmethod(lambda cls, **arguments: cls(lambda waveform, gain=None: 0 * waveform))
    monkeypatch.setattr(Enhancer, "from_pretrained", silent)
    monkeypatch.setattr(
        "modelscope_zipenhancer.evaluate.spectrogram.save_plot", lambda path, *sides: drawn.extend(sides)
    )
    write(here / "a.wav")
    assert enhance("a.wav", "-o", "a.wav", "--overwrite", "--plot", "a.png") == 0
    assert drawn[0].any() and not drawn[1].any()


def test_of_a_folder_of_200_with_10_broken_ones_190_are_written_and_10_are_named(here, identity, capsys):
    for i in range(200):
        path = here / "in" / f"{i % 7}" / f"{i:03}.wav"
        write(path, 100 + i)
        if i % 20 == 3:
            path.write_bytes([b"", b"RIFF garbage", path.read_bytes()[:60], b"x" * 500][i // 20 % 4])
    assert enhance("in", "-o", "out", "--strict", "--report", "report.json") == 1
    said = capsys.readouterr()
    broken = [f"in/{i % 7}/{i:03}.wav" for i in range(3, 200, 20)]
    assert said.out.startswith("190 of 200 done, 10 failed: ")
    lines = said.err.splitlines()
    assert lines[0] == "zipenhancer: 10 of 200 failed:" and len(lines) == 11
    assert all(any(name in line for line in lines) for name in broken)
    assert [f"in/{name[4:]}" for name in tree(here) if name.startswith("out/")] == [
        name for name in tree(here) if name.startswith("in/") and name not in broken
    ]
    report = json.loads((here / "report.json").read_text())
    assert (report["done"], report["failed"], report["skipped"], report["recordings"]) == (190, 10, 0, 200)
    assert sorted(r["source"] for r in report["results"] if r["status"] == "failed") == sorted(broken)
    assert report["audio_seconds"] == pytest.approx(
        sum(100 + i for i in range(200) if i % 20 != 3) / 16_000, abs=0.01
    )


def test_names_are_mirrored_and_keep_their_format_where_it_can_be_written(here, identity):
    for name in ("in/a.wav", "in/b.FLAC", "in/.hidden.wav", "in/sub/deep/c.au", "in/notes.wav"):
        write(here / name)
    os.rename(here / "in/notes.wav", here / "in/notes.wav.txt")
    os.rename(here / "in/sub/deep/c.au", here / "in/sub/deep/c.snd")
    assert enhance("in", "-o", "out") == 0
    assert tree(here / "out") == ["a.wav", "b.flac", "sub/deep/c.wav"]
    assert enhance("in", "--format", "ogg") == 0
    assert tree(here / "in_enhanced") == ["a.ogg", "b.ogg", "sub/deep/c.ogg"]


def test_a_glob_that_the_shell_left_alone_is_expanded_below_its_folder(here, identity):
    for name in ("in/a.wav", "in/sub/b.wav", "in/sub/c.flac"):
        write(here / name)
    assert enhance("in/**/*.wav", "-o", "out") == 0
    assert tree(here / "out") == ["a.wav", "sub/b.wav"]
    assert enhance("in/**/*.flac", "-o", "two/three") == 0
    assert tree(here / "two") == ["three/sub/c.flac"]
    write(here / "odd[1].wav")
    assert enhance("odd[1].wav", "-o", "one.wav") == 0


def test_a_glob_from_the_root_on_writes_nowhere_else(here, identity, monkeypatch):
    rooted = [str(write(here / "in" / "x" / "a.wav")), str(write(here / "in" / "y" / "a.wav"))]
    monkeypatch.setattr("glob.glob", lambda pattern, recursive: rooted)
    assert enhance("/*/a.wav", "-o", "out") == 0
    inside = here.relative_to(here.anchor).as_posix()
    assert tree(here / "out") == [f"{inside}/in/x/a.wav", f"{inside}/in/y/a.wav"]


def test_outputs_below_the_input_folder_are_not_taken_for_inputs(here, identity):
    write(here / "in" / "a.wav")
    for _ in range(2):
        assert enhance("in", "-o", "in/clean") == 0
    assert tree(here) == ["in/a.wav", "in/clean/a.wav"]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(here, capsys):
    write(here / "in" / "a.wav")
    write(here / "in" / "sub" / "b.wav")
    write(here / "out" / "a.wav")
    before = tree(here)
    assert enhance("in", "-o", "out", "--dry-run", "--resume") == 0
    said = capsys.readouterr().out.replace(os.sep, "/").splitlines()
    assert said == ["in/a.wav -> out/a.wav (skipped: it is there)", "in/sub/b.wav -> out/sub/b.wav"]
    assert tree(here) == before


def test_on_a_terminal_a_bar_shows_seconds_and_rtf_and_what_is_left(here, identity, monkeypatch, capsys):
    for i in range(3):
        write(here / "in" / f"{i}.wav", 32_000)
    (here / "in" / "3.wav").write_bytes(b"broken")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert enhance("in", "-o", "out") == 1
    said = capsys.readouterr().err
    assert "0/4 files" in said and "/6 s of audio" in said and "RTF" in said and "left" in said


def test_the_bar_opens_a_header_when_its_recording_is_worked_on(here, identity, monkeypatch):
    for i in range(5):
        write(here / "in" / f"{i}.wav", 16_000)
    opened, info = [], soundfile.info
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(soundfile, "info", lambda path: opened.append((path, len(tree(here)))) or info(path))
    assert enhance("in", "-o", "out") == 0
    # of the i-th when the outputs before it are written, and its own has been begun at most
    assert [path for path, _ in opened] == [os.path.join("in", f"{i}.wav") for i in range(5)]
    assert all(5 + i <= files <= 6 + i for i, (_, files) in enumerate(opened))


def test_a_name_that_stdout_can_not_print_is_printed_with_escapes(here, identity, monkeypatch):
    write(here / "in" / "录音.wav")
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="cp1252", write_through=True))
    assert enhance("in/录音.wav", "-o", "录音.wav") == 0
    assert enhance("in", "--dry-run") == 0
    assert b"\\u5f55\\u97f3.wav: 0.1 s of audio enhanced" in printed.getvalue()
    assert b"-> in_enhanced" in printed.getvalue()


def test_of_two_recordings_of_one_name_both_are_enhanced_and_it_says_so(here, identity, capsys):
    write(here / "in" / "talk.wav")
    os.rename(write(here / "in" / "talk.au", 800), here / "in" / "talk.snd")
    assert enhance("in", "-o", "out") == 0
    assert tree(here / "out") == ["talk.wav", "talk_snd.wav"]
    assert [soundfile.info(here / "out" / name).frames for name in tree(here / "out")] == [1600, 800]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "it becomes 'out/talk_snd.wav'" in said.replace(os.sep, "/")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_linked_folder_is_enhanced_too(here, identity):
    write(here / "elsewhere" / "a.wav")
    (here / "in").mkdir()
    (here / "in" / "link").symlink_to(here / "elsewhere")
    assert enhance("in", "-o", "out") == 0
    assert tree(here / "out") == ["link/a.wav"]


def test_a_cut_recording_is_enhanced_with_one_line_of_warning_or_refused(here, identity, stdin, capfd):
    write(here / "cut.wav", 16_000)
    os.truncate(here / "cut.wav", 20_000)
    assert enhance("cut.wav", "-o", "out.wav", "--report", "r.json") == 0
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "are missing: the file was cut off" in said
    (result,) = json.loads((here / "r.json").read_text())["results"]
    assert len(result["warnings"]) == 1 and result["status"] == "done"
    stdin((here / "cut.wav").read_bytes())
    assert enhance("-", "-o", "piped.wav") == 0
    assert capfd.readouterr().err.count("are missing") == 1
    os.remove("out.wav")
    assert enhance("cut.wav", "-o", "out.wav", "--strict") == 1
    assert "cut off" in capfd.readouterr().err and not os.path.exists("out.wav")


def test_bits_and_bit_rate_are_chosen_and_refused_before_the_work(here, identity, capsys):
    write(here / "in.wav", 16_000)
    assert enhance("in.wav", "-o", "out.wav", "--bits", "24") == 0
    assert soundfile.info("out.wav").subtype == "PCM_24"
    assert enhance("in.wav", "-o", "low.mp3", "--bitrate", 32) == 0
    assert enhance("in.wav", "-o", "high.mp3", "--bitrate", 128) == 0
    assert os.path.getsize("high.mp3") > 2 * os.path.getsize("low.mp3")
    for refused in (["-o", "x.mp3", "--bits", "24"], ["-o", "x.wav", "--bitrate", "64"]):
        assert enhance("in.wav", *refused, "--model", "nonesuch") == 2
    assert not list(here.glob("x.*"))


def test_bits_that_one_of_a_folder_can_not_have_are_refused_before_the_work(here, identity, capsys):
    os.mkdir("in")
    for name in ("a.wav", "b.mp3"):
        write(here / "in" / name, 16_000)
    assert enhance("in", "-o", "out", "--bits", "24") == 2
    assert "bits=24: .mp3 has none" in capsys.readouterr().err and not os.path.exists("out")
    assert enhance("in", "-o", "out", "--bits", "24", "--format", "wav") == 0
    assert sorted(os.listdir("out")) == ["a.wav", "b.wav"]


DRIVER = """
    import os, sys, time
    from modelscope_zipenhancer import cli
    from modelscope_zipenhancer.enhance.enhancer import Enhancer

    def slow(waveform, gain=None):
        time.sleep(0.03)
        return waveform

    def load(cls, **arguments):
        if "SLOW_START" in os.environ and __name__ != "__main__":
            open(f"starting{os.getpid()}", "w").close()
            time.sleep(60)
        return cls(slow)

    Enhancer.from_pretrained = classmethod(load)
    if __name__ == "__main__":
        sys.exit(cli.main())
"""


@pytest.fixture
def started(here):
    """Start the command over 150 files with a slow backend; returns once 20 of them are written."""
    (here / "driver.py").write_text(textwrap.dedent(DRIVER))
    for i in range(150):
        write(here / "in" / f"{i:03}.wav", 500)

    def start(processes, *more, wait=20):
        environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
        command = [sys.executable, "driver.py", "enhance", "in", "-o", "out", "--jobs", str(processes), *more]
        pipe = subprocess.PIPE
        # a shell's background jobs, which these tests may be one of, are started deaf to Ctrl-C
        heed = (lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) if os.name != "nt" else None
        process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=environment, preexec_fn=heed
        )
        while process.poll() is None and len(list(here.glob("out/*.wav"))) < wait:
            time.sleep(0.02)
        return process

    return start


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_half_way_and_resumed_no_file_is_lost_or_half_written_or_done_twice(processes, started, here):
    killed = started(processes)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    done = {path.name: path.stat().st_mtime_ns for path in here.glob("out/*.wav")}
    assert 20 <= len(done) < 150
    assert all(soundfile.info(here / "out" / name).frames == 500 for name in done)
    # What a process killed while writing leaves; its number is that of the one just killed.
    (here / "out" / f"149.wav.{killed.pid}-1.part").write_bytes(b"half")
    resumed = started(processes, "--resume", wait=1000)
    said, complaints = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, complaints
    after = {path.name: path.stat().st_mtime_ns for path in here.glob("out/*")}
    assert sorted(after) == sorted(path.name for path in here.glob("in/*"))
    assert all(soundfile.info(here / "out" / name).frames == 500 for name in after)
    again = [name for name in done if after[name] != done[name]]
    assert again == [] and " skipped: " in said


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_stops_cleanly_and_says_what_was_done(processes, started, here):
    process = started(processes, "--report", "report.json")
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=300)
    assert process.returncode == 130
    assert complaints.count("\n") == 1 and "interrupted, " in complaints and "--resume goes on" in complaints
    assert all(soundfile.info(path).frames == 500 for path in here.glob("out/*"))
    report = json.loads((here / "report.json").read_text())
    # a file is there a moment before the command hears of it
    assert report["interrupted"] and 0 < report["done"] <= len(tree(here / "out")) < 150


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_while_the_processes_start_is_one_line_too(started, here, monkeypatch):
    monkeypatch.setenv("SLOW_START", "1")
    process = started(2, wait=0)
    while process.poll() is None and len(list(here.glob("starting*"))) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=50)
    assert process.returncode == 130
    assert complaints.splitlines() == ["zipenhancer: interrupted, nothing was written"]


def test_the_jobs_processes_give_what_one_gives(here, small_model_dir):
    for i in range(4):
        write(here / "in" / f"{i}.wav", 3000 + i)
    (here / "in" / "broken.wav").write_bytes(b"x")
    for processes in (1, 2):
        out = f"out{processes}"
        assert (
            enhance("in", "-o", out, "--jobs", processes, "--model", small_model_dir, "--device", "cpu") == 1
        )
    assert tree(here / "out1") == tree(here / "out2") == [f"{i}.wav" for i in range(4)]
    for name in tree(here / "out1"):
        one, two = (soundfile.read(here / out / name, dtype="int16")[0] for out in ("out1", "out2"))
        assert np.abs(one.astype(int) - two).max() <= 1  # another number of threads, another rounding


# ---- pipes -------------------------------------------------------------------------------------


@pytest.fixture
def stdin(monkeypatch):
    def give(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def test_a_wav_goes_from_stdin_to_stdout(identity, stdin, tmp_path, capfdbinary):
    data = write(tmp_path / "in.wav", 4800, 48_000, 2).read_bytes()
    stdin(data)
    assert enhance("-") == 0
    out, err = capfdbinary.readouterr()
    x, rate = soundfile.read(io.BytesIO(out))
    assert (x.shape, rate) == ((4800, 2), 48_000) and b"RTF" in err
    stdin(data)
    assert enhance("-", "--format", "flac", "--mono") == 0
    info = soundfile.info(io.BytesIO(capfdbinary.readouterr().out))
    assert (info.format, info.channels) == ("FLAC", 1)


def test_a_file_can_go_to_stdout_and_stdin_to_a_file(identity, stdin, tmp_path, capfdbinary):
    path = write(tmp_path / "in.wav")
    assert enhance(path, "-o", "-") == 0
    assert soundfile.info(io.BytesIO(capfdbinary.readouterr().out)).frames == 1600
    stdin(path.read_bytes())
    assert enhance("-", "-o", tmp_path / "out.wav") == 0
    assert capfdbinary.readouterr().out == b"" and soundfile.info(tmp_path / "out.wav").frames == 1600


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_raw_pcm_goes_through_as_it_comes_and_keeps_its_length(rate, identity, stdin, capfdbinary):
    pcm = np.rint(noise(5 * rate)[:, 0] * 32768).astype("<i2")
    stdin(pcm.tobytes() + b"\0")  # half a sample at the end is no sample
    assert enhance("-", "--rate", rate) == 0
    out, err = capfdbinary.readouterr()
    assert len(out) == pcm.nbytes and b"late by" in err
    if rate == 16_000:
        assert np.abs(np.frombuffer(out, "<i2").astype(int) - pcm).max() <= 1


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_on_a_microphone_gives_the_rest_of_what_was_heard():
    command = [sys.executable, "-m", "modelscope_zipenhancer", "enhance", "-", "--rate", "16000"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2])),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdin.write(bytes(2 * 40_000))
    process.stdin.flush()
    heard = process.stdout.read(2 * 10_000)  # the rest of its first chunks comes, then it waits
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    with process:
        rest, said = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130 and b"interrupted after 2.5 s, which were written" in said
    assert len(heard + rest) == 2 * 40_000


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
def test_with_stderr_closed_what_is_said_goes_nowhere_and_the_work_is_done(tmp_path):
    noisy = tmp_path / "in.wav"
    soundfile.write(noisy, noise(8000), 16_000)
    run = f"{shlex.quote(sys.executable)} -m modelscope_zipenhancer enhance"
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    for command, made in (("- < in.wav > out.wav 2>&-", "out.wav"), ("in.wav -o file.wav 2>&-", "file.wav")):
        subprocess.run(f"{run} {command}", shell=True, check=True, cwd=tmp_path, env=environment)
        assert (tmp_path / made).stat().st_size == noisy.stat().st_size


def test_a_recording_below_two_of_the_inputs_is_enhanced_once(here, identity, capsys):
    write(here / "in" / "a.wav")
    write(here / "in" / "sub" / "b.wav")
    assert enhance("in", "in/sub", "in/a.wav", "-o", "out") == 0
    assert tree(here / "out") == ["a.wav", "sub/b.wav"] and "2 of 2 done" in capsys.readouterr().out


def test_every_format_that_is_written_can_be_named():
    assert sorted(SUFFIXES) == sorted(suffix[1:] for suffix in FORMATS if suffix != ".aif")


def test_raw_pcm_can_become_a_file(identity, stdin, tmp_path):
    stdin(np.zeros(4410, "<i2").tobytes())
    assert enhance("-", "--rate", 44_100, "-o", tmp_path / "out.wav") == 0
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.frames) == (44_100, 4410)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_one_line(small_model_dir, tmp_path):
    noisy = write(tmp_path / "a.wav")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "modelscope_zipenhancer", "enhance", noisy, "-o", "-"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_a_stdin_or_stdout_that_is_closed_is_one_line(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert enhance("-", "-o", "out.wav") == 2
    assert "stdin or stdout, which is closed" in capsys.readouterr().err and not tree(here)


@pytest.mark.parametrize("arguments", [["-"], ["-", "--rate", "16000"]])
def test_an_empty_stdin_is_one_line(arguments, identity, stdin, capfd):
    stdin(b"")
    assert enhance(*arguments) == 1
    assert "zipenhancer: " in capfd.readouterr().err.splitlines()[-1]


# ---- the others --------------------------------------------------------------------------------


def test_info_is_the_models_card(small_model_dir, small_model, capsys):
    weights = (small_model_dir / "pytorch_model.bin").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert cli.main(["info", str(small_model_dir)]) == 0
    said = capsys.readouterr().out
    assert digest in said and "GFLOPs for a second" in said
    assert cli.main(["info", str(small_model_dir), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["bytes"] == len(weights) and card["sha256"] == digest
    assert card["parameters"] == sum(parameter.numel() for parameter in small_model.parameters())
    assert 1e8 < card["flops_per_second"] < 1e10
    assert cli.main(["info", "nonesuch"]) == 1


@pytest.mark.parametrize("command", [[], ["enhance"], ["info"], ["evaluate"]])
def test_help_fits_80_columns_and_documents_the_exit_codes(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and max(map(len, said.splitlines())) <= 80
    assert command not in ([], ["enhance"]) or "130  interrupted" in said


def test_only_the_command_that_is_asked_for_is_imported(run_python):
    loaded = """if True:
        import sys
        from modelscope_zipenhancer import cli
        cli.make_parser({})
        names = {{name for name in sys.modules if name.startswith("modelscope_zipenhancer.cli.")}}
        print(sorted(names), {{"numpy", "torch", "tqdm"}} & set(sys.modules))
    """
    assert run_python(loaded.format([])).strip() == "['modelscope_zipenhancer.cli.output'] set()"
    assert "'modelscope_zipenhancer.cli.enhance'" in run_python(loaded.format(["enhance"]))
    assert "set()" in run_python(loaded.format(["enhance"]))


def test_evaluate_is_a_subcommand(capsys):
    assert cli.main(["evaluate"]) == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_the_package_and_its_command_run_as_a_module():
    command = [sys.executable, "-m", "modelscope_zipenhancer", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
