"""Many recordings: the processes or threads that enhance them.

A job is done when its output is there: files appear whole, so work that was cut off, even by
SIGKILL, goes on with the jobs whose outputs are missing.
"""

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from .processes import Result, _run, _start, run_job


def run_jobs(load: tuple, jobs: Iterable, options: dict, processes: int) -> Iterator:
    """Yield a Result for each job as it ends, from `processes` fresh processes.

    load: the arguments of Enhancer.from_pretrained. The cores that torch would use are shared out
    among the processes. If the generator is closed, or an exception such as KeyboardInterrupt leaves
    it, the processes stop at once and leave no half-written file. A program that calls this must
    have its main code under `if __name__ == "__main__"`.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    pool = ProcessPoolExecutor(processes, context, _start, (load, processes))
    with _without_interrupts():  # which the processes inherit, from their first moment on
        futures = {pool.submit(_run, job, options): job for job in jobs}
    finished = False
    try:
        for future in as_completed(futures):
            job = futures.pop(future)
            try:
                yield future.result()
            except BrokenProcessPool:
                reason = "not done, a process died, perhaps of memory: --resume with fewer --jobs"
                yield Result(job.source, job.output, "failed", error=f"{job.source!r}: {reason}")
        finished = True
    finally:
        if not finished:
            for child in multiprocessing.active_children():
                child.terminate()
        pool.shutdown(cancel_futures=True)


def run_jobs_together(enhancer, jobs: list, options: dict, threads: int) -> Iterator:
    """Yield a Result for each job as it ends; `threads` recordings at a time share the enhancer's device.

    If the generator is closed, or an exception leaves it, the others end with the chunks that they are
    at, and leave no half-written file.
    """
    stopping = threading.Event()

    def go_on(*_):
        if stopping.is_set():
            raise SystemExit  # passes by run_job, which takes an Exception for a failure

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run_job, enhancer, job, options, go_on) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _without_interrupts():
    """Ignore Ctrl-C meanwhile; only the main thread can, and elsewhere there is nothing to ignore."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
