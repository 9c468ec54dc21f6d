"""What to do above 8 kHz: the table in docs/usage.md behind bandwidth='full'.

    python benchmarks/bandwidth.py [--speech DIR] [--model tiny]

DIR: recordings of speech at 44.1 or 48 kHz with little noise. The default is where Debian's alsa-utils
puts its eight spoken channel names, 48 kHz, 1.4 s each, which are put end to end with pauses. White and
pink noise and a hiss that is strongest at the top are mixed in, one at a time. Measured over the whole
band, against the clean recording: SI-SDR, and the log-spectral distance (floor 60 dB below the loudest
bin); means over the three noises.
"""

import argparse
from pathlib import Path

import numpy as np

from modelscope_zipenhancer.audio.read import read
from modelscope_zipenhancer.audio.resample import fit, resample
from modelscope_zipenhancer.audio.samples import to_mono
from modelscope_zipenhancer.enhance import high_band as bandwidth
from modelscope_zipenhancer.enhance.enhancer import Enhancer

COLOURS = {"white": 0.0, "pink": -0.5, "hiss": 0.5}  # amplitude is proportional to frequency ** this


def speech(folder: str) -> tuple:
    """(samples,) of the recordings, each with half a second of silence after it, and their rate."""
    parts, rates = [], set()
    for path in sorted(Path(folder).glob("*.wav")):
        if path.stem == "Noise":
            continue
        x, rate = read(path)
        parts += [to_mono(x), np.zeros(rate // 2, np.float32)]
        rates.add(rate)
    (rate,) = rates
    return np.concatenate(parts), rate


def coloured(samples: int, slope: float) -> np.ndarray:
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(samples))
    noise = np.fft.irfft(spectrum * np.maximum(1, np.arange(len(spectrum))) ** slope, samples)
    return noise / noise.std()


def si_sdr(estimate: np.ndarray, clean: np.ndarray) -> float:
    part = clean * (estimate @ clean / (clean @ clean))
    return 10 * np.log10(np.sum(part**2) / np.sum((estimate - part) ** 2))


def distance(estimate: np.ndarray, clean: np.ndarray, rate: int, lowest: float = 0) -> float:
    """Log-spectral distance in dB: of each 32 ms the RMS over frequencies, then the mean."""

    def levels(x):
        size = rate * 32 // 1000
        frames = np.lib.stride_tricks.sliding_window_view(x, size)[:: size // 2] * np.hanning(size)
        return np.abs(np.fft.rfft(frames)[:, int(lowest * 0.032) :])

    clean = levels(clean)
    floor = clean.max() * 1e-3
    difference = 20 * np.log10(np.maximum(levels(estimate), floor) / np.maximum(clean, floor))
    return float(np.sqrt((difference**2).mean(1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--speech", default="/usr/share/sounds/alsa")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--snr", type=float, nargs="+", default=[0, 10, 20])
    args = parser.parse_args()
    clean, rate = speech(args.speech)
    enhancer = Enhancer.from_pretrained(args.model, "cpu")
    print("| SNR, dB | above 8 kHz | SI-SDR, dB | LSD, dB | LSD above 8 kHz, dB |\n" + "|---" * 5 + "|")
    for snr in args.snr:
        rows = {}
        for slope in COLOURS.values():
            noise = coloured(len(clean), slope) * np.sqrt(np.mean(clean**2) / 10 ** (snr / 10))
            for name, y in candidates(enhancer, (clean + noise).astype(np.float32), rate).items():
                values = si_sdr(y, clean), distance(y, clean, rate), distance(y, clean, rate, 8000)
                rows.setdefault(name, []).append(values)
        for name, values in rows.items():
            cells = "".join(f" {value:.2f} |" for value in np.mean(values, axis=0))
            print(f"| {snr:g} | {name} |{cells}", flush=True)


def candidates(enhancer: Enhancer, x: np.ndarray, rate: int) -> dict:
    """{what happens above 8 kHz: (samples,)} for a noisy recording."""
    noisy = resample(x, rate, 16000)
    enhanced = enhancer(noisy)
    dropped = fit(resample(enhanced, 16000, rate), len(x))
    return {
        "noisy, as it is": x,
        "dropped (`low`)": dropped,
        "left as it is": dropped + x - fit(resample(noisy, 16000, rate), len(x)),
        "`full`": bandwidth.with_high_band(x, rate, noisy, enhanced),
    }


if __name__ == "__main__":
    main()
