"""What a process that enhances recordings has: its Enhancer, whose network works on one at a time."""

import threading
from typing import Any

import numpy as np

from ..enhance.enhancer import Enhancer
from ..runtime.backend import Backend, preferred_batch_size
from ..workers import BEAT, alive
from .clip import Progress, run_job
from .find import Job
from .report import Result

AT_ONCE = 3  # recordings in a process on a CPU: one is read, one in the network, one is written

_enhancer: Enhancer  # of this process, if it was spawned


class OneAtATime:
    """A backend for several threads, of which one computes: the others read, resample, encode and write.

    More at a time would only share the cores, and each would have buffers of its own.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend, self.preferred_batch_size = backend, preferred_batch_size(backend)
        self._lock = threading.Lock()

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """`Backend.__call__`."""
        while not self._lock.acquire(timeout=BEAT):  # which may be unfair: to others for minutes
            alive()
        try:
            return self.backend(waveform) if gain is None else self.backend(waveform, gain)
        finally:
            self._lock.release()


def for_threads(enhancer: Enhancer) -> tuple[Enhancer, int]:
    """The enhancer for several threads, and how many keep its network busy."""
    if enhancer.recordings_at_once > 1:  # a GPU, whose backend puts what the threads ask into batches
        return enhancer, enhancer.recordings_at_once
    return Enhancer(OneAtATime(enhancer.backend)), AT_ONCE


def start(load: tuple) -> None:
    """Load the enhancer of this process."""
    global _enhancer
    _enhancer, _ = for_threads(Enhancer.from_pretrained(*load))


def run_here(options: dict, retries: int, job: Any) -> list[Result]:
    """`results_of` by the enhancer of this process."""
    return results_of(_enhancer, job, options, retries=retries)


def results_of(
    enhancer: Enhancer, job: Any, options: dict, progress: Progress | None = None, retries: int = 0
) -> list[Result]:
    """The result of a Job; of a shard those of all recordings in it."""
    if isinstance(job, Job):
        return [run_job(enhancer, job, options, progress, retries)]
    return job.enhance(enhancer, options, retries)
