"""Mixtures of clean speech and noise, made on the fly from folders and from generators.

Every draw comes from a numpy Generator that the caller passes, so that (seed, step) fixes a batch
and a resumed run sees what an unbroken one would have seen. Waveforms are float32 (samples,), 16 kHz.
"""

import os
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from ..audio import FORMATS
from ..config import SAMPLE_RATE


@dataclass(frozen=True)
class MixOptions:
    """How a mixture is drawn; probabilities are of one item."""

    crop_samples: int = 2 * SAMPLE_RATE
    snr_db: tuple = (-5.0, 20.0)  # uniform
    clean_only: float = 0.03  # nearly no noise: teaches to leave clean speech alone
    noise_only: float = 0.05  # no speech: teaches to leave nothing of a pause
    real_noise: float = 0.55  # a recording, else a generator
    second_noise: float = 0.3  # one more noise on top, of either kind
    speech_eq: float = 0.3  # a random equaliser on the speech, in the target too
    noise_eq: float = 0.6
    speed: float = 0.5  # noise played 0.7 to 1.4 times as fast


class AudioFolder:
    """The recordings below a folder; crops are read from disk when drawn."""

    def __init__(self, folder: str):
        self.files = []  # (path, frames, sample rate)
        for base, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                if name.lower().endswith(tuple(FORMATS)):
                    path = os.path.join(base, name)
                    info = soundfile.info(path)
                    self.files.append((path, info.frames, info.samplerate))
        if not self.files:
            raise FileNotFoundError(f"no audio below {folder!r}; known are {', '.join(FORMATS)}")

    def crop(self, rng: np.random.Generator, samples: int, speed: float = 1.0) -> np.ndarray:
        """A random stretch of a random recording's first channel, zero-padded if it is shorter."""
        path, frames, rate = self.files[rng.integers(len(self.files))]
        wanted = int(np.ceil(samples * speed * rate / SAMPLE_RATE))
        start = int(rng.integers(max(1, frames - wanted + 1)))
        x, _ = soundfile.read(path, wanted, start, dtype="float32", always_2d=True)
        x = x[:, 0]
        if rate * speed != SAMPLE_RATE:
            x = soxr.resample(x, rate * speed, SAMPLE_RATE)
        return np.pad(x[:samples], (0, max(0, samples - len(x))))


class Mixer:
    """Draws (noisy, clean) pairs of `options.crop_samples`, scaled so that noisy has unit RMS."""

    def __init__(self, clean: AudioFolder, noise: AudioFolder, options: MixOptions = MixOptions()):
        self.clean, self.noise, self.options = clean, noise, options

    def speech(self, rng: np.random.Generator) -> np.ndarray:
        for _ in range(8):  # a crop that has speech, if one is found
            x = self.clean.crop(rng, self.options.crop_samples)
            if rms(x) > 3e-3:
                break
        return equalise(rng, x) if rng.random() < self.options.speech_eq else x

    def one_noise(self, rng: np.random.Generator) -> np.ndarray:
        o = self.options
        if rng.random() < o.real_noise:
            speed = rng.uniform(0.7, 1.4) if rng.random() < o.speed else 1.0
            x = self.noise.crop(rng, o.crop_samples, speed)
        else:
            x = generated_noise(rng, o.crop_samples, self.clean)
        if rng.random() < o.noise_eq:
            x = equalise(rng, x)
        return x / (rms(x) + 1e-8)

    def pair(self, rng: np.random.Generator) -> tuple:
        o = self.options
        clean, noise = self.speech(rng), self.one_noise(rng)
        if rng.random() < o.noise_only:
            return (noise / (rms(noise) + 1e-8)).astype(np.float32), np.zeros(o.crop_samples, np.float32)
        if rng.random() < o.second_noise:
            noise = noise + self.one_noise(rng) * rng.uniform(0.1, 1.0)
        snr = 40.0 if rng.random() < o.clean_only else rng.uniform(*o.snr_db)
        noise *= rms(clean) / (rms(noise) + 1e-8) / 10 ** (snr / 20)
        scale = 1.0 / (rms(clean + noise) + 1e-8)
        return ((clean + noise) * scale).astype(np.float32), (clean * scale).astype(np.float32)

    def batch(self, seed: int, step: int, size: int) -> tuple:
        """The `step`-th batch of a run: noisy and clean, (size, samples) each."""
        rng = np.random.default_rng([seed, step])
        pairs = [self.pair(rng) for _ in range(size)]
        return tuple(np.stack(side) for side in zip(*pairs))


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def equalise(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """A smooth random frequency response: +-8 dB (one sigma 4 dB) at eight points of a log scale."""
    spectrum = np.fft.rfft(x)
    position = np.log1p(np.linspace(0, 40, len(spectrum))) / np.log(41.0) * 7
    decibels = np.interp(position, np.arange(8), np.clip(rng.normal(0, 4, 8), -8, 8))
    return np.fft.irfft(spectrum * 10 ** (decibels / 20), len(x)).astype(np.float32)


def generated_noise(rng: np.random.Generator, samples: int, speech: AudioFolder) -> np.ndarray:
    """White, coloured, babble, hum, modulated band noise or clicks; unit RMS by and large."""
    time = np.arange(samples) / SAMPLE_RATE
    kind = rng.choice(["coloured", "babble", "hum", "band", "clicks"], p=[0.3, 0.2, 0.15, 0.25, 0.1])
    if kind == "babble":
        return sum(speech.crop(rng, samples) * rng.uniform(0.3, 1) for _ in range(rng.integers(4, 10)))
    white = rng.standard_normal(samples)
    if kind == "hum":
        base = rng.uniform(45, 300)
        partials = sum(
            np.sin(2 * np.pi * base * n * time + rng.uniform(0, 6.3)) * rng.uniform(0, 1) / n
            for n in range(1, 20)
            if base * n < SAMPLE_RATE / 2
        )
        return partials + rng.uniform(0.02, 0.2) * white
    if kind == "clicks":
        clicks = np.where(rng.random(samples) < rng.uniform(2, 60) / SAMPLE_RATE, 30 * white, 0.0)
        decay = np.exp(-np.arange(400) / rng.uniform(4, 80))
        ring = decay * np.sin(2 * np.pi * rng.uniform(200, 6000) * time[:400])
        return np.convolve(clicks, ring)[:samples] + rng.uniform(0.01, 0.1) * white
    spectrum = np.fft.rfft(white)
    place = np.arange(1, len(spectrum) + 1) / len(spectrum)  # 0 to 8 kHz
    if kind == "coloured":
        return np.fft.irfft(spectrum * place ** -rng.uniform(-0.3, 1.3), samples)  # blue to brown
    spectrum *= np.exp(-(((place - rng.uniform(0.02, 0.9)) / rng.uniform(0.05, 0.4)) ** 2)) + 0.02
    wobble = 1 + rng.uniform(0, 0.95) * np.sin(2 * np.pi * rng.uniform(0.3, 12) * time + rng.uniform(0, 6.3))
    return np.fft.irfft(spectrum, samples) * wobble
