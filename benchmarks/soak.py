"""Soak: one process, mixed calls for an hour; memory must stay flat, results as they were at first.

    nice python benchmarks/soak.py --minutes 60 --out soak.json

Calls of the Enhancer with both backends, of ModelScope's pipeline and of streams, of many lengths, rates
and formats, silence and errors among them, from one thread and from several, which are started and end.
Prints what memory did in each twelfth, and the numbers that would grow with a leak.
"""

import argparse
import gc
import hashlib
import io
import json
import logging
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.audio.write import encode
from modelscope_zipenhancer.errors import ZipEnhancerError

THREADS = 4
TWELFTHS = 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", help="a JSON file of all that was sampled")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        print_report(soak(calls(args.model, folder), args.minutes * 60, args.out))


# ---- what is called ----------------------------------------------------------------------------


def calls(model: str, folder: str) -> dict[str, Callable[[], bytes]]:
    """{name: a call that returns bytes}; the same at each call."""
    made: dict[str, Callable[[], bytes]] = {}
    for backend in ("torch", "onnx"):
        options = {"threads": 1} if backend == "onnx" else {}
        enhancer = Enhancer.from_pretrained(model, backend=backend, device="cpu", **options)
        for name, call in enhancer_calls(enhancer, folder).items():
            made[f"{backend}: {name}"] = call
    made |= pipeline_calls(model)
    return made


def noise(seconds: float, rate: int = 16000, channels: int = 1) -> np.ndarray:
    x = np.random.default_rng(round(seconds * 1000)).standard_normal(
        (max(1, round(seconds * rate)), channels)
    )
    return (0.1 * x * (1 + np.sin(np.arange(len(x)) / rate * 20))[:, None]).astype(np.float32)


