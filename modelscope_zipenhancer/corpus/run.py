"""Many recordings: where they are enhanced, and by how many hands."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from typing import Any

from ..enhance.enhancer import AT_ONCE as GPU_AT_ONCE
from ..enhance.enhancer import Enhancer
from ..errors import OptionError
from ..files import remove_leftovers
from ..runtime.backend import omp_threads
from ..workers import Processes, cores, in_threads
from .find import Job
from .processes import AT_ONCE, Care, results_of, run_here, start
from .report import Result
from .storage import is_remote

Progress = Callable[[Job, int, int], None]
Finished = Iterator[tuple[Any, list[Result]]]


@dataclass(frozen=True)
class Work:
    """What is done to recordings, and by how many hands.

    Args:
        load: the arguments of Enhancer.from_pretrained.
        options: those of Enhancer.enhance_file.
        workers: how many recordings at a time: on a backend that wants batches in threads, whose chunks
            share them (8 unless told), else each in a process with its share of the cores (1; where
            care.watched, one for each core).
        care: how much is done for a recording whose process fails.
    """

    load: dict[str, Any]
    options: dict = field(default_factory=dict)
    workers: int | None = None
    care: Care = Care()


def run(jobs: Sequence[Any], work: Work, where: str = "local", progress: Progress | None = None) -> Finished:
    """Yield each job, or shard, with its results as it ends; what goes wrong with a recording is in them.

    If the generator is closed, or an exception such as KeyboardInterrupt leaves it, the work stops soon
    and leaves no half-written file. A program that calls this must have its main code under
    `if __name__ == "__main__"`.

    Args:
        where: 'local', on this machine; or 'ray' (corpus/ray.py).
        progress: called as progress(job, samples done, samples) where recordings come one by one.

    Raises:
        OptionError: for an unknown place; storage.FullError where nothing more can be written; and, with
            the first results, what from_pretrained raises.
    """
    if where not in PLACES:
        raise OptionError(f"where={where!r}: {' or '.join(map(repr, PLACES))}")
    return PLACES[where](jobs, work, progress)


def _locally(jobs: Sequence[Any], work: Work, progress: Progress | None) -> Finished:
    if not jobs:
        return
    enhancer = Enhancer.from_pretrained(**work.load)  # here too: an unknown model is said once, and at once
    _remove_leftovers(jobs)
    wants_batches = enhancer.recordings_at_once > 1
    if work.care.watched:
        del enhancer
        if wants_batches:
            yield from _in_processes(jobs, work, 1, work.workers or GPU_AT_ONCE)
        else:
            yield from _in_processes(jobs, work, min(work.workers or cores(), len(jobs)), AT_ONCE)
        return
    workers = min(work.workers or enhancer.recordings_at_once, len(jobs))
    if workers == 1:
        for job in jobs:
            report = progress and functools.partial(progress, job)
            yield job, results_of(enhancer, job, work.options, report)
    elif wants_batches:
        yield from _in_threads(enhancer, jobs, work.options, workers)
    else:
        del enhancer
        yield from _in_processes(jobs, work, workers, 1)


def _in_threads(enhancer: Enhancer, jobs: Sequence[Any], options: dict, threads: int) -> Finished:
    stopping = threading.Event()

    def go_on(*_: int) -> None:
        if stopping.is_set():
            raise SystemExit  # passes by run_job, which takes an Exception for a failure

    def enhance(job: Any) -> list[Result]:
        return results_of(enhancer, job, options, go_on)

    with contextlib.closing(in_threads(enhance, jobs, threads, stopping=stopping)) as finished:
        for job, future in finished:
            yield job, future.result()


def _in_processes(jobs: Sequence[Any], work: Work, processes: int, at_once: int) -> Finished:
    threads = 1 if work.care.watched else max(1, (omp_threads() or cores()) // processes)
    try:
        with make_pool(work, processes, threads, at_once, _are_shards(jobs)) as pool:
            for job, future in pool.run(jobs):
                yield job, _results(job, future.exception() or future.result())
    finally:
        _remove_leftovers(jobs)


def make_pool(work: Work, processes: int, threads: int, at_once: int, shards: bool) -> Processes:
    """Processes that enhance; a shard has threads of its own."""
    care = work.care
    enhance = functools.partial(run_here, work.options, care.retries)
    at_once = 1 if shards else at_once
    return Processes(enhance, processes, threads, start, (work.load,), at_once, care.retries, care.patience)


def _are_shards(jobs: Sequence[Any]) -> bool:
    return any(not isinstance(job, Job) for job in jobs)


def _results(job: Any, ended: list[Result] | BaseException) -> list[Result]:
    """The results of a job, of which one that lost its process has failed."""
    if isinstance(ended, BrokenExecutor):
        reason = f"{job.source!r}: its process {ended}; if of memory, take fewer processes"
        return [Result(job.source, job.output, "failed", error=reason)]
    if isinstance(ended, BaseException):
        raise ended
    return ended


def _remove_leftovers(jobs: Iterable[Any]) -> None:
    remove_leftovers(job.output for job in jobs if not is_remote(job.output))


def _over_ray(jobs: Sequence[Any], work: Work, progress: Progress | None) -> Finished:
    from .ray import run_over_ray

    if not jobs:
        return
    at_once = GPU_AT_ONCE if work.care.gpus else AT_ONCE
    pool = functools.partial(make_pool, work, 1, 1, at_once, _are_shards(jobs))
    try:
        with contextlib.closing(run_over_ray(jobs, pool, work.workers, work.care)) as finished:
            for job, ended in finished:
                yield job, _results(job, ended)
    finally:
        _remove_leftovers(jobs)


PLACES = {"local": _locally, "ray": _over_ray}
