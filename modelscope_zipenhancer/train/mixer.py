"""Training data: mixtures of speech and noise made on the fly, or crops of paired recordings.

Every draw comes from a numpy Generator that the caller passes, so that (seed, number) fixes a batch
and a resumed run sees what an unbroken one would have seen. Waveforms are float32 (samples,), 16 kHz;
of a recording with several channels the first is taken.
"""

import logging
import os
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from scipy.signal import fftconvolve

from ..audio.write import FORMATS
from ..errors import AudioError, AudioNotFoundError, OptionError
from ..evaluate.pairs import SILENCE, find_pairs
from ..names import SAMPLE_RATE
from .augment import (
    VOICES,
    equalise,
    generated_noise,
    generated_response,
    rms,
    wandering_gain,
    with_direct_sound,
)

logger = logging.getLogger(__name__)

EARLY = SAMPLE_RATE // 20  # 50 ms: reflections until then help intelligibility and stay in the target
TRIES = 8  # draws for a crop that isn't silent, before silence is taken
PROBABILITIES = (
    "clean_only",
    "noise_only",
    "real_noise",
    "second_noise",
    "speech_speed",
    "speech_eq",
    "noise_eq",
    "speed",
    "backwards",
    "reverb",
    "real_room",
    "clip",
    "level_change",
    "noise_change",
)


def _check_crop(samples) -> None:
    if not isinstance(samples, int) or samples < 1:
        raise OptionError(f"crop_samples is {samples!r}, expected a whole number from 1 on")


@dataclass(frozen=True)
class MixOptions:
    """How a mixture is drawn; probabilities are of one item. OptionError if a value can't be."""

    crop_samples: int = 2 * SAMPLE_RATE
    snr_db: tuple = (-5.0, 20.0)  # uniform; of the speech as it is heard, reverberation included
    clean_only: float = 0.03  # nearly no noise: teaches to leave clean speech alone
    noise_only: float = 0.05  # no speech: teaches to leave nothing of a pause
    real_noise: float = 0.5  # a recording, else a generator
    second_noise: float = 0.3  # one more noise on top, of either kind; and with the same odds a third
    speech_speed: float = 0.0  # speech played 0.85 to 1.2 times as fast (VOICES), in the target too
    speech_eq: float = 0.3  # a random equaliser on the speech, in the target too
    noise_eq: float = 0.6
    speed: float = 0.5  # a recording of noise played 0.6 to 1.7 times as fast
    backwards: float = 0.3  # or from its end to its start
    reverb: float = 0.0  # speech in a room; the target has its first 50 ms
    real_room: float = 0.7  # of impulse_responses, else a generated one
    clip: float = 0.0  # the mixture cut off at 2 to 8 dB over its RMS; the target isn't
    level_change: float = 0.0  # the speech's level wanders by up to 20 dB, in the target too
    noise_change: float = 0.0  # the noise comes and goes, by up to 30 dB
    floor_db: float | None = None  # the noise stays in the target, turned down by so much; None: it goes

    def __post_init__(self):
        _check_crop(self.crop_samples)
        for name in PROBABILITIES:
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise OptionError(f"{name} is {value!r}, expected a probability, 0 to 1")
        snr = self.snr_db
        numbers = isinstance(snr, (tuple, list)) and all(isinstance(x, (int, float)) for x in snr)
        if not (numbers and len(snr) == 2 and snr[0] <= snr[1]):
            raise OptionError(f"snr_db is {snr!r}, expected the lowest and the highest, in dB")
        floor = self.floor_db
        if not (floor is None or (isinstance(floor, (int, float)) and floor > 0)):
            raise OptionError(f"floor_db is {floor!r}, expected by how many dB noise is turned down, or null")


class _Batches:
    """Batches of what a subclass's `pair(rng)` draws: noisy and clean, (samples,) each."""

    def batch(self, seed: int, number: int, size: int) -> tuple:
        """The `number`-th batch of a run: noisy and clean, (size, samples) each."""
        rng = np.random.default_rng([seed, number])
        pairs = [self.pair(rng) for _ in range(size)]
        return tuple(np.stack(side) for side in zip(*pairs))


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


