"""Speech in rooms, alone and in noise, and what a model leaves of it: the table in docs/evaluation.md.

    python benchmarks/rooms.py SIDE [--model tiny ...] [--clean 6] [--rooms 3] [--snr 10]

SIDE is OUT/valid or OUT/test of split.py. Of each source of speech so many recordings are drawn, 10 s at most
of each, and each is heard in so many of the side's rooms, alone and with a noise of the side. The reference
is what is heard of the speech: noise is to go, not the room. Rows by C50, the level of a response's first
50 ms over the rest. Where others are installed as peers.py says, what they do is told, too.
"""

import argparse
from pathlib import Path

import numpy as np
from clean_and_noise import drawn
from peers import enhanced, ours, peers
from scipy.signal import fftconvolve

from modelscope_zipenhancer.evaluate.measures import pesq, si_sdr
from modelscope_zipenhancer.names import SAMPLE_RATE

GROUPS = {"10 dB and more": (10, np.inf), "3 to 10 dB": (3, 10), "below 3 dB": (-np.inf, 3)}
LOST = -6  # dB: speech that comes out so much weaker counts as lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("side", type=Path)
    parser.add_argument("--model", nargs="+", default=["tiny"])
    parser.add_argument("--clean", type=int, default=6, help="recordings of each source of speech")
    parser.add_argument("--rooms", type=int, default=3, help="that each of them is heard in")
    parser.add_argument("--snr", type=float, default=10, help="of the mixtures, dB")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rooms = [x for _, x in drawn(args.side / "rir", 1000, rng)]
    noises = [x for _, x in drawn(args.side / "noise", 1000, rng)]
    c50s, alone, noisy = [], [], []
    for _, x in drawn(args.side / "clean", args.clean, rng):
        for i in rng.permutation(len(rooms))[: args.rooms]:
            heard = in_room(x, rooms[i])
            noise = np.resize(noises[rng.integers(len(noises))], len(x))
            noise = noise * np.sqrt(np.mean(heard**2) / np.mean(noise**2) / 10 ** (args.snr / 10))
            c50s.append(c50_db(rooms[i]))
            alone.append((heard, heard))
            noisy.append((heard + noise, heard))
    systems = {"unchanged": (lambda x: x, 0)} | {name: ours(name) for name in args.model} | peers()
    print(f"alone, and in noise at {args.snr:g} dB: level, dB, WB-PESQ, SI-SDR, dB; lost")
    for name, (system, _) in systems.items():
        rows = np.array([measures(system, clips) for clips in (alone, noisy)])
        for group, (low, high) in GROUPS.items():
            chosen = rows[:, [low <= c50 < high for c50 in c50s]]
            if not chosen.size:
                continue
            cells = [
                f"{level:.1f}, {quality:.2f}, {sdr:.1f}; {np.sum(case[:, 0] < LOST)}"
                for case, (level, quality, sdr) in zip(chosen, chosen.mean(1))
            ]
            print(f"| {group} ({chosen.shape[1]}) | {name} | {' | '.join(cells)} |")


def measures(system, clips: list) -> list:
    """(level against the reference in dB, WB-PESQ, SI-SDR in dB) of each of (heard, reference)."""
    return [
        (10 * np.log10(np.mean(y**2) / np.mean(x**2) + 1e-9), pesq(x, y), si_sdr(x, y))
        for x, y in enhanced(system, clips)
    ]


def in_room(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Speech (samples,) as it is heard in a room, at its own level."""
    heard = fftconvolve(x, response[np.argmax(np.abs(response)) :])[: len(x)]
    return (heard * np.sqrt(np.mean(x**2) / np.mean(heard**2))).astype(np.float32)


def c50_db(response: np.ndarray) -> float:
    energy = np.square(response[np.argmax(np.abs(response)) :], dtype=np.float64)
    return 10 * np.log10(energy[: SAMPLE_RATE // 20].sum() / (energy[SAMPLE_RATE // 20 :].sum() + 1e-12))


if __name__ == "__main__":
    main()
