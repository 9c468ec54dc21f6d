"""Streams: an hour of one, and its seams against those of the model card's streaming sample.

    python benchmarks/stream.py hour [--minutes 60] [--model tiny]
    python benchmarks/stream.py seams --clean DIR --noise DIR [--model tiny]

A seam is where one chunk's output goes over into the next one's. Two figures:

- click: the mean size of the second difference of the waveform at the seams, divided by its mean
  within 20 ms of them. A waveform that doesn't know of its seams has 1; a step has far more.
- level jump: how far the level of the residual noise, output less clean, changes from the 50 ms
  before a seam to the 50 ms after it, in dB; its mean size at the seams less that at other places.
"""

import argparse
import os
import time

os.environ["MODELSCOPE_ZIPENHANCER_DISABLE"] = "1"  # the pipeline here is the built-in's

import numpy as np
from grid import recordings

from modelscope_zipenhancer.audio.samples import pcm16
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.enhance.grid import AHEAD_MS, CHUNK_MS, FADE_MS, PAST_MS
from modelscope_zipenhancer.names import SAMPLE_RATE
from modelscope_zipenhancer.network.pretrained import find_model

AROUND = SAMPLE_RATE // 50  # 20 ms
LEVEL = SAMPLE_RATE // 20  # 50 ms


def click(y: np.ndarray, seams) -> float:
    second = np.abs(np.diff(y.astype(np.float64), 2))
    at = np.mean([second[s - 2 : s + 1].mean() for s in seams])
    return at / np.mean([second[s - AROUND : s + AROUND].mean() for s in seams])


def level_jump(residual: np.ndarray, seams) -> float:
    def jumps(places):
        db = [
            10 * np.log10(np.mean(residual[p : p + LEVEL] ** 2) + 1e-12)
            - 10 * np.log10(np.mean(residual[p - LEVEL : p] ** 2) + 1e-12)
            for p in places
        ]
        return np.mean(np.abs(db))

    return jumps(seams) - jumps([s + SAMPLE_RATE // 3 for s in seams if s + SAMPLE_RATE // 2 < len(residual)])


def memory_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def hour(args) -> None:
    stream = Enhancer.from_pretrained(args.model, "cpu").stream()
    rng = np.random.default_rng(0)
    border = int(CHUNK_MS * SAMPLE_RATE // 1000)
    block, fed, returned, worst = SAMPLE_RATE // 10, 0, 0, []
    tail, sizes = np.zeros(0, np.float32), []
    started = time.perf_counter()
    for second in range(round(args.minutes * 60)):
        t = (second + np.arange(SAMPLE_RATE) / SAMPLE_RATE)[None]
        voiced = np.sin(2 * np.pi * np.arange(1, 20)[:, None] * (140 + 20 * np.sin(t)) * t).sum(0) / 20
        x = voiced * (np.sin(2 * np.pi * 2 * t[0]) > 0) * 0.2 + rng.standard_normal(SAMPLE_RATE) * 0.02
        for start in range(0, SAMPLE_RATE, block):
            y = stream.feed(x[start : start + block].astype(np.float32))
            fed, returned = fed + block, returned + len(y)
            tail = np.concatenate([tail, y])
        if second % 60 == 59:
            sizes.append(memory_mb())
            first = -(-(returned - len(tail)) // border) * border - (returned - len(tail))
            seams = [s for s in range(first, len(tail), border) if AROUND < s < len(tail) - AROUND]
            worst.append(click(tail, seams))
            tail = tail[:0]
    returned += len(stream.flush())
    spent = time.perf_counter() - started
    assert returned == fed, (returned, fed)
    print(f"{args.minutes:g} minutes in, as many samples out; RTF {spent / args.minutes / 60:.3f}")
    after = sizes[4:] if len(sizes) > 5 else sizes
    print(f"memory from minute 5 on: {min(after):.1f} to {max(after):.1f} MB (first minute {sizes[0]:.1f})")
    print(f"click, by minute: mean {np.mean(worst):.3f}, most {max(worst):.3f}")


def seams(args) -> None:
    from modelscope.pipelines import pipeline

    built_in = pipeline("acoustic-noise-suppression", model=find_model(args.model), device="cpu")
    assert type(built_in).__module__.startswith("modelscope.")
    enhancer = Enhancer.from_pretrained(args.model, "cpu")
    rows = {"the model card's loop, built-in": [], "stream": []}
    for noisy, clean in recordings(args.clean, args.noise, args.recordings):
        window = 2 * SAMPLE_RATE
        pieces = [wav(noisy[start : start + window]) for start in range(0, len(noisy), window)]
        y = np.concatenate([np.frombuffer(built_in(piece)["output_pcm"], np.int16) for piece in pieces])
        at = list(range(window, len(noisy) - SAMPLE_RATE, window))
        rows["the model card's loop, built-in"].append(figures(y / 32768, clean, at))
        stream = enhancer.stream()
        y = np.concatenate([stream.feed(noisy), stream.flush()])
        hop = int(CHUNK_MS * SAMPLE_RATE // 1000)
        rows["stream"].append(figures(y, clean, list(range(hop, len(noisy) - SAMPLE_RATE, hop))))
    print(f"stream: chunk {CHUNK_MS}, past {PAST_MS}, ahead {AHEAD_MS}, fade {FADE_MS} ms\n")
    print("| | click at seams | level jump at seams, dB |\n|---|---|---|")
    for name, values in rows.items():
        clicks, jumps = np.mean(values, axis=0)
        print(f"| {name} | {clicks:.2f} | {jumps:.2f} |")


def figures(y: np.ndarray, clean: np.ndarray, at) -> tuple:
    """The output is brought to the clean level block by block nowhere: one factor for the recording."""
    y = y[: len(clean)].astype(np.float64)
    clean = clean[: len(y)]
    y = y * (np.dot(clean, y) / np.dot(y, y))
    return click(y, at), level_jump(y - clean, at)


def wav(x: np.ndarray) -> bytes:
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, pcm16(x), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=("hour", "seams"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clean")
    parser.add_argument("--noise")
    parser.add_argument("--recordings", type=int, default=3)
    args = parser.parse_args()
    hour(args) if args.part == "hour" else seams(args)


if __name__ == "__main__":
    main()
