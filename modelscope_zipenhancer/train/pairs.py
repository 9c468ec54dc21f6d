"""Batches of (noisy, clean) pairs; crops of paired recordings.

Every draw comes from a numpy Generator that the caller passes, so that (seed, number) fixes a batch
and a resumed run sees what an unbroken one would have seen. Waveforms are float32 (samples,), 16 kHz;
of a recording with several channels the first is taken.
"""

import logging

import numpy as np

from ..errors import AudioError, OptionError
from ..evaluate.pairs import SILENCE, find_pairs
from ..names import SAMPLE_RATE
from .augment import rms
from .folders import _header, _place, _read

logger = logging.getLogger(__name__)

TRIES = 8  # draws for a crop that isn't silent, before silence is taken


def _check_crop(samples) -> None:
    if not isinstance(samples, int) or samples < 1:
        raise OptionError(f"crop_samples is {samples!r}, expected a whole number from 1 on")


class _Batches:
    """Batches of what a subclass's `pair(rng)` draws: noisy and clean, (samples,) each."""

    def batch(self, seed: int, number: int, size: int) -> tuple:
        """The `number`-th batch of a run: noisy and clean, (size, samples) each."""
        rng = np.random.default_rng([seed, number])
        pairs = [self.pair(rng) for _ in range(size)]
        return tuple(np.stack(side) for side in zip(*pairs))


class PairFolder(_Batches):
    """Crops of noisy recordings and of their clean twins, divided by the noisy crop's RMS.

    Twins are found as for evaluation: the same name in both folders, or the same fileid_N at its end.
    Headers are read at once. Raises AudioNotFoundError for a folder without audio, AudioError that names
    the files without a twin, those that can't be opened, and twins of different lengths or rates.
    """

    def __init__(self, noisy_dir: str, clean_dir: str, crop_samples: int = 2 * SAMPLE_RATE):
        _check_crop(crop_samples)
        self.crop_samples = crop_samples
        self.files = []  # (noisy path, clean path, frames, sample rate)
        self._examined = set()  # clean paths of which a crop was silent
        pairs, failures = find_pairs(clean_dir, noisy_dir, on_error="skip")
        if failures:
            lonely = _listed([f"{failure.name!r} ({failure.reason})" for failure in failures])
            raise AudioError(f"{len(failures)} recordings have no twin, rename or remove them: {lonely}")
        problems = []
        for pair in pairs:
            try:
                noisy, clean = _header(pair.test), _header(pair.clean)
            except AudioError as error:
                problems.append(str(error))
                continue
            if noisy != clean:
                sizes = "{} samples at {} Hz, its twin {} samples at {} Hz".format(*noisy, *clean)
                problems.append(f"{pair.test!r} has {sizes}")
            self.files.append((pair.test, pair.clean, *noisy))
        if problems:
            raise AudioError(
                f"{len(problems)} of {len(pairs)} pairs can't be trained on, mend or remove them: "
                f"{_listed(problems)}"
            )

    def pair(self, rng: np.random.Generator) -> tuple:
        """(noisy, clean) of a random place; drawn anew, up to 8 times in all, while clean is silent."""
        for _ in range(TRIES):
            noisy_path, clean_path, frames, rate = self.files[rng.integers(len(self.files))]
            start, wanted = _place(rng, frames, rate, self.crop_samples)
            clean = _read(clean_path, start, wanted, rate, self.crop_samples)
            if np.max(np.abs(clean)) > SILENCE:
                break
            self._examine(clean_path, frames)
        noisy = _read(noisy_path, start, wanted, rate, self.crop_samples)
        scale = 1.0 / (rms(noisy) + 1e-8)
        return (noisy * scale).astype(np.float32), (clean * scale).astype(np.float32)

    def _examine(self, path: str, frames: int) -> None:
        """Warn, once, of a file that is silent throughout."""
        if path not in self._examined:
            self._examined.add(path)
            if np.max(np.abs(_read(path, 0, frames, SAMPLE_RATE, frames))) <= SILENCE:
                logger.warning("%r is silent throughout and teaches nothing: remove it and its twin", path)


def _listed(items: list) -> str:
    """The first three, and how many more there are."""
    more = [f"and {len(items) - 3} more"] if len(items) > 3 else []
    return "; ".join(items[:3] + more)
