"""Slices of work on several threads, one core each."""

import ctypes
import functools
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

from .buffers import Scratch, Workspace

P = ParamSpec("P")
T = TypeVar("T")


class SlicePool:
    """Runs slices of work on torch.get_num_threads() threads, each of which uses one core.

    That beats handing each operation to all cores by 10 %, as a slice is too small to be shared; with
    another process on the cores by far more (2 s of tiny: 0.33 s against 4.7 s), as OpenMP's threads
    then wait for each other after each operation. Where threads can't be held to one core, the
    caller's thread does all slices, in torch's way.
    """

    def __init__(self, workspace: Workspace):
        count = torch.get_num_threads() if _torch_library() else 1
        self.scratches = workspace.of_threads(count)
        self.executor = ThreadPoolExecutor(count, initializer=_use_one_core) if count > 1 else None

    def __enter__(self) -> "SlicePool":
        return self

    def __exit__(self, *_: object) -> None:
        if self.executor:
            self.executor.shutdown()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """function(*args, **kwargs), which may call `slices`, on one of the threads.

        What is between the slices has to leave the other cores alone, too: OpenMP's threads go on
        spinning for a while after each operation. The caller's autograd and autocast don't reach it.
        """

        @torch.no_grad()
        @torch.autocast("cpu", enabled=False)
        def call() -> T:
            return function(*args, **kwargs)

        return self.executor.submit(call).result() if self.executor else call()

    def slices(self, job: Callable[[int, int, Scratch], T], length: int, step: int) -> list[T]:
        """[job(start, stop, scratch), ...] of the slices of range(length), which are no longer than step.

        As many for each thread, and of one length by and large, so that none waits long for the others.
        """
        threads = len(self.scratches)
        rounds = -(-length // (max(1, step) * threads))
        step = -(-length // (rounds * threads))
        starts, results = deque(range(0, length, step)), {}

        @torch.inference_mode()
        def work(scratch: Scratch) -> None:
            while starts:
                try:
                    start = starts.popleft()
                except IndexError:  # another thread took the last
                    return
                results[start] = job(start, min(start + step, length), scratch)

        helpers = self.scratches[1 : len(starts)]  # the thread that calls works, too
        futures = [self.executor.submit(work, scratch) for scratch in helpers] if self.executor else []
        work(self.scratches[0])
        for future in futures:
            future.result()
        return [results[start] for start in sorted(results)]


@functools.cache
def _torch_library() -> ctypes.CDLL | None:
    """torch's own library, if it does its work with OpenMP."""
    try:
        library = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so"))
        return library if hasattr(library, "omp_set_num_threads") else None
    except OSError:
        return None


def _use_one_core() -> None:
    """Hold the calling thread to one core: its setting only.

    torch.set_num_threads would also set what threads started later begin with.
    """
    torch.get_num_threads()  # torch sets up a thread when it first asks, and would undo the rest
    library = _torch_library()
    if library is None:
        return
    library.omp_set_num_threads(1)
    if hasattr(library, "MKL_Set_Num_Threads_Local"):
        library.MKL_Set_Num_Threads_Local(1)
