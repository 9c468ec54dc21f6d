"""`zipenhancer enhance --resume` on many recordings of which half are done: seconds until work goes on.

    python benchmarks/resume.py [--files 100000] [--runs 5]

Medians and ranges over the runs of: finding what is left (each part), and, from the start of the process,
the first new output, by PyTorch and by ONNX Runtime. Empty files stand for what isn't reached.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from modelscope_zipenhancer.corpus.find import find_jobs, refuse_inputs_as_outputs, split_done
from modelscope_zipenhancer.files import remove_leftovers

EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "examples", "noisy_speech.wav")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = make(folder, args.files)
        parts = [find(folder) for _ in range(args.runs)]
        for name in parts[0]:
            say(name, [part[name] for part in parts])
        for backend in ("torch", "onnx"):
            name = f"process start to the first new output, {backend}"
            say(name, [first_output(folder, first, backend) for _ in range(args.runs)])


def make(folder: str, count: int) -> str:
    """1,000 files a folder, every other one done; returns the first output that is missing."""
    for number in range(count):
        name = f"{number // 1000:03}/{number:06}.wav"
        source, output = f"{folder}/in/{name}", f"{folder}/out/{name}"
        for path in (source, output):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        open(source, "w").close()
        if number % 2:
            open(output, "w").close()
    shutil.copy(EXAMPLE, f"{folder}/in/000/000000.wav")
    return f"{folder}/out/000/000000.wav"


def find(folder: str) -> dict[str, float]:
    times = [time.perf_counter()]
    jobs = find_jobs([f"{folder}/in"], f"{folder}/out")
    times.append(time.perf_counter())
    refuse_inputs_as_outputs(jobs)
    times.append(time.perf_counter())
    todo, done = split_done(jobs)
    times.append(time.perf_counter())
    remove_leftovers(job.output for job in todo)
    times.append(time.perf_counter())
    assert len(todo) == len(done) == len(jobs) // 2
    names = ("find", "inputs as outputs", "what is there", "leftovers")
    spent = [after - before for before, after in zip(times, times[1:])]
    return dict(zip(names, spent)) | {"in all": sum(spent)}


def first_output(folder: str, first: str, backend: str) -> float:
    command = [
        sys.executable,
        "-m",
        "modelscope_zipenhancer",
        "enhance",
        f"{folder}/in",
        "-o",
        f"{folder}/out",
    ]
    started = time.perf_counter()
    with subprocess.Popen([*command, "--resume", "--backend", backend], stderr=subprocess.DEVNULL) as process:
        while not os.path.exists(first):
            time.sleep(0.005)
        spent = time.perf_counter() - started
        process.kill()
    os.unlink(first)
    return spent


def say(name: str, seconds: list[float]) -> None:
    print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
