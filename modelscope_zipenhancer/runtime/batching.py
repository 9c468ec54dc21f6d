"""What several threads ask of one device, put together to batches."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class Batcher:
    """function(waveform (B, samples)[, gain (B,)]) -> (B, samples), to be called from any threads.

    While it works, what the threads ask for waits; then those of one length go over together, up to
    `most` waveforms. A single thread doesn't wait. The function runs on one thread of the pool's own, as
    CUDA graphs want it. Its error is raised in each thread whose waveforms were in the batch.
    """

    def __init__(self, function: Callable, most: int):
        self._function, self._most = function, most
        self._lock = threading.Lock()
        self._waiting: list[tuple[Tensor, Tensor | None, Future]] = []
        self._worker = ThreadPoolExecutor(1, "zipenhancer-device")

    def __call__(self, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
        answer: Future = Future()
        with self._lock:
            self._waiting.append((waveform, gain, answer))
        self._worker.submit(self._serve)
        return answer.result()

    @torch.inference_mode()
    def _serve(self) -> None:
        """One batch; none, if what this was submitted for went with another."""
        waveforms, gains, answers = self._take()
        if not waveforms:
            return
        try:
            gain = None if gains[0] is None else torch.cat(gains)
            enhanced = self._function(torch.cat(waveforms), gain)
        except BaseException as error:
            for answer in answers:
                answer.set_exception(error)
            return
        for answer, part in zip(answers, enhanced.split([len(waveform) for waveform in waveforms])):
            answer.set_result(part)

    def _take(self) -> tuple:
        """Waveforms, gains and answers: of the request that has waited longest, and of those like it."""
        with self._lock:
            if not self._waiting:
                return (), (), ()
            first, first_gain, _ = self._waiting[0]
            taken: list = []
            left: list = []
            count = 0
            for request in self._waiting:
                waveform, gain, _ = request
                alike = waveform.shape[1] == first.shape[1] and (gain is None) == (first_gain is None)
                if alike and (not taken or count + len(waveform) <= self._most):
                    taken.append(request)
                    count += len(waveform)
                else:
                    left.append(request)
            self._waiting = left
        return tuple(zip(*taken))
