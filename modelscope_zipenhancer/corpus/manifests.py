"""Manifests, as they come and as they are given back: JSONL or CSV, with NeMo's or Lhotse's field names.

A row is a recording or a part of one. Given back, it names the enhanced file, which holds that part only, and
is otherwise as it was.

NeMo:    {"audio_filepath": "a.wav", "offset": 3.2, "duration": 4.1, "text": "..."}
Lhotse:  Recordings ({"id", "sources": [{"type": "file", "channels", "source"}], "sampling_rate", ...}) and
         cuts ({"id", "start", "duration", "channel", "supervisions", "recording", "type": "MonoCut"}).
CSV:     a header line, and one of PATHS in it.
"""

import contextlib
import csv
import functools
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

from ..errors import AudioError, AudioNotFoundError, ZipEnhancerError
from . import storage
from .find import Claim, Job, distinct, writable

# What the path of a recording is called.
PATHS = (
    *("audio_filepath", "audio_path", "audio_file", "audio", "path", "filepath", "file_path", "file"),
    *("file_name", "filename", "wav_path", "wav", "source"),
)
RATES = ("sampling_rate", "sample_rate", "samplerate")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


class Part(NamedTuple):
    """What a row names: a recording, or some seconds and channels of it."""

    source: str
    start: float = 0.0
    seconds: float | None = None
    channels: tuple[int, ...] | None = None


class Manifest:
    """A manifest's rows, and the recordings that they name; .gz too."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.folder = path.rpartition("/")[0] if storage.is_remote(path) else os.path.dirname(path)
        stem = self.name.lower().removesuffix(".gz")
        self.is_table = stem.endswith((".csv", ".tsv"))
        self.is_tabbed = stem.endswith(".tsv")

    def rows(self) -> Iterator[dict]:
        """The rows; AudioError with its number for a line that is none."""
        try:
            yield from self._table_rows() if self.is_table else self._json_rows()
        except ZipEnhancerError:
            raise
        except (OSError, EOFError, zlib.error) as error:  # of .gz
            raise AudioError(f"{self.path!r} can't be read: {error}") from error

    def _table_rows(self) -> Iterator[dict]:
        with self._open() as file:
            first, number = file.readline(), 0
            file.seek(0)
            try:
                rows = csv.DictReader(file, **self._dialect(first))
                for number, row in enumerate(rows, 1):
                    if None in row:
                        raise AudioError(
                            f"{self.path!r}, row {number} has more fields than the header: quote those that "
                            "hold the delimiter"
                        )
                    yield row
            except csv.Error as error:  # a quote that isn't closed, say, would take all that follows with it
                raise AudioError(
                    f"{self.path!r}, row {number + 1} is no row of a table ({error}): write quotes twice, "
                    "in a field that is in quotes"
                ) from error

    def _json_rows(self) -> Iterator[dict]:
        with self._open() as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("it is no object")
                except ValueError as error:
                    raise AudioError(f"{self.path!r}, line {number} is no row in JSON: {error}") from error
                yield row

    def jobs(self, out: str, suffix: str | None = None) -> list[Job]:
        """A job for each recording or part, in the order of the rows, each once."""
        claims = []
        for number, row in enumerate(self.rows(), 1):
            part = self._part(row, number)
            given = os.path.splitext(part.source)[1]
            output = storage.join(out, self._stem(part) + (suffix or writable(given)))
            claims.append(Claim(part.source, output, given, part[1:]))
        if not claims:
            raise AudioNotFoundError(f"the manifest {self.path!r} has no rows")
        return list(distinct(claims))

    def enhanced(self, jobs: list[Job], rows_of: Any) -> Iterator[dict]:
        """The rows whose recordings are done, with the enhanced ones instead.

        Args:
            rows_of: job -> its row in the journal, or None.
        """
        jobs_of = {self._name(Part(job.source, *job[3:])): job for job in jobs}
        for number, row in enumerate(self.rows(), 1):
            job = jobs_of[self._name(self._part(row, number))]
            done = rows_of(job)
            if done and done["status"] == "done":
                yield _enhanced(row, job.output, done)

    @contextlib.contextmanager
    def writer(self, out: str) -> Iterator[Any]:
        """A function that writes a row of a manifest of this form and name in a folder."""
        with storage.writer(storage.join(out, self.name)) as file:
            raw = gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if self.name.endswith(".gz") else file
            text = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="")
            if self.is_table:
                with self._open() as original:
                    first = original.readline()
                dialect = self._dialect(first)
                names = next(csv.reader([first], **dialect))
                table = csv.DictWriter(text, names, lineterminator="\n", **dialect)
                table.writeheader()
                yield table.writerow
            else:
                yield lambda row: text.write(_json(row) + "\n")
            text.detach()  # which flushes it; closed, it would close the file too
            if raw is not file:
                raw.close()

    @contextlib.contextmanager
    def _open(self) -> Iterator[TextIO]:
        with storage.open_source(self.path) as file:
            raw: Any = gzip.GzipFile(fileobj=file) if self.name.endswith(".gz") else file
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _dialect(self, header: str) -> dict[str, Any]:
        """How csv reads and writes it. Of .tsv many have quotes as they are, which aren't closed as csv's."""
        if self.is_tabbed and not self._has_pairs_of_quotes:
            return {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
        return {"delimiter": "\t" if self.is_tabbed else max(",;|\t", key=header.count), "strict": True}

    @functools.cached_property
    def _has_pairs_of_quotes(self) -> bool:
        with self._open() as file:
            try:
                for _ in csv.reader(file, delimiter="\t", strict=True):
                    pass
            except csv.Error:
                return False
        return True

    def _part(self, row: dict, number: int) -> Part:
        try:
            part = _part_of(row)
            if not (0 <= part.start < math.inf and 0 < (part.seconds or 1.0) < math.inf):
                raise ValueError(f"offset {part.start}, duration {part.seconds}: 0 or more was expected")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = str(error) if isinstance(error, AudioError) else f"{type(error).__name__}: {error}"
            raise AudioError(f"{self.path!r}, row {number}: {reason}") from error
        source = part.source
        if self.folder and "://" not in source and not os.path.isabs(source):
            beside = storage.join(self.folder, source)  # as NeMo has it; Lhotse means the current folder
            if storage.is_remote(self.folder) or os.path.exists(beside) or not os.path.exists(source):
                source = beside
        return part._replace(source=source if "://" in source else os.path.normpath(source))

    def _name(self, part: Part) -> tuple[str, str]:
        """What parts have in common that are one job: they may differ by less than a millisecond."""
        return part.source, self._stem(part)

    def _stem(self, part: Part) -> str:
        """The name of an output, without its suffix: below this manifest's folder, or the whole path."""
        stem = os.path.splitext(part.source)[0]
        inside = os.path.join(self.folder, "") if self.folder else ""
        if inside and stem.startswith(inside):
            stem = stem[len(inside) :]
        stem = stem.partition("://")[2] if "://" in stem else os.path.splitdrive(stem)[1]
        names = [name for name in stem.replace(os.sep, "/").split("/") if name not in ("", ".", "..")]
        name = "/".join(names)
        if part.start or part.seconds is not None:
            end = "end" if part.seconds is None else f"{round((part.start + part.seconds) * 1000):09d}"
            name += f"-{round(part.start * 1000):09d}-{end}"
        if part.channels:
            name += "-c" + "_".join(map(str, part.channels))
        return name


