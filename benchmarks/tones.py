"""What comes out of tones and music alone, made here, over digital silence and over a faint noise floor.

    python benchmarks/tones.py [--model tiny] [--plot music.png]

Nothing of them is speech. A recording has a noise floor; what is synthesised, or cut off in 16 bits, may have
bins with nothing in them, which no training mixture has.
"""

import argparse

import numpy as np

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.evaluate.spectrogram import save_spectrograms

RATE, SECONDS = 16_000, 8
CHORDS = ((261.6, 329.6, 392.0), (220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7))
MELODY = (523.3, 587.3, 659.3, 784.0, 880.0)
TIME = np.arange(SECONDS * RATE) / RATE


def tone(frequency: float, start: float, stop: float, level: float, vibrato: float = 0.0) -> np.ndarray:
    """Five harmonics from start to stop, in seconds, that fade."""
    t = TIME - start
    heard = (t >= 0) & (stop > TIME)
    envelope = np.minimum(1, t / 0.02) * np.exp(-0.8 * t) * np.minimum(1, (stop - TIME) / 0.05)
    phase = 2 * np.pi * frequency * t + vibrato * np.sin(2 * np.pi * 5.5 * t)
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 6) if k * frequency < 7500)
    return np.where(heard, level * envelope * harmonics, 0.0)


def music() -> np.ndarray:
    """Chords, a bass, and a melody with vibrato; peak 0.3."""
    rng = np.random.default_rng(0)
    x = sum(tone(f, 2 * i, 2 * i + 2, 0.12) for i, chord in enumerate(CHORDS) for f in chord)
    x = x + sum(tone(chord[0] / 2, 2 * i, 2 * i + 2, 0.25) for i, chord in enumerate(CHORDS))
    x = x + sum(tone(rng.choice(MELODY), i / 2, i / 2 + 0.5, 0.2, vibrato=1.2) for i in range(2 * SECONDS))
    return 0.3 * x / np.abs(x).max()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--plot", metavar="PNG")
    args = parser.parse_args()
    enhancer = Enhancer.from_pretrained(args.model)
    sounds = {"music": music(), "sweep": 0.3 * np.sin(2 * np.pi * (100 + 450 * TIME) * TIME)}
    sounds |= {f"sine, {f} Hz": 0.3 * np.sin(2 * np.pi * f * TIME) for f in (100, 440, 1000, 3000)}
    floor = np.random.default_rng(1).standard_normal(len(TIME)) * 10 ** (-90 / 20)
    kinds = {
        "float32": lambda x: x,
        "16 bits": lambda x: np.round(x * 32768) / 32768,
        "floor": lambda x: x + floor,
    }
    print("level of the output over the input's, dB; its highest peak\n")
    print(f"| | {' | '.join(kinds)}, -90 dBFS |\n" + "|---" * 4 + "|")
    for name, x in sounds.items():
        cells, pictures = [], {name: x}
        for kind, change in kinds.items():
            given = change(x).astype(np.float32)
            pictures[kind] = enhanced = enhancer(given, sample_rate=RATE)
            level = 10 * np.log10(np.square(enhanced).mean() / np.square(given).mean() + 1e-20)
            cells.append(f"{level:.1f}, {np.abs(enhanced).max():.3f}")
        print(f"| {name} | {' | '.join(cells)} |")
        if args.plot and name == "music":
            save_spectrograms(args.plot, pictures)


if __name__ == "__main__":
    main()
