"""Audio seconds a second of `zipenhancer corpus`: against a plain loop over the Enhancer, and over local Ray.

    OMP_NUM_THREADS=1 python benchmarks/corpus.py --clips 400 [--ray] [--loop-threads 2]
    OMP_NUM_THREADS=1 python benchmarks/corpus.py --parts         what a second of audio costs, part by part

400 clips of 3 to 10 s at 24 kHz, of the noisy sample's sound. Each contestant runs in a process of its own,
from its start to its end, so that loading counts; the audio is compared bit for bit, and the manifests but
for the seconds of work.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
RATE = 24_000

LOOP = """
import glob, os, sys
from modelscope_zipenhancer import Enhancer
enhancer = Enhancer.from_pretrained("tiny")
os.makedirs(sys.argv[2])
for path in sorted(glob.glob(sys.argv[1] + "/*.wav")):
    enhancer.enhance_file(path, os.path.join(sys.argv[2], os.path.basename(path)))
"""


def make_clips(folder: Path, count: int) -> float:
    """Write the clips; returns their seconds."""
    sound, rate = soundfile.read(ROOT / "examples" / "noisy_speech.wav")
    draw, total = np.random.default_rng(0), 0
    folder.mkdir()
    for i in range(count):
        samples = int(draw.uniform(3, 10) * RATE)
        x = np.interp(np.arange(samples) * rate / RATE, np.arange(len(sound)), sound, period=len(sound))
        x = np.roll(x, draw.integers(samples)) + 0.003 * draw.standard_normal(samples)
        soundfile.write(folder / f"{i:04d}.wav", x, RATE)
        total += samples
    return total / RATE


def timed(command: list, **environment: str) -> tuple[float, float]:
    """Seconds from start to end, and of CPU time with all processes, but for Ray's."""
    started, before = time.monotonic(), os.times()
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)
    after = os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - started, work


def same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.glob("*.wav"))
    return names == sorted(path.name for path in other.glob("*.wav")) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def rows(folder: Path) -> list:
    with open(folder / "zipenhancer.jsonl") as file:
        return [json.loads(line) | {"spent": 0} for line in file]


def parts() -> None:
    """CPU time for a second of audio of each part of the work: the median of 9."""
    from modelscope_zipenhancer import Enhancer
    from modelscope_zipenhancer.audio.read import load
    from modelscope_zipenhancer.audio.resample import resample
    from modelscope_zipenhancer.audio.write import encode
    from modelscope_zipenhancer.corpus import clip, storage

    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder, "in"), 8)
        x, rate = soundfile.read(Path(folder, "in", "0000.wav"), dtype="float32")
        seconds, low = len(x) / rate, resample(x, rate, 16_000).astype(np.float32)
        coded = {suffix: encode(x, rate, suffix) for suffix in (".wav", ".flac", ".mp3")}
        enhancer = Enhancer.from_pretrained("tiny")
        work = {f"decode {suffix}": (load, data) for suffix, data in coded.items()}
        work |= {f"encode {suffix}": (encode, x, rate, suffix) for suffix in coded}
        work["resample to 16 kHz and back"] = (lambda: resample(resample(x, rate, 16_000), 16_000, rate),)
        work["levels"] = (lambda: (clip.level(x[:, None]), clip.level(x[:, None]), clip.at_full_scale(x)),)
        work["write .wav, with fsync"] = (storage.write, os.path.join(folder, "x.wav"), coded[".wav"])
        work["network, tiny, one thread"] = (enhancer.enhance, low[:, None], 16_000)
        print(f"a clip of {seconds:.1f} s at {rate} Hz; CPU time and wall time for a second of audio")
        for name, (function, *arguments) in work.items():
            function(*arguments)
            spent = []
            for _ in range(9):
                started, cpu = time.perf_counter(), time.process_time()
                function(*arguments)
                spent.append((time.process_time() - cpu, time.perf_counter() - started))
            cpu, wall = np.median(spent, axis=0) / seconds
            print(f"{name}: {cpu:.5f}, {wall:.5f}", flush=True)
        for suffix, data in coded.items():
            print(f"{suffix}: {len(data) / seconds / 1000:.1f} kB for a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--loop-threads", type=int, nargs="*", default=[1])
    parser.add_argument("--parts", action="store_true")
    args = parser.parse_args()
    if args.parts:
        return parts()
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        seconds = make_clips(here / "in", args.clips)
        print(f"{args.clips} clips, {seconds:.0f} s of audio, {args.jobs} processes", flush=True)

        def report(name: str, spent: float, work: float) -> None:
            print(f"{name}: {spent:.1f} s, {seconds / spent:.2f} s of audio a second", end="; ")
            print(f"{work:.1f} s of CPU time, {work / seconds:.4f} for a second of audio", flush=True)

        command = [sys.executable, "-m", "modelscope_zipenhancer", "corpus", str(here / "in")]
        command += ["--jobs", str(args.jobs), "-o"]
        local, work = timed([*command, str(here / "local")])
        report("corpus", local, work)
        if args.ray:
            spent, _ = timed([*command, str(here / "ray"), "--where", "ray"])
            print(f"corpus --where ray: {spent:.1f} s, {local / spent:.2f} x the local speed")
            print(f"audio equal: {same(here / 'local', here / 'ray')}", end=", ")
            print(f"manifest equal: {rows(here / 'local') == rows(here / 'ray')}", flush=True)
        for threads in args.loop_threads:
            out = here / f"loop{threads}"
            loop = [sys.executable, "-c", LOOP, str(here / "in"), str(out)]
            spent, loop_work = timed(loop, OMP_NUM_THREADS=str(threads))
            report(f"loop over the Enhancer, {threads} threads", spent, loop_work)
            print(f"corpus against it: {spent / local:.2f} x, CPU time {loop_work / work:.2f} x", end="; ")
            print(f"audio equal: {same(here / 'local', out)}")


if __name__ == "__main__":
    main()
