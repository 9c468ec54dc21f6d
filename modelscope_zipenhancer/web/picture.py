"""Spectrograms as pictures in a page: a PNG by Pillow, its scales as text beside it."""

import base64
import html
import io

import numpy as np

from ..audio.samples import to_mono
from ..evaluate.spectrogram import RANGE_DB, spectrogram

ROWS = 192  # of a picture
# Colours from silence to loud, evenly spaced: dark blue, violet, red, yellow
COLOURS = (
    (4, 5, 20),
    (41, 22, 92),
    (107, 28, 124),
    (178, 48, 104),
    (236, 98, 70),
    (252, 172, 88),
    (253, 246, 190),
)


def figures(
    before: np.ndarray, after: np.ndarray, before_rate: int, after_rate: int, alternatives: tuple[str, str]
) -> tuple[str, str]:
    """Two recordings, (samples, channels), as HTML: both on one scale of colours, frequency and time.

    alternatives: what the pictures are called for those who can't see them; {top} is the highest kHz.
    """
    top = max(before_rate, after_rate) / 2
    seconds = len(before) / before_rate
    levels = [
        _rows(spectrogram(to_mono(x), rate), rate, top)
        for x, rate in ((before, before_rate), (after, after_rate))
    ]
    loudest = max(float(np.percentile(level, 99.9)) for level in levels)
    return tuple(  # type: ignore[return-value]
        _figure(level, loudest, top, seconds, alternative) for level, alternative in zip(levels, alternatives)
    )


def _rows(levels: np.ndarray, rate: int, top: float) -> np.ndarray:
    """Levels in dB (bins, columns) to (ROWS, columns) from 0 Hz to `top`, the loudest of each row's bins."""
    edges = np.linspace(0, top, ROWS + 1) / (rate / 2) * (len(levels) - 1)
    silence = np.full(levels.shape[1], -200.0)
    rows = []
    for low, high in zip(edges[:-1], edges[1:]):
        first = int(round(low))
        part = levels[first : max(first + 1, int(round(high)))]
        rows.append(part.max(axis=0) if len(part) else silence)
    return np.stack(rows)


def _figure(levels: np.ndarray, loudest: float, top: float, seconds: float, alternative: str) -> str:
    from PIL import Image

    scale = np.linspace(0, 255, len(COLOURS))
    palette = np.stack([np.interp(np.arange(256), scale, channel) for channel in zip(*COLOURS)], axis=1)
    shades = np.clip((levels - loudest) / RANGE_DB + 1, 0, 1) * 255
    image = Image.fromarray(np.ascontiguousarray(shades[::-1]).astype(np.uint8))
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    alternative = html.escape(alternative.format(top=f"{top / 1000:g}"))
    kilohertz = "".join(f"<span>{value:g}</span>" for value in (top / 1000, top / 2000, 0))
    times = "".join(f"<span>{clock(seconds * part)}</span>" for part in (0, 0.5, 1))
    return (
        f'<div class="spectrogram"><div class="scale kilohertz" aria-hidden="true">{kilohertz}</div>'
        f'<div class="picture"><img src="data:image/png;base64,{data}" alt="{alternative}">'
        '<div class="playhead"></div></div>'
        f'<div class="scale times" aria-hidden="true">{times}</div></div>'
    )


def clock(seconds: float) -> str:
    """Minutes and seconds: 0:04.5 below ten seconds, else 1:05."""
    if seconds < 10:
        return f"0:{seconds:04.1f}"
    return f"{int(seconds // 60)}:{int(seconds % 60):02}"
