"""Which recordings become which outputs, what of them is done, and what is said of each."""

import json
import os
import sys
import time

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer.corpus.find import Job, find_jobs, refuse_inputs_as_outputs, split_done
from modelscope_zipenhancer.corpus.report import Result, Summary, write_report
from modelscope_zipenhancer.corpus.run import Work, run
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.errors import OptionError, OutputError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def identity(monkeypatch):
    """No network: what is read is written."""
    load = classmethod(lambda cls, **arguments: cls(lambda waveform, gain=None: waveform))
    monkeypatch.setattr(Enhancer, "from_pretrained", load)


def touch(*names) -> None:
    for name in names:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        open(name, "w").close()


def outputs(*inputs, output="out", suffix=None) -> dict:
    return {job.source: job.output for job in find_jobs(list(inputs), output, suffix)}


def test_two_of_one_name_get_names_of_their_own_and_the_plain_one_is_for_its_own_suffix(here):
    touch("in/talk.m4a", "in/talk.wav", "in/sub/talk.amr", "in/sub/talk.wma", "in/alone.m4a")
    assert outputs("in") == {
        "in/alone.m4a": "out/alone.wav",
        "in/talk.m4a": "out/talk_m4a.wav",
        "in/talk.wav": "out/talk.wav",
        "in/sub/talk.amr": "out/sub/talk.wav",
        "in/sub/talk.wma": "out/sub/talk_wma.wav",
    }
    assert [job.source for job in find_jobs(["in"], "out") if job.renamed] == [
        "in/talk.m4a",
        "in/sub/talk.wma",
    ]
    touch("in/a.WAV", "in/a.wav")
    assert outputs("in/a.wav", "in/a.WAV") == {"in/a.wav": "out/a.wav", "in/a.WAV": "out/a_WAV.wav"}
    assert outputs("in/a.wav", "in/a.m4a", output=None)["in/a.m4a"] == "a_enhanced_m4a.wav"


def test_a_recording_that_is_given_twice_is_enhanced_once(here):
    touch("in/a.wav")
    os.symlink("in", "link")
    assert outputs("in", "in/a.wav", "link/a.wav") == {"in/a.wav": "out/a.wav"}


def test_two_that_can_not_be_told_apart_by_their_suffixes_are_refused_with_the_remedy(here):
    touch("in/a.wav", "in/sub/a.wav", "in/b.wav", "in/b.m4a", "in/b_m4a.wav")
    with pytest.raises(OptionError, match="both become 'out/a.wav': .* give the folder that holds both"):
        outputs("in/a.wav", "in/sub/a.wav")
    with pytest.raises(OptionError, match="both become 'out/b.wav'"):
        outputs("in")
    os.remove("in/b.m4a")
    assert len(outputs("in")) == 4


def test_what_an_earlier_run_made_of_this_folder_is_no_recording_of_it(here):
    touch("a.wav", f"{here.name}_enhanced/a.wav")
    assert outputs(".", output=None) == {"./a.wav": f"{here.name}_enhanced/a.wav"}


def test_an_output_that_is_an_input_by_another_name_is_refused(here):
    touch("in/a.wav", "in/b.wav", "out/c.wav")
    os.symlink(os.path.abspath("in"), "in2")
    os.symlink(os.path.abspath("in/b.wav"), "out/b.wav")
    os.symlink(os.path.abspath("out/c.wav"), "in/c.wav")
    for source, output in (("in/a.wav", "in2/a.wav"), ("in/b.wav", "out/b.wav"), ("in/c.wav", "out/c.wav")):
        with pytest.raises(OutputError, match="is the input"):
            refuse_inputs_as_outputs([Job(source, output)])
    refuse_inputs_as_outputs([Job("in/a.wav", "out/a.wav"), Job("http://x/y.wav", "y.wav")])


