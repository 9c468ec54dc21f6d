"""Shards: files of many recordings, each of which becomes a shard of the same form, whole or not at all.

WebDataset's tar shards, Parquet files with an Audio column, and Hugging Face datasets. What is not audio
stays as it is; a sample whose recording fails is left out, and is in the manifest with its error.
"""

import functools
import io
import itertools
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..audio.read import load
from ..enhance.enhancer import Enhancer
from ..errors import AudioError, AudioNotFoundError, OptionError
from ..files import is_recording
from ..worker_process import alive
from ..workers import ahead
from . import storage
from .clip import Enhanced, enhance, result_of
from .find import expand, writable
from .processes import AT_ONCE
from .report import Result

ROWS = 500  # of a dataset in a shard


@dataclass(frozen=True)
class TarShard:
    """A tar whose members of one name up to the first dot are a sample."""

    source: str
    output: str
    suffix: str | None = None

    def enhance(self, enhancer: Enhancer, options: dict, retries: int = 0) -> list[Result]:
        """Write the enhanced shard; returns the results of its recordings."""
        results: list[Result] = []
        work = functools.partial(self._sample, enhancer, options, retries)
        try:
            with (
                storage.open_source(self.source) as file,
                tarfile.open(fileobj=file, mode="r|*") as tar,
                storage.writer(self.output) as out,
                tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as new,
            ):
                for members, of_sample in ahead(work, _samples(tar, self.source), threads(enhancer)):
                    alive()
                    results += of_sample
                    for member, data in members:
                        new.addfile(member, io.BytesIO(data))
        except (tarfile.TarError, EOFError) as error:
            raise AudioError(f"{self.source!r} can't be read: {error}") from error
        return results

    def _sample(self, enhancer: Enhancer, options: dict, retries: int, sample: list) -> tuple[list, list]:
        """The members of an enhanced sample, none if one of them fails; and its results."""
        members, results = [], []
        taken = {member.name for member, _ in sample}
        for member, data in sample:
            if member.isfile() and is_recording(member.name):
                stem, given = os.path.splitext(member.name)
                name = stem + (self.suffix or (given if given.lower() == writable(given) else ".wav"))
                if name != member.name and name in taken:  # another recording of the sample has it
                    # up to the first dot it stays the sample's
                    name = member.name + os.path.splitext(name)[1]
                taken.add(name)
                source = f"{self.source}/{member.name}"
                result, enhanced = enhance_bytes(
                    enhancer, lambda data=data: data, source, name, options, retries
                )
                results.append(result)
                if enhanced:
                    data = enhanced.data
                    member.name, member.size = name, len(data)
                    member.pax_headers = {}
            members.append((member, data))
        if any(result.status == "failed" for result in results):
            return [], results
        return members, results


@dataclass(frozen=True)
class TableShard:
    """Rows of a table with an Audio column: a Parquet file, or some rows of a dataset."""

    source: str  # a Parquet file; a folder of save_to_disk; or hf:NAME, of the hub
    output: str
    column: str | None = None
    suffix: str | None = None
    split: str = ""
    rows: tuple[int, int] | None = None

    def enhance(self, enhancer: Enhancer, options: dict, retries: int = 0) -> list[Result]:
        """Write the enhanced shard as Parquet; returns the results of its recordings."""
        import pyarrow as pa
        import pyarrow.parquet

        table = self._table()
        column = audio_column(table.schema, self.column, self.source)

        def work(item: tuple[int, dict | None]) -> tuple[Result, dict | None]:
            number, cell = item
            cell = cell or {}
            path = cell.get("path") or f"{number}.wav"
            stem, given = os.path.splitext(os.path.basename(path))
            name = stem + (self.suffix or writable(given))

            def content() -> bytes:
                if cell.get("bytes") is None and cell.get("path"):
                    return storage.read_source(cell["path"]).getvalue()
                return cell.get("bytes") or b""

            source = f"{self.source}/{self.split}/{number}" if self.split else f"{self.source}/{number}"
            result, enhanced = enhance_bytes(enhancer, content, source, name, options, retries)
            return result, {"bytes": enhanced.data, "path": name} if enhanced else None

        first = self.rows[0] if self.rows else 0
        results, cells = [], []
        numbered = enumerate((cell.as_py() for cell in table[column]), first)
        for result, cell in ahead(work, numbered, threads(enhancer)):
            alive()
            results.append(result)
            cells.append(cell)
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        place = table.schema.get_field_index(column)
        table = table.set_column(place, pa.field(column, kind), pa.array(cells, kind))
        table = table.filter(pa.array([cell is not None for cell in cells], pa.bool_()))
        with storage.writer(self.output) as file:
            pyarrow.parquet.write_table(table, file)
        return results

    def _table(self) -> Any:
        """The rows, as an Arrow table that knows datasets' features."""
        if self.rows is None:
            import pyarrow.parquet

            try:
                with storage.open_source(self.source) as file:
                    return pyarrow.parquet.read_table(file)
            except ValueError as error:  # ArrowInvalid is one
                raise AudioError(f"{self.source!r} can't be read: {error}") from error
        dataset = dataset_of(self.source)[self.split]
        start, stop = self.rows
        table = dataset.select(range(start, stop)).with_format("arrow")[:]
        return table.replace_schema_metadata(dataset.features.arrow_schema.metadata)


def enhance_bytes(
    enhancer: Enhancer, content: Callable[[], bytes], source: str, name: str, options: dict, retries: int
) -> tuple[Result, Enhanced | None]:
    """The result of a recording in a shard, and what goes into the new one; nothing is written."""
    done: list[Enhanced] = []

    def work() -> Enhanced:
        recording = load(content(), strict=options.get("strict", False))
        done[:] = [enhance(enhancer, recording, name, options)]
        return done[0]

    result = result_of(work, source, name, retries)
    return result, done[0] if result.status == "done" else None


