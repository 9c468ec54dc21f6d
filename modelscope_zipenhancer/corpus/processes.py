"""What a process that enhances recordings has: its Enhancer, whose network works on one at a time."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..enhance.enhancer import Enhancer
from ..errors import ZipEnhancerError
from ..runtime.backend import Backend, preferred_batch_size
from ..worker_process import BEAT, alive
from .clip import Progress, run_job
from .find import Job
from .report import Result
from .storage import FullError

AT_ONCE = 3  # recordings in a process on a CPU: one is read, one in the network, one is written

_enhancer: Enhancer  # of this process, if it was spawned


@dataclass(frozen=True)
class Care:
    """How much is done for a job that fails for reasons that may pass.

    Args:
        retries: how often it is tried again.
        patience: seconds of silence after which a process is taken to hang; None: for ever.
        watched: in a process of its own even where one job runs at a time, so that no job can end the run;
            each process has one thread, which makes the sound the same whatever their number.
        cpus, gpus: over ray, what an actor gets; fractions too.
    """

    retries: int = 0
    patience: float | None = None
    watched: bool = False
    cpus: float = 1.0
    gpus: float = 0.0


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


def start(load: dict[str, Any]) -> None:
    """Load the enhancer of this process."""
    global _enhancer
    _enhancer, _ = for_threads(Enhancer.from_pretrained(**load))


def run_here(options: dict, retries: int, job: Any) -> list[Result]:
    """`results_of` by the enhancer of this process."""
    return results_of(_enhancer, job, options, retries=retries)


def results_of(
    enhancer: Enhancer, job: Any, options: dict, progress: Progress | None = None, retries: int = 0
) -> list[Result]:
    """The result of a Job; of a shard those of all recordings in it."""
    if isinstance(job, Job):
        return [run_job(enhancer, job, options, progress, retries)]
    try:
        return job.enhance(enhancer, options, retries)
    except FullError:
        raise
    except Exception as error:
        if not isinstance(error, ZipEnhancerError):
            error = f"{type(error).__name__}: {error}"
        text = " ".join(str(error).split())
        return [Result(job.source, job.output, "failed", error=f"{job.source!r}: {text}")]
