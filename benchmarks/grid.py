"""What cutting a recording into chunks costs: the table in docs/design.md behind engine.Grid.

    python benchmarks/grid.py --clean DIR --noise DIR [--model tiny] [--recordings 6]

Recordings of 30 s (utterances end to end, one louder half) are enhanced in one pass, which is the
best that the network can do, and in chunks of several grids; with one gain for the whole recording,
or one a chunk.
"""

import argparse

import numpy as np
from pesq import pesq

from modelscope_zipenhancer.audio.read import read
from modelscope_zipenhancer.audio.samples import to_mono
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.enhance.grid import Grid
from modelscope_zipenhancer.enhance.overlap_add import StreamingSession
from modelscope_zipenhancer.evaluate.measures import si_sdr
from modelscope_zipenhancer.names import SAMPLE_RATE
from modelscope_zipenhancer.plugin import builtin_windows

SECONDS = 30
GRIDS = {  # window, past, ahead, fade in seconds
    "2 s, context 0.25, fade 0.25": (2, 0.25, 0.25, 0.25),
    "4 s, fade 0.5": (4, 0, 0, 0.5),
    "4 s, context 0.25, fade 0.25": (4, 0.25, 0.25, 0.25),
    "4 s, context 0.5, fade 0.25": (4, 0.5, 0.5, 0.25),
    "6 s, context 0.25, fade 0.25": (6, 0.25, 0.25, 0.25),
    "6 s, fade 0.25": (6, 0, 0, 0.25),
    "6 s, fade 0.5": (6, 0, 0, 0.5),
    "6 s, fade 1": (6, 0, 0, 1),
    "8 s, fade 0.5": (8, 0, 0, 0.5),
}


def recordings(clean_dir: str, noise_dir: str, count: int):
    """(noisy, clean) pairs of 30 s at 0, 5 and 10 dB; the second half 10 dB louder."""
    from modelscope_zipenhancer.train.folders import AudioFolder

    rng = np.random.default_rng(0)
    speech, noise = AudioFolder(clean_dir), AudioFolder(noise_dir)
    for i in range(count):
        parts = []
        while sum(map(len, parts)) < SECONDS * SAMPLE_RATE:
            path = speech.recordings[rng.integers(len(speech.recordings))].path
            parts.append(to_mono(read(path)[0]))
        clean = np.concatenate(parts)[: SECONDS * SAMPLE_RATE]
        clean[len(clean) // 2 :] *= 10 ** (10 / 20)
        added = noise.crop(rng, len(clean)).astype(np.float64)
        snr = (0, 5, 10)[i % 3]
        added *= np.sqrt(np.mean(clean**2) / np.mean(added**2)) / 10 ** (snr / 20)
        yield (clean + added).astype(np.float32), clean


def chunked(backend, x, grid: Grid, one_gain: bool) -> np.ndarray:
    gain = float(np.sqrt(len(x) / np.sum(x.astype(np.float64) ** 2))) if one_gain else None
    session = StreamingSession(backend, grid, gain)
    return np.concatenate([session.feed(x), session.flush()])


def arguments(description: str):
    """The options of the benchmarks that enhance `recordings`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clean", required=True)
    parser.add_argument("--noise", required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--recordings", type=int, default=6)
    return parser.parse_args()


def main() -> None:
    args = arguments(__doc__)
    backend = Enhancer.from_pretrained(args.model, "cpu").backend
    rows = {}

    def score(name, y, clean, whole):
        values = (
            pesq(SAMPLE_RATE, clean, y, "wb"),
            si_sdr(clean, y),
            si_sdr(whole, y) if y is not whole else np.inf,
        )
        rows.setdefault(name, []).append(values)

    for noisy, clean in recordings(args.clean, args.noise, args.recordings):
        whole = backend(noisy[None])[0]
        score(("noisy", ""), noisy, clean, whole)
        score(("one pass", ""), whole, clean, whole)
        spliced = np.concatenate([*builtin_windows.pieces(backend, noisy)])
        score(("built-in's windows", "a chunk"), spliced, clean, whole)
        for name, seconds in GRIDS.items():
            grid = Grid(*(int(s * SAMPLE_RATE) for s in seconds))
            for one_gain in (True, False):
                y = chunked(backend, noisy, grid, one_gain)
                score((name, "one" if one_gain else "a chunk"), y, clean, whole)
    print("| grid | gain | work | WB-PESQ | SI-SDR, dB | SI-SDR to one pass, dB |\n|---|---|---|---|---|---|")
    for (name, gain), values in rows.items():
        quality, to_clean, to_whole = np.mean(values, axis=0)
        work = ""
        if name in GRIDS:
            grid = Grid(*(int(s * SAMPLE_RATE) for s in GRIDS[name]))
            work = f"{grid.window / grid.hop:.2f}"
        print(f"| {name} | {gain} | {work} | {quality:.3f} | {to_clean:.2f} | {to_whole:.1f} |")


if __name__ == "__main__":
    main()
