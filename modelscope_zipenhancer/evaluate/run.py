"""How good is it: the measures of the papers over folders of recordings.

Recordings are paired with their clean twins, or mixed from speech and noise, perhaps enhanced first,
and measured in parallel. What can't be measured is named and counted, never averaged.
"""

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from ..errors import AudioError, AudioNotFoundError, ZipEnhancerError
from .dnsmos import dnsmos, dnsmos_session
from .measures import MetricError, composite, need, pesq, segmental_snr, si_sdr, stoi
from .pairs import Failure, Pair, load_signals, note_failure
from .report import DNSMOS, Report
from .spectrogram import save_spectrograms


def evaluate_pairs(
    pairs: Iterable,
    enhancer: Callable | None = None,
    dnsmos_path: str | None = None,
    jobs: int = 1,
    on_error: str = "fail",
    pictures: str | None = None,
    progress: Callable | None = None,
) -> Report:
    """Measure each Pair's `test` against its `clean`; with an `enhancer`, what it makes of `test`.

    The enhancer runs in this process. jobs > 1 measures in that many processes of one thread each,
    started afresh: a program that calls this must have its main code under `if __name__ == "__main__"`.
    on_error 'fail' raises AudioError at the first file or measure that can't be had, 'skip' leaves it
    out of the rows and notes it in `failures`. pictures: a folder for a spectrogram of each file.
    progress(files_done) is called after each file. Raises also MissingPackageError, ModelNotFoundError.
    """
    if on_error not in ("fail", "skip"):
        raise ValueError(f"on_error={on_error!r}: 'fail' or 'skip'")
    pairs = list(pairs)
    need("scipy", *(["pesq", "pystoi"] if any(pair.clean for pair in pairs) else []))
    need(*(["matplotlib"] if pictures else []))
    if dnsmos_path:
        dnsmos_session(os.fspath(dnsmos_path))  # refused now rather than at every file
    report = Report()
    tasks = ((pair, *_enhanced(pair, enhancer), dnsmos_path, pictures) for pair in pairs)
    for done, (pair, values, failures) in enumerate(_results(tasks, jobs), 1):
        for failure in failures:
            note_failure(report.failures, failure, on_error)
        if values:
            report.rows[pair.name] = values
        if progress:
            progress(done)
    return report


def _enhanced(pair: Pair, enhancer) -> tuple:
    """(waveform or None, the reason why there is none or None)."""
    try:
        return (enhancer(pair.test), None) if enhancer else (None, None)
    except (AudioError, AudioNotFoundError) as error:
        return None, str(error)


def _results(tasks: Iterable, jobs: int):
    """`_measure` of each task, in order."""
    if jobs <= 1:
        yield from map(_measure, tasks)
        return
    waiting = deque()  # short, so that enhanced recordings don't pile up
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    with _one_thread_each(), ProcessPoolExecutor(jobs, context) as pool:
        try:
            for task in tasks:
                waiting.append((task[0].name, pool.submit(_measure, task)))
                if len(waiting) > 2 * jobs:
                    yield waiting[0][1].result()
                    waiting.popleft()
            while waiting:
                yield waiting[0][1].result()
                waiting.popleft()
        except BrokenProcessPool as error:
            names = ", ".join(name for name, _ in waiting)
            raise ZipEnhancerError(
                f"a measuring process died (out of memory, or in a library) at one of {names}"
            ) from error


@contextlib.contextmanager
def _one_thread_each():
    """Processes started meanwhile have one thread in each numeric library: set before these load."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _measure(task: tuple) -> tuple:
    """(pair, values, failures) of one recording; runs in a process of its own."""
    pair, estimate, problem, dnsmos_path, pictures = task
    try:
        if problem:
            raise AudioError(problem)
        signals = load_signals(pair, estimate)
    except (AudioError, AudioNotFoundError) as error:
        return pair, {}, [Failure(pair.name, "pair", str(error))]
    estimate = list(signals.values())[-1]
    values, failures = {}, []

    def attempt(keys: Iterable, measure: Callable, *args):
        try:
            found = measure(*args)
            found = found if isinstance(found, tuple) else (found,)
            if not np.isfinite(found).all():
                raise MetricError(f"{found} is not finite")
            values.update(zip(keys, found))
        except MetricError as error:
            failures.extend(Failure(pair.name, key, str(error)) for key in keys)

    if pair.clean:
        both = signals["clean"], estimate
        attempt(["pesq_wb"], pesq, *both)
        attempt(["pesq_nb"], pesq, *both, "nb")
        attempt(["stoi"], stoi, *both)
        attempt(["si_sdr"], si_sdr, *both)
        attempt(["ssnr"], segmental_snr, *both)
        attempt(["csig", "cbak", "covl"], composite, *both, values.get("pesq_wb"))
    if dnsmos_path:
        attempt(DNSMOS, dnsmos, estimate, dnsmos_path)
    if pictures:
        save_spectrograms(os.path.join(pictures, f"{pair.name}.png"), signals)
    return pair, values, failures
