"""How good is it: the measures of the papers over folders of recordings.

Recordings are paired with their clean twins, or mixed from speech and noise, perhaps enhanced first,
and measured in parallel. What can't be measured is named and counted, never averaged.
"""

import contextlib
import csv
import multiprocessing
import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np

from ..errors import AudioError, AudioNotFoundError, ZipEnhancerError
from ..files import make_folder, replacing
from ..names import SAMPLE_RATE
from .measures import (
    MetricError,
    composite,
    dnsmos,
    dnsmos_session,
    need,
    pesq,
    segmental_snr,
    si_sdr,
    stoi,
)
from .pairs import Failure, Pair, load_signals, note_failure

# key: (heading, decimals); higher is better in all
PAIRED = {
    "pesq_wb": ("WB-PESQ", 2),
    "pesq_nb": ("NB-PESQ", 2),
    "stoi": ("STOI", 3),
    "si_sdr": ("SI-SDR, dB", 2),
    "ssnr": ("SSNR, dB", 2),
    "csig": ("CSIG", 2),
    "cbak": ("CBAK", 2),
    "covl": ("COVL", 2),
}
DNSMOS = {"dnsmos_sig": ("DNSMOS SIG", 2), "dnsmos_bak": ("DNSMOS BAK", 2), "dnsmos_ovr": ("DNSMOS OVR", 2)}
MEASURES = PAIRED | DNSMOS


@dataclass(frozen=True)
class Mean:
    mean: float
    interval: float | None  # half the width of the 95 % confidence interval of the mean; None of one file
    count: int


@dataclass
class Report:
    """rows: {file: {measure: value}}, finite numbers only; what couldn't be had is in `failures`."""

    rows: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)

    def means(self, names: Iterable | None = None) -> dict:
        """{measure: Mean} over all files or those named; a file counts where its measure was had.

        The intervals are Student's, and take the files for independent draws.
        """
        from scipy.special import stdtrit

        rows = [self.rows[name] for name in (self.rows if names is None else names)]
        means = {}
        for key in MEASURES:
            if values := [row[key] for row in rows if key in row]:
                n = len(values)
                spread = float(np.std(values, ddof=1) * stdtrit(n - 1, 0.975) / np.sqrt(n)) if n > 1 else None
                means[key] = Mean(float(np.mean(values)), spread, n)
        return means

    def by_snr(self) -> dict:
        """{SNR in dB: [names]}, of the names that say snrN as DNS's and `mix_pairs`'s do."""
        groups = {}
        for name in self.rows:
            if found := re.findall(r"snr(-?\d+(?:\.\d+)?)", name):
                groups.setdefault(float(found[-1]), []).append(name)
        return dict(sorted(groups.items()))


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


def save_spectrograms(path, signals: dict) -> None:
    """A PNG with the spectrogram of each {label: (samples,)} at 16 kHz, one below the other.

    In dB of a 32 ms Hann window every 8 ms, one scale for all: 80 dB below their loudest 0.1 %.
    """
    need("matplotlib")
    from matplotlib.figure import Figure  # without pyplot: no display, nothing global

    levels = {}
    for label, x in signals.items():
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, 256), 512)[::128]
        levels[label] = 20 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(512))).T + 1e-9)
    top = max(np.percentile(level, 99.9) for level in levels.values())  # a rumble would darken the rest
    figure = Figure(figsize=(12, 2.5 * len(levels)), layout="constrained")
    for axes, (label, level) in zip(figure.subplots(len(levels), squeeze=False)[:, 0], levels.items()):
        extent = (0, len(signals[label]) / SAMPLE_RATE, 0, SAMPLE_RATE / 2000)
        options = {"vmin": top - 80, "vmax": top, "cmap": "magma"}
        image = axes.imshow(level, origin="lower", aspect="auto", extent=extent, **options)
        axes.set(ylabel=f"{label}, kHz")
    axes.set(xlabel="seconds")
    figure.colorbar(image, ax=figure.axes, label="dB")
    make_folder(os.path.dirname(os.path.abspath(path)))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


# ---- reports


def table(reports: dict, by_snr: bool = False) -> str:
    """Markdown of {system: Report}: mean and half width of its 95 % interval; (n) files if not all."""
    keys = [k for k in MEASURES if any(k in row for r in reports.values() for row in r.rows.values())]
    cells = [["SNR", "system", "files", *(MEASURES[key][0] for key in keys)]]
    groups = {name: report.by_snr() if by_snr else {} for name, report in reports.items()}
    for snr in [*sorted({snr for group in groups.values() for snr in group}), None]:
        for system, report in reports.items():
            names = list(report.rows) if snr is None else groups[system].get(snr, [])
            means = report.means(names)
            line = ["all" if snr is None else f"{snr:g} dB", system, str(len(names))]
            for key in keys:
                line.append(_cell(means.get(key), MEASURES[key][1], len(names)))
            cells.append(line)
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cell(mean: Mean | None, decimals: int, files: int) -> str:
    if mean is None:
        return "-"
    interval = "" if mean.interval is None else f" ± {mean.interval:.{decimals}f}"
    return f"{mean.mean:.{decimals}f}{interval}" + (f" ({mean.count})" if mean.count != files else "")


def write_csv(path, reports: dict) -> None:
    """Lines of each system: its files, what was left out and why, then means, ci95 and counts."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, ["system", "kind", "name", *MEASURES, "problem"])
        out.writeheader()
        for system, report in reports.items():
            for name, values in report.rows.items():
                out.writerow({"system": system, "kind": "file", "name": name} | values)
            for f in report.failures:
                line = {"system": system, "kind": "failure", "name": f.name}
                out.writerow(line | {"problem": f"{f.what}: {f.reason}"})
            for name, files in [*report.by_snr().items(), ("all", None)]:
                means = report.means(files)
                name = name if files is None else f"{name:g} dB"
                for kind, of in (("mean", "mean"), ("ci95", "interval"), ("count", "count")):
                    values = {key: getattr(mean, of) for key, mean in means.items()}
                    out.writerow({"system": system, "kind": kind, "name": name} | values)


def changes(before: Report, after: Report, key: str) -> dict:
    """{file: after - before} of one measure, where both have it."""
    both = [n for n in after.rows if key in after.rows[n] and key in before.rows.get(n, {})]
    return {name: after.rows[name][key] - before.rows[name][key] for name in both}
