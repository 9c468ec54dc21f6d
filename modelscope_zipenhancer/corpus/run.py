"""Many recordings: where they are enhanced, and by how many hands."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any

from ..enhance.enhancer import Enhancer
from ..errors import OptionError
from ..files import remove_leftovers
from ..workers import Processes, in_threads
from .find import Job
from .processes import AT_ONCE, results_of, run_here, start
from .report import Result
from .storage import is_remote

Progress = Callable[[Job, int, int], None]
Finished = Iterator[tuple[Any, list[Result]]]


@dataclass(frozen=True)
class Care:
    """How much is done for a job that fails for reasons that may pass.

    Args:
        retries: how often it is tried again.
        patience: seconds of silence after which a process is taken to hang; None: for ever.
        watched: in a process of its own even where one job runs at a time, so that no job can end the run;
            each process has one thread, which makes the sound the same whatever their number.
    """

    retries: int = 0
    patience: float | None = None
    watched: bool = False


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
            yield from _in_processes(load, jobs, options, 1, workers or 8, care)
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
    pool = Processes(
        functools.partial(run_here, options, care.retries),
        processes,
        1 if care.watched else threads_each(processes),
        start,
        (load,),
        at_once if all(isinstance(job, Job) for job in jobs) else 1,  # a shard has threads of its own
        care.retries,
        care.patience,
    )
    try:
        with pool:
            for job, future in pool.run(jobs):
                try:
                    yield job, future.result()
                except BrokenExecutor as error:
                    reason = f"{job.source!r}: its process {error}; if of memory, take fewer processes"
                    yield job, [Result(job.source, job.output, "failed", error=reason)]
    finally:
        _remove_leftovers(jobs)


def threads_each(processes: int) -> int:
    import torch

    return max(1, torch.get_num_threads() // processes)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remove_leftovers(jobs: Iterable[Any]) -> None:
    remove_leftovers(job.output for job in jobs if not is_remote(job.output))


def _over_ray(*arguments: Any) -> Finished:
    raise OptionError("not yet")


PLACES = {"local": _locally, "ray": _over_ray}
