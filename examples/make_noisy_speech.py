"""Make noisy_speech.wav, and the examples of `zipenhancer demo`: speech by espeak-ng, noise by numpy.

Needs the program espeak-ng.

python examples/make_noisy_speech.py
"""

import subprocess
from pathlib import Path

import numpy as np
import soundfile
import soxr

TEXT = (
    "The fan beside this desk never stops, and the mains hum comes through the cable. "
    "A denoiser should leave only the words."
)
CHINESE = "今天外面下着大雨。请把雨声去掉，只留下说话的声音。"
RATE = 16000
SNR_DB = 5.0
PAGE = Path(__file__).parents[1] / "modelscope_zipenhancer" / "web" / "examples"


def main() -> None:
    speech = speak(TEXT, "en-us+f3")
    noisy = mix(speech, fan(len(speech)))
    soundfile.write(Path(__file__).parent / "noisy_speech.wav", noisy, RATE, "PCM_16")
    soundfile.write(PAGE / "fan.mp3", noisy.astype(np.float32), RATE)
    speech = speak(CHINESE, "cmn+f2")
    soundfile.write(PAGE / "rain.mp3", mix(speech, rain(len(speech))).astype(np.float32), RATE)


def speak(words: str, voice: str) -> np.ndarray:
    """Speech, (samples,), with half a second of silence before and after."""
    command = ["espeak-ng", "-v", voice, "-s", "150", "--stdout", words]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    # a pipe's header has no length; 44 bytes, then 16-bit mono at 22.05 kHz
    speech = np.frombuffer(wav[44:], "<i2") / 32768
    speech = soxr.resample(speech, 22050, RATE)
    return np.pad(speech / np.abs(speech).max() * 0.5, (RATE // 2, RATE // 2))


def fan(samples: int) -> np.ndarray:
    """A fan, and the hum of the mains."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / RATE
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    fan = np.fft.irfft(spectrum * np.arange(1, len(spectrum) + 1) ** -0.6, samples)
    fan = fan / fan.std() * (1 + 0.3 * np.sin(2 * np.pi * 1.7 * time))
    hum = sum(np.sin(2 * np.pi * 50 * n * time + n) / n for n in (1, 2, 3, 5, 7))
    return fan + 0.5 * hum


def rain(samples: int) -> np.ndarray:
    """A hiss that swells, and drops on a window sill."""
    rng = np.random.default_rng(1)
    time = np.arange(samples) / RATE
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hiss = np.fft.irfft(spectrum * np.arange(1, len(spectrum) + 1) ** -0.25, samples)
    drops = np.zeros(samples)
    drops[rng.integers(0, samples, samples // 1000)] = rng.exponential(1.0, samples // 1000)
    drops = np.convolve(drops, rng.standard_normal(400) * np.exp(-np.arange(400) / 80), "same")
    return hiss / hiss.std() * (1 + 0.2 * np.sin(2 * np.pi * 0.3 * time)) + 0.5 * drops / drops.std()


def mix(speech: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Both, at SNR_DB."""
    return speech + noise * np.sqrt(np.mean(speech**2) / np.mean(noise**2)) / 10 ** (SNR_DB / 20)


if __name__ == "__main__":
    main()
