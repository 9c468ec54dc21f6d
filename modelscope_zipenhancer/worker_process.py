"""What a spawned process of workers.py does, and how a thread of it says that its item goes on."""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

BEAT = 1.0  # seconds between two signs of life

_this = threading.local()  # tell: says of this thread's item that it goes on


def alive() -> None:
    """Tell the parent that this thread's item goes on; elsewhere this does nothing."""
    tell = teller()
    if tell:
        tell()


def teller() -> Callable[[], None] | None:
    """What says of this thread's item that it goes on; None outside of such processes."""
    return getattr(_this, "tell", None)


def speak_for(tell: Callable[[], None] | None) -> None:
    """Let `alive` of this thread speak for another one's item."""
    _this.tell = tell


def serve(connection: Any, function: Callable, start: Callable, arguments: tuple, at_once: int) -> None:
    """What a process does: items in, results out, until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock:
            connection.send(message)

    try:
        start(*arguments)
    except Exception as error:
        send("refused", 0, _sendable(error))
        return
    work: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(at_once):
        threading.Thread(target=_work, args=(work, function, send), daemon=True).start()
    send("ready", 0, None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            work.put(connection.recv())
    sys.stdout.flush()
    os._exit(0)  # at once: whatever is being worked on is not wanted any more


def _work(work: queue.SimpleQueue, function: Callable, send: Callable) -> None:
    while True:
        number, item = work.get()
        last = time.monotonic()

        def tell(number: int = number) -> None:
            nonlocal last
            if time.monotonic() - last > BEAT:
                last = time.monotonic()
                send("alive", number, None)

        speak_for(tell)
        try:
            message = "done", number, function(item)
            ForkingPickler.dumps(message)
        except BaseException as error:
            message = "failed", number, _sendable(error)
        send(*message)


def _sendable(error: BaseException) -> BaseException:
    """The error, or its text where it doesn't survive the way to another process."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """A parent killed with SIGKILL tells nobody; its resumed run must not meet this process at work."""
    multiprocessing.parent_process().join()
    os._exit(1)
