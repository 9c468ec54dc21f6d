"""Kills a corpus job again and again, at random moments, and looks at what is left.

    python benchmarks/kills.py --kills 1000

Each round starts the job, and kills with SIGKILL its processes, until the driver has ended, of a kill too.
Checked: no recording is begun again whose row was in a journal when its driver started; in the end the
audio is that of an undisturbed run bit for bit, the manifest too but for the seconds of work, and no
temporary file is left. The network is a stand-in that takes 20 ms: it is the rest that is tried.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]

DRIVER = """
import os, sys, time
from modelscope_zipenhancer import cli
from modelscope_zipenhancer.corpus import clip, processes
from modelscope_zipenhancer.enhance.enhancer import Enhancer

class Halved:
    def __call__(self, waveform, gain=None):
        time.sleep(0.02)
        return waveform / 2

def noted(enhancer, job, *arguments, **options):
    with open("begun.txt", "a") as file:
        file.write(job.source + chr(10))
    return clip.run_job(enhancer, job, *arguments, **options)

processes.run_job = noted
Enhancer.from_pretrained = classmethod(lambda cls, **_: cls(Halved()))
if __name__ == "__main__":
    sys.exit(cli.main())
"""


def start(out: str) -> subprocess.Popen:
    command = [sys.executable, "driver.py", "corpus", "in", "-o", out, "--jobs", "2", "--retries", "100"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def noted_rows(out: str) -> set[str]:
    """Sources whose row is on the disk, whole."""
    found = set()
    for path in [*Path(out, ".zipenhancer").glob("*.jsonl"), *Path(out).glob("zipenhancer.jsonl")]:
        for line in path.read_bytes().splitlines(keepends=True):
            with contextlib.suppress(ValueError):
                value = json.loads(line) if line.endswith(b"\n") else []
                found |= {row["source"] for row in (value if isinstance(value, list) else [value])}
    return found


def contents(out: str) -> dict:
    """{name: bytes} of the audio, and the manifest's rows without the seconds of work."""
    found: dict = {path.name: path.read_bytes() for path in Path(out).glob("*.wav")}
    with open(Path(out, "zipenhancer.jsonl")) as file:
        found["rows"] = [json.loads(line) | {"spent": 0} for line in file]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, begun_at = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("driver.py").write_text(DRIVER)
        os.mkdir("in")
        for i in range(args.clips):
            x = 0.1 * np.random.default_rng(i).standard_normal(4000 + 10 * i)
            soundfile.write(f"in/{i:03}.wav", x, 16_000)
        undisturbed = start("undisturbed")
        assert undisturbed.wait() == 0, undisturbed.stderr.read()
        expected = contents("undisturbed")
        assert len(expected) == args.clips + 1
        killed = {"driver": 0, "process": 0}
        runs = finished = 0
        while sum(killed.values()) < args.kills:
            done = noted_rows("out")
            Path("begun.txt").write_text("")
            driver = start("out")
            runs += 1
            if draw.random() < 0.8:  # else it is killed while it starts
                while driver.poll() is None and not children(driver.pid):
                    time.sleep(0.01)
            while driver.poll() is None and sum(killed.values()) < args.kills:
                time.sleep(draw.uniform(0.0, 1.0))
                victims = children(driver.pid)
                whom = "process" if victims and draw.random() < 0.75 else "driver"
                victim = draw.choice(victims) if whom == "process" else driver.pid
                if driver.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                        killed[whom] += 1
            code = driver.wait()
            driver.stderr.close()
            again = done & set(Path("begun.txt").read_text().split())
            assert not again, f"begun again, after its row was written: {again}"
            if runs % 50 == 0:
                spent = time.monotonic() - begun_at
                print(f"{runs} runs, {killed}, {spent:.0f} s", file=sys.stderr, flush=True)
            if code == 0:
                finished += 1
                assert contents("out") == expected
                assert not list(Path("out").rglob("*.part")), list(Path("out").rglob("*.part"))
                shutil.rmtree("out")  # and once more
            else:
                assert code in (-signal.SIGKILL, 1), code
        for _ in range(2):  # where the last round was in the middle
            last = start("out")
            problems = last.communicate()[1]
            assert last.returncode == 0, problems
        assert contents("out") == expected
        assert not list(Path("out").rglob("*.part")), list(Path("out").rglob("*.part"))
        spent = time.monotonic() - begun_at
        print(
            f"{sum(killed.values())} kills, {killed['driver']} of the driver and {killed['process']} of its "
            f"processes, in {runs} runs over {args.clips} recordings, {finished} of which came to the end: "
            f"audio and manifest as undisturbed, none begun again after its row, no temporary file "
            f"({spent:.0f} s)"
        )
        os.chdir("/")


if __name__ == "__main__":
    main()
