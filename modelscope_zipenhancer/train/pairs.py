"""Batches of (noisy, clean) pairs, and crops of recordings that are paired already.

Every draw comes from a numpy Generator that the caller passes, so that (seed, number) fixes a batch
and a resumed run sees what an unbroken one would have seen. Waveforms are float32 (samples,), 16 kHz.
"""

import logging
import os
from abc import ABC, abstractmethod

import numpy as np

from ..errors import AudioError, OptionError
from ..evaluate.pairs import SILENCE, find_pairs
from ..names import N_FFT, SAMPLE_RATE
from .augment import rms
from .folders import Recording

logger = logging.getLogger(__name__)

CROP_SAMPLES = 2 * SAMPLE_RATE
TRIES = 8  # draws for a crop that isn't silent, before silence is taken


class Batches(ABC):
    """Batches of the pairs that a subclass draws."""

    @abstractmethod
    def pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Noisy and clean, float32 (samples,) each, scaled alike so that noisy has unit RMS."""

    def batch(self, seed: int, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Noisy and clean, float32 (size, samples) each: the batch `number`, 0 or more, of the run `seed`."""
        rng = np.random.default_rng([seed, number])
        noisy, clean = zip(*(self.pair(rng) for _ in range(size)))
        return np.stack(noisy), np.stack(clean)


def unit_rms(noisy: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both (samples,), divided by the RMS of `noisy`, as float32."""
    scale = 1.0 / (rms(noisy) + 1e-8)
    return (noisy * scale).astype(np.float32), (clean * scale).astype(np.float32)


class PairFolder(Batches):
    """Crops of noisy recordings and of their clean references, divided by the noisy crop's RMS.

    Args:
        noisy_dir, clean_dir: a recording and its reference have the same name below them, or the same
            fileid_N at its end, as for evaluation. All headers are read at once.
        crop_samples: of each crop, at 16 kHz; a shorter recording is padded with zeros.

    Raises:
        AudioNotFoundError: a folder without recordings.
        AudioError: recordings that are unpaired, can't be opened, or differ from their references in
            length or rate; the first three are named.
        OptionError: crop_samples is no whole number from 201 on.
    """

    def __init__(
        self,
        noisy_dir: str | os.PathLike,
        clean_dir: str | os.PathLike,
        crop_samples: int = CROP_SAMPLES,
    ) -> None:
        check_crop_samples(crop_samples)
        self.crop_samples = crop_samples
        self.pairs: list[tuple[Recording, Recording]] = []  # (noisy, clean)
        self._examined: set[str] = set()  # paths of clean recordings of which a crop was silent
        pairs, failures = find_pairs(clean_dir, noisy_dir, on_error="skip")
        if failures:
            unpaired = _listed([f"{failure.name!r} ({failure.reason})" for failure in failures])
            raise AudioError(f"{len(failures)} recordings are unpaired, rename or remove them: {unpaired}")
        problems = []
        for pair in pairs:
            try:
                noisy, clean = Recording.from_file(pair.test), Recording.from_file(pair.clean)
            except AudioError as error:
                problems.append(str(error))
                continue
            if (noisy.frames, noisy.rate) != (clean.frames, clean.rate):
                problems.append(
                    f"{noisy.path!r} has {noisy.frames} samples at {noisy.rate} Hz, "
                    f"its reference {clean.frames} samples at {clean.rate} Hz"
                )
            self.pairs.append((noisy, clean))
        if problems:
            raise AudioError(
                f"{len(problems)} of {len(pairs)} pairs can't be trained on, mend or remove them: "
                f"{_listed(problems)}"
            )

    def pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Crops of a random place, drawn anew, up to 8 times in all, while clean is silent."""
        for _ in range(TRIES):
            noisy, clean = self.pairs[rng.integers(len(self.pairs))]
            start = noisy.random_start(rng, self.crop_samples)
            target = clean.read(self.crop_samples, start)
            if np.max(np.abs(target)) > SILENCE:
                break
            self._examine(clean)
        return unit_rms(noisy.read(self.crop_samples, start), target)

    def _examine(self, clean: Recording) -> None:
        """Warn, once, of a recording that is silent throughout."""
        if clean.path not in self._examined:
            self._examined.add(clean.path)
            if np.max(np.abs(clean.read(clean.samples()))) <= SILENCE:
                logger.warning(
                    "%r is silent throughout and teaches nothing: remove it and the noisy one", clean.path
                )


def check_crop_samples(samples: int) -> None:
    """OptionError if `samples` is no whole number, or too few for the STFT to reflect at the ends."""
    least = N_FFT // 2 + 1
    if not isinstance(samples, int) or samples < least:
        raise OptionError(f"crop_samples is {samples!r}, expected a whole number from {least} on")


def _listed(items: list[str]) -> str:
    """The first three, and how many more there are."""
    more = [f"and {len(items) - 3} more"] if len(items) > 3 else []
    return "; ".join(items[:3] + more)
