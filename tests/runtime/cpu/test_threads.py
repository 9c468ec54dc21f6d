"""Slices of work are shared evenly, and torch's threads are left as they are."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cpu_networks import error, network, spectra

from modelscope_zipenhancer.runtime.cpu import threads as jobs
from modelscope_zipenhancer.runtime.cpu.buffers import Scratch
from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("length, step", [(1, 5), (7, 1), (10, 3), (100, 33), (321, 40), (5, 0)])
def test_slices_cover_all_once_and_keep_the_threads_equally_busy(length, step, threads):
    class Here:
        """A pool that works at once."""

        def submit(self, work, *args):
            return type("Done", (), {"result": lambda self, value=work(*args): value})()

    run = jobs.SlicePool.__new__(jobs.SlicePool)
    run.scratches, run.executor = [Scratch() for _ in range(threads)], Here()
    slices = run.slices(lambda start, stop, scratch: (start, stop), length, step)
    assert [i for start, stop in slices for i in range(start, stop)] == list(range(length))
    sizes = [stop - start for start, stop in slices]
    assert max(sizes) <= max(1, step)
    rounds = -(-len(sizes) // threads)
    assert rounds * max(sizes) <= length / threads + rounds


def run(code: str) -> str:
    """Run code in a process of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_any_number_of_torch_threads_gives_the_same_and_is_left_alone(tmp_path):
    torch.save(network(), tmp_path / "model.pt")
    threads = run(
        f"""
        import threading, torch
        from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork

        form = CpuNetwork(torch.load({str(tmp_path / "model.pt")!r}, weights_only=False))
        x = torch.rand(1, 201, 60), torch.rand(1, 201, 60)
        results = []
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(form(*x))
            seen = [torch.get_num_threads()]
            new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            new.start()
            new.join()
            assert seen == [count, count], seen
        for result in results:
            assert all((a - b).abs().max() < 1e-4 for a, b in zip(result, results[0]))
        print("fine")
        """
    )
    assert threads.strip() == "fine"


def test_it_runs_where_threads_cannot_be_held_to_a_core(monkeypatch):
    form = CpuNetwork(network())
    expected = form(*spectra(1, 20))
    monkeypatch.setattr(jobs, "_torch_library", lambda: None)
    for a, b in zip(form(*spectra(1, 20)), expected):
        assert error(a, b) < 1e-5


def test_networks_at_work_at_the_same_time_do_not_disturb_each_other(each_form):
    forms = [CpuNetwork(network(size)) for size in ("tiny", "32 channels")]
    x = spectra(1, 40)  # once: threads that seed torch's generator disturb each other
    expected = [form(*x) for form in forms]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda form: form(*x), forms * 4))
    for result, one in zip(results, expected * 4):
        assert all(torch.equal(a, b) for a, b in zip(result, one))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_was_forked_after_use_gets_the_same(count, tmp_path, each_form, request):
    if count > 1 and "torch" in request.node.name:
        pytest.skip("MKL may hang in a forked child of torch's own operations (docs/reliability.md)")
    torch.save(network(), tmp_path / "model.pt")
    used = run(
        f"""
        import os, torch
        from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork

        torch.set_num_threads({count})
        form = CpuNetwork(torch.load({str(tmp_path / "model.pt")!r}, weights_only=False))
        x = torch.rand(1, 201, 60), torch.rand(1, 201, 60)
        expected = form(*x)
        child = os.fork()
        if not child:
            os._exit(0 if all(torch.equal(a, b) for a, b in zip(form(*x), expected)) else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert used.strip() == "0"
