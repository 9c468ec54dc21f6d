"""What has been done of a corpus, so that nothing is done twice: rows as jobs end, a manifest at the end.

In the output folder, `.zipenhancer/` holds the run's settings and a journal of each run; a line of it is a
job, written after its audio. Once all jobs have one, their rows become `zipenhancer.jsonl`, in the order of
the input. A line that a kill cut off counts for nothing.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..audio.policy import without_password
from ..errors import OptionError, OutputError
from . import storage
from .find import Job
from .locks import hold, is_held
from .report import Result
from .spool import Spool

FOLDER = ".zipenhancer"
MANIFEST = "zipenhancer.jsonl"
SETTINGS = "settings.json"
FLUSH = 60.0  # seconds of rows that a journal elsewhere may lose: there each flush is a file


class Journal:
    """The rows of a corpus in a folder, local or remote.

    Args:
        settings: what determines the sound; a folder takes those of its first run only.
        part: (number from 1, of how many), for runs that share the work.
        common: what each row ends with: the model and its hash.

    Raises:
        OptionError: for other settings than those of the folder, or where another run is at work.
    """

    def __init__(self, out: str, settings: dict, part: tuple[int, int], common: dict) -> None:
        self.out, self.part, self.common = out, part, common
        self.folder = storage.join(out, FOLDER)
        self._check(settings)
        self._lock = self._locked()
        self._spool = Spool()  # the rows of all runs
        self._read: dict[str, int] = {}  # bytes of each journal that are in the spool
        self._file: int | None = None
        self._buffer: list[bytes] = []
        self._flushed, self._written = time.monotonic(), 0
        self._take_manifest()
        self._take_journals()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OutputError):
            self._flush()
        if self._file is not None:
            os.close(self._file)
        self._unlock()
        self._spool.close()

    def left(self, jobs: Sequence[Any], retry_failed: bool = False) -> list[Any]:
        """The jobs of this part that have no row, or whose output has gone.

        Raises OptionError where the folder has the output of another recording under the name of a job's.
        """
        number, parts = self.part
        there = _Folders()
        todo = []
        for job in jobs[number - 1 :: parts]:
            place = self._spool.place(self.key(job))
            if place is None:
                todo.append(job)
            elif place.failed:
                todo += [job] * retry_failed
            elif not storage.is_remote(job.output) and not there.has(job.output):
                todo.append(job)
            elif isinstance(job, Job) and place.source != hash(without_password(job.source)):
                source = (self.rows(job) or [{}])[0].get("source", job.source)
                if _are_two(source, job.source):
                    raise OptionError(
                        f"{job.output!r} has been made of {source!r}, now it would be of {job.source!r}: "
                        "name another folder with -o"
                    )
        return todo

    def failed(self, jobs: Sequence[Any]) -> int:
        """How many jobs of this part failed in an earlier run."""
        number, parts = self.part
        places = (self._spool.place(self.key(job)) for job in jobs[number - 1 :: parts])
        return sum(place.failed for place in places if place)

    def add(self, job: Any, results: Sequence[Result]) -> None:
        """Write the rows of a job; its audio is there. OutputError if that can't be."""
        key = self.key(job)
        rows = [self._row(job, result) for result in results]
        if not rows:  # a shard without recordings has a row all the same, so that it is done
            rows = [{"path": key, "source": job.source, "shard": key, "status": "empty"}]
        line = self._spool.add(key, rows)
        self._buffer.append(line)
        if not storage.is_remote(self.out) or time.monotonic() - self._flushed > FLUSH:
            self._flush()

    def rows(self, job: Any) -> list[dict] | None:
        """The rows of a job, if it has ended."""
        return self._spool.rows(self.key(job))

    def finish(self, jobs: Sequence[Any], manifest: Any = None) -> bool:
        """Write the manifests, if all jobs have ended, other parts' too; returns whether they have.

        What earlier runs did of other inputs stays in zipenhancer.jsonl, before the rows of these.
        """
        self._flush()
        with self._alone():
            if self.part[1] > 1:
                self._unlock()  # before the look at the others: the last one sees none
                if any(map(is_held, self._locks())):
                    return False
                self._take_manifest()  # what others did meanwhile
                self._take_journals()
            if any(self.key(job) not in self._spool for job in jobs):
                return False
            self._write(jobs, manifest)
            return True

    def _write(self, jobs: Sequence[Any], manifest: Any) -> None:
        """The manifests, in place of the journals."""
        keys = dict.fromkeys(self.key(job) for job in jobs)
        there = _Folders()
        others = [key for key in self._spool if key not in keys and self._stays(key, there)]
        with storage.writer(storage.join(self.out, MANIFEST)) as file:
            for key in (*others, *keys):
                for row in self._spool.rows(key) or ():
                    file.write(
                        json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
                    )
        if manifest:

            def row_of(job: Job) -> dict | None:
                return next(iter(self.rows(job) or ()), None)

            with manifest.writer(self.out) as write:
                for row in manifest.enhanced(jobs, row_of):
                    write(row)
        if self._file is not None:
            os.close(self._file)
            self._file = None
        for path in self._journals():
            with contextlib.suppress(OSError):
                storage.remove(path)

    def key(self, job: Any) -> str:
        """The name of a job's output below the folder."""
        return job.output[len(storage.join(self.out, "")) :]

    def _row(self, job: Any, result: Result) -> dict:
        is_clip = isinstance(job, Job)
        path = self.key(job) if result.output == job.output else result.output  # of a shard: in it
        row: dict[str, Any] = {"path": path, "source": result.source}
        if not is_clip:
            row["shard"] = self.key(job)
        elif job.start or job.seconds is not None:
            row["offset"] = job.start
        levels = result.levels
        return row | {
            "status": result.status,
            "duration": round(result.seconds, 6),
            "sample_rate": result.sample_rate,
            "level_before": levels and levels.before,
            "level_after": levels and levels.after,
            "noise_level": levels and levels.noise,
            "clipped": levels.clipped if levels else 0,
            "warnings": list(result.warnings),
            "error": result.error,
            "spent": round(result.spent, 3),
            **self.common,
        }

    def _take_manifest(self) -> None:
        """Put what a finished run wrote into the spool."""
        if storage.exists(manifest := storage.join(self.out, MANIFEST)):
            with storage.open_source(manifest) as file:
                self._spool.take(file)

    def _stays(self, key: str, there: "_Folders") -> bool:
        """Whether what an earlier run wrote is there, or failed."""
        output, place = storage.join(self.out, key), self._spool.place(key)
        return bool(place and place.failed) or storage.is_remote(output) or there.has(output)

    def _take_journals(self) -> None:
        """Put what is in the journals of this and other runs into the spool; of each file what is new."""
        for path in self._journals():
            with storage.open_source(path) as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # of another part, which may have only opened it so far
            self._spool.take(whole.splitlines(keepends=True))
            self._read[path] = self._read.get(path, 0) + len(whole)

    def _journals(self) -> list[str]:
        names = sorted(name for name in storage.names(self.folder) if name.endswith(".jsonl"))
        return [storage.join(self.folder, name) for name in names]

    def _flush(self) -> None:
        """Write what has been added; here each row at once, elsewhere as a file of its own."""
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        name = f"{time.time_ns():020d}-{os.getpid()}-{self._written:06d}.jsonl"
        path = storage.join(self.folder, name)
        if storage.is_remote(path):
            storage.write(path, data)
            self._written += 1
        else:
            try:
                if self._file is None:
                    self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                while data:  # a full disk takes a part, then says so
                    data = data[os.write(self._file, data) :]
            except OSError as error:
                self._buffer.clear()
                raise storage.full_or(error, path) from error
        self._buffer.clear()
        self._flushed = time.monotonic()

    def _check(self, settings: dict) -> None:
        """OptionError if the folder has been made with other settings; else they are noted there."""
        path = storage.join(self.folder, SETTINGS)
        settings = json.loads(json.dumps(settings))
        if not storage.exists(path):
            storage.write(path, json.dumps(settings, indent=1).encode())
            return
        with storage.open_source(path) as file:
            noted = json.load(file)
        for name in {**noted, **settings}:
            if noted.get(name) != settings.get(name):
                raise OptionError(
                    f"{self.out!r} was made with {name} {noted.get(name)!r}, now it is "
                    f"{settings.get(name)!r}: name another folder with -o, or remove that one"
                )

    def _locked(self) -> int | None:
        """This part's lock, until the process ends; OptionError where another run is at work."""
        if storage.is_remote(self.out):
            return None
        number, parts = self.part
        with self._alone():
            try:
                lock = hold(os.path.join(self.folder, f"lock-{number}-of-{parts}"))
            except BlockingIOError:
                busy, lock = True, None
            else:  # runs that share the work otherwise
                busy = any(is_held(other) for other in self._locks() if not other.endswith(f"-of-{parts}"))
        if busy:
            if lock is not None:
                os.close(lock)
            raise OptionError(f"another run is at work on {self.out!r}: wait for it, or take --part")
        return lock

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time begins, or writes the manifests; where there are locks."""
        turn = None if storage.is_remote(self.out) else hold(os.path.join(self.folder, "turn"), wait=True)
        try:
            yield
        finally:
            if turn is not None:
                os.close(turn)

    def _locks(self) -> list[str]:
        """The lock files of all runs."""
        if storage.is_remote(self.out):
            return []
        return [
            os.path.join(self.folder, name) for name in os.listdir(self.folder) if name.startswith("lock-")
        ]

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _are_two(one: str, other: str) -> bool:
    """Whether both are files here, and not the same: a path is written otherwise in another folder."""
    if one == other:
        return False
    try:
        return not os.path.samefile(one, other)
    except OSError:
        return False


class _Folders:
    """Which files there are, by a look into each folder."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(folder or "."))
            except OSError:
                self._names[folder] = set()
        return name in self._names[folder]


def read_manifest(out: str) -> Iterator[dict]:
    """The rows of a finished corpus."""
    with storage.open_source(storage.join(out, MANIFEST)) as file:
        yield from map(json.loads, file)
