"""Mixtures of speech and noise, made on the fly.

Every draw comes from a numpy Generator that the caller passes, so that (seed, number) fixes a batch
and a resumed run sees what an unbroken one would have seen. Waveforms are float (samples,), 16 kHz.
"""

from dataclasses import dataclass, fields

import numpy as np
from scipy.signal import fftconvolve

from ..errors import OptionError
from .augment import (
    VOICE_SPEEDS,
    equalise,
    generated_noise,
    generated_response,
    rms,
    wandering_gain,
    with_direct_sound,
)
from .folders import AudioFolder
from .pairs import CROP_SAMPLES, TRIES, Batches, check_crop_samples, unit_rms

NOISE_SPEEDS = 0.6, 1.7


@dataclass(frozen=True)
class MixOptions:
    """How a mixture is drawn. What isn't in samples or dB is a probability, 0 to 1, for each item.

    OptionError names a value that can't be.
    """

    crop_samples: int = CROP_SAMPLES  # at 16 kHz, 201 or more
    # lowest and highest, drawn uniformly; of the speech as it is heard, reverberation included
    snr_db: tuple[float, float] = (-5.0, 20.0)
    clean_only: float = 0.03  # nearly no noise (40 dB): teaches to leave clean speech alone
    noise_only: float = 0.05  # no speech: teaches to leave nothing of a pause
    real_noise: float = 0.5  # a recording, else a generator
    second_noise: float = 0.3  # one more noise on top, of either kind; and with the same odds a third
    speech_speed: float = 0.0  # speech played 0.85 to 1.2 times as fast (VOICE_SPEEDS), in the target too
    speech_eq: float = 0.3  # a random equaliser on the speech, in the target too
    noise_eq: float = 0.6
    speed: float = 0.5  # a recording of noise played 0.6 to 1.7 times as fast (NOISE_SPEEDS)
    backwards: float = 0.3  # or from its end to its start
    reverb: float = 0.0  # speech in a room, in the target too: noise is to go, not the room
    real_room: float = 0.7  # of impulse_responses, if there are any, else a generated one
    clip: float = 0.0  # the mixture cut off at 2 to 8 dB over its RMS; the target isn't
    level_change: float = 0.0  # the speech's level wanders by up to 20 dB, in the target too
    noise_change: float = 0.0  # the noise comes and goes, by up to 30 dB
    floor_db: float | None = None  # the noise stays in the target, turned down by so much; None: it goes

    def __post_init__(self) -> None:
        check_crop_samples(self.crop_samples)
        for name in [f.name for f in fields(self) if f.type is float]:
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


class Mixer(Batches):
    """Draws mixtures of `options.crop_samples`, and the speech in them.

    Args:
        clean, noise: what speech and recorded noise are drawn from; generated babble is made of `clean`.
        options: how a mixture is drawn.
        impulse_responses: what `options.real_room` of the rooms are drawn from; the others are generated.
    """

    def __init__(
        self,
        clean: AudioFolder,
        noise: AudioFolder,
        options: MixOptions = MixOptions(),
        impulse_responses: AudioFolder | None = None,
    ) -> None:
        self.clean, self.noise, self.options = clean, noise, options
        self.impulse_responses = impulse_responses

    def pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A mixture and its target, float32 (samples,) each, scaled alike so that the mixture has unit RMS.

        AudioError if a recording can't be read, or an impulse response is silent.
        """
        o = self.options
        speech, noise = self.draw_speech(rng), self.draw_noise(rng)
        if rng.random() < o.noise_only:
            speech = np.zeros(o.crop_samples)
        else:
            for _ in range(2):
                if rng.random() < o.second_noise:
                    noise = noise + self.draw_noise(rng) * rng.uniform(0.1, 1.0)
            snr = 40.0 if rng.random() < o.clean_only else rng.uniform(*o.snr_db)
            noise = noise * (rms(speech) / (rms(noise) + 1e-8) / 10 ** (snr / 20))
        noisy, target = speech + noise, speech
        if o.floor_db is not None:
            target = target + noise * 10 ** (-o.floor_db / 20)
        if rng.random() < o.clip:
            limit = rms(noisy) * 10 ** (rng.uniform(2, 8) / 20)
            noisy = np.clip(noisy, -limit, limit)
        return unit_rms(noisy, target)

    def draw_speech(self, rng: np.random.Generator) -> np.ndarray:
        """Speech as it is heard, (samples,)."""
        o = self.options
        speed = rng.uniform(*VOICE_SPEEDS) if rng.random() < o.speech_speed else 1.0
        for _ in range(TRIES):  # a crop that has speech, if one is found
            x = self.clean.crop(rng, o.crop_samples, speed)
            if rms(x) > 3e-3:
                break
        if rng.random() < o.speech_eq:
            x = equalise(rng, x)
        if rng.random() < o.level_change:
            x = x * wandering_gain(rng, len(x), 20)
        return self.reverberate(rng, x) if rng.random() < o.reverb else x

    def reverberate(self, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
        """Speech (samples,) in a room. It comes when x does: a response counts from its highest peak on."""
        if self.impulse_responses and rng.random() < self.options.real_room:
            response = with_direct_sound(rng, self.impulse_responses.whole(rng))
        else:
            response = generated_response(rng, rng.uniform(0.1, 0.8))
        direct = int(np.argmax(np.abs(response)))
        return fftconvolve(x, response / response[direct])[direct : direct + len(x)]

    def draw_noise(self, rng: np.random.Generator) -> np.ndarray:
        """One noise, (samples,), recorded or generated, at unit RMS."""
        o = self.options
        if rng.random() < o.real_noise:
            speed = rng.uniform(*NOISE_SPEEDS) if rng.random() < o.speed else 1.0
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
