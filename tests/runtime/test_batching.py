"""Several recordings on one device: what threads ask for at the same time goes over as one batch."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from conftest import QUICK, seeded_model

from modelscope_zipenhancer import cli
from modelscope_zipenhancer.corpus.find import Job
from modelscope_zipenhancer.corpus.run import Work, run
from modelscope_zipenhancer.enhance.enhancer import AT_ONCE, Enhancer
from modelscope_zipenhancer.runtime.batching import Batcher
from modelscope_zipenhancer.runtime.gpu import GpuNetwork

PATIENCE = 60  # seconds, until a test that hangs has failed


class Device:
    """Doubles what it gets; busy with the first batch until `go` is set."""

    def __init__(self):
        self.shapes, self.threads, self.go, self.begun = [], set(), threading.Event(), threading.Event()

    def __call__(self, waveform, gain=None):
        self.shapes.append((*waveform.shape, gain is not None))
        self.threads.add(threading.get_ident())
        self.begun.set()
        assert self.go.wait(PATIENCE)
        if waveform.isnan().any():
            raise MemoryError("it doesn't fit")
        return waveform * (2 if gain is None else gain[:, None])


def asked(pool, device, requests):
    """What the pool gives to each, asked for while the device is busy."""
    with ThreadPoolExecutor(len(requests) + 1) as threads:
        first = threads.submit(pool, torch.ones(1, 7))
        assert device.begun.wait(PATIENCE)
        answers = []
        for i, request in enumerate(requests):  # one after the other: the order is part of the test
            answers.append(threads.submit(pool, *request))
            deadline = time.monotonic() + PATIENCE
            while len(pool._waiting) <= i and time.monotonic() < deadline:
                time.sleep(0.001)
        device.go.set()
        assert torch.equal(first.result(), torch.full((1, 7), 2.0))
        return answers


def test_what_comes_while_the_device_is_busy_goes_over_together_by_length_up_to_the_most():
    device = Device()
    values = [
        torch.full((rows, samples), float(i))
        for i, (rows, samples) in enumerate([(1, 5), (2, 5), (1, 6), (1, 5), (3, 5), (1, 5)])
    ]
    answers = asked(Batcher(device, most=5), device, [(x,) for x in values])
    for x, answer in zip(values, answers):
        assert torch.equal(answer.result(), 2 * x)
    assert [shape[:2] for shape in device.shapes] == [(1, 7), (5, 5), (1, 6), (3, 5)]
    assert len(device.threads) == 1


def test_a_batch_beyond_the_most_goes_over_alone():
    device = Device()
    (answer,) = asked(Batcher(device, most=2), device, [(torch.ones(9, 5),)])
    assert answer.result().shape == (9, 5)


def test_gains_stay_with_their_waveforms():
    device = Device()
    x = torch.ones(1, 5)
    requests = [(x, torch.tensor([3.0])), (x,), (x, torch.tensor([4.0]))]
    answers = asked(Batcher(device, most=9), device, requests)
    assert [float(answer.result()[0, 0]) for answer in answers] == [3.0, 2.0, 4.0]
    assert device.shapes == [(1, 7, False), (2, 5, True), (1, 5, False)]


def test_an_error_reaches_those_of_its_batch_and_nobody_else():
    device = Device()
    pool = Batcher(device, most=2)
    good, bad = torch.ones(1, 5), torch.full((1, 5), torch.nan)
    answers = asked(pool, device, [(good,), (bad,), (good,)])
    for answer in answers[:2]:
        with pytest.raises(MemoryError, match="fit"):
            answer.result()
    assert torch.equal(answers[2].result(), 2 * good)
    assert torch.equal(pool(good), 2 * good)


# ---- recordings --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared():
    """An enhancer with the form for GPUs, run on the CPU; the shapes of the batches."""
    model = seeded_model(QUICK)
    form, shapes = GpuNetwork(model), []
    forward = form._batcher._function

    def noted(waveform, gain):
        shapes.append(tuple(waveform.shape))
        return forward(waveform, gain)

    form._batcher._function = noted

    def backend(waveform, gain=None):
        return form.denoise(torch.from_numpy(waveform), gain).numpy()

    backend.preferred_batch_size = 4
    return Enhancer(backend), shapes


def clips(count, samples=16_000):
    rng = np.random.default_rng(9)
    return [0.1 * rng.standard_normal(samples + i).astype(np.float32) for i in range(count)]


def test_clips_of_a_corpus_share_batches_and_sound_as_they_do_alone(shared):
    enhancer, shapes = shared
    sources = clips(12)
    alone = [enhancer(x) for x in sources]
    shapes.clear()
    for found, expected in zip(enhancer.batch(sources), alone, strict=True):
        assert found.shape == expected.shape
        # 1e-3: a batch rounds otherwise than one waveform, and the network reads wrapped phase
        assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    assert sum(rows for rows, _ in shapes) == 12 and max(rows for rows, _ in shapes) > 1


def test_the_command_works_on_several_recordings_at_a_time_on_a_gpu(shared, tmp_path, monkeypatch, capsys):
    enhancer, shapes = shared
    monkeypatch.setattr(Enhancer, "from_pretrained", classmethod(lambda cls, **arguments: enhancer))
    (tmp_path / "in").mkdir()
    for i, x in enumerate(clips(9)):
        soundfile.write(tmp_path / "in" / f"{i}.wav", x, 16_000)
    (tmp_path / "in" / "x.wav").write_bytes(b"broken")
    shapes.clear()
    assert cli.main(["enhance", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().out.startswith("9 of 10 done, 1 failed: ")
    assert max(rows for rows, _ in shapes) > 1
    for i in range(9):
        found, _ = soundfile.read(tmp_path / "out" / f"{i}.wav")
        expected = enhancer(tmp_path / "in" / f"{i}.wav")
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max() + 1 / 32768


def test_left_early_the_others_stop_at_their_next_chunk_and_leave_nothing_half_written(tmp_path, monkeypatch):
    running = threading.Event()

    class Slow:
        preferred_batch_size = 2

        def __call__(self, waveform, gain=None):
            running.set()
            time.sleep(0.02)
            return waveform

    names = [f"{i}.wav" for i in range(2 * AT_ONCE)]
    for name in names:  # the first is short, the others take a minute each
        soundfile.write(tmp_path / name, np.zeros(16_000 if name == "0.wav" else 4_000_000), 16_000)
    jobs = [Job(str(tmp_path / name), str(tmp_path / "out" / name)) for name in names]
    before = threading.active_count()
    monkeypatch.setattr(Enhancer, "from_pretrained", classmethod(lambda cls: cls(Slow())))
    results = run(jobs, Work({}))
    _, (first,) = next(results)
    assert first.status == "done" and running.is_set()
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 10
    assert threading.active_count() <= before + 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.wav"]
