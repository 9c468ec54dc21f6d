"""What a model does to clean speech, and to noise alone: the table in docs/evaluation.md.

    python benchmarks/clean_and_noise.py SIDE [--model tiny ...] [--clean 6] [--noise 8] [--hiss DB]

SIDE is OUT/valid or OUT/test of split.py. Of each source so many recordings are drawn, 10 s at most of each.
Where others are installed as peers.py says, what they do is told, too.
"""

import argparse
from pathlib import Path

import numpy as np
from peers import enhanced, ours, peers

from modelscope_zipenhancer.audio.read import read
from modelscope_zipenhancer.evaluate.measures import pesq, si_sdr
from modelscope_zipenhancer.names import SAMPLE_RATE

OWN_NOISE = -53  # dB, of what a clean recording has in its pauses, beside its loud frames
FRAME = SAMPLE_RATE // 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("side", type=Path)
    parser.add_argument("--model", nargs="+", default=["tiny"])
    parser.add_argument("--clean", type=int, default=6, help="recordings of each source of speech")
    parser.add_argument("--noise", type=int, default=8, help="of each source of noise")
    parser.add_argument(
        "--hiss",
        type=float,
        help="the recordings without noise of their own alone, with white noise, dB over their loud frames; "
        "it is in what the output is measured against, too",
    )
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    speech = drawn(args.side / "clean", args.clean, rng)
    noises = drawn(args.side / "noise", args.noise, rng)
    if args.hiss is not None:
        quiet = [(name, x) for name, x in speech if own_noise_db(x) <= OWN_NOISE]
        speech = [(name, with_hiss(x, args.hiss, rng)) for name, x in quiet]
    floors = np.array([own_noise_db(x) for _, x in speech])
    for model, (system, _) in ({name: ours(name) for name in args.model} | peers()).items():
        clean = enhanced(system, [(x, x) for _, x in speech])
        scores = np.array([[measure(x, y) for measure in (pesq, si_sdr)] for x, y in clean])
        print_scores(f"{model}, clean speech in", scores)
        print_scores(f"  of these with noise of their own, above {OWN_NOISE} dB", scores[floors > OWN_NOISE])
        print_scores("  of the others", scores[floors <= OWN_NOISE])
        levels = sorted((change_db(x, system(x)), name) for name, x in noises)
        median, loud = np.median([db for db, _ in levels]), [db for db, _ in levels if db > -25]
        print(f"{model}, noise alone in, {len(levels)}: median {median:.1f} dB; above -25 dB: {len(loud)}")
        print("  loudest:", ", ".join(f"{name} {db:.1f}" for db, name in levels[-6:]))


def print_scores(what: str, scores: np.ndarray) -> None:
    """Of WB-PESQ and SI-SDR, (recordings, 2)."""
    if len(scores):
        (pesq_mean, sdr_mean), (pesq_least, sdr_least) = scores.mean(0), scores.min(0)
        poor = (scores < (4.0, 20.0)).sum(0)
        print(f"{what}, {len(scores)}: WB-PESQ {pesq_mean:.2f}, SI-SDR {sdr_mean:.1f} dB;", end=" ")
        print(f"at worst {pesq_least:.2f}, {sdr_least:.1f} dB; under 4.0, 20 dB: {poor[0]}, {poor[1]}")


def own_noise_db(x: np.ndarray) -> float:
    """The mean level of the quietest tenth of a recording's frames of 20 ms, over its loud ones."""
    levels = np.sort(levels_db(x))
    return float(levels[: max(1, len(levels) // 10)].mean() - loud_db(levels))


def levels_db(x: np.ndarray) -> np.ndarray:
    frames = x[: len(x) // FRAME * FRAME].reshape(-1, FRAME)
    return 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), 1) + 1e-12)


def loud_db(levels: np.ndarray) -> float:
    """What one frame in 20 exceeds."""
    return float(np.percentile(levels, 95))


def with_hiss(x: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    level = 10 ** ((loud_db(levels_db(x)) + decibels) / 20)
    return (x + level * rng.standard_normal(len(x))).astype(np.float32)


def drawn(folder: Path, count: int, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """(name, waveform (samples,) at 16 kHz) of `count` recordings of each source in a folder."""
    chosen = []
    for source in sorted(folder.iterdir()):
        paths = sorted(source.iterdir())
        chosen += [paths[i] for i in rng.permutation(len(paths))[:count]]
    return [(path.name, read(path, SAMPLE_RATE)[0][: 10 * SAMPLE_RATE, 0]) for path in chosen]


def change_db(x: np.ndarray, y: np.ndarray) -> float:
    return 10 * np.log10(np.mean(y**2) / np.mean(x**2) + 1e-12)


if __name__ == "__main__":
    main()
