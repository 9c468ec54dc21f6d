"""The rows of a corpus while it is worked on: on the disk, found by the job's key."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where the rows of a job lie in the spool, and what is asked of them most."""

    offset: int
    length: int
    failed: bool
    source: int  # hash of the recording's name: a million names would be 130 MB


class Spool:
    """Of each job a line, a list of rows; what this run adds counts more than what is taken from others'.

    A job's key is its shard, or the path of its output.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._places: dict[str, Place] = {}
        self._mine: set[str] = set()  # keys of the jobs that this run has done

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order in which they came first."""
        return iter(self._places)

    def close(self) -> None:
        self._file.close()

    def place(self, key: str) -> Place | None:
        return self._places.get(key)

    def rows(self, key: str) -> list[dict] | None:
        """The rows of a job, if it has ended."""
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place.offset)
        return json.loads(self._file.read(place.length))

    def add(self, key: str, rows: list[dict]) -> bytes:
        """Put a job's rows that this run has found out; returns them as a journal's line."""
        self._mine.add(key)
        return self._put(key, rows)

    def take(self, lines: Iterable[bytes]) -> None:
        """Put lines of a journal, or of a finished manifest, of which a shard has several."""
        shard: list[dict] = []  # of a manifest: its rows follow one another
        for line in lines:
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                value = None
            if isinstance(value, dict):
                if shard and value.get("shard") != shard[0].get("shard"):
                    self._take(shard)
                    shard = []
                if value.get("shard"):
                    shard.append(value)
                else:
                    self._take([value])
            elif value:
                self._take(value)
        if shard:
            self._take(shard)

    def _take(self, rows: list[dict]) -> None:
        key = rows[0].get("shard") or rows[0]["path"]
        # Clocks jump: the order of other runs isn't known, but that a job has been done counts.
        if key not in self._mine and (key not in self._places or not _failed(rows)):
            self._put(key, rows)

    def _put(self, key: str, rows: list[dict]) -> bytes:
        line = json.dumps(rows).encode() + b"\n"
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(line)
        self._places[key] = Place(offset, len(line), _failed(rows), hash(rows[0].get("source")))
        return line


def _failed(rows: list[dict]) -> bool:
    return any(row["status"] == "failed" for row in rows)