class PairFolder(_Batches):
    """Crops of noisy recordings and of their clean twins, divided by the noisy crop's RMS.

    Twins are found as for evaluation: the same name in both folders, or the same fileid_N at its end.
    Headers are read at once. Raises AudioNotFoundError for a folder without audio, AudioError that names
    the files without a twin, those that can't be opened, and twins of different lengths or rates.
    """

    def __init__(self, noisy_dir: str, clean_dir: str, crop_samples: int = MixOptions.crop_samples):
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


class Mixer(_Batches):
    """Draws (noisy, clean) pairs of `options.crop_samples`, scaled so that noisy has unit RMS.

    impulse_responses: what `real_room` of the rooms are drawn from; the others are generated.
    """

    def __init__(
        self,
        clean: AudioFolder,
        noise: AudioFolder,
        options: MixOptions = MixOptions(),
        impulse_responses: AudioFolder | None = None,
    ):
        self.clean, self.noise, self.options = clean, noise, options
        self.impulse_responses = impulse_responses

    def speech(self, rng: np.random.Generator) -> tuple:
        """(speech as it is heard, its target): the same unless the room is heard too."""
        speed = rng.uniform(*VOICES) if rng.random() < self.options.speech_speed else 1.0
        for _ in range(TRIES):  # a crop that has speech, if one is found
            x = self.clean.crop(rng, self.options.crop_samples, speed)
            if rms(x) > 3e-3:
                break
        if rng.random() < self.options.speech_eq:
            x = equalise(rng, x)
        if rng.random() < self.options.level_change:
            x = x * wandering_gain(rng, len(x), 20)
        return self.in_a_room(rng, x) if rng.random() < self.options.reverb else (x, x)

    def in_a_room(self, rng: np.random.Generator, x: np.ndarray) -> tuple:
        """Speech (samples,) in a room: (all that is heard, what came until 50 ms after the direct sound).

        The second is the usual target of enhancement: late reflections go, early ones stay. The direct
        sound is the response's highest peak; it comes when x does, at x's level.
        """
        if self.impulse_responses and rng.random() < self.options.real_room:
            response = with_direct_sound(rng, self.impulse_responses.whole(rng))
        else:
            response = generated_response(rng, rng.uniform(0.1, 0.8))
        direct = int(np.argmax(np.abs(response)))
        response = response / response[direct]
        parts = (response, response[: direct + EARLY])
        return tuple(fftconvolve(x, part)[direct : direct + len(x)] for part in parts)

    def one_noise(self, rng: np.random.Generator) -> np.ndarray:
        o = self.options
        if rng.random() < o.real_noise:
            speed = rng.uniform(0.6, 1.7) if rng.random() < o.speed else 1.0
            x = self.noise.crop(rng, o.crop_samples, speed)
            if rng.random() < o.backwards:
                x = x[::-1]
        else:
            x = generated_noise(rng, o.crop_samples, self.clean)
        if rng.random() < o.noise_eq:
            x = equalise(rng, x)
        if rng.random() < o.noise_change:
            x = x * wandering_gain(rng, len(x), 30)
        return x / (rms(x) + 1e-8)

    def pair(self, rng: np.random.Generator) -> tuple:
        o = self.options
        (heard, clean), noise = self.speech(rng), self.one_noise(rng)
        if rng.random() < o.noise_only:
            heard = clean = np.zeros(o.crop_samples)
        else:
            for _ in range(2):
                if rng.random() < o.second_noise:
                    noise = noise + self.one_noise(rng) * rng.uniform(0.1, 1.0)
            snr = 40.0 if rng.random() < o.clean_only else rng.uniform(*o.snr_db)
            noise = noise * (rms(heard) / (rms(noise) + 1e-8) / 10 ** (snr / 20))
        noisy = heard + noise
        if o.floor_db is not None:
            clean = clean + noise * 10 ** (-o.floor_db / 20)
        if rng.random() < o.clip:
            limit = rms(noisy) * 10 ** (rng.uniform(2, 8) / 20)
            noisy = np.clip(noisy, -limit, limit)
        scale = 1.0 / (rms(noisy) + 1e-8)
        return (noisy * scale).astype(np.float32), (clean * scale).astype(np.float32)


def _listed(items: list) -> str:
    """The first three, and how many more there are."""
    more = [f"and {len(items) - 3} more"] if len(items) > 3 else []
    return "; ".join(items[:3] + more)


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
