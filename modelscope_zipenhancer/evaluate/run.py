"""How good is it: the measures of the papers over folders of recordings.

Recordings are paired with their clean references, or mixed from speech and noise, perhaps enhanced
first, and measured in parallel. What can't be measured is named and counted, never averaged.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field

import numpy as np

from ..errors import AudioError, AudioNotFoundError, OptionError, ZipEnhancerError, needed_by
from ..workers import in_processes
from .dnsmos import dnsmos, dnsmos_session
from .measures import PAIRWISE, MetricError
from .pairs import Failure, Pair, load_signals, note_failure
from .report import DNSMOS, Report
from .spectrogram import figure_class, save_spectrograms


@dataclass(frozen=True)
class Task:
    """A recording to measure, and how."""

    pair: Pair
    estimate: np.ndarray | None = None  # what an enhancer made of it
    problem: str | None = None  # why it made nothing
    dnsmos_path: str | None = None
    pictures: str | None = None  # a folder


@dataclass
class Measured:
    pair: Pair
    values: dict = field(default_factory=dict)  # {measure: value}
    failures: list = field(default_factory=list)


def evaluate_pairs(
    pairs: Iterable[Pair],
    enhancer: Callable | None = None,
    dnsmos_path: str | None = None,
    jobs: int = 1,
    on_error: str = "fail",
    pictures: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Measure each Pair's `test` against its `clean`; with an `enhancer`, what it makes of `test`.

    Args:
        enhancer: path -> float (samples,) at 16 kHz; runs in this process.
        dnsmos_path: of sig_bak_ovr.onnx; without it DNSMOS is not measured.
        jobs: more than 1 measures in that many processes of one thread each, started afresh: a program
            that calls this must have its main code under `if __name__ == "__main__"`.
        on_error: 'fail' raises AudioError at the first file or measure that can't be had, 'skip' leaves
            it out of the rows and notes it in `failures`.
        pictures: a folder for a spectrogram of each file.
        progress: called as progress(files done) after each file.

    Raises:
        AudioError, MissingPackageError, ModelNotFoundError, OptionError.
    """
    if on_error not in ("fail", "skip"):
        raise OptionError(f"on_error={on_error!r}: 'fail' or 'skip'")
    pairs = list(pairs)
    with needed_by("evaluation", "eval"):  # before the work
        import scipy  # noqa: F401

        if any(pair.clean for pair in pairs):
            import pesq  # noqa: F401
            import pystoi  # noqa: F401
    if pictures:
        figure_class()
    if dnsmos_path:
        dnsmos_session(os.fspath(dnsmos_path))  # refused now rather than at every file
    report = Report()
    tasks = (Task(pair, *_enhanced(pair, enhancer), dnsmos_path, pictures) for pair in pairs)
    with contextlib.closing(_measured(tasks, jobs)) as results:
        for done, found in enumerate(results, 1):
            for failure in found.failures:
                note_failure(report.failures, failure, on_error)
            if found.values:
                report.rows[found.pair.name] = found.values
            if progress:
                progress(done)
    return report


def _enhanced(pair: Pair, enhancer: Callable | None) -> tuple[np.ndarray | None, str | None]:
    """(waveform or None, the reason why there is none or None)."""
    try:
        return (enhancer(pair.test), None) if enhancer else (None, None)
    except (AudioError, AudioNotFoundError) as error:
        return None, str(error)


def _measured(tasks: Iterable[Task], jobs: int) -> Iterator[Measured]:
    """`_measure` of each task, in order."""
    if jobs <= 1:
        yield from map(_measure, tasks)
        return
    with contextlib.closing(in_processes(_measure, tasks, jobs, threads=1, in_order=True)) as finished:
        for task, future in finished:
            try:
                yield future.result()
            except BrokenExecutor as error:
                raise ZipEnhancerError(
                    f"{task.pair.name}: the process that measured it {error} (out of memory, or in a "
                    "library): measure with fewer --jobs"
                ) from error


def _measure(task: Task) -> Measured:
    """What can be measured of one recording; runs in a process of its own."""
    pair, found = task.pair, Measured(task.pair)
    try:
        if task.problem:
            raise AudioError(task.problem)
        signals = load_signals(pair, task.estimate)
    except (AudioError, AudioNotFoundError) as error:
        found.failures.append(Failure(pair.name, "pair", str(error)))
        return found
    estimate = list(signals.values())[-1]

    def attempt(keys: Iterable[str], measure: Callable, *args) -> None:
        try:
            values = measure(*args)
            values = values if isinstance(values, tuple) else (values,)
            if not np.isfinite(values).all():
                raise MetricError(f"{values} is not finite")
            found.values.update(zip(keys, values))
        except MetricError as error:
            found.failures.extend(Failure(pair.name, key, str(error)) for key in keys)

    if pair.clean:
        for keys, measure in PAIRWISE.items():
            attempt(keys, measure, signals["clean"], estimate, found.values)
    if task.dnsmos_path:
        attempt(DNSMOS, dnsmos, estimate, task.dnsmos_path)
    if task.pictures:
        save_spectrograms(os.path.join(task.pictures, f"{pair.name}.png"), signals)
    return found
