"""What mixtures are made of besides recordings: generated noises and rooms, random equalisers.

Every draw comes from a numpy Generator that the caller passes. Waveforms are (samples,), 16 kHz.
"""

import numpy as np
from scipy.signal import fftconvolve

from ..names import SAMPLE_RATE

VOICES = 0.85, 1.2  # how fast speech is played, to make voices of other pitch and size
KINDS = {"coloured": 0.2, "babble": 0.45, "hum": 0.05, "band": 0.14, "hits": 0.16}  # how often each


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def equalise(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """A smooth random frequency response: +-8 dB (one sigma 4 dB) at eight points of a log scale."""
    spectrum = np.fft.rfft(x)
    position = np.log1p(np.linspace(0, 40, len(spectrum))) / np.log(41.0) * 7
    decibels = np.interp(position, np.arange(8), np.clip(rng.normal(0, 4, 8), -8, 8))
    return np.fft.irfft(spectrum * 10 ** (decibels / 20), len(x)).astype(np.float32)


def generated_response(rng: np.random.Generator, rt60: float, ratio_db: tuple = (-3, 12)) -> np.ndarray:
    """Of a room whose reflections fall by 60 dB in `rt60` seconds: direct sound, then decaying noise.

    ratio_db: of the direct sound to the reflections, the lowest and the highest. Returns float32
    (rt60 * 16000,).
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
    """A recorded response (samples,) whose direct sound is at least as strong as all reflections.

    Those of halls and of echo effects hold little direct sound or none: a speaker near the microphone is
    put in front, 0 to 12 dB above the reflections. The direct sound is the highest peak and 1 ms around it.
    """
    peak, around = int(np.argmax(np.abs(response))), SAMPLE_RATE // 1000
    tail = response.astype(np.float64)
    tail[max(0, peak - around) : peak + around] = 0.0
    direct, reflected = np.sum(np.square(response)) - np.sum(np.square(tail)), np.sum(np.square(tail))
    if direct >= reflected:
        return response
    tail /= np.sqrt(reflected) * 10 ** (rng.uniform(0, 12) / 20)
    tail[peak] = 1.0
    return tail.astype(np.float32)


def wandering_gain(rng: np.random.Generator, samples: int, range_db: float) -> np.ndarray:
    """(samples,) of a gain that goes through two to five random levels, from -range_db to 0 dB."""
    levels = rng.uniform(-range_db, 0, rng.integers(2, 6))
    return 10 ** (np.interp(np.linspace(0, len(levels) - 1, samples), np.arange(len(levels)), levels) / 20)


def generated_noise(rng: np.random.Generator, samples: int, speech) -> np.ndarray:
    """(samples,) of one of KINDS, white to brown if coloured; unit RMS by and large.

    speech: what babble is made of, an AudioFolder or anything with its `crop`.
    """
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
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


def _babble(rng: np.random.Generator, samples: int, speech) -> np.ndarray:
    """2 to 12 voices; most of it from across a room, unlike who speaks into the microphone."""
    voices = range(rng.integers(2, 13))
    x = sum(speech.crop(rng, samples, rng.uniform(*VOICES)) * rng.uniform(0.3, 1) for _ in voices)
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
