"""Items worked on side by side: by threads, or by spawned processes with a share of the cores.

Items are taken a few ahead, no farther, and come back with a finished future each: as they end, or in
their order. Ctrl-C is the parent's business: it stops the others, which leave nothing half-written.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from itertools import islice
from typing import Any

# How many threads the numeric libraries start; they read it when they are loaded.
THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def ahead(function: Callable, items: Iterable, threads: int) -> Iterator:
    """Yield function(item) of each item, in order, by threads; items are taken that far ahead, no farther.

    An error is raised when its item's turn comes.
    """
    with contextlib.closing(in_threads(function, items, threads, in_order=True)) as finished:
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
    start: Callable = tuple,
    arguments: tuple = (),
    in_order: bool = False,
) -> Iterator[tuple[Any, Future]]:
    """Yield each item with its finished future, from spawned processes of `threads` threads each.

    Each process calls start(*arguments) first. One that dies (of memory, say) leaves BrokenExecutor in the
    futures of all items that follow. If the generator is left early, the processes end at once, by
    an exception in what they are at, so that they can tidy up. They end with their parent, too. Functions,
    items and results are pickled, and a program that calls this must have its main code under
    `if __name__ == "__main__"`.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, context, _begin, (start, arguments))

    def submit(item: Any) -> Future:
        try:
            with spawning(threads):  # the pool starts its processes when it needs them
                return pool.submit(_work, function, item)
        except BrokenExecutor as error:
            future = Future()
            future.set_exception(error)
            return future

    done = False
    try:
        yield from _finished(submit, items, 2 * processes, in_order)
        done = True
    finally:
        if not done:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
        pool.shutdown(cancel_futures=True)


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

_stopping = False


def _begin(start: Callable, arguments: tuple) -> None:
    """What a process does before its first item."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*arguments)
    # Not before: until here there is nothing to tidy up, and an exception would be shown with a traceback.
    signal.signal(signal.SIGTERM, _stop)


def _work(function: Callable, item: Any) -> Any:
    if _stopping:
        raise SystemExit(1)
    return function(item)


def _stop(*_) -> None:
    """Leave the item by an exception, so that its temporary file is removed, and take no other."""
    global _stopping
    if not _stopping:
        _stopping = True
        raise SystemExit(1)


def _end_with_parent() -> None:
    """A parent killed with SIGKILL tells nobody; its resumed run must not meet this process at work."""
    multiprocessing.parent_process().join()
    os._exit(1)
