"""Recordings in folders, and stretches that are read from them.

Every draw comes from a numpy Generator that the caller passes. Waveforms are float32 (samples,), 16 kHz;
of a recording with several channels the first is taken.
"""

import logging
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from ..errors import AudioError, AudioNotFoundError
from ..files import recordings
from ..names import SAMPLE_RATE

logger = logging.getLogger(__name__)

PAUSE = SAMPLE_RATE // 2  # samples of the longest pause between short recordings in one crop


@dataclass(frozen=True)
class Recording:
    """An audio file, as its header describes it. Played `speed` times as fast, it is shorter and higher."""

    path: str
    frames: int
    rate: int  # Hz

    @classmethod
    def from_file(cls, path: str) -> "Recording":
        """Read the header; AudioError if soundfile can't, or if the file holds no samples."""
        try:
            info = soundfile.info(path)
        except (soundfile.SoundFileError, UnicodeError) as error:
            raise AudioError(f"{path!r} can't be opened: {error}") from error
        if not 0 < info.frames < 1 << 60:  # unknown lengths are reported as huge ones
            raise AudioError(f"{path!r} holds no samples, or doesn't say how many")
        return cls(path, info.frames, info.samplerate)

    def samples(self, speed: float = 1.0) -> int:
        """How long it is at 16 kHz."""
        return int(np.ceil(self.frames * SAMPLE_RATE / (self.rate * speed)))

    def random_start(self, rng: np.random.Generator, samples: int, speed: float = 1.0) -> int:
        """The first frame of a random stretch of `samples` at 16 kHz; 0 where there aren't as many."""
        return int(rng.integers(max(1, self.frames - self._frames(samples, speed) + 1)))

    def read(self, samples: int, start: int = 0, speed: float = 1.0) -> np.ndarray:
        """(samples,) at 16 kHz from the frame `start` on, zeros after the end; AudioError if it can't be."""
        try:
            x, _ = soundfile.read(
                self.path, self._frames(samples, speed), start, dtype="float32", always_2d=True
            )
        except soundfile.SoundFileError as error:
            raise AudioError(
                f"{self.path!r} can't be read at frame {start}, replace or remove it: {error}"
            ) from error
        x = x[:, 0]
        if self.rate * speed != SAMPLE_RATE:
            x = soxr.resample(x, self.rate * speed, SAMPLE_RATE)
        return np.pad(x[:samples], (0, max(0, samples - len(x))))

    def _frames(self, samples: int, speed: float) -> int:
        """How many frames become `samples` at 16 kHz."""
        return int(np.ceil(samples * (self.rate * speed) / SAMPLE_RATE))


class _Source(NamedTuple):
    """The recordings directly in one folder, and the probability of each, (recordings,)."""

    recordings: list[Recording]
    odds: np.ndarray


class AudioFolder:
    """The recordings below a folder; crops are read from disk when drawn.

    Each folder that directly holds recordings is a source. A source is drawn with the root of its duration,
    so that a large one doesn't drown the others, and a recording of it with its duration. What soundfile
    can't open is named in a warning and left out.

    Args:
        folder: walked as everywhere in this package (files.recordings).

    Raises:
        AudioNotFoundError: there is no recording.
        AudioError: there are some, none of which can be opened.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        sources: dict[str, list[Recording]] = {}  # by folder
        found = 0
        for path in recordings(folder):
            found += 1
            try:
                sources.setdefault(os.path.dirname(path), []).append(Recording.from_file(path))
            except AudioError as error:
                logger.warning("left out: %s", error)
        folder = os.fspath(folder)
        if not found:
            raise AudioNotFoundError(f"no audio below {folder!r}: no file has a recording's suffix")
        self.recordings = [recording for source in sources.values() for recording in source]
        if not self.recordings:
            raise AudioError(f"none of the {found} recordings below {folder!r} can be opened: replace them")
        self._sources, durations = [], []
        for source in filter(None, sources.values()):
            seconds = np.array([recording.frames / recording.rate for recording in source])
            self._sources.append(_Source(source, seconds / seconds.sum()))
            durations.append(seconds.sum())
        roots = np.sqrt(durations)
        self._source_odds = roots / roots.sum()

    def crop(self, rng: np.random.Generator, samples: int, speed: float = 1.0) -> np.ndarray:
        """A random stretch, (samples,), of a random recording, played `speed` times as fast.

        Recordings that are shorter follow one another, all of one source, with pauses of up to half a
        second. AudioError if one can't be read.
        """
        source = self._sources[rng.choice(len(self._sources), p=self._source_odds)]
        x, filled = np.zeros(samples, np.float32), 0
        while filled < samples:
            recording = source.recordings[rng.choice(len(source.odds), p=source.odds)]
            whole = recording.samples(speed)
            if not filled and whole >= samples:
                return recording.read(samples, recording.random_start(rng, samples, speed), speed)
            filled += int(rng.integers(PAUSE))
            length = min(whole, samples - filled)
            if length > 0:
                x[filled : filled + length] = recording.read(length, speed=speed)
            filled += whole
        return x

    def whole(self, rng: np.random.Generator) -> np.ndarray:
        """A random recording from start to end, each as often; AudioError if it is silent."""
        recording = self.recordings[rng.integers(len(self.recordings))]
        x = recording.read(recording.samples())
        if not x.any():
            raise AudioError(f"{recording.path!r} is silent: remove it")
        return x
