"""Fuzzing by atheris (libFuzzer, guided by the coverage of this package): tests/fuzzing.py, at length.

    pip install atheris
    nice python benchmarks/fuzz.py --inputs 1000000 --seconds 7200 --out FOLDER

A fault is an exception that isn't documented, more than a second of CPU time, a growth of the process by more
than --growth MB by one input, a crash, or text printed by a library. Each is written to FOLDER/faults; the
targets take turns, and a run can be gone on with. FOLDER/corpus is what the coverage was reached with.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import mmap
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/audio")]
# of all inputs, in parts; and bytes of an input at most
SHARES = {"read": 35, "pipeline": 20, "configuration": 15, "checkpoint": 15, "text": 10, "graph": 5}
LONGEST = {"checkpoint": 8192, "text": 4096, "graph": 4096}
SLOW = 1.0  # seconds of CPU time
MEMORY = 4 << 30  # bytes of address space that a process may have beyond what it starts with
STATE = struct.Struct("<QQ")  # inputs done; length of the input at work
TURN = 180  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--growth", type=int, default=128, help="MB by one input")
    parser.add_argument("--targets", nargs="*", default=list(SHARES))
    parser.add_argument("--seed", type=int, default=0, help="another one gives other inputs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        fuzz(args)
    else:
        drive(args)


# ---- the driver --------------------------------------------------------------------------------


def drive(args: argparse.Namespace) -> None:
    (args.out / "faults").mkdir(parents=True, exist_ok=True)
    record = args.out / "counts.json"
    counts = Counter(json.loads(record.read_text()) if record.exists() else {})
    shares = {name: args.inputs * SHARES[name] // 100 for name in args.targets}
    deadline = time.monotonic() + args.seconds
    rounds = 0
    while time.monotonic() < deadline and any(counts[name] < shares[name] for name in shares):
        for name, share in shares.items():
            if counts[name] >= share or time.monotonic() > deadline:
                continue
            done, code = turn(args, name, share - counts[name], rounds)
            counts[name] += done
            record.write_text(json.dumps(counts, indent=1))
            print(
                f"{time.strftime('%H:%M:%S')} {name}: +{done}, {counts[name]} of {share}, exit {code}",
                flush=True,
            )
        rounds += 1
    print(f"{sum(counts[name] for name in shares)} inputs:", dict(counts))
    print("faults:", sorted(path.name for path in (args.out / "faults").iterdir()) or "none")


def turn(args: argparse.Namespace, name: str, inputs: int, rounds: int) -> tuple[int, int]:
    """One process: its count of inputs, and its exit code; a crash's input is kept."""
    state, corpus = args.out / f"{name}.state", args.out / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    state.write_bytes(bytes(STATE.size + (1 << 20)))
    again = len(list(corpus.iterdir()))  # is run first, and isn't counted twice
    command = [sys.executable, __file__, "--child", name, "--out", args.out, "--growth", args.growth]
    command += ["--inputs", inputs + again, "--seed", args.seed + rounds]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as folder,  # also where a child is killed
        open(args.out / f"{name}.log", "a") as log,
    ):
        env = os.environ | {"TMPDIR": folder}
        done = subprocess.run([str(x) for x in command], stdout=log, stderr=log, timeout=TURN * 10, env=env)
    count, length = STATE.unpack_from(data := state.read_bytes())
    if done.returncode:
        keep(args.out, name, data[STATE.size : STATE.size + length], f"crash {done.returncode}", "")
    return max(0, count - again), done.returncode


def keep(out: Path, target: str, data: bytes, kind: str, text: str) -> None:
    """A fault, the first of its kind: its input, and what it raised."""
    stem = out / "faults" / f"{target}-{kind.replace('/', '.').replace(' ', '_')[:80]}"
    if not stem.with_suffix(".txt").exists():
        stem.with_suffix(".bin").write_bytes(data)
        stem.with_suffix(".txt").write_text(f"{kind}\n{hashlib.sha256(data).hexdigest()}\n{text}")


# ---- the process -------------------------------------------------------------------------------


def fuzz(args: argparse.Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.disable(logging.CRITICAL)
    import atheris

    with atheris.instrument_imports(include=["modelscope_zipenhancer"]):
        import fuzzing
    run, seeds, damage, allowed = fuzzing.TARGETS[args.child]
    others = tuple(seeds().values())
    corpus = args.out / "corpus" / args.child
    for data in others:
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
        with contextlib.suppress(*allowed):
            run(data)  # what is imported and built at first is no growth
    fuzzing.warm_up()
    # Whatever libraries print of an input, behind this package's back, lands here
    printed = os.open(args.out / f"{args.child}.printed", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    sys.stderr = open(args.out / f"{args.child}.stderr", "w", buffering=1)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    state = mmap.mmap(os.open(args.out / f"{args.child}.state", os.O_RDWR), 0)
    count = 0

    def one(data: bytes) -> None:
        nonlocal count
        STATE.pack_into(state, 0, count, len(data))
        state[STATE.size : STATE.size + len(data)] = data
        peak, began, text = _peak(), time.process_time(), ""
        try:
            run(data)
        except allowed:
            pass
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "modelscope_zipenhancer" in f.filename or "fuzzing" in f.filename]
            where = f"{Path(ours[-1].filename).name} {ours[-1].name}"
            keep(args.out, args.child, data, f"{type(error).__name__} {where}", traceback.format_exc())
        seconds, growth = time.process_time() - began, (_peak() - peak) >> 10
        if seconds > SLOW:
            keep(args.out, args.child, data, "slow", f"{seconds:.2f} s")
        if growth > args.growth:
            keep(args.out, args.child, data, "growth", f"{growth} MB by {len(data)} bytes")
        sys.stdout.flush()
        if os.lseek(printed, 0, os.SEEK_CUR) or sys.stderr.tell():
            sys.stderr.flush()
            text = Path(sys.stderr.name).read_text()[:2000]
            keep(args.out, args.child, data, "printed", text)
            os.truncate(printed, 0)
            os.lseek(printed, 0, os.SEEK_SET)
            sys.stderr.truncate(0)
            sys.stderr.seek(0)
        count += 1
        STATE.pack_into(state, 0, count, 0)

    def mutated(data: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return atheris.Mutate(data, longest)
        return damage(data, rng, others)[:longest]

    options = [sys.argv[0], str(corpus), f"-max_len={LONGEST.get(args.child, 8192)}", f"-runs={args.inputs}"]
    options += [f"-max_total_time={TURN}", "-timeout=60", "-rss_limit_mb=0", "-print_final_stats=1"]
    options += [f"-seed={args.seed + 1}", "-len_control=0", f"-artifact_prefix={args.out}/"]
    options += ["-reload=0", "-verbosity=0"]
    atheris.Setup(options, one, custom_mutator=mutated)
    atheris.Fuzz()


def _peak() -> int:
    """Peak resident memory in KB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