def threads(enhancer: Enhancer) -> int:
    return max(AT_ONCE, enhancer.recordings_at_once)


def _samples(tar: tarfile.TarFile, source: str) -> Iterator[list[tuple[tarfile.TarInfo, bytes]]]:
    """The members of each sample with their content: those that follow one another with one key."""

    def members() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        try:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                yield member, file.read() if file else b""
        except OSError as error:  # which the writer of the output would take for its own
            raise AudioError(f"{source!r} can't be read: {error.strerror or error}") from error

    def key(item: tuple[tarfile.TarInfo, bytes]) -> str:
        folder, _, name = item[0].name.rpartition("/")
        return f"{folder}/{name.partition('.')[0]}"

    for _, sample in itertools.groupby(members(), key):
        yield list(sample)


# ---- which shards there are --------------------------------------------------------------------


def find_shards(inputs: list[str], out: str, suffix: str | None, column: str | None) -> list | None:
    """Shards for inputs that are tars, Parquet files or datasets, or folders of such; None for others.

    Raises:
        AudioError: for a dataset without an Audio column.
        OptionError: for shards of one name, or beside recordings.
    """
    shards: list[TarShard | TableShard] = []
    for item in inputs:
        if item.startswith("hf:") or _is_dataset(item):
            found: Sequence[TarShard | TableShard] = _of_dataset(item, out, suffix, column)
        else:
            found = _of_files(item, out, suffix, column)
        if not found:
            if shards:
                raise OptionError(f"{item!r} holds no shards, the other inputs do: give it in another run")
            return None
        shards += found
    for output, count in Counter(shard.output for shard in shards).items():
        if count > 1:
            raise OptionError(f"two shards would become {output!r}: enhance them in two runs")
    return shards


def _of_files(item: str, out: str, suffix: str | None, column: str | None) -> Sequence[TarShard | TableShard]:
    """Of a shard, or of all below a folder, in folders of the same names; none where there are none."""
    if storage.is_remote(item) and not _kind(item):
        found = [(storage.join(item, name), name) for name in storage.names_below(item, out)]
    else:
        local = None if storage.is_remote(out) else out
        found = list(expand(item, local, lambda name: _kind(name) or is_recording(name)))
    if not (kinds := {path: kind for path, _ in found if (kind := _kind(path))}):
        return []
    if beside := next((path for path, name in found if is_recording(name)), None):
        raise OptionError(
            f"{item!r} holds shards, {next(iter(kinds))!r}, and recordings, {beside!r}: give each kind in a "
            "run of its own, by its folder or a pattern"
        )
    shards: list[TarShard | TableShard] = []
    for path, name in found:
        if kinds.get(path) == "tar":
            stem = name[: name.lower().rindex(".t")]  # a compressed one comes back as it is streamed: plain
            shards.append(TarShard(path, storage.join(out, f"{stem}.tar"), suffix))
        elif kinds.get(path) == "parquet":
            if not shards:
                column = audio_column(_schema(path), column, path)
            shards.append(TableShard(path, storage.join(out, name), column, suffix))
    return shards


def _schema(path: str) -> Any:
    import pyarrow.parquet

    try:
        with storage.open_source(path) as file:
            return pyarrow.parquet.read_schema(file)
    except ValueError as error:  # ArrowInvalid is one
        raise AudioError(f"{path!r} can't be read: {error}") from error


def _kind(path: str) -> str:
    name = path.lower()
    if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        return "tar"
    return "parquet" if name.endswith(".parquet") else ""


def _is_dataset(path: str) -> bool:
    """A folder of save_to_disk."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json"))


def _of_dataset(source: str, out: str, suffix: str | None, column: str | None) -> list[TableShard]:
    shards = []
    for split, dataset in dataset_of(source).items():
        audio_column(dataset.features.arrow_schema, column, source)
        count = -(-len(dataset) // ROWS)
        for i in range(count):
            output = storage.join(out, f"{split}-{i:05d}-of-{count:05d}.parquet")
            rows = (i * ROWS, min((i + 1) * ROWS, len(dataset)))
            shards.append(TableShard(source, output, column, suffix, split, rows))
    return shards


@functools.lru_cache(maxsize=2)
def dataset_of(source: str) -> dict[str, Any]:
    """{split: Dataset} of a folder of save_to_disk, or of hf:NAME; audio isn't decoded by datasets."""
    import datasets

    if source.startswith("hf:"):
        try:
            loaded = datasets.load_dataset(source[3:])
        except (OSError, ValueError) as error:
            raise AudioNotFoundError(f"the dataset {source[3:]!r} can't be loaded: {error}") from error
    else:
        loaded = datasets.load_from_disk(source)
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    undecoded: Callable = functools.partial(datasets.Audio, decode=False)
    found = {}
    for split, dataset in splits.items():
        for name, feature in dataset.features.items():
            if isinstance(feature, datasets.Audio):
                dataset = dataset.cast_column(name, undecoded(sampling_rate=feature.sampling_rate))
        found[split] = dataset
    return found


def audio_column(schema: Any, column: str | None, source: str) -> str:
    """The column with the audio: the one named, or the one of structs with bytes and a path."""
    import pyarrow as pa

    def holds_audio(field: Any) -> bool:
        return pa.types.is_struct(field.type) and {"bytes", "path"} <= {sub.name for sub in field.type}

    found = [field.name for field in schema if holds_audio(field)]
    if column in found or (column is None and len(found) == 1):
        return column or found[0]
    known = f"those with audio are {', '.join(found)}" if found else "none has audio"
    raise AudioError(f"{source!r}: which column? --column {column or 'NAME'}; {known}")
