"""Recordings and their clean references: found in folders, or mixed from speech and noise, and loaded.

What can't be paired or compared is a Failure: refused, or named and left out, as the caller says.
"""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..audio.read import read
from ..audio.resample import resample
from ..audio.samples import to_mono
from ..audio.write import write
from ..errors import AudioError, AudioNotFoundError
from ..files import RECORDING_SUFFIXES, make_folder, recordings
from ..names import SAMPLE_RATE

logger = logging.getLogger(__name__)

SILENCE = 1 / 32768  # a recording that never exceeds the last of 16 bits


@dataclass(frozen=True)
class Pair:
    """A recording to measure, and its clean reference if there is one; paths."""

    name: str  # its path below its folder, without the suffix
    test: str
    clean: str | None = None


@dataclass(frozen=True)
class Failure:
    name: str
    what: str  # "pair", or the measure's key
    reason: str


def find_pairs(clean_folder, test_folder, on_error: str = "fail") -> tuple:
    """([Pair], [Failure]): the recordings below `test_folder` and their clean references.

    A reference has the same path below its folder but for the suffix. Where no two names agree, those that
    end in the same fileid_N are a pair, as the DNS challenge names them. With no `clean_folder`, no
    recording has a reference. An unpaired recording is a failure; on_error 'fail' raises AudioError.
    """
    tests = _audio_files(test_folder)
    if clean_folder is None:
        return [Pair(name, path) for name, path in tests.items()], []
    cleans = _audio_files(clean_folder)
    if not tests.keys() & cleans.keys():
        tests, cleans = _by_fileid(tests) or tests, _by_fileid(cleans) or cleans
    failures = []
    for names, other, folder in ((tests, cleans, clean_folder), (cleans, tests, test_folder)):
        for name in sorted(names.keys() - other.keys()):
            reason = f"no recording of that name below {os.fspath(folder)!r}"
            note_failure(failures, Failure(names[name], "pair", reason), on_error)
    both = sorted(tests.keys() & cleans.keys())
    return [Pair(_name(tests[n], test_folder), tests[n], cleans[n]) for n in both], failures


def mix_pairs(
    clean_folder, noise_folder, snrs: Iterable, count: int, out_dir, seed: int = 0, on_error: str = "fail"
) -> tuple:
    """Write `count` mixtures for each SNR in dB, at 16 kHz, to `out_dir`/noisy, their speech to /clean.

    Returns ([Pair], [Failure]). Mixture i has the same utterance and stretch of noise at each SNR; the
    utterances come in an order shuffled by `seed`, the noises take turns. The SNR is that of the
    powers over the file. Speech and mixture are turned down together where one would clip.
    """
    cleans, noises = list(_audio_files(clean_folder).values()), list(_audio_files(noise_folder).values())
    for side in ("clean", "noisy"):
        make_folder(os.path.join(out_dir, side))
    order = np.random.default_rng(seed)
    cleans, noises = order.permutation(cleans), order.permutation(noises)
    pairs, failures = [], []
    for i in range(count):
        clean_path, noise_path = str(cleans[i % len(cleans)]), str(noises[i % len(noises)])
        try:
            speech, recording = _load(clean_path).x, _load(noise_path).x
            room = len(recording) - len(speech)  # a shorter noise starts anywhere and is looped
            start = np.random.default_rng([seed, i]).integers(room + 1 if room >= 0 else len(recording))
            noise = np.take(recording, np.arange(start, start + len(speech)), mode="wrap")
            for path, x in ((clean_path, speech), (noise_path, noise)):
                if np.max(np.abs(x)) <= SILENCE:
                    raise AudioError(f"{path!r} is silent where it would be mixed")
        except (AudioError, AudioNotFoundError) as error:
            note_failure(failures, Failure(clean_path, "pair", str(error)), on_error)
            continue
        for snr in snrs:
            gain = np.sqrt(np.mean(np.square(speech)) / np.mean(np.square(noise))) * 10 ** (-snr / 20)
            noisy = speech + gain * noise
            scale = min(1.0, 0.99 / max(np.max(np.abs(noisy)), np.max(np.abs(speech))))
            stems = (os.path.splitext(os.path.basename(path))[0] for path in (clean_path, noise_path))
            name = "_".join([f"{i:03d}", *stems, f"snr{snr:g}"])
            pair = Pair(name, *(os.path.join(out_dir, side, f"{name}.wav") for side in ("noisy", "clean")))
            write(pair.test, scale * noisy, SAMPLE_RATE)
            write(pair.clean, scale * speech, SAMPLE_RATE)
            pairs.append(pair)
    return pairs, failures


def _audio_files(folder) -> dict:
    """{path below the folder, without suffix: path} of the recordings there."""
    found = {}
    for path in recordings(folder):
        _add(found, _name(path, folder), path)
    if not found:
        known = ", ".join(sorted(RECORDING_SUFFIXES))
        raise AudioNotFoundError(f"no recordings below {os.fspath(folder)!r}; known are {known}")
    return found


def _name(path: str, folder) -> str:
    return os.path.splitext(os.path.relpath(path, folder))[0]


def _by_fileid(files: dict) -> dict:
    found = {}
    for name, path in files.items():
        if match := re.search(r"fileid_(\d+)$", name):
            _add(found, f"fileid_{int(match[1])}", path)
    return found


def _add(found: dict, key: str, path: str) -> None:
    if key in found:
        raise AudioError(f"{found[key]!r} and {path!r} are both {key!r}: which one is meant?")
    found[key] = path


class Loaded(NamedTuple):
    x: np.ndarray  # float64 (samples,), mono at 16 kHz
    rate: int  # in Hz, of the file
    samples: int  # in the file


def _load(path) -> Loaded:
    x, rate = read(path)
    return Loaded(resample(to_mono(x), rate, SAMPLE_RATE).astype(np.float64), rate, len(x))


def note_failure(failures: list, failure: Failure, on_error: str) -> None:
    if on_error != "skip":
        hint = "with on_error='skip' (--on-error skip) it is left out and counted"
        raise AudioError(f"{failure.name}: {failure.what}: {failure.reason}; {hint}")
    logger.warning("%s: %s left out: %s", failure.name, failure.what, failure.reason)
    failures.append(failure)


def load_signals(pair: Pair, estimate) -> dict:
    """{label: (samples,)}, all of one length: the clean one if there is one, the recording, the enhanced."""
    x, rate, samples = _load(pair.test)
    signals = {"recording": x}
    if estimate is not None:
        if len(estimate) != len(x):
            raise AudioError(f"the enhancer made {len(estimate)} samples of {len(x)}")
        signals["enhanced"] = np.asarray(estimate, np.float64)
    if pair.clean:
        clean, clean_rate, clean_samples = _load(pair.clean)
        if (clean_rate, clean_samples) != (rate, samples):
            raise AudioError(
                f"{pair.clean!r} has {clean_samples} samples at {clean_rate} Hz, {pair.test!r} {samples} "
                f"at {rate} Hz"
            )
        if np.max(np.abs(clean)) <= SILENCE:
            raise AudioError(f"{pair.clean!r} is silent: nothing can be compared with it")
        signals = {"clean": clean} | signals
    return signals
