"""A picture of a recording before and after: waveforms and spectrograms. Needs matplotlib."""

import os

import numpy as np

from ..audio.samples import to_mono
from ..errors import OutputError, ZipEnhancerError
from ..files import check_folder, make_folder, replacing
from ..names import SAMPLE_RATE
from .measures import need

COLUMNS = 1200  # of the picture: a longer recording shows each column's extremes, or its middle frame
RANGE_DB = 80.0  # of the colours, below the loudest bin of either recording


def save_plot(path, before: np.ndarray, after: np.ndarray, before_rate: int, after_rate: int) -> None:
    """Write a PNG of two recordings (samples, channels), whose channels are averaged.

    Raises OutputError, or ZipEnhancerError without matplotlib.
    """
    path = check_plot(path)
    from matplotlib.figure import Figure  # without pyplot: no display, nothing global

    signals = {"before": (to_mono(before), before_rate), "after": (to_mono(after), after_rate)}
    spectra = {label: _spectrogram(*signal) for label, signal in signals.items()}
    top = max(levels.max() for levels in spectra.values())
    peak = max(1e-4, *(float(np.abs(x).max()) for x, _ in signals.values()))
    figure = Figure(figsize=(12, 7), layout="constrained")
    rows = figure.subplots(2, 2, sharex=True)
    for column, (label, (x, rate)) in enumerate(signals.items()):
        waveform, spectrogram = rows[:, column]
        seconds = len(x) / rate
        low, high = _extremes(x)
        waveform.fill_between(np.linspace(0, seconds, len(low)), low, high, linewidth=0.3)
        waveform.set(title=label, ylim=(-peak, peak))
        image = spectrogram.imshow(
            spectra[label],
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, rate / 2000),
            vmin=top - RANGE_DB,
            vmax=top,
            cmap="magma",
        )
        spectrogram.set(xlabel="seconds", ylabel="kHz", ylim=(0, max(before_rate, after_rate) / 2000))
    figure.colorbar(image, ax=rows[1], label="dB")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def check_plot(path) -> str:
    """The path as text, if a picture can be drawn there, else the errors of `save_plot`."""
    path = os.fspath(path)
    if not path.lower().endswith(".png"):
        raise OutputError(f"{path!r}: the picture is a PNG, name it .png")
    check_folder(path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ZipEnhancerError("a picture needs matplotlib: pip install matplotlib") from error
    return path


def _extremes(x: np.ndarray) -> tuple:
    """Lowest and highest sample of each column of the picture."""
    edges = np.linspace(0, len(x), min(COLUMNS, len(x)), endpoint=False, dtype=np.int64)
    return np.minimum.reduceat(x, edges), np.maximum.reduceat(x, edges)


def _spectrogram(x: np.ndarray, rate: int) -> np.ndarray:
    """dB (bins, columns) of 32 ms Hann windows, 8 ms apart or as far as the columns are."""
    size = rate * 32 // 1000
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, size // 2), size)
    frames = frames[:: max(size // 4, len(frames) // COLUMNS)]
    return 20 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(size))).T + 1e-9)


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
