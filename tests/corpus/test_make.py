"""A corpus of another: manifests in and out, parts of recordings, what is noted, what a second run does."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer.corpus import storage
from modelscope_zipenhancer.corpus.clip import read
from modelscope_zipenhancer.corpus.find import Job
from modelscope_zipenhancer.corpus.journal import Journal, read_manifest
from modelscope_zipenhancer.corpus.make import make, plan
from modelscope_zipenhancer.corpus.manifests import Manifest
from modelscope_zipenhancer.corpus.report import Result
from modelscope_zipenhancer.corpus.run import Work
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.errors import AudioError, AudioNotFoundError, OptionError, OutputError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Halved:
    """No network: half of what is read is written."""

    def __call__(self, waveform, gain=None):
        return waveform / 2


@pytest.fixture(autouse=True)
def halved(monkeypatch):
    load = classmethod(lambda cls, **arguments: cls(Halved()))
    monkeypatch.setattr(Enhancer, "from_pretrained", load)


def write(path, seconds=0.25, rate=16_000, channels=1, level=0.1):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    x = level * np.random.default_rng(len(path)).uniform(-1, 1, (round(seconds * rate), channels))
    soundfile.write(path, x, rate)
    return x


def write_rows(path, rows):
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(path):
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def corpus(*inputs, out="out", suffix=None, part=(1, 1), options=None, **more):
    """The results of a run in this process; and whether it has written the manifest."""
    made = make(
        plan(list(inputs), out, suffix),
        Work({}, options or {}),
        {"options": options or {}},
        {"model": "halved"},
        part=part,
        **more,
    )
    return [result for _, results in made for result in results]


def test_a_folder_becomes_a_folder_and_a_manifest_with_what_was_measured(here):
    write("in/loud.wav", 1.0, 24_000, 2, level=1.5)  # written in 16 bits: clipped
    write("in/sub/quiet.flac", 0.5, level=0.001)
    soundfile.write("in/silent.wav", np.zeros(1600), 16_000)
    (here / "in" / "bad.wav").write_bytes(b"x")
    assert sorted(result.status for result in corpus("in")) == ["done", "done", "done", "failed"]
    rows = {row["path"]: row for row in read_manifest("out")}
    assert list(rows) == ["bad.wav", "loud.wav", "silent.wav", "sub/quiet.flac"]
    assert all(row["model"] == "halved" and row["spent"] >= 0 for row in rows.values())
    assert rows["bad.wav"]["status"] == "failed" and "no audio" in rows["bad.wav"]["error"]
    loud = rows["loud.wav"]
    x, _ = soundfile.read("in/loud.wav")
    assert (loud["duration"], loud["sample_rate"]) == (1.0, 24_000)
    assert loud["clipped"] == np.count_nonzero(abs(x) >= 32767 / 32768) > 1000
    assert abs(loud["level_before"] - 10 * np.log10(np.mean(x**2))) < 0.01
    quiet = rows["sub/quiet.flac"]
    assert abs(quiet["level_before"] - quiet["level_after"] - 6.02) < 0.3  # 16 bits
    assert abs(quiet["noise_level"] - (quiet["level_before"] - 6.02)) < 0.02 and quiet["clipped"] == 0
    assert rows["silent.wav"]["level_before"] is rows["silent.wav"]["noise_level"] is None
    assert set(os.listdir("out/.zipenhancer")) - {"lock-1-of-1", "turn"} == {"settings.json"}


def test_nemos_manifest_comes_back_with_the_parts_as_files_of_their_own(here):
    x = write("data/wavs/a.wav", 3.0)
    write("data/b.wav", 0.5)
    rows = [
        {"audio_filepath": "wavs/a.wav", "offset": 0.5, "duration": 1.25, "text": "ä"},
        {"audio_filepath": "b.wav", "duration": 0.5, "text": "whole"},
        {"audio_filepath": "wavs/a.wav", "offset": 1.5, "duration": 1.0, "text": "another"},
        {"audio_filepath": "wavs/a.wav", "offset": 0.5, "duration": 1.25, "text": "the first again"},
        {"audio_filepath": "missing.wav", "duration": 1, "text": "lost"},
        {"audio_filepath": "wavs/a.wav", "offset": 2.5, "duration": 2.0, "text": "beyond the end"},
    ]
    write_rows("data/train.json", rows)
    results = corpus("data/train.json")
    assert len(results) == 5 and [result.status for result in results].count("failed") == 1
    assert "1.50 s are missing" in next(r for r in results if r.warnings).warnings[0]
    first = "out/wavs/a-000000500-000001750.wav"
    enhanced = read_rows("out/train.json")
    assert enhanced[0] == {"audio_filepath": first, "offset": 0.0, "duration": 1.25, "text": "ä"}
    assert enhanced[1] == {"audio_filepath": "out/b.wav", "duration": 0.5, "text": "whole"}
    assert [row["text"] for row in enhanced[2:]] == ["another", "the first again", "beyond the end"]
    assert enhanced[3]["audio_filepath"] == first and enhanced[4]["duration"] == 0.5
    y, rate = soundfile.read(first)
    assert rate == 16_000 and np.max(abs(y - x[8000:28_000, 0] / 2)) < 2**-14


def test_a_part_of_a_file_whose_header_says_nothing_of_its_length_is_there(here):
    x = write("whole.wav", 3.0)
    data = (here / "whole.wav").read_bytes()
    size = data.index(b"data") + 4
    (here / "in.wav").write_bytes(data[:size] + bytes(4) + data[size + 4 :])  # of a recorder that was cut off
    part = read(Job("in.wav", "out.wav", False, 1.0, 1.5), {})
    assert np.max(abs(part.samples[:, 0] - x[16_000:40_000, 0])) < 2**-14


def recording(name, path, seconds, channels=1, **more):
    source = {"type": "file", "channels": list(range(channels)), "source": path}
    samples = round(seconds * 16_000)
    numbers = {"sampling_rate": 16_000, "num_samples": samples, "duration": seconds}
    return {"id": name, "sources": [source], **numbers, **more}


def test_lhotses_recordings_and_cuts_come_back_in_their_form(here):
    write("a.wav", 2.0, channels=2)
    write_rows("recordings.jsonl.gz", [recording("rec", "a.wav", 2.0, 2)])
    corpus("recordings.jsonl.gz", suffix=".flac", options={"output_rate": 8000})
    (row,) = read_rows("out/recordings.jsonl.gz")
    new = {"sampling_rate": 8000, "num_samples": 16_000}
    assert row == recording("rec", "out/a.flac", 2.0, 2) | new
    assert soundfile.info("out/a.flac").channels == 2

    supervision = {
        "id": "s",
        "recording_id": "rec",
        "start": 0.1,
        "duration": 0.5,
        "channel": 1,
        "text": "hi",
    }
    cut = {"id": "cut", "start": 0.5, "duration": 1.0, "channel": 1, "supervisions": [supervision]}
    cut |= {"recording": recording("rec", "a.wav", 2.0, 2), "type": "MonoCut", "custom": {"x": 1}}
    write_rows("cuts.jsonl", [cut])
    corpus("cuts.jsonl", out="cuts")
    (row,) = read_rows("cuts/cuts.jsonl")
    path = "cuts/a-000000500-000001500-c1.wav"
    assert row["recording"] == recording("cut", path, 1.0) and row["custom"] == {"x": 1}
    assert (row["start"], row["duration"], row["channel"], row["type"]) == (0.0, 1.0, 0, "MonoCut")
    assert row["supervisions"] == [supervision | {"recording_id": "cut", "channel": 0}]
    assert soundfile.info(path).frames == 16_000 and soundfile.info(path).channels == 1


def test_lhotse_itself_reads_what_came_back(here):
    lhotse = pytest.importorskip("lhotse", reason="lhotse isn't installed")
    write("a.wav", 2.0, channels=2)
    made = lhotse.Recording.from_file("a.wav")
    cut = made.to_cut().truncate(offset=0.5, duration=1.0)
    lhotse.RecordingSet.from_recordings([made]).to_file("recordings.jsonl.gz")
    lhotse.CutSet.from_cuts([cut]).to_file("cuts.jsonl.gz")
    corpus("recordings.jsonl.gz", out="whole")
    corpus("cuts.jsonl.gz", out="parts")
    (whole,) = lhotse.RecordingSet.from_file("whole/recordings.jsonl.gz")
    (part,) = lhotse.CutSet.from_file("parts/cuts.jsonl.gz")
    lhotse.validate(whole)
    lhotse.validate(part)
    x = made.load_audio()
    assert np.max(np.abs(whole.load_audio() - x / 2)) < 2**-14
    assert np.max(np.abs(part.load_audio() - x[:, 8000:24_000] / 2)) < 2**-14


def test_a_table_keeps_its_columns_and_its_delimiter(here):
    write("a.wav")
    write("b.mp3" if "MP3" in soundfile.available_formats() else "b.wav")
    for name, delimiter in (("t.csv", ","), ("t2.csv", "|"), ("t.tsv", "\t")):
        with open(name, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter=delimiter)
            table.writerows([["speaker", "path", "text"], ["x", "a.wav", 'a, "b" | c\td']])
        corpus(name, out="o" + name)
        with open(f"o{name}/{name}", newline="", encoding="utf-8") as file:
            assert list(csv.reader(file, delimiter=delimiter)) == [
                ["speaker", "path", "text"],
                ["x", f"o{name}/a.wav", 'a, "b" | c\td'],
            ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"text": "x"}', "row 1: no field has the recording's path"),
        ('{"audio_filepath": "a.wav", "offset": "x"}', "row 1: ValueError"),
        ("[1]", "line 1 is no row in JSON: it is no object"),
        ('{"audio_filepath"', "line 1 is no row in JSON"),
        ('{"id": "m", "type": "MixedCut", "tracks": []}', "a MixedCut is no part of one recording"),
        ('{"id": "s", "recording_id": "r"}', "a supervision has no audio"),
        (
            '{"audio_filepath": "a.wav", "offset": -0.2, "duration": 0.1}',
            "offset -0.2, duration 0.1: 0 or more",
        ),
        ('{"audio_filepath": "a.wav", "offset": NaN}', "offset nan"),
        ('{"audio_filepath": "a.wav", "offset": 0, "duration": 1e999}', "duration inf"),
        ('{"id": "r", "sources": [{"type": "command", "source": "x", "channels": [0]}]}', "are command"),
    ],
)
def test_a_row_that_names_no_recording_is_refused_with_its_number(here, row, said):
    (here / "rows.jsonl").write_text(row + "\n")
    with pytest.raises(AudioError, match=said):
        plan(["rows.jsonl"], "out")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", b"path,text\na.wav,fine\nb.wav,Hello, world\n", "row 2 has more fields than the header"),
        ("rows.csv", b'path,text\na.wav,"Well\nb.wav,fine\n', "row 1 is no row of a table"),
        ("rows.csv", b"path,text\na.wav," + b"x" * 140_000 + b"\n", "row 1 is no row of a table"),
        ("rows.jsonl.gz", gzip.compress(b'{"path": "a.wav"}\n')[:-9], "rows.jsonl.gz' can't be read"),
        ("rows.jsonl.gz", b'{"path": "a.wav"}\n', "rows.jsonl.gz' can't be read"),
    ],
)
def test_a_manifest_that_can_not_be_read_is_refused_before_the_work(here, name, content, said):
    (here / name).write_bytes(content)
    with pytest.raises(AudioError, match=said):
        plan([name], "out")


def test_half_a_pair_of_surrogates_and_parts_that_round_alike_come_back(here):
    write("a.wav")
    rows = [{"path": "a.wav", "offset": 0.1 + 0.2, "duration": 0.1, "text": "cut \ud83d"}]
    rows.append(rows[0] | {"offset": 0.3, "text": "Größe"})
    write_rows("m.jsonl", rows)
    with pytest.raises(AudioError, match="ends before"):
        raise AudioError(corpus("m.jsonl", out="beyond")[0].error)
    for row in rows:
        row["offset"] -= 0.2
    write_rows("m.jsonl", rows)
    assert len(corpus("m.jsonl")) == 1
    assert [row["text"] for row in read_rows("out/m.jsonl")] == ["cut \ud83d", "Größe"]
    assert "Größe" in (here / "out/m.jsonl").read_text(encoding="utf-8")


def test_nothing_that_is_read_is_written_over_however_it_is_called(here):
    pytest.importorskip("fsspec")
    write("in/a.wav")
    before = (here / "in" / "a.wav").read_bytes()
    there = f"file://{here}/in"
    for source, out in ((there, there), ("in", f"file://{here}/x/../in"), (there, "in"), ("in/*.wav", "in")):
        with pytest.raises((OptionError, OutputError), match="is an input: name|is the input: name"):
            corpus(source, out=out)
    write_rows("m.jsonl", [{"path": "in/a.wav"}])
    for out in (".", "in/..", str(here)):
        with pytest.raises(OptionError, match="the folder of the manifest"):
            corpus("m.jsonl", out=out)
    corpus("in")
    with pytest.raises(OptionError, match="rename 'out/zipenhancer.jsonl'"):
        corpus("out/zipenhancer.jsonl", out="out2")
    assert (here / "in" / "a.wav").read_bytes() == before


def test_outputs_below_the_input_are_no_inputs_of_the_next_run(here):
    pytest.importorskip("fsspec")
    write("in/a.wav")
    for source, out in (("in/**/*.wav", "in/out"), (f"file://{here}/in", f"file://{here}/in/out")):
        assert [result.status for result in corpus(source, out=out)] == ["done"]
        assert corpus(source, out=out) == []
        shutil.rmtree(here / "in" / "out")


def test_a_table_of_tabs_may_have_quotes_as_they_are(here):
    write("a.wav")
    write("b.wav")
    rows = 'path\ttext\na.wav\t"Well\nb.wav\t"Yes," he said.\n'
    (here / "m.tsv").write_text(rows)
    assert len(corpus("m.tsv")) == 2
    assert (here / "out" / "m.tsv").read_text() == rows.replace("a.wav", "out/a.wav").replace(
        "b.wav", "out/b.wav"
    )


def test_inputs_that_can_not_be_are_refused(here):
    write("a.wav")
    write_rows("m.jsonl", [{"path": "a.wav"}])
    with pytest.raises(OptionError, match="give it alone"):
        plan(["m.jsonl", "a.wav"], "out")
    with pytest.raises(OptionError, match="the folder of the manifest"):
        plan(["m.jsonl"], "")
    (here / "empty.jsonl").write_text("\n")
    with pytest.raises(AudioNotFoundError, match="has no rows"):
        plan(["empty.jsonl"], "out")
    with pytest.raises(AudioNotFoundError, match="no file at 'none.jsonl'"):
        plan(["none.jsonl"], "out")


def test_a_path_outside_of_the_manifests_folder_keeps_its_folders(here):
    write("other/a.wav")
    write_rows("m.jsonl", [{"path": str(here / "other" / "a.wav")}, {"path": "s3://bucket/x/b.opus"}])
    os.mkdir("manifests")
    os.rename("m.jsonl", "manifests/m.jsonl")
    inside, far = Manifest("manifests/m.jsonl").jobs("out")
    assert inside.output == f"out{here}/other/a.wav" and far.output == "out/bucket/x/b.opus"


def test_a_second_run_does_nothing_or_what_is_new_or_gone_or_failed(here):
    for i in range(3):
        write(f"in/{i}.wav")
    (here / "in" / "9.wav").write_bytes(b"x")
    assert len(corpus("in")) == 4
    before = (here / "out" / "zipenhancer.jsonl").read_text()
    assert corpus("in") == []
    assert (here / "out" / "zipenhancer.jsonl").read_text() == before
    os.unlink("out/1.wav")
    write("in/3.wav")
    assert sorted(result.source for result in corpus("in")) == ["in/1.wav", "in/3.wav"]
    assert [row["path"] for row in read_manifest("out")] == ["0.wav", "1.wav", "2.wav", "3.wav", "9.wav"]
    write("in/9.wav")
    assert corpus("in") == []
    assert [result.status for result in corpus("in", retry_failed=True)] == ["done"]
    assert all(row["status"] == "done" for row in read_manifest("out"))


def test_another_recording_of_the_same_name_is_refused(here):
    write("one/x.wav")
    write("two/x.wav", level=0.2)
    corpus("one")
    with pytest.raises(
        OptionError, match="'out/x.wav' has been made of 'one/x.wav', now it would be of 'two/x.wav'"
    ):
        corpus("two")
    assert corpus(str(here / "one")) == []  # the same by another name


def test_a_folder_that_takes_one_input_after_another_has_rows_of_all_that_is_there(here):
    write("one/x.wav")
    write("two/y.wav")
    for folder in ("one", "two"):
        assert len(corpus(folder)) == 1
    assert [row["path"] for row in read_manifest("out")] == ["x.wav", "y.wav"]
    assert corpus("one") == corpus("two") == []
    os.unlink("out/y.wav")
    assert len(corpus("one", retry_failed=True)) == 0
    assert [row["path"] for row in read_manifest("out")] == ["x.wav"]


def test_a_row_that_a_kill_cut_off_counts_for_nothing(here):
    for i in range(3):
        write(f"in/{i}.wav")
    planned = plan(["in"], "out")
    with Journal("out", {"options": {}}, (1, 1), {}) as journal:
        for job in planned.jobs[:2]:
            write(job.output)
            journal.add(job, [])
    (name,) = (name for name in os.listdir("out/.zipenhancer") if name.endswith("jsonl"))
    rows = [{"path": "0.wav", "status": "done"}], [{"path": "1.wav", "status": "done"}]
    with open(f"out/.zipenhancer/{name}", "w") as file:
        file.write(json.dumps(rows[0]) + "\n" + json.dumps(rows[1])[:-5])
    assert sorted(result.source for result in corpus("in")) == ["in/1.wav", "in/2.wav"]


def test_what_killed_runs_had_begun_to_write_is_removed_whatever_it_was_of(here):
    for i in range(2):
        write(f"in/{i}.wav")
    write_rows("in/m.jsonl", [{"path": "0.wav"}, {"path": "1.wav"}])
    corpus("in/m.jsonl")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    begun = ["0.wav", "zipenhancer.jsonl", "m.jsonl", ".zipenhancer/settings.json"]
    for name in begun:
        (here / "out" / f"{name}.{ended.pid}-1.part").write_text("half")
    assert corpus("in/m.jsonl") == []  # they are of what is done
    assert not list((here / "out").rglob("*.part"))


def test_other_settings_in_the_same_folder_are_refused_and_so_is_another_run(here):
    write("in/a.wav")
    corpus("in")
    with pytest.raises(OptionError, match="was made with options {}, now it is {'strength': 12}"):
        corpus("in", options={"strength": 12})
    if os.name != "nt":
        with (
            Journal("out", {"options": {}}, (1, 1), {}),
            pytest.raises(OptionError, match="another run is at work"),
        ):
            corpus("in")


def test_parts_share_the_work_and_the_last_one_writes_the_manifest(here):
    for i in range(5):
        write(f"in/{i}.wav")
    assert len(corpus("in", part=(1, 2))) == 3
    assert not os.path.exists("out/zipenhancer.jsonl")
    assert len(corpus("in", part=(2, 2))) == 2
    assert [row["path"] for row in read_manifest("out")] == [f"{i}.wav" for i in range(5)]
    assert corpus("in") == []


def test_what_a_part_finds_out_counts_more_than_what_an_earlier_run_did(here):
    write("in/a.wav")
    corpus("in")
    os.unlink("out/a.wav")
    (here / "in" / "a.wav").write_bytes(b"no audio any more")
    assert [result.status for result in corpus("in", part=(1, 2))] == ["failed"]
    assert corpus("in", part=(2, 2)) == []
    assert [row["status"] for row in read_manifest("out")] == ["failed"]


@pytest.mark.skipif(os.name == "nt", reason="locks of Unix")
def test_a_part_that_ends_while_another_is_at_work_leaves_the_manifest_to_it(here):
    for i in range(2):
        (here / "in").mkdir(exist_ok=True)
        (here / "in" / f"{i}.wav").write_bytes(b"x")
    assert [result.status for result in corpus("in")] == ["failed"] * 2
    for i in range(2):
        write(f"in/{i}.wav")
    planned = plan(["in"], "out")
    with Journal("out", {"options": {}}, (2, 2), {"model": "halved"}) as other:
        assert [result.status for result in corpus("in", part=(1, 2), retry_failed=True)] == ["done"]
        with pytest.raises(OptionError, match="another run is at work"):
            corpus("in")  # which shares the work otherwise
        write(planned.jobs[1].output)
        other.add(planned.jobs[1], [Result("in/1.wav", "out/1.wav", "done")])
        assert other.finish(planned.jobs)
    assert [row["status"] for row in read_manifest("out")] == ["done"] * 2


def test_what_may_pass_is_tried_again_and_what_is_in_the_recording_is_not(here, monkeypatch):
    monkeypatch.setattr("modelscope_zipenhancer.corpus.clip.PAUSE", 0.001)
    calls = []

    class Moody(Halved):
        def __call__(self, waveform, gain=None):
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("CUDA error: one batch")
            return super().__call__(waveform)

    monkeypatch.setattr(Enhancer, "from_pretrained", classmethod(lambda cls, **_: cls(Moody())))
    for i in range(3):
        write(f"in/{i}.wav")
    (here / "in" / "9.wav").write_bytes(b"x")
    from modelscope_zipenhancer.corpus.clip import run_job

    jobs = plan(["in"], "out").jobs
    results = [run_job(Enhancer.from_pretrained(), job, {}, retries=1) for job in jobs]
    assert [result.status for result in results] == ["done", "done", "done", "failed"] and len(calls) == 4
    calls[:] = [1]
    assert "RuntimeError: CUDA error: one batch" in run_job(Enhancer(Moody()), jobs[0], {}).error


def test_a_corpus_elsewhere_is_read_and_written_by_fsspec(here):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for i in range(2):
        write(f"in/{i}.wav")
        memory.put_file(f"in/{i}.wav", f"/raw/sub/{i}.wav")
    rows = [{"audio_filepath": "memory://raw/sub/1.wav", "offset": 0.1, "duration": 0.1}]
    write_rows("m.jsonl", rows)
    memory.put_file("m.jsonl", "/raw/m.jsonl")
    try:
        for out in ("memory://clean", f"file://{here}/clean", "clean3"):
            assert [result.status for result in corpus("memory://raw", out=out)] == ["done", "done"]
            assert [row["path"] for row in read_manifest(out)] == ["sub/0.wav", "sub/1.wav"]
            assert corpus("memory://raw", out=out) == []
            with storage.open_source(storage.join(out, "sub/0.wav")) as file:
                assert file.read() == (here / "clean3/sub/0.wav").read_bytes() if out == "clean3" else file
        assert not [name for name in memory.find("/clean") if name.endswith(".part")]
        assert not list(here.rglob("*.part"))
        corpus("memory://raw/m.jsonl", out="parts")
        (row,) = read_rows("parts/m.jsonl")
        assert soundfile.info(row["audio_filepath"]).frames == 1600
    finally:
        memory.rm("/", recursive=True)


def test_a_corpus_elsewhere_is_resumed_from_the_rows_that_were_written(here):
    fsspec = pytest.importorskip("fsspec")
    for i in range(3):
        write(f"in/{i}.wav")
    try:
        planned = plan(["in"], "memory://kept")
        made = make(planned, Work({}), {"options": {}}, {"model": "halved"})
        next(made)
        made.close()
        assert len(corpus("in", out="memory://kept")) == 2
    finally:
        fsspec.filesystem("memory").rm("/", recursive=True)


def test_recordings_of_several_places_elsewhere_have_an_order_and_an_output_each(here):
    pytest.importorskip("fsspec")
    places = [f"file://{here}/{name}" for name in "cabd"]
    for i, name in enumerate("cabd"):
        write(f"{name}/{i}.wav")
    assert [job.output for job in plan(places, "out").jobs] == [f"out/{i}.wav" for i in range(4)]
    write("a/0.wav")
    for inputs in (places, ["c", places[1]], [places[0], "a/0.wav"]):
        with pytest.raises(OptionError, match="would both become 'out/0.wav'"):
            plan(inputs, "out")


def test_recordings_of_one_name_here_and_elsewhere_get_an_output_each_as_those_of_one_place_do(here):
    pytest.importorskip("fsspec")
    write("here/talk.flac")
    write("there/talk.wav")
    jobs = plan(["here", f"file://{here}/there"], "out", ".wav").jobs
    assert [job.output for job in jobs] == ["out/talk_flac.wav", "out/talk.wav"]


def test_a_journal_that_another_part_has_only_opened_so_far_is_read_whole_later(here):
    write("in/a.wav")
    write("in/b.wav")
    jobs = plan(["in"], "out").jobs
    with Journal("out", {}, (1, 2), {}) as first:
        journal = f"out/.zipenhancer/{0:020d}-1-000000.jsonl"
        first._file = os.open(
            journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )  # what it does before its first row
        with Journal("out", {}, (2, 2), {}) as second:
            for part, job in zip((first, second), jobs):
                write(job.output)
                part.add(job, [Result(job.source, job.output, "done", 1.0)])
            assert first.finish(jobs) or second.finish(jobs)
    assert [row["path"] for row in read_rows("out/zipenhancer.jsonl")] == ["a.wav", "b.wav"]


def test_jobs_of_a_plan_are_in_the_inputs_order_and_a_recording_is_there_once(here):
    for name in ("b", "a"):
        write(f"in/{name}.wav")
    jobs = plan(["in", "in/a.wav"], "out").jobs
    assert [job.source for job in jobs] == ["in/a.wav", "in/b.wav"]
    assert replace(plan(["in"], "out"), out="x").jobs == jobs
