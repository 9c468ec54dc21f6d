"""`zipenhancer corpus`: what it says, and what it refuses. The work is tested in tests/corpus."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer import cli
from modelscope_zipenhancer.cli.corpus import hash_of
from modelscope_zipenhancer.cli.progress import Progress
from modelscope_zipenhancer.corpus.report import Result
from modelscope_zipenhancer.files import sha256


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for i in range(2):
        soundfile.write(f"in/{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(3000), 24_000)
    return tmp_path


def corpus(*arguments):
    return cli.main(["corpus", *map(str, arguments)])


def test_it_enhances_says_so_and_notes_the_model(here, capsys, quick_model_dir):
    assert corpus("in", "-o", "out", "--model", quick_model_dir, "--jobs", 1, "--format", "flac") == 0
    assert capsys.readouterr().out.startswith("2 done: 0.2 s of audio enhanced in")
    with open("out/zipenhancer.jsonl") as file:
        rows = list(map(json.loads, file))
    assert [row["path"] for row in rows] == ["0.flac", "1.flac"] and len(rows[0]["model_hash"]) == 64
    assert soundfile.info("out/0.flac").samplerate == 24_000
    assert corpus("in", "-o", "out", "--model", quick_model_dir, "--format", "flac") == 0
    assert capsys.readouterr().out == "0 done, 2 done before or another part's\n"
    assert corpus("in", "-o", "out", "--model", quick_model_dir, "--format", "flac", "--strength", 6) == 2
    assert "was made with strength None, now it is 6.0" in capsys.readouterr().err


def test_what_failed_before_is_said_and_is_no_success(here, capsys, quick_model_dir):
    (here / "in" / "0.wav").write_bytes(b"no audio")
    command = ("in", "-o", "out", "--model", quick_model_dir)
    assert corpus(*command, "--jobs", 1) == 1
    capsys.readouterr()
    assert corpus(*command) == 1
    said = "0 done, 1 done before or another part's, 1 failed before (--retry-failed does them again)\n"
    assert capsys.readouterr().out == said


def test_dry_run_does_nothing(here, capsys):
    assert corpus("in", "-o", "out", "--dry-run", "--format", "flac") == 0
    assert capsys.readouterr().out == "in/0.wav -> out/0.flac\nin/1.wav -> out/1.flac\n"
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "moon"], "--where moon: local or ray"),
        (["--jobs", "0"], "--jobs 0"),
        (["--patience", "2"], "--patience 2: 3 seconds or more"),
        (["--retries", "-1"], "--retries -1"),
        (["--model", "nonesuch"], "unknown model 'nonesuch'"),
        (["--sample-rate", "7"], "a sample rate of 7 Hz"),
    ],
)
def test_called_wrongly_it_says_so_and_does_nothing(here, capsys, arguments, said):
    assert corpus("in", "-o", "out", *arguments) in (1, 2)
    assert said in capsys.readouterr().err and not (here / "out").exists()


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b"])
def test_a_part_that_can_not_be_is_refused(here, capsys, part):
    with pytest.raises(SystemExit):
        corpus("in", "-o", "out", "--part", part)
    assert "I/N, as in 3/16" in capsys.readouterr().err


def test_progress_has_hours_rtf_failures_and_the_remaining_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Progress(10) as progress:
        progress.skip()
        now[0] += 36.0
        progress.finish([Result("a", "b", "done", 3600.0), Result("c", "d", "failed")])
        assert progress.text() == "2/10, 1.00 h of audio, RTF 0.0100, 1 failed, 04:48 left"


def test_the_model_hash_is_that_of_the_file_that_runs(quick_model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(quick_model_dir, folder)
    (folder / "model.onnx").write_bytes(b"a graph")
    assert hash_of(str(folder), "torch") == sha256(folder / "pytorch_model.bin")
    assert hash_of(str(folder), "onnx") == sha256(folder / "model.onnx")
    (folder / "model.onnx").rename(folder / "onnx_model.onnx")  # the model card's
    assert hash_of(str(folder), "onnx") == sha256(folder / "onnx_model.onnx")
