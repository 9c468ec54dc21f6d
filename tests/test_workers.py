"""Items worked on side by side: taken a few ahead, in order or as they end, by threads and by processes."""

import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor

import pytest

from modelscope_zipenhancer.workers import ahead, in_processes, in_threads, spawning


def test_items_are_taken_a_few_ahead_and_come_back_in_order():
    taken = []

    def items():
        for i in range(10):
            taken.append(i)
            yield i

    def work(i):
        time.sleep(0.01 * (i % 3 == 0))
        if i == 7:
            raise ValueError("item 7")
        return i

    results = ahead(work, items(), 3)
    assert next(results) == 0 and taken == [0, 1, 2]
    assert [next(results) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="item 7"):
        next(results)


def test_what_ends_first_comes_first_unless_the_order_is_asked_for():
    for in_order, first in ((False, 0.0), (True, 0.2)):
        finished = in_threads(time.sleep, [0.2, 0.0], 2, in_order)
        assert next(finished)[0] == first
        assert len(list(finished)) == 1


def test_threads_that_are_left_early_hear_of_it_before_they_are_waited_for():
    stopping = threading.Event()

    def work(i):
        return i if i == 0 else stopping.wait(60)

    finished = in_threads(work, range(4), 2, stopping=stopping)
    assert next(finished)[0] == 0
    started = time.monotonic()
    finished.close()
    assert time.monotonic() - started < 10


def test_processes_have_their_share_of_the_threads_and_results_keep_their_order():
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"] * 3
    found = [(name, future.result()) for name, future in in_processes(os.getenv, names, 2, 3, in_order=True)]
    assert found == [(name, "3") for name in names]


def test_a_process_that_dies_fails_its_item_and_those_that_follow_and_none_is_lost():
    items = [3, *range(100, 120)]
    finished = list(in_processes(os._exit, items, 1, 1))
    assert sorted(item for item, _ in finished) == items
    assert all(isinstance(future.exception(), BrokenExecutor) for _, future in finished)


def test_processes_that_are_left_early_end_at_once():
    finished = in_processes(time.sleep, [0, 60, 60, 60], 2, 1)
    assert next(finished)[0] == 0
    started = time.monotonic()
    finished.close()
    assert time.monotonic() - started < 20


def test_new_processes_are_told_how_many_threads_to_use_and_the_environment_is_as_before(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with spawning(1):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_ctrl_c_while_a_process_starts_is_not_lost():

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reached = False
    try:
        with pytest.raises(KeyboardInterrupt), spawning(1):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            reached = True
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached
