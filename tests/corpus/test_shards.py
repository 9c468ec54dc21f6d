"""Tar shards, Parquet files and datasets: shards of the same form, whole or not there, and their manifest."""

import contextlib
import errno
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modelscope_zipenhancer.corpus import storage
from modelscope_zipenhancer.corpus.journal import read_manifest
from modelscope_zipenhancer.corpus.make import make, plan
from modelscope_zipenhancer.corpus.run import Work
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.errors import AudioError, OptionError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load = classmethod(lambda cls, **arguments: cls(lambda waveform, gain=None: waveform / 2))
    monkeypatch.setattr(Enhancer, "from_pretrained", load)
    return tmp_path


def audio(seed, samples=1600, rate=16_000, suffix="wav"):
    file = io.BytesIO()
    x = 0.2 * np.random.default_rng(seed).uniform(-1, 1, samples)
    soundfile.write(file, x, rate, format=suffix.upper())
    return file.getvalue()


def decoded(data):
    return soundfile.read(io.BytesIO(data))


def write_tar(path, members, mode="w"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1_700_000_000, 0o640
            tar.addfile(info, io.BytesIO(data))


def read_tar(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def corpus(*inputs, out="out", suffix=None, column=None, options=None, **more):
    planned = plan(list(inputs), out, suffix, column)
    made = make(planned, Work({}, options or {}), {}, {"model": "halved"}, **more)
    return [result for _, results in made for result in results]


def test_a_tar_keeps_its_samples_and_their_order_and_a_broken_sample_is_left_out():
    members = {
        "a.json": b"{}",
        "a.wav": audio(1),
        "sub/b.flac": audio(2, suffix="flac"),
        "sub/b.txt": b"said",
        "c.wav": b"broken",
        "c.txt": b"lost",
        "d.seg.wav": audio(3, rate=24_000),
    }
    write_tar("shards/x-0.tar", members)
    write_tar("shards/x-1.tar.gz", {"e.wav": audio(4)}, "w:gz")
    results = corpus("shards")
    assert [result.status for result in results].count("failed") == 1 and len(results) == 5
    new = read_tar("out/x-0.tar")
    assert list(new) == ["a.json", "a.wav", "sub/b.flac", "sub/b.txt", "d.seg.wav"]
    assert new["a.json"] == b"{}" and new["sub/b.txt"] == b"said"
    for name in ("a.wav", "sub/b.flac", "d.seg.wav"):
        (x, rate), (y, out_rate) = decoded(members[name]), decoded(new[name])
        assert rate == out_rate and len(x) == len(y)
        assert rate > 16_000 or np.max(np.abs(y - x / 2)) < 2**-14
    with tarfile.open("out/x-0.tar") as tar:
        assert {(member.mtime, member.mode) for member in tar} == {(1_700_000_000, 0o640)}
    assert list(read_tar("out/x-1.tar")) == ["e.wav"]
    rows = list(read_manifest("out"))
    assert [row["path"] for row in rows] == ["a.wav", "sub/b.flac", "c.wav", "d.seg.wav", "e.wav"]
    assert {row["shard"] for row in rows[:4]} == {"x-0.tar"} and rows[2]["status"] == "failed"
    assert rows[0]["source"] == "shards/x-0.tar/a.wav" and rows[3]["sample_rate"] == 24_000


def test_a_tar_that_can_not_be_read_any_more_is_no_output_that_can_not_be_written(monkeypatch):
    write_tar("in/x.tar", {f"{i}.wav": audio(i, samples=40_000) for i in range(4)})
    opened = storage.open_source

    class Worn:
        def __init__(self, file):
            self.file = file

        def read(self, size):
            if self.file.tell() > 100_000:
                raise OSError(errno.EIO, "Input/output error")
            return self.file.read(size)

    @contextlib.contextmanager
    def open_worn(path):
        with opened(path) as file:
            yield Worn(file) if path == "in/x.tar" else file

    monkeypatch.setattr(storage, "open_source", open_worn)
    shard = plan(["in/x.tar"], "out").jobs[0]
    with pytest.raises(AudioError, match="'in/x.tar' can't be read: Input/output error"):
        shard.enhance(Enhancer.from_pretrained(), {})
    assert not os.path.exists("out/x.tar")


def test_shards_are_done_once_and_again_when_they_are_gone_and_are_the_same():
    for i in range(3):
        write_tar(f"shards/{i}.tar", {f"{i}{j}.wav": audio(10 * i + j) for j in range(3)})
    assert len(corpus("shards/*.tar")) == 9
    first = {name: Path("out", name).read_bytes() for name in ("0.tar", "1.tar", "2.tar")}
    manifest = list(read_manifest("out"))
    assert corpus("shards/*.tar") == []
    os.unlink("out/1.tar")
    assert len(corpus("shards/*.tar")) == 3
    assert {name: Path("out", name).read_bytes() for name in first} == first
    again = list(read_manifest("out"))
    assert [row | {"spent": 0} for row in again] == [row | {"spent": 0} for row in manifest]


def test_a_tar_that_is_cut_off_is_no_shard_and_leaves_nothing():
    write_tar("shards/0.tar", {"a.wav": audio(1, 50_000), "b.wav": audio(2, 50_000)})
    os.truncate("shards/0.tar", 150_000)
    write_tar("shards/1.tar", {"c.wav": audio(3)})
    failed, done = sorted(corpus("shards"), key=lambda result: result.status, reverse=True)
    assert failed.status == "failed" and "can't be read" in failed.error and done.status == "done"
    assert sorted(name for name in os.listdir("out") if name[0] != ".") == ["1.tar", "zipenhancer.jsonl"]
    assert [row["path"] for row in read_manifest("out")] == ["0.tar", "c.wav"]
    write_tar("shards/0.tar", {"a.wav": audio(1)})
    assert corpus("shards") == []
    assert len(corpus("shards", retry_failed=True)) == 1
    assert [row["path"] for row in read_manifest("out")] == ["a.wav", "c.wav"]


def test_a_tar_without_recordings_is_done_too_and_parts_come_to_an_end():
    write_tar("shards/0.tar", {"m.json": b"{}"})
    write_tar("shards/1.tar", {"a.wav": audio(1)})
    assert corpus("shards", part=(1, 2)) == [] and not os.path.exists("out/zipenhancer.jsonl")
    assert len(corpus("shards", part=(2, 2))) == 1
    assert [(row["path"], row["status"]) for row in read_manifest("out")] == [
        ("0.tar", "empty"),
        ("a.wav", "done"),
    ]
    before = os.stat("out/0.tar").st_mtime_ns
    assert corpus("shards") == [] and os.stat("out/0.tar").st_mtime_ns == before


def test_two_recordings_of_a_sample_do_not_get_one_name():
    members = {"s.wav": audio(1), "s.flac": audio(2, suffix="flac"), "s.txt": b"said"}
    write_tar("shards/0.tar", members)
    assert len(corpus("shards", suffix=".wav")) == 2
    new = read_tar("out/0.tar")
    assert list(new) == ["s.wav", "s.flac.wav", "s.txt"]
    assert decoded(new["s.flac.wav"])[0].std() == pytest.approx(
        decoded(members["s.flac"])[0].std() / 2, rel=0.01
    )


def test_two_shards_of_one_name_and_shards_beside_other_inputs_are_refused():
    write_tar("one/0.tar", {"a.wav": audio(1)})
    write_tar("two/0.tar", {"a.wav": audio(1)})
    with pytest.raises(OptionError, match="two shards would become"):
        plan(["one/0.tar", "two/0.tar"], "out")
    with pytest.raises(OptionError, match="holds no shards"):
        plan(["one/0.tar", "a.wav"], "out")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_shards_below_a_folder_keep_their_folders_and_outputs_there_are_no_inputs(elsewhere, here):
    if elsewhere:
        pytest.importorskip("fsspec")
    place = f"file://{here}/" if elsewhere else ""
    for name in ("train/0.tar", "train/1.tar", "test/0.tar"):
        write_tar(f"in/{name}", {f"{name[:4]}.wav": audio(1)})
    for _ in range(2):
        corpus(f"{place}in", out=f"{place}in/out")
        made = sorted(str(path.relative_to("in/out")) for path in Path("in/out").rglob("*.tar"))
        assert made == ["test/0.tar", "train/0.tar", "train/1.tar"]
    assert list(read_tar("in/out/test/0.tar")) == ["test.wav"]
    if not elsewhere:
        corpus("in/t*/*.tar")
        assert list(read_tar("out/test/0.tar")) == ["test.wav"]


def test_a_folder_of_shards_and_recordings_is_refused_with_one_of_each_named():
    write_tar("in/old/0.tar", {"a.wav": audio(1)})
    Path("in/b.wav").write_bytes(audio(2))
    with pytest.raises(OptionError, match="'in' holds shards, 'in/old/0.tar', and recordings, 'in/b.wav'"):
        plan(["in"], "out")
    assert [job.output for job in plan(["in/*.wav"], "out").jobs] == ["out/b.wav"]
    assert [job.output for job in plan(["in/old"], "out").jobs] == ["out/0.tar"]


def test_a_format_is_the_name_too():
    write_tar("shards/0.tar", {"a.wav": audio(1), "a.json": b"{}"})
    corpus("shards/0.tar", suffix=".flac", options={"output_rate": 8000})
    new = read_tar("out/0.tar")
    assert list(new) == ["a.flac", "a.json"] and decoded(new["a.flac"])[1] == 8000


def dataset(rows=5):
    datasets = pytest.importorskip("datasets")
    cells = [{"bytes": audio(i), "path": f"{i}.wav"} for i in range(rows)]
    columns = {"audio": cells, "text": [f"t{i}" for i in range(rows)]}
    made = datasets.Dataset.from_dict(columns)  # cast afterwards: to encode would need torchcodec
    return datasets, made.cast_column("audio", datasets.Audio(sampling_rate=16_000))


def test_a_dataset_becomes_parquet_that_datasets_loads_with_its_audio(monkeypatch, tmp_path):
    datasets, made = dataset()
    monkeypatch.setattr("modelscope_zipenhancer.corpus.shards.ROWS", 2)
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk("ds")
    assert len(corpus("ds")) == 6
    names = [f"train-0000{i}-of-00003.parquet" for i in range(3)] + ["test-00000-of-00001.parquet"]
    assert sorted(name for name in os.listdir("out") if name.endswith("parquet")) == sorted(names)
    loaded = datasets.load_dataset("out", cache_dir=str(tmp_path / "cache"))
    assert loaded["train"]["text"][:] == made["text"][:] and len(loaded["test"]) == 1
    assert isinstance(loaded["train"].features["audio"], datasets.Audio)
    raw = loaded["train"].cast_column("audio", datasets.Audio(decode=False))
    for i, row in enumerate(raw):
        x, y = decoded(audio(i))[0], decoded(row["audio"]["bytes"])[0]
        assert np.max(np.abs(y - x / 2)) < 2**-14 and row["audio"]["path"] == f"{i}.wav"
    assert [row["shard"] for row in read_manifest("out")].count(names[0]) == 2


def test_a_cell_whose_file_is_missing_is_left_out_alone():
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    soundfile.write("there.wav", np.full(1600, 0.1), 16_000)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": None, "path": "gone.wav"}, {"bytes": None, "path": "there.wav"}]
    os.mkdir("in")
    pyarrow.parquet.write_table(pa.table({"audio": pa.array(cells, kind)}), "in/p.parquet")
    failed, done = corpus("in")
    assert "no file at 'gone.wav'" in failed.error and done.status == "done"
    assert pyarrow.parquet.read_table("out/p.parquet")["audio"][0]["path"].as_py() == "there.wav"


def test_parquet_keeps_its_columns_and_a_broken_row_is_left_out():
    datasets, made = dataset(3)
    cells = [{"bytes": b"x", "path": "broken.wav"}, {"bytes": audio(1), "path": None}, None]
    made = datasets.Dataset.from_dict({"audio": cells, "n": [0, 1, 2]}).cast_column("audio", datasets.Audio())
    os.mkdir("in")
    made.cast_column("audio", datasets.Audio(decode=False)).to_parquet("in/p.parquet")
    assert [result.status for result in corpus("in")] == ["failed", "done", "failed"]
    import pyarrow.parquet

    table = pyarrow.parquet.read_table("out/p.parquet")
    assert table["n"].to_pylist() == [1] and json.loads(table.schema.metadata[b"huggingface"])
    with pytest.raises(AudioError, match="which column[?] --column n; those with audio are audio"):
        corpus("in", out="out2", column="n")


def test_the_recipe_for_datasets_is_batched_and_works_in_processes(tmp_path, quick_model_dir, run_python):
    code = f"""
import io, numpy, soundfile
from datasets import Audio, Dataset, Features, Value, disable_progress_bars
from modelscope_zipenhancer import Enhancer
import torch
torch.set_num_threads(1)
disable_progress_bars()
cells = []
for i in range(4):
    file = io.BytesIO()
    soundfile.write(file, 0.1 * numpy.random.default_rng(i).standard_normal(4000), 24000, format="WAV")
    cells.append({{"bytes": file.getvalue(), "path": f"a/{{i}}.wav"}})
ds = Dataset.from_dict({{"audio": cells, "n": list(range(4))}}).cast_column("audio", Audio())
enhancer = Enhancer.from_pretrained({quick_model_dir!r})
ds = ds.cast_column("audio", Audio(decode=False))
one = ds.map(enhancer.map_batch, batched=True, batch_size=2)
two = ds.map(enhancer.map_batch, batched=True, batch_size=2, num_proc=2)
assert one["audio"][:] == two["audio"][:] and one["n"][:] == [0, 1, 2, 3]
assert one[1]["audio"]["path"] == "1.flac"
y, rate = soundfile.read(io.BytesIO(one[1]["audio"]["bytes"]), dtype="float32")
clean = enhancer(cells[1])
assert rate == 24000 and numpy.max(numpy.abs(y - clean)) < 2**-15
print(isinstance(one.features["audio"], Audio))
"""
    pytest.importorskip("datasets")
    assert run_python(code, OMP_NUM_THREADS="1", HF_HOME=str(tmp_path / "hf")).strip() == "True"
