"""Many recordings: where they are enhanced, and by how many hands."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

from ..enhance.enhancer import AT_ONCE as GPU_AT_ONCE
from ..enhance.enhancer import Enhancer
from ..errors import OptionError
from ..files import remove_leftovers
from ..workers import Processes, in_threads
from .find import Job
from .processes import AT_ONCE, Care, results_of, run_here, start
from .report import Result
from .storage import is_remote

Progress = Callable[[Job, int, int], None]
Finished = Iterator[tuple[Any, list[Result]]]


def run(
    jobs: Sequence[Job],
    load: tuple,
    options: dict,
    workers: int | None = None,
    where: str = "local",
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Yield a Result for each job as it ends; what goes wrong with a recording is in its result.

    If the generator is closed, or an exception such as KeyboardInterrupt leaves it, the work stops soon
    and leaves no half-written file. A program that calls this must have its main code under
    `if __name__ == "__main__"`.

    Args:
        load: the arguments of Enhancer.from_pretrained.
        options: those of Enhancer.enhance_file.
        workers: how many recordings at a time: on a backend that wants batches in threads, whose chunks
            share them (8 unless told), else each in a process with its share of the cores (1).
        where: 'local', on this machine; or 'ray' (corpus/ray.py).
        progress: called as progress(job, samples done, samples) where recordings come one by one.

    Raises:
        OptionError: for an unknown place; storage.FullError where nothing more can be written; and, with
            the first result, what from_pretrained raises.
    """
    finished = run_jobs(jobs, load, options, workers, where, progress)
    return (result for _, results in finished for result in results)


def run_jobs(
    jobs: Sequence[Any],
    load: tuple,
    options: dict,
    workers: int | None = None,
    where: str = "local",
    progress: Progress | None = None,
    care: Care = Care(),
) -> Finished:
    """`run`, of jobs or shards: yields each with its results."""
    if where not in PLACES:
        raise OptionError(f"where={where!r}: {' or '.join(map(repr, PLACES))}")
    return PLACES[where](jobs, load, options, workers, progress, care)


def _locally(
    jobs: Sequence[Any],
    load: tuple,
    options: dict,
    workers: int | None,
    progress: Progress | None,
    care: Care,
) -> Finished:
    if not jobs:
        return
    enhancer = Enhancer.from_pretrained(*load)  # here too: an unknown model is said once, and at once
    _remove_leftovers(jobs)
    wants_batches = enhancer.recordings_at_once > 1
    if care.watched:
        del enhancer
        if wants_batches:
            yield from _in_processes(load, jobs, options, 1, workers or GPU_AT_ONCE, care)
        else:
            yield from _in_processes(load, jobs, options, min(workers or cores(), len(jobs)), AT_ONCE, care)
        return
    workers = min(workers or enhancer.recordings_at_once, len(jobs))
    if workers == 1:
        for job in jobs:
            yield job, results_of(enhancer, job, options, progress and functools.partial(progress, job))
    elif wants_batches:
        yield from _in_threads(enhancer, jobs, options, workers)
    else:
        del enhancer
        yield from _in_processes(load, jobs, options, workers, 1, care)


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


def _in_processes(
    load: tuple, jobs: Sequence[Any], options: dict, processes: int, at_once: int, care: Care
) -> Finished:
    threads = 1 if care.watched else threads_each(processes)
    try:
        with make_pool(load, options, processes, threads, at_once, care, _are_shards(jobs)) as pool:
            for job, future in pool.run(jobs):
                yield job, _results(job, future.exception() or future.result())
    finally:
        _remove_leftovers(jobs)


def make_pool(
    load: tuple, options: dict, processes: int, threads: int, at_once: int, care: Care, shards: bool
) -> Processes:
    """Processes that enhance; a shard has threads of its own."""
    enhance = functools.partial(run_here, options, care.retries)
    at_once = 1 if shards else at_once
    return Processes(enhance, processes, threads, start, (load,), at_once, care.retries, care.patience)


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


def threads_each(processes: int) -> int:
    import torch

    return max(1, torch.get_num_threads() // processes)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remove_leftovers(jobs: Iterable[Any]) -> None:
    remove_leftovers(job.output for job in jobs if not is_remote(job.output))


def _over_ray(
    jobs: Sequence[Any],
    load: tuple,
    options: dict,
    workers: int | None,
    progress: Progress | None,
    care: Care,
) -> Finished:
    from .ray import run_over_ray

    if not jobs:
        return
    at_once = GPU_AT_ONCE if care.gpus else AT_ONCE
    pool = functools.partial(make_pool, load, options, 1, 1, at_once, care, _are_shards(jobs))
    try:
        with contextlib.closing(run_over_ray(jobs, pool, workers, care)) as finished:
            for job, ended in finished:
                yield job, _results(job, ended)
    finally:
        _remove_leftovers(jobs)


PLACES = {"local": _locally, "ray": _over_ray}
