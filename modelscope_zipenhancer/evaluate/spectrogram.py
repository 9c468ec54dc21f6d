"""Pictures of recordings: spectrograms one below the other, or before and after with their waveforms.

Need matplotlib, whose Figure is used without pyplot: no display, nothing global.
"""

import os
from typing import Any

import numpy as np

from ..audio.samples import to_mono
from ..errors import OutputError, needed_by
from ..files import check_folder, make_folder, replacing
from ..names import SAMPLE_RATE

COLUMNS = 1200  # of the picture: a longer recording shows each column's extremes, or its middle frame
RANGE_DB = 80.0  # of the colours


def save_plot(
    path: str | os.PathLike, before: np.ndarray, after: np.ndarray, before_rate: int, after_rate: int
) -> None:
    """Write a PNG of two recordings (samples, channels), whose channels are averaged.

    Raises OutputError, or MissingPackageError without matplotlib.
    """
    path = check_plot(path)
    signals = {"before": (to_mono(before), before_rate), "after": (to_mono(after), after_rate)}
    levels = {label: spectrogram(*signal) for label, signal in signals.items()}
    peak = max(1e-4, *(float(np.abs(x).max()) for x, _ in signals.values()))
    figure = figure_class()(figsize=(12, 7), layout="constrained")
    rows = figure.subplots(2, 2, sharex=True)
    for column, (label, (x, rate)) in enumerate(signals.items()):
        low, high = _extremes(x)
        rows[0, column].fill_between(np.linspace(0, len(x) / rate, len(low)), low, high, linewidth=0.3)
        rows[0, column].set(title=label, ylim=(-peak, peak))
        image = _draw(rows[1, column], levels[label], len(x) / rate, rate, _top(levels))
        rows[1, column].set(xlabel="seconds", ylabel="kHz", ylim=(0, max(before_rate, after_rate) / 2000))
    figure.colorbar(image, ax=rows[1], label="dB")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def save_spectrograms(path: str | os.PathLike, signals: dict) -> None:
    """Write a PNG with the spectrogram of each {label: (samples,)} at 16 kHz, one below the other.

    Raises OutputError, or MissingPackageError without matplotlib.
    """
    levels = {label: spectrogram(x, SAMPLE_RATE) for label, x in signals.items()}
    figure = figure_class()(figsize=(12, 2.5 * len(levels)), layout="constrained")
    for axes, (label, level) in zip(figure.subplots(len(levels), squeeze=False)[:, 0], levels.items()):
        image = _draw(axes, level, len(signals[label]) / SAMPLE_RATE, SAMPLE_RATE, _top(levels))
        axes.set(ylabel=f"{label}, kHz")
    axes.set(xlabel="seconds")
    figure.colorbar(image, ax=figure.axes, label="dB")
    make_folder(os.path.dirname(os.path.abspath(path)))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def check_plot(path: str | os.PathLike) -> str:
    """The path as text, if a picture can be drawn there, else the errors of `save_plot`."""
    path = os.fspath(path)
    if not path.lower().endswith(".png"):
        raise OutputError(f"{path!r}: the picture is a PNG, name it .png")
    check_folder(path)
    figure_class()
    return path


def figure_class() -> Any:
    """matplotlib's Figure, or MissingPackageError."""
    with needed_by("a picture", "plot"):
        from matplotlib.figure import Figure
    return Figure


def spectrogram(x: np.ndarray, rate: int) -> np.ndarray:
    """Levels in dB (bins, columns) of 32 ms Hann windows, 8 ms apart or as far as the columns are."""
    size = rate * 32 // 1000
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, size // 2), size)
    frames = frames[:: max(size // 4, len(frames) // COLUMNS)]
    return 20 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(size))).T + 1e-9)


def _top(levels: dict) -> float:
    """Of the colours, one scale for all: the loudest but for 0.1 %, as a rumble would darken the rest."""
    return max(np.percentile(level, 99.9) for level in levels.values())


def _draw(axes, levels: np.ndarray, seconds: float, rate: int, top: float):
    extent = (0, seconds, 0, rate / 2000)
    scale = {"vmin": top - RANGE_DB, "vmax": top, "cmap": "magma"}
    return axes.imshow(levels, origin="lower", aspect="auto", extent=extent, **scale)


def _extremes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sample of each column of the picture."""
    edges = np.linspace(0, len(x), min(COLUMNS, len(x)), endpoint=False, dtype=np.int64)
    return np.minimum.reduceat(x, edges), np.maximum.reduceat(x, edges)
