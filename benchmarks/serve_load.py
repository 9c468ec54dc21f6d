"""`zipenhancer serve` under load: clients that post recordings, as many that stream, each answer compared.

    python benchmarks/serve_load.py [--clients 50] [--seconds 120] [--cores 0] [--model tiny]

Clients are as fast as they may be: they ask again as soon as they have their answer. Every answer is
compared with that of a direct call, bit for bit. The throughput is put beside that of a plain loop over the
Enhancer, on one thread and on all: how long it would take for the same recordings and streams, divided by the
time that the server took (the clients are on its cores, too).
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import soundfile
from serve_process import ROOT, post, rss_mb, serving

BLOCK = 4000  # samples in a message of a stream
LOOP = """
import json, sys, time
sys.path.insert(0, "benchmarks")
from serve_load import direct, recordings
from modelscope_zipenhancer import Enhancer
enhancer = Enhancer.from_pretrained(sys.argv[1], device="cpu")
direct(enhancer, recordings()[0])
spent = {"recording": [], "stream": []}
for _ in range(3):
    for x in recordings():
        for kind, seconds in direct(enhancer, x)[2].items():
            spent[kind].append(seconds / (len(x) / 16000))
print(json.dumps({kind: sum(values) / len(values) for kind, values in spent.items()}))
"""


def recordings() -> list[np.ndarray]:
    """Eight of 2 to 9 s, int16 at 16 kHz, no two alike."""
    speech, _ = soundfile.read(ROOT / "examples" / "noisy_speech.wav", dtype="int16")
    rng = np.random.default_rng(0)
    found = []
    for i in range(8):
        part = np.roll(speech, 9000 * i)[: 16000 * (2 + i)]
        found.append((part + rng.integers(-300, 300, len(part))).clip(-32768, 32767).astype(np.int16))
    return found


def direct(enhancer, x: np.ndarray) -> tuple[bytes, bytes, dict]:
    """The answers of /v1/enhance and of /v1/stream by a direct call, and the seconds that each took."""
    from modelscope_zipenhancer.audio.samples import pcm16
    from modelscope_zipenhancer.audio.write import encode

    begun = time.perf_counter()
    whole = encode(enhancer(encode(x, 16000)), 16000)
    middle = time.perf_counter()
    stream = enhancer.stream()
    blocks = [stream.feed(x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)] + [stream.flush()]
    pcm = b"".join(pcm16(block).tobytes() for block in blocks)
    return whole, pcm, {"recording": middle - begun, "stream": time.perf_counter() - middle}


class Seen:
    """What the clients met."""

    def __init__(self) -> None:
        self.lock, self.seconds = threading.Lock(), {"recording": [], "stream": []}
        self.audio = Counter()
        self.outcomes = Counter()

    def add(self, kind: str, outcome: str, spent: float = 0.0, audio: float = 0.0) -> None:
        with self.lock:
            self.outcomes[f"{kind}: {outcome}"] += 1
            if outcome == "right":
                self.seconds[kind].append(spent)
                self.audio[kind] += audio


def post_until(end: float, port: int, seed: int, bodies: list, wanted: list, seen: Seen) -> None:
    rng = np.random.default_rng(seed)
    while time.monotonic() < end:
        i = int(rng.integers(len(bodies)))
        begun = time.monotonic()
        try:
            status, headers, answer = post(port, bodies[i])
        except OSError as error:
            seen.add("recording", f"{type(error).__name__}: {error}")
            continue
        outcome = {200: "right" if answer == wanted[i] else "WRONG"}.get(status, str(status))
        seen.add("recording", outcome, time.monotonic() - begun, float(headers.get("x-audio-seconds", 0)))
        if status == 429:
            time.sleep(float(headers["retry-after"]))


async def stream_until(end: float, port: int, seed: int, x: list, wanted: list, seen: Seen) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus, WebSocketException

    rng = np.random.default_rng(seed)
    while time.monotonic() < end:
        i = int(rng.integers(len(x)))
        begun = time.monotonic()
        try:
            async with connect(
                f"ws://127.0.0.1:{port}/v1/stream", compression=None, ping_interval=None, open_timeout=60
            ) as socket:
                await socket.recv()

                async def feed(samples=x[i], socket=socket) -> None:
                    for start in range(0, len(samples), BLOCK):
                        await socket.send(samples[start : start + BLOCK].tobytes())
                    await socket.send("flush")

                feeding = asyncio.create_task(feed())
                answer = b""
                async for message in socket:
                    if isinstance(message, bytes):
                        answer += message
                await feeding
            outcome = "right" if answer == wanted[i] else "WRONG"
        except InvalidStatus as error:
            outcome = str(error.response.status_code)
            await asyncio.sleep(2)
        except (OSError, WebSocketException) as error:
            outcome = f"{type(error).__name__}: {error}"
        seen.add("stream", outcome, time.monotonic() - begun, len(x[i]) / 16000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--cores", help="as taskset has them, of the server; by default all")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # here, too: the last bits depend on the threads
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pinned = ["taskset", "-c", args.cores] if args.cores else []
    command = [*pinned, sys.executable, "-c", LOOP, args.model]
    loops = {}
    for name, threads in (("one thread", "1"), ("all threads", str(os.cpu_count()))):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        )
        loops[name] = json.loads(done.stdout)
        print(
            f"plain loop, {name}, RTF:",
            {kind: round(rtf, 4) for kind, rtf in loops[name].items()},
            flush=True,
        )

    from modelscope_zipenhancer import Enhancer
    from modelscope_zipenhancer.audio.write import encode

    x = recordings()
    enhancer = Enhancer.from_pretrained(args.model, device="cpu")
    wholes, streams, _ = zip(*(direct(enhancer, part) for part in x))
    bodies = [encode(part, 16000) for part in x]
    seen = Seen()
    options = ("--model", args.model, "--device", "cpu", "--queue", str(args.clients))
    with serving(*options, cores=args.cores, OMP_NUM_THREADS="1") as (process, port):
        post(port, bodies[0])
        begun = time.monotonic()
        end = begun + args.seconds
        threads = [
            threading.Thread(target=post_until, args=(end, port, i, bodies, wholes, seen))
            for i in range(args.clients // 2)
        ]

        async def all_streams() -> None:
            rest = range(args.clients // 2, args.clients)
            await asyncio.gather(*(stream_until(end, port, i, x, streams, seen) for i in rest))

        threads.append(threading.Thread(target=lambda: asyncio.run(all_streams())))
        for thread in threads:
            thread.start()
        memory = []
        while any(thread.is_alive() for thread in threads):
            memory.append(rss_mb(process))
            time.sleep(1)
        spent = time.monotonic() - begun
        peak = rss_mb(process, peak=True)
    for outcome, count in sorted(seen.outcomes.items()):
        print(f"{outcome}: {count}")
    for kind, seconds in seen.seconds.items():
        p50, p95 = (float(np.percentile(seconds, q)) for q in (50, 95)) if seconds else (0, 0)
        print(f"{kind}: p50 {p50:.2f} s, p95 {p95:.2f} s, {seen.audio[kind]:.0f} s of audio")
    total = sum(seen.audio.values())
    print(f"{total:.0f} s of audio in {spent:.1f} s: {total / spent:.1f} s a second")
    for name, loop in loops.items():
        ideal = sum(seconds * loop[kind] for kind, seconds in seen.audio.items())
        print(f"throughput: {ideal / spent:.2f} x a plain loop over the same, {name}")
    tenth = max(1, len(memory) // 10)
    parts = [statistics.median(memory[i : i + tenth]) for i in range(0, len(memory), tenth)]
    print(f"resident, MB, tenth by tenth: {', '.join(f'{part:.0f}' for part in parts)}; peak {peak:.0f}")


if __name__ == "__main__":
    main()
