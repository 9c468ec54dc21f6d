"""What a visitor of the demo page has running: a place in the queue, a model, the work; without gradio."""

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.policy import SERVED, Policy
from ..audio.read import load
from ..audio.samples import to_mono
from ..audio.write import write
from ..enhance.enhancer import Enhancer
from ..errors import ModelNotFoundError
from .picture import figures

LAPSE = 600.0  # seconds for which a place is kept
FRAME_SECONDS = 0.05  # of the frames whose quietest tenth is the background


class Stopped(Exception):
    """A visitor has cancelled, or gone."""


class Models:
    """The models of a page by name, each loaded when it is first asked for; for several threads."""

    def __init__(self, names: list[str], **options: Any) -> None:
        """options: those of Enhancer.from_pretrained."""
        self.names, self._options = list(dict.fromkeys(names)), options
        self._loaded: dict[str, Enhancer] = {}
        self._locks = {name: threading.Lock() for name in names}

    def is_loaded(self, name: str) -> bool:
        return name in self._loaded

    def load(self, name: str) -> Enhancer:
        """Raises what Enhancer.from_pretrained does."""
        if name not in self._locks:  # the page doesn't ask for such
            raise ModelNotFoundError(f"unknown model {name!r}: give one of {', '.join(self.names)}")
        with self._locks[name]:
            if name not in self._loaded:
                self._loaded[name] = Enhancer.from_pretrained(name, **self._options)
            return self._loaded[name]


class Jobs:
    """Who waits or has something running: no more than `most` visitors, and each can be stopped."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}
        self._entered: dict[str, float] = {}  # when, of those who have nothing running

    def enter(self, visitor: str) -> bool:
        """Whether there is a place for one more.

        Who has entered and isn't worked on for LAPSE seconds may never come: their place is given away.
        """
        now = time.monotonic()
        with self._lock:
            for other in [other for other, when in self._entered.items() if now - when > LAPSE]:
                del self._entered[other]
                self._stops.pop(other, None)  # who still waits is worked on all the same
            if visitor not in self._stops and len(self._stops) >= self.most:
                return False
            self._entered[visitor] = now
            self._stops[visitor] = threading.Event()
            return True

    def leave(self, visitor: str) -> None:
        """Give the place back; what still runs is stopped."""
        with self._lock:
            self._entered.pop(visitor, None)
            if stop := self._stops.pop(visitor, None):
                stop.set()

    @contextlib.contextmanager
    def running(self, visitor: str) -> Iterator[Callable[[], None]]:
        """Yield what raises Stopped once the visitor has left; at the end they leave."""
        with self._lock:
            stop = self._stops.setdefault(visitor, threading.Event())
            self._entered.pop(visitor, None)

        def check() -> None:
            if stop.is_set():
                raise Stopped

        try:
            yield check
        finally:
            with self._lock:
                if self._stops.get(visitor) is stop:
                    del self._stops[visitor]


@dataclass(frozen=True)
class Result:
    """What became of a recording."""

    before: str  # path of a WAV
    after: str
    before_picture: str  # HTML
    after_picture: str
    levels: tuple[float, float]  # dBFS, before and after
    backgrounds: tuple[float, float]
    seconds: float  # of audio
    spent: float  # seconds of work


def process(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    enhancer: Enhancer,
    strength: float | None = None,
    bandwidth: str = "low",
    *,
    policy: Policy = SERVED,
    progress: Callable[[str, float, float], None] = lambda step, done, total: None,
    alternatives: tuple[str, str] = ("", ""),
) -> Result:
    """Enhance a file that a visitor has sent.

    Args:
        source: its path; no more than `policy` allows is read.
        folder: where before.wav and after.wav are written, by names of their own.
        strength, bandwidth: as of Enhancer.enhance.
        progress: called as progress(step, seconds done, seconds); what it raises ends the work.
        alternatives: of the pictures (picture.figures).

    Raises:
        AudioError or LimitError for what can't be read.
    """
    progress("reading", 0, 0)
    recording = load(io.BytesIO(Path(source).read_bytes()), policy=policy)
    x, rate = recording.samples, recording.sample_rate
    seconds = len(x) / rate
    progress("enhancing", 0, seconds)
    begun = time.perf_counter()
    y = enhancer.enhance(
        x,
        rate,
        strength=strength,
        bandwidth=bandwidth,
        progress=lambda done, total: progress("enhancing", seconds * done / total, seconds),
    )
    spent = time.perf_counter() - begun
    progress("drawing", 0, 0)
    stem = Path(source).stem[:80]
    paths = [str(Path(folder) / f"{stem}{suffix}.wav") for suffix in ("", "_enhanced")]
    for path, samples in zip(paths, (x, y)):
        write(path, samples, rate)
    pictures = figures(x, y, rate, rate, alternatives)
    measured = [levels(to_mono(samples), rate) for samples in (x, y)]
    return Result(*paths, *pictures, *zip(*measured), seconds, spent)


def levels(x: np.ndarray, rate: int) -> tuple[float, float]:
    """RMS of (samples,) in dBFS, of the whole and of the quietest tenth of its frames."""
    size = max(1, min(len(x), round(FRAME_SECONDS * rate)))
    frames = x[: len(x) // size * size].reshape(-1, size)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    quietest = np.sort(power)[: max(1, len(power) // 10)]
    whole, background = (10 * np.log10(np.mean(part) + 1e-12) for part in (power, quietest))
    return float(whole), float(background)
