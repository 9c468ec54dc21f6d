"""Items worked on side by side: taken a few ahead, in order or as they end, by threads and by processes."""

import os
import random
import signal
import threading
import time
from concurrent.futures import BrokenExecutor

import pytest

from modelscope_zipenhancer.worker_process import alive
from modelscope_zipenhancer.workers import Processes, ahead, in_processes, in_threads, spawning


def die_or_double(item):
    time.sleep(0.01)
    return os._exit(7) if item == 5 else 2 * item


def die_twice(folder):
    times = len(os.listdir(folder))
    if times < 2:
        open(os.path.join(folder, str(times)), "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return times


def hang_or_go_on(item):
    if item == "hang":
        time.sleep(600)
    if item == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    for _ in range(60):
        time.sleep(0.1)
        alive()
    return "went on"


def raise_a_local(item):
    class Local(Exception):
        pass

    raise Local("of its own")


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


def test_an_item_whose_process_dies_fails_and_those_beside_it_and_after_it_do_not():
    with Processes(die_or_double, 2, 1, at_once=3) as pool:
        for items in (range(8), range(8, 12)):  # the processes stay
            finished = {item: future.exception() or future.result() for item, future in pool.run(items)}
            assert sorted(finished) == list(items)
            died = finished.pop(5, None)
            assert finished == {item: 2 * item for item in finished}
            assert died is None or isinstance(died, BrokenExecutor) and "died with exit code 7" in str(died)


def test_an_item_is_tried_again_until_its_process_lives(tmp_path):
    with Processes(die_twice, 1, 1, retries=2) as pool:
        assert [future.result() for _, future in pool.run([str(tmp_path)])] == [2]


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_process_that_says_nothing_is_ended_and_one_that_says_that_it_is_alive_is_not(monkeypatch):
    monkeypatch.setattr("time.time", lambda: random.uniform(-1e9, 1e10))  # a clock that jumps
    with Processes(hang_or_go_on, 2, 1, patience=3.0) as pool:
        finished = dict(pool.run(["hang", "stop", "go on"], in_order=True))
    assert "said nothing for 3 s" in str(finished["hang"].exception())
    assert "said nothing for 3 s" in str(finished["stop"].exception())
    assert finished["go on"].result() == "went on"


def test_what_a_process_raises_as_it_starts_is_raised_and_if_none_starts_that_is_said(monkeypatch):
    with pytest.raises(ZeroDivisionError), Processes(abs, 1, 1, divmod, (1, 0)) as pool:
        list(pool.run([1]))
    monkeypatch.setattr("modelscope_zipenhancer.workers.STARTS", 2)
    with (
        pytest.raises(BrokenExecutor, match="no process gets as far"),
        Processes(abs, 1, 1, os._exit, (3,)) as pool,
    ):
        list(pool.run([1]))


def test_an_error_that_can_not_be_sent_comes_as_text():
    ((_, future),) = in_processes(raise_a_local, [1], 1, 1)
    assert isinstance(future.exception(), RuntimeError) and "Local: of its own" in str(future.exception())


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
