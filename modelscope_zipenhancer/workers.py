"""Items worked on side by side: by threads, or by spawned processes with a share of the cores.

Items are taken a few ahead, no farther, and come back with a finished future each: as they end, or in
their order. Ctrl-C is the parent's business: it kills the other processes.
"""

import contextlib
import functools
import itertools
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from .worker_process import serve, speak_for, teller

# How many threads the numeric libraries start; they read it when they are loaded.
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STARTS = 10  # so many processes in a row may die before they are ready


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(function: Callable, items: Iterable, threads: int) -> Iterator:
    """Yield function(item) of each item, in order, by threads; items are taken that far ahead, no farther.

    An error is raised when its item's turn comes.
    """
    tell = teller()

    def work(item: Any) -> Any:
        speak_for(tell)  # the threads speak for the one that has them work
        return function(item)

    with contextlib.closing(in_threads(work, items, threads, in_order=True)) as finished:
        for _, future in finished:
            yield future.result()


def in_threads(
    function: Callable,
    items: Iterable,
    threads: int,
    in_order: bool = False,
    stopping: threading.Event | None = None,
) -> Iterator[tuple[Any, Future]]:
    """Yield each item with its finished future, from threads of this process.

    If the generator is left early, it sets `stopping`, which the function may heed, and waits for the items
    that are being worked on.
    """
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from _finished(functools.partial(pool.submit, function), items, threads, in_order)
        finally:
            if stopping:
                stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


def in_processes(
    function: Callable,
    items: Iterable,
    processes: int,
    threads: int,
    in_order: bool = False,
) -> Iterator[tuple[Any, Future]]:
    """Yield each item with its finished future, from spawned processes of `threads` threads each.

    If the generator is left early, the processes are killed. They end with their parent, too. Functions,
    items and results are pickled, and a program that calls this must have its main code under
    `if __name__ == "__main__"`.
    """
    with Processes(function, processes, threads) as pool:
        yield from pool.run(items, in_order)


class Processes:
    """Spawned processes that are watched: one that dies or hangs is replaced, and its items are tried again.

    When a process that had several items is lost, none is blamed: each is tried again with a process to
    itself. One that loses processes of its own more than `retries` times gets a BrokenExecutor as its result.

    Args:
        function: called with an item, in a thread of a process.
        threads: of the numeric libraries, in each process.
        start: called with `arguments` first in each process; what it raises, `run` raises.
        at_once: how many items a process has at a time, each in a thread.
        retries: how often an item is tried again that was alone in a process that died or hung.
        patience: seconds after which a process hangs in which an item says nothing (`alive`); by default
            it is waited for for ever. Measured by a clock that nobody can set.
    """

    def __init__(
        self,
        function: Callable,
        processes: int,
        threads: int,
        start: Callable = tuple,
        arguments: tuple = (),
        at_once: int = 1,
        retries: int = 0,
        patience: float | None = None,
    ):
        self.processes, self.threads, self.at_once = processes, threads, at_once
        self.retries, self.patience = retries, patience
        self._serve = function, start, arguments, at_once
        self._workers: list[_Worker] = []
        self._lost_at_start = 0  # processes, in a row
        self._numbers = itertools.count()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the processes, whatever they are at."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def run(self, items: Iterable, in_order: bool = False) -> Iterator[tuple[Any, Future]]:
        """Yield each item with its finished future; items are taken ahead, as many again as are worked on.

        If the generator is left early, the processes are killed.
        """
        items, waiting = iter(items), {}  # waiting: {number: task}, in the items' order
        fresh: deque[_Task] = deque()
        suspects: deque[_Task] = deque()  # each gets a process to itself
        try:
            while True:
                for item in islice(items, 2 * self.processes * self.at_once - len(waiting)):
                    task = _Task(next(self._numbers), item)
                    waiting[task.number] = task
                    fresh.append(task)
                if not waiting:
                    return
                self._give(fresh, suspects, len(waiting))
                self._wait()
                for worker in list(self._workers):
                    reason = worker.hear() or worker.is_silent(self.patience)
                    if reason:
                        suspects.extend(self._replace(worker, reason))
                finished = [task for task in waiting.values() if task.future.done()]
                if in_order:
                    finished = list(itertools.takewhile(lambda task: task.future.done(), waiting.values()))
                for task in finished:
                    del waiting[task.number]
                    yield task.item, task.future
        finally:
            if waiting:
                self.__exit__()

    def _give(self, fresh: deque["_Task"], suspects: deque["_Task"], tasks: int) -> None:
        """Give items to the processes that have room; start those that are missing."""
        while len(self._workers) < min(self.processes, tasks):
            self._workers.append(_Worker(self._serve, self.threads))
        for worker in self._workers:
            if suspects and worker.ready and not worker.tasks:
                worker.give(suspects.popleft())
            while fresh and worker.ready and len(worker.tasks) < self.at_once and not worker.is_tried:
                worker.give(fresh.popleft())

    def _wait(self) -> None:
        """Return once a process has sent something, has died, or has been silent for too long."""
        handles = [handle for w in self._workers for handle in (w.connection, w.process.sentinel)]
        timeout = None
        if self.patience:
            longest = min(worker.heard_of() for worker in self._workers)
            timeout = min(max(longest + self.patience - time.monotonic(), 0.0) + 0.01, self.patience)
        multiprocessing.connection.wait(handles, timeout)

    def _replace(self, worker: "_Worker", reason: str) -> Iterator["_Task"]:
        """End a process that is lost; yields its items that are to be tried again."""
        worker.process.kill()
        worker.end()
        self._workers.remove(worker)
        self._lost_at_start = 0 if worker.ready else self._lost_at_start + 1
        if worker.refusal:
            raise worker.refusal
        if self._lost_at_start > STARTS:
            raise BrokenExecutor(f"no process gets as far as its first item: each {reason}")
        for task in worker.tasks.values():
            task.lost += len(worker.tasks) == 1
            task.suspect = True
            if task.lost > self.retries:
                task.future.set_exception(BrokenExecutor(reason))
            else:
                yield task


@dataclass(eq=False)
class _Task:
    number: int
    item: Any
    future: Future = field(default_factory=Future)
    lost: int = 0  # processes of which it was the only item
    suspect: bool = False
    heard: float = 0.0


class _Worker:
    """A spawned process, seen by its parent."""

    def __init__(self, orders: tuple, threads: int):
        context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *orders), daemon=True)
        with spawning(threads):
            self.process.start()
        theirs.close()  # so that its death is the end of the pipe
        self.ready, self.refusal = False, None
        self.tasks: dict[int, _Task] = {}
        self.started = time.monotonic()

    @property
    def is_tried(self) -> bool:
        """Whether its one item is under suspicion."""
        return any(task.suspect for task in self.tasks.values())

    def give(self, task: _Task) -> None:
        task.heard = time.monotonic()
        self.tasks[task.number] = task
        with contextlib.suppress(OSError):  # it has died: that is heard of next
            self.connection.send((task.number, task.item))

    def hear(self) -> str | None:
        """Take in what it has sent; returns what has become of it if it is no more."""
        try:
            while self.connection.poll():
                kind, number, value = self.connection.recv()
                if kind == "ready":
                    self.ready = True
                elif kind == "refused":
                    self.refusal = value
                elif kind == "alive":
                    self.tasks[number].heard = time.monotonic()
                elif kind == "done":
                    self.tasks.pop(number).future.set_result(value)
                else:
                    self.tasks.pop(number).future.set_exception(value)
        except (EOFError, OSError):
            self.process.join(10)
            code = self.process.exitcode
            return f"died by signal {-code}" if code and code < 0 else f"died with exit code {code}"
        return None

    def heard_of(self) -> float:
        """When the item was heard of that has been silent longest."""
        if not self.ready:
            return self.started
        return min((task.heard for task in self.tasks.values()), default=math.inf)

    def is_silent(self, patience: float | None) -> str | None:
        if patience is None or time.monotonic() - self.heard_of() < patience:
            return None
        return f"said nothing for {patience:g} s and was ended"

    def end(self) -> None:
        self.connection.close()
        self.process.join()
        self.process.close()


def _finished(
    submit: Callable[[Any], Future], items: Iterable, count: int, in_order: bool
) -> Iterator[tuple[Any, Future]]:
    """Submit `count` items ahead; yield each with its finished future."""
    items, waiting = iter(items), {}  # waiting: {future: item}, in the items' order
    while True:
        for item in islice(items, count - len(waiting)):
            waiting[submit(item)] = item
        if not waiting:
            return
        for future in wait(list(waiting)[:1] if in_order else waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future


@contextlib.contextmanager
def spawning(threads: int) -> Iterator[None]:
    """Let processes that are started meanwhile have `threads` threads, and hear no Ctrl-C.

    A Ctrl-C that comes meanwhile is heard at the end.
    """
    counts = {name: os.environ.get(name) for name in THREAD_COUNTS}
    os.environ.update(dict.fromkeys(THREAD_COUNTS, str(threads)))
    caught = []
    main = threading.current_thread() is threading.main_thread()  # the only one that handles signals
    handler = signal.signal(signal.SIGINT, lambda *_: caught.append(True)) if main else signal.SIG_DFL
    masks = hasattr(signal, "pthread_sigmask")  # a new process inherits it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else None
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if main:
            signal.signal(signal.SIGINT, handler)
        for name, value in counts.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if caught:
            signal.raise_signal(signal.SIGINT)


# ---- in a spawned process ----------------------------------------------------------------------
