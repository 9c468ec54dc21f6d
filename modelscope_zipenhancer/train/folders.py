"""Folders of recordings, of which crops are drawn.

Every draw comes from a numpy Generator that the caller passes. Waveforms are float32 (samples,), 16 kHz;
of a recording with several channels the first is taken.
"""

import logging
import os

import numpy as np
import soundfile
import soxr

from ..audio.write import FORMATS
from ..errors import AudioError, AudioNotFoundError
from ..names import SAMPLE_RATE

logger = logging.getLogger(__name__)


class AudioFolder:
    """The recordings below a folder; crops are read from disk when drawn.

    A subfolder is a source. A source is drawn with the root of its duration, so that a large one doesn't
    drown the others, and a recording of it with its duration. A file that can't be opened is named in a
    warning and left out. Raises AudioNotFoundError if there is no audio, AudioError if none of it can be
    opened.
    """

    def __init__(self, folder: str):
        self.files = []  # (path, frames, sample rate)
        found = [
            os.path.join(base, name)
            for base, _, names in sorted(os.walk(folder))
            for name in sorted(names)
            if name.lower().endswith(tuple(FORMATS))
        ]
        if not found:
            raise AudioNotFoundError(f"no audio below {folder!r}; known are {', '.join(FORMATS)}")
        for path in found:
            try:
                self.files.append((path, *_header(path)))
            except AudioError as error:
                logger.warning("left out: %s", error)
        if not self.files:
            raise AudioError(
                f"none of the {len(found)} recordings below {folder!r} can be opened: replace them"
            )
        sources = {}  # {subfolder: [(path, frames, sample rate)]}
        for file in self.files:
            sources.setdefault(os.path.relpath(os.path.dirname(file[0]), folder), []).append(file)
        self._sources = list(sources.values())
        seconds = [np.array([frames / rate for _, frames, rate in files]) for files in self._sources]
        self._file_odds = [x / x.sum() for x in seconds]
        roots = np.sqrt([x.sum() for x in seconds])
        self._source_odds = roots / roots.sum()

    def crop(self, rng: np.random.Generator, samples: int, speed: float = 1.0) -> np.ndarray:
        """A random stretch of a random recording.

        Shorter recordings follow one another, of one source, with pauses of up to half a second between.
        """
        source = rng.choice(len(self._sources), p=self._source_odds)
        x, filled = np.zeros(samples, np.float32), 0
        while filled < samples:
            path, frames, rate = self._sources[source][
                rng.choice(len(self._file_odds[source]), p=self._file_odds[source])
            ]
            whole = int(np.ceil(frames * SAMPLE_RATE / (rate * speed)))
            if not filled and whole >= samples:
                start, wanted = _place(rng, frames, rate * speed, samples)
                return _read(path, start, wanted, rate * speed, samples)
            filled += int(rng.integers(SAMPLE_RATE // 2))
            length = min(whole, samples - filled)
            if length > 0:
                wanted = int(np.ceil(length * rate * speed / SAMPLE_RATE))
                x[filled : filled + length] = _read(path, 0, wanted, rate * speed, length)
            filled += whole
        return x

    def whole(self, rng: np.random.Generator) -> np.ndarray:
        """A random recording from start to end; AudioError if it is silent."""
        path, frames, rate = self.files[rng.integers(len(self.files))]
        x = _read(path, 0, frames, rate, int(np.ceil(frames * SAMPLE_RATE / rate)))
        if not x.any():
            raise AudioError(f"{path!r} is silent: remove it")
        return x


def _header(path: str) -> tuple:
    """(frames, sample rate in Hz); AudioError if it can't be opened, or holds nothing."""
    try:
        info = soundfile.info(path)
    except soundfile.SoundFileError as error:
        raise AudioError(f"{path!r} can't be opened: {error}") from error
    if not 0 < info.frames < 1 << 60:  # unknown lengths are reported as huge ones
        raise AudioError(f"{path!r} holds no samples, or doesn't say how many")
    return info.frames, info.samplerate


def _place(rng: np.random.Generator, frames: int, rate: float, samples: int) -> tuple:
    """(start, number) of the frames of a random stretch that becomes `samples` at 16 kHz."""
    wanted = int(np.ceil(samples * rate / SAMPLE_RATE))
    return int(rng.integers(max(1, frames - wanted + 1))), wanted


def _read(path: str, start: int, frames: int, rate: float, samples: int) -> np.ndarray:
    """The frames, taken to be of `rate` Hz, as (samples,) at 16 kHz; cut or zero-padded."""
    try:
        x, _ = soundfile.read(path, frames, start, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AudioError(f"{path!r} can't be read at frame {start}, replace or remove it: {error}") from error
    x = x[:, 0]
    if rate != SAMPLE_RATE:
        x = soxr.resample(x, rate, SAMPLE_RATE)
    return np.pad(x[:samples], (0, max(0, samples - len(x))))
