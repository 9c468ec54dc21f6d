"""Make noisy_speech.wav: speech by espeak-ng, noise by numpy. Needs the program espeak-ng.

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
RATE = 16000
SNR_DB = 5.0


def main() -> None:
    wav = subprocess.run(
        ["espeak-ng", "-v", "en-us+f3", "-s", "150", "--stdout", TEXT], check=True, capture_output=True
    ).stdout
    # a pipe's header has no length; 44 bytes, then 16-bit mono at 22.05 kHz
    speech = np.frombuffer(wav[44:], "<i2") / 32768
    speech = soxr.resample(speech, 22050, RATE)
    speech = np.pad(speech / np.abs(speech).max() * 0.5, (RATE // 2, RATE // 2))

    rng = np.random.default_rng(0)
    time = np.arange(len(speech)) / RATE
    spectrum = np.fft.rfft(rng.standard_normal(len(speech)))
    fan = np.fft.irfft(spectrum * np.arange(1, len(spectrum) + 1) ** -0.6, len(speech))
    fan = fan / fan.std() * (1 + 0.3 * np.sin(2 * np.pi * 1.7 * time))
    hum = sum(np.sin(2 * np.pi * 50 * n * time + n) / n for n in (1, 2, 3, 5, 7))
    noise = fan + 0.5 * hum
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2)) / 10 ** (SNR_DB / 20)
    soundfile.write(Path(__file__).parent / "noisy_speech.wav", speech + noise, RATE, "PCM_16")


if __name__ == "__main__":
    main()
