"""What mixtures are made of besides recordings: generated noises and rooms, equalisers, gains.

Every draw comes from a numpy Generator that the caller passes. Waveforms are (samples,), 16 kHz.
"""

import numpy as np
from scipy.signal import fftconvolve

from ..names import SAMPLE_RATE
from .folders import AudioFolder

ROOM_RATIO_DB = -20, 12  # the level of a speaker's direct sound over the reflections, at least and at most
VOICE_SPEEDS = 0.85, 1.2  # how fast speech is played, to make voices of other pitch and size
# How often each kind of noise is generated.
NOISE_KINDS = {"coloured": 0.2, "babble": 0.4, "hum": 0.1, "band": 0.14, "hits": 0.16}


def rms(x: np.ndarray) -> float:
    """The root of the mean square, in float64."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def equalise(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """x (samples,) through a smooth random frequency response, float32.

    The response has up to +-8 dB (one sigma 4 dB) at eight points of a log scale.
    """
    spectrum = np.fft.rfft(x)
    position = np.log1p(np.linspace(0, 40, len(spectrum))) / np.log(41.0) * 7
    decibels = np.interp(position, np.arange(8), np.clip(rng.normal(0, 4, 8), -8, 8))
    return np.fft.irfft(spectrum * 10 ** (decibels / 20), len(x)).astype(np.float32)


def generated_response(
    rng: np.random.Generator, rt60: float, ratio_db: tuple[float, float] = ROOM_RATIO_DB
) -> np.ndarray:
    """The impulse response of a made-up room: direct sound, then decaying noise.

    Args:
        rt60: seconds in which the reflections fall by 60 dB, 0.02 or more.
        ratio_db: the lowest and the highest level of the direct sound over the reflections.

    Returns:
        float32 (rt60 * 16000,); the first sample is the direct sound, 1.
    """
    samples = int(rt60 * SAMPLE_RATE)
    time = np.arange(samples)
    # equalised before it decays: the equaliser is circular, the loud start would come round to the end
    tail = equalise(rng, rng.standard_normal(samples)) * 10 ** (-3 * time / samples)
    tail *= time >= rng.integers(16, 160)  # the first reflection from 1 to 10 ms on
    ratio = 10 ** (rng.uniform(*ratio_db) / 20)
    tail /= np.sqrt(np.sum(np.square(tail))) * ratio + 1e-12
    tail[0] = 1.0
    return tail.astype(np.float32)


def with_direct_sound(rng: np.random.Generator, response: np.ndarray) -> np.ndarray:
    """A recorded impulse response (samples,) that has some direct sound.

    The response of a hall or of an echo effect may hold none: a speaker is put into it, ROOM_RATIO_DB over
    the reflections. The direct sound is the highest peak and 1 ms around it. A response that has enough is
    returned as it is.
    """
    peak, around = int(np.argmax(np.abs(response))), SAMPLE_RATE // 1000
    tail = response.astype(np.float64)
    tail[max(0, peak - around) : peak + around] = 0.0
    direct, reflected = np.sum(np.square(response)) - np.sum(np.square(tail)), np.sum(np.square(tail))
    if direct >= reflected * 10 ** (ROOM_RATIO_DB[0] / 10):
        return response
    tail /= np.sqrt(reflected) * 10 ** (rng.uniform(*ROOM_RATIO_DB) / 20)
    tail[peak] = 1.0
    return tail.astype(np.float32)


def wandering_gain(rng: np.random.Generator, samples: int, range_db: float) -> np.ndarray:
    """A gain (samples,) that goes through two to five random levels, from -range_db to 0 dB."""
    levels = rng.uniform(-range_db, 0, rng.integers(2, 6))
    return 10 ** (np.interp(np.linspace(0, len(levels) - 1, samples), np.arange(len(levels)), levels) / 20)


def generated_noise(rng: np.random.Generator, samples: int, speech: AudioFolder) -> np.ndarray:
    """Noise (samples,) of one of NOISE_KINDS, of no particular level; babble is made of `speech`."""
    kind = rng.choice(list(NOISE_KINDS), p=list(NOISE_KINDS.values()))
    if kind == "babble":
        return _babble(rng, samples, speech)
    time = np.arange(samples) / SAMPLE_RATE
    white = rng.standard_normal(samples)
    if kind == "hum":
        base = rng.uniform(45, 300)
        partials = sum(
            np.sin(2 * np.pi * base * n * time + rng.uniform(0, 6.3)) * rng.uniform(0, 1) / n
            for n in range(1, 20)
            if base * n < SAMPLE_RATE / 2
        )
        return partials + rng.uniform(0.02, 0.2) * white
    if kind == "hits":
        return _hits(rng, white)
    spectrum = np.fft.rfft(white)
    place = np.arange(1, len(spectrum) + 1) / len(spectrum)  # 0 to 8 kHz
    if kind == "coloured":
        return np.fft.irfft(spectrum * place ** -rng.uniform(-0.3, 1.3), samples)  # blue to brown
    spectrum *= np.exp(-(((place - rng.uniform(0.02, 0.9)) / rng.uniform(0.05, 0.4)) ** 2)) + 0.02
    wobble = 1 + rng.uniform(0, 0.95) * np.sin(2 * np.pi * rng.uniform(0.3, 12) * time + rng.uniform(0, 6.3))
    return np.fft.irfft(spectrum, samples) * wobble


def _babble(rng: np.random.Generator, samples: int, speech: AudioFolder) -> np.ndarray:
    """3 to 12 voices; most of it from across a room."""
    voices = range(rng.integers(3, 13))
    x = sum(speech.crop(rng, samples, rng.uniform(*VOICE_SPEEDS)) * rng.uniform(0.3, 1) for _ in voices)
    if rng.random() < 0.7:
        x = fftconvolve(x, generated_response(rng, rng.uniform(0.2, 0.8), ratio_db=(-12, 0)))[:samples]
    return x


def _hits(rng: np.random.Generator, white: np.ndarray) -> np.ndarray:
    """Clicks, knocks, thumps: up to three things that are hit, each rings in its own way."""
    samples = len(white)
    time = np.arange(min(samples, SAMPLE_RATE // 4)) / SAMPLE_RATE
    x = rng.uniform(0.01, 0.1) * white
    for _ in range(rng.integers(1, 4)):
        hits = np.where(rng.random(samples) < 10 ** rng.uniform(-0.3, 1.5) / SAMPLE_RATE, 30 * white, 0.0)
        ring = 0.0
        for _ in range(rng.integers(1, 6)):
            decay = np.exp(-time * 10 ** rng.uniform(1.1, 3.6))  # 80 to 0.25 ms
            frequency = 10 ** rng.uniform(1.6, 3.875)  # 40 to 7500 Hz
            ring += rng.uniform() * decay * np.sin(2 * np.pi * frequency * time)
        x += fftconvolve(hits, ring)[:samples]
    return x