def is_manifest(path: str) -> bool:
    """Whether a path is taken for a manifest, by its suffix."""
    return path.lower().removesuffix(".gz").endswith(SUFFIXES)


def _part_of(row: dict) -> Part:
    kind = row.get("type")
    if kind in ("MixedCut", "PaddingCut"):
        raise AudioError(f"a {kind} is no part of one recording: save it as audio first (save_audios)")
    if isinstance(row.get("recording"), dict):
        source, every = _source(row["recording"])
        channel = row.get("channel", 0)
        channels = tuple(channel) if isinstance(channel, list) else (int(channel),)
        whole = row["recording"].get("duration") == row["duration"] and not row["start"]
        span = (0.0, None) if whole else (float(row["start"]), float(row["duration"]))
        return Part(source, *span, None if channels == every else channels)
    if "sources" in row:
        return Part(_source(row)[0])
    name = path_field(row)
    if "recording_id" in row and name is None:
        raise AudioError("a supervision has no audio: give the manifest of the recordings, or of the cuts")
    if name is None:
        raise AudioError(f"no field has the recording's path; known are {', '.join(PATHS)}")
    offset = row.get("offset")
    if offset in (None, ""):
        return Part(row[name])
    seconds = row.get("duration")
    return Part(row[name], float(offset), None if seconds in (None, "") else float(seconds))


def _source(recording: dict) -> tuple[str, tuple[int, ...]]:
    """(path, channels) of a Recording of Lhotse."""
    sources = recording["sources"]
    if recording.get("transforms"):
        raise AudioError("a recording with transforms isn't what its file holds: save it as audio first")
    if len(sources) != 1 or sources[0]["type"] not in ("file", "url"):
        kinds = ", ".join(source["type"] for source in sources)
        raise AudioError(f"the sources of the recording are {kinds}: one file or URL was expected")
    return sources[0]["source"], tuple(sources[0]["channels"])


def _json(row: dict) -> str:
    """As readable as it can be written: half a pair of surrogates stays an escape."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return json.dumps(row)
    return text


def path_field(row: dict) -> str | None:
    return next((name for name in PATHS if isinstance(row.get(name), str) and row[name]), None)


def _enhanced(row: dict, path: str, done: dict) -> dict:
    """A row that names the enhanced file, whose numbers are in the journal's row `done`."""
    row = dict(row)
    seconds, rate = done["duration"], done["sample_rate"]
    if isinstance(row.get("recording"), dict):
        old, channel = row["recording"], row.get("channel", 0)
        count = len(channel) if isinstance(channel, list) else 1
        new = _recording(row["id"], path, range(count), seconds, rate)
        row |= {"start": 0.0, "duration": seconds, "recording": new}
        row["channel"] = list(range(count)) if isinstance(channel, list) else 0
        for supervision in row.get("supervisions") or ():
            if supervision.get("recording_id") == old["id"]:
                supervision["recording_id"] = row["id"]
            was = supervision.get("channel", 0)
            if isinstance(channel, list) and isinstance(was, list):
                supervision["channel"] = [channel.index(c) for c in was if c in channel]
            else:
                supervision["channel"] = 0
        return row
    if "sources" in row:
        return row | _recording(row["id"], path, row["sources"][0]["channels"], seconds, rate)
    name = path_field(row)
    assert name is not None
    row[name] = path
    for field, value in (("offset", 0.0), ("duration", seconds), *((name, rate) for name in RATES)):
        if row.get(field) not in (None, ""):
            row[field] = value
    return row


def _recording(name: str, path: str, channels: Any, seconds: float, rate: int) -> dict:
    """Lhotse's Recording of a file."""
    return {
        "id": name,
        "sources": [{"type": "file", "channels": list(channels), "source": path}],
        "sampling_rate": rate,
        "num_samples": round(seconds * rate),
        "duration": seconds,
    }
