"""Many recordings: where they are enhanced, and by how many hands."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor

from ..enhance.enhancer import Enhancer
from ..errors import OptionError
from ..files import remove_leftovers
from ..workers import in_processes, in_threads
from .find import Job
from .processes import run_here, run_job, start
from .report import Result

Progress = Callable[[Job, int, int], None]


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
        where: 'local', on this machine.
        progress: called as progress(job, samples done, samples) where recordings come one by one.

    Raises:
        OptionError: for an unknown place; and, with the first result, what from_pretrained raises.
    """
    if where not in PLACES:
        raise OptionError(f"where={where!r}: {' or '.join(map(repr, PLACES))}")
    return PLACES[where](jobs, load, options, workers, progress)


def _locally(
    jobs: Sequence[Job], load: tuple, options: dict, workers: int | None, progress: Progress | None
) -> Iterator[Result]:
    if not jobs:
        return
    enhancer = Enhancer.from_pretrained(*load)  # here too: an unknown model is said once, and at once
    remove_leftovers(job.output for job in jobs)
    workers = min(workers or enhancer.recordings_at_once, len(jobs))
    if workers == 1:
        for job in jobs:
            yield run_job(enhancer, job, options, progress and functools.partial(progress, job))
    elif enhancer.recordings_at_once > 1:
        yield from _in_threads(enhancer, jobs, options, workers)
    else:
        del enhancer
        yield from _in_processes(load, jobs, options, workers)


def _in_threads(enhancer: Enhancer, jobs: Sequence[Job], options: dict, threads: int) -> Iterator[Result]:
    stopping = threading.Event()

    def go_on(*_) -> None:
        if stopping.is_set():
            raise SystemExit  # passes by run_job, which takes an Exception for a failure

    def enhance(job: Job) -> Result:
        return run_job(enhancer, job, options, go_on)

    with contextlib.closing(in_threads(enhance, jobs, threads, stopping=stopping)) as finished:
        for _, future in finished:
            yield future.result()


def _in_processes(load: tuple, jobs: Sequence[Job], options: dict, processes: int) -> Iterator[Result]:
    import torch

    threads = max(1, torch.get_num_threads() // processes)
    enhance = functools.partial(run_here, options)
    spawned = in_processes(enhance, jobs, processes, threads, start, (load,))
    with contextlib.closing(spawned) as finished:
        for job, future in finished:
            try:
                yield future.result()
            except BrokenExecutor:
                reason = "not done, a process died, perhaps of memory: --resume with fewer --jobs"
                yield Result(job.source, job.output, "failed", error=f"{job.source!r}: {reason}")


PLACES = {"local": _locally}