def test_what_is_done_is_found_out_by_a_look_into_each_folder(here, monkeypatch):
    jobs = [Job(f"in/{i}.wav", f"out/{i % 10}/{i}.wav") for i in range(20_000)]
    for i in range(0, 20_000, 40):
        touch(jobs[i].output)
    os.mkdir("out/1")
    os.symlink("nowhere", "out/1/1.wav")
    looks, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looks.append(folder) or scandir(folder))
    started = time.process_time()
    todo, done = split_done(jobs)
    assert time.process_time() - started < 2  # 0.05 here; a set for each job took minutes
    assert done == jobs[::40] and len(todo) == 20_000 - len(done) and len(looks) == 10


def results(jobs, **options):
    return [result for _, ended in run(jobs, Work({}, options)) for result in ended]


def test_a_warning_is_in_the_result_and_an_option_for_writing_reaches_the_file(here, identity):
    loud = np.random.default_rng(0).uniform(-1.5, 1.5, 1600)
    soundfile.write("loud.wav", loud, 16_000, subtype="FLOAT")
    jobs = [Job("loud.wav", "out/loud.wav"), Job("missing.wav", "out/missing.wav")]
    done, missing = results(jobs)
    assert "beyond full scale" in done.warnings[0] and done.status == "done"
    assert missing.status == "failed" and not missing.warnings
    (kept,) = results(jobs[:1], bits="32f")
    assert not kept.warnings and soundfile.read("out/loud.wav")[0].max() > 1.3


def test_a_cut_recording_is_enhanced_with_a_warning_and_refused_if_strict(here, identity):
    soundfile.write("cut.wav", np.zeros(16_000, np.float32) + 0.1, 16_000)
    os.truncate("cut.wav", 20_000)
    (result,) = results([Job("cut.wav", "out.wav")])
    assert result.status == "done" and "are missing: the file was cut off" in result.warnings[0]
    for seconds in (None, 1.0):  # the whole, and a part that goes beyond what is there
        (result,) = results([Job("cut.wav", "out.wav", seconds=seconds)], strict=True)
        assert result.status == "failed" and "cut off" in result.error
    (result,) = results([Job("cut.wav", "out.wav", seconds=0.5)], strict=True)
    assert result.status == "done"


def test_a_folder_a_file_and_a_glob_by_file_urls_are_as_by_their_paths(here):
    os.mkdir("in")
    for name in ("a.wav", "b c.wav"):
        touch(f"in/{name}")
    for item in ("in", "in/b c.wav", "in/*.wav"):
        url = f"file://{here}/{item}"
        for output in (None, "out", "out/", "in", "."):
            if (item, output) == ("in/b c.wav", "out"):
                continue
            by_path, by_url = (find_jobs([one], output, ".flac") for one in (str(here / item), url))
            assert by_url == by_path


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
def test_a_latin_1_name_is_enhanced_and_comes_back_from_the_report(here, identity):
    soundfile.write("a.wav", np.zeros(1600) + 0.1, 16_000)
    os.mkdir("in")
    os.rename(b"a.wav", b"in/caf\xe9.wav")
    (done,) = results(find_jobs(["in"], "out"))
    assert done.status == "done", done
    assert os.listdir(b"out") == [b"caf\xe9.wav"]
    write_report("report.json", Summary(1, [done]), "tiny", "torch", {})
    with open("report.json", encoding="utf-8") as file:
        (result,) = json.load(file)["results"]
    assert os.fsencode(result["output"]) == b"out/caf\xe9.wav"


def test_a_summary_counts_by_status():
    results = [Result("a", "b", status, seconds=1.0) for status in ("done", "done", "failed", "skipped")]
    summary = Summary(5, results)
    assert summary.counts == {"done": 2, "failed": 1, "skipped": 1} and summary.audio_seconds == 4


def test_an_unknown_place_is_refused_before_anything_is_loaded():
    with pytest.raises(OptionError, match="where='moon': 'local'"):
        run([], Work({}), where="moon")