def enhancer_calls(enhancer: Enhancer, folder: str) -> dict[str, Callable[[], bytes]]:
    def of_array(seconds: float, rate: int = 16000, channels: int = 1, **options) -> Callable[[], bytes]:
        x = noise(seconds, rate, channels)
        return lambda: enhancer(x, rate, **options).tobytes()

    def of_bytes(data: bytes, **options) -> Callable[[], bytes]:
        return lambda: enhancer(data, **options).tobytes()

    def of_stream(seconds: float, rate: int, block: int, channels: int = 1) -> Callable[[], bytes]:
        x = noise(seconds, rate, channels)
        x = x[:, 0] if channels == 1 else x

        def call() -> bytes:
            stream = enhancer.stream(sample_rate=rate, channels=channels)
            parts = [stream.feed(x[i : i + block]) for i in range(0, len(x), block)]
            return np.concatenate([*parts, stream.flush()]).tobytes()

        return call

    def to_file(suffix: str) -> Callable[[], bytes]:
        data = encode(noise(0.7), 16000)

        def call() -> bytes:
            path = os.path.join(folder, f"{threading.get_ident()}{suffix}")
            enhancer.enhance_file(data, path)
            return soundfile.read(path)[0].tobytes()

        return call

    def wrong(source: object, **options) -> Callable[[], bytes]:
        def call() -> bytes:
            try:
                enhancer(source, **options)
            except ZipEnhancerError as error:
                return f"{type(error).__name__} {error}".encode()
            raise AssertionError("no error")

        return call

    wav = encode(noise(1.5, 44100, 2), 44100)
    return {
        **{f"{seconds} s": of_array(seconds) for seconds in (0.0001, 0.01, 0.35, 1, 2.5, 6.2, 9)},
        **{f"1 s at {rate} Hz": of_array(1, rate) for rate in (8000, 22050, 44100, 48000)},
        "stereo at 48 kHz": of_array(0.8, 48000, 2),
        "full bandwidth": of_array(1, 48000, bandwidth="full"),
        "strength": of_array(2, strength=12),
        "one gain": of_array(7, gain="recording"),
        "silence": lambda: enhancer(np.zeros(40000, np.float32)).tobytes(),
        "WAV": of_bytes(wav),
        "cut off": of_bytes(wav[: len(wav) // 3], mono=True),
        "FLAC": of_bytes(encode(noise(1.1), 16000, ".flac")),
        "MP3": of_bytes(encode(noise(1.1), 16000, ".mp3")),
        "Opus": of_bytes(encode(noise(1.1), 16000, ".opus")),
        "stream": of_stream(5, 16000, 1600),
        "stream at 44.1 kHz": of_stream(3, 44100, 441),
        "stream in stereo": of_stream(3, 48000, 4801, 2),
        "to .wav": to_file(".wav"),
        "to .mp3": to_file(".mp3"),
        "error: NaN": wrong(np.full(16000, np.nan, np.float32)),
        "error: empty": wrong(b""),
        "error: garbage": wrong(bytes(range(256)) * 20),
        "error: nowhere": wrong("/nowhere/at all.wav"),
        "error: damaged M4A": wrong(b"\0\0\0\x20ftypM4A " + bytes(900)),
        "error: option": wrong(np.zeros(9, np.float32), strength=-1),
    }


def pipeline_calls(model: str) -> dict[str, Callable[[], bytes]]:
    from modelscope.pipelines import pipeline

    from modelscope_zipenhancer.network.pretrained import find_model

    whole = pipeline("acoustic-noise-suppression", model=find_model(model), device="cpu")
    inputs = {"1.2 s": encode(noise(1.2), 16000), "8 s at 24 kHz": encode(noise(8, 24000), 24000)}
    return {
        f"pipeline: {name}": lambda data=data: whole(io.BytesIO(data))["output_pcm"]
        for name, data in inputs.items()
    }


# ---- the soak ----------------------------------------------------------------------------------


def soak(made: dict[str, Callable[[], bytes]], seconds: float, out: str | None) -> dict:
    digests = {name: digest(call) for name, call in made.items()}
    names, rng = list(made), random.Random(0)
    counts: Counter = Counter()
    differ: Counter = Counter()
    samples: list[dict] = []
    began = time.monotonic()

    def one(name: str) -> None:
        if digest(made[name]) != digests[name]:
            differ[name] += 1
        counts[name] += 1

    def sample() -> None:
        gc.collect()
        elapsed, cpu = time.monotonic() - began, time.process_time()
        samples.append({"seconds": elapsed, "cpu": cpu, "calls": counts.total(), **grown()})
        if out:
            report = {"samples": samples, "counts": counts, "differ": differ, "calls": len(made)}
            with open(out, "w", encoding="utf-8") as file:
                json.dump(report, file)

    while time.monotonic() - began < seconds:
        if not samples or time.monotonic() - began > samples[-1]["seconds"] + 10:
            sample()
        if rng.random() < 0.5:
            for name in rng.sample(names, 4):
                one(name)
        else:  # threads that are new, and end
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(one, rng.sample(names, 8)))
    sample()
    return {"samples": samples, "counts": counts, "differ": differ, "calls": len(made)}


def digest(call: Callable[[], bytes]) -> str:
    return hashlib.sha256(call()).hexdigest()


def grown() -> dict[str, float]:
    """What a leak would make grow: MB in memory, open files, threads, Python's objects."""
    with open("/proc/self/statm") as file:
        rss = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    files = len(os.listdir("/proc/self/fd"))
    return {"rss": rss, "files": files, "threads": threading.active_count(), "objects": len(gc.get_objects())}


def print_report(found: dict) -> None:
    samples = found["samples"]
    end = samples[-1]["seconds"]
    print("| minutes | calls | RSS, MB: least | median | most | files | threads | objects |")
    print("|---|---|---|---|---|---|---|---|")
    for i in range(TWELFTHS):
        part = [s for s in samples if i * end / TWELFTHS <= s["seconds"] <= (i + 1) * end / TWELFTHS]
        if not part:
            continue
        rss = [s["rss"] for s in part]
        last = part[-1]
        row = (
            f"{last['seconds'] / 60:.0f}",
            last["calls"],
            *(f"{x:.0f}" for x in (min(rss), np.median(rss), max(rss))),
            *(last[key] for key in ("files", "threads", "objects")),
        )
        print("|", " | ".join(map(str, row)), "|")
    later = [s for s in samples if s["seconds"] > end / 4]
    slope = np.polyfit([s["seconds"] for s in later], [s["rss"] for s in later], 1)[0] * 3600
    print(f"RSS after the first quarter: {slope:+.1f} MB an hour")
    print(
        f"{found['counts'].total()} calls of {found['calls']} kinds, {samples[-1]['cpu']:.0f} s of CPU time"
    )
    print("other than at first:", dict(found["differ"]) or "none")


if __name__ == "__main__":
    main()
