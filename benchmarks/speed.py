"""How fast: this package, its readable form and the built-in, side by side in one run.

    python benchmarks/speed.py [--sizes s tiny] [--seconds 2 5] [--threads 1 2] [--repeats 5]

The same weights (random for 's'), the same noise. In each round every variant runs once, so that
what else the machine does hits all alike; the table has medians, ratios of medians to the built-in,
and each variant's peak memory in a process of its own. The built-in is not run beyond 6 s, where it
cuts the recording, nor with more than one item.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from modelscope_zipenhancer.backend import TorchBackend
from modelscope_zipenhancer.config import ModelConfig
from modelscope_zipenhancer.engine import ONE_PASS, SAMPLE_RATE, enhance
from modelscope_zipenhancer.enhancer import find_model
from modelscope_zipenhancer.model import ZipEnhancer, load_model

VARIANTS = ("built-in", "readable", "fast")


def network(size: str) -> ZipEnhancer:
    if size != "s":
        return load_model(find_model(size))
    torch.manual_seed(0)
    return ZipEnhancer(ModelConfig()).eval().requires_grad_(False)


def variant(name: str, model: ZipEnhancer):
    """A function of float32 (samples,) that enhances them."""
    if name == "fast":
        backend = TorchBackend(model)
        return lambda x: enhance(backend, x)
    if name == "readable":
        return lambda x: model.denoise(torch.from_numpy(x)[None])
    from modelscope.models.audio.ans.zipenhancer import (
        AttrDict,
        ZipenhancerDecorator,
    )
    from modelscope.models.audio.ans.zipenhancer import (
        ZipEnhancer as BuiltIn,
    )

    section = {key: value for key, value in model.config.to_dict().items() if key != "type"}
    built_in = BuiltIn(AttrDict(section)).eval().requires_grad_(False)
    built_in.load_state_dict(model.state_dict())

    class Holder:
        pass

    holder = Holder()
    holder.model = built_in
    return lambda x: ZipenhancerDecorator.forward(holder, {"noisy": torch.from_numpy(x)[None]})["wav_l2"]


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE)).astype(np.float32) * 0.1


def peak(size: str, name: str, seconds: float, threads: int) -> float:
    """Peak RSS in MB of a process that runs one variant once."""
    command = [sys.executable, __file__, "--child", json.dumps([size, name, seconds, threads])]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def child(size: str, name: str, seconds: float, threads: int) -> None:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        variant(name, network(size))(noise(seconds))
    # Not getrusage: its peak is that of the parent, if that was larger when it started this process.
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return next(line.split(":")[1].strip() for line in cpuinfo.open() if line.startswith("model name"))
    return platform.processor()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["s", "tiny"])
    parser.add_argument("--seconds", type=float, nargs="+", default=[2, 5, 30])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*json.loads(args.child))
    print(f"{processor()}, torch {torch.__version__}, Python {platform.python_version()}\n")
    print("| size | audio, s | threads | variant | median, s | RTF | x built-in | peak RSS, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for size in args.sizes:
        model = network(size)
        for seconds in args.seconds:
            x = noise(seconds)
            short = len(x) <= ONE_PASS
            runs = {name: variant(name, model) for name in VARIANTS if short or name == "fast"}
            for threads in args.threads:
                torch.set_num_threads(threads)
                times = {name: [] for name in runs}
                for repeat in range(args.repeats + 1):  # the first is to warm up
                    for name, run in runs.items():
                        start = time.perf_counter()
                        run(x)
                        if repeat:
                            times[name].append(time.perf_counter() - start)
                medians = {name: statistics.median(column) for name, column in times.items()}
                for name, median in medians.items():
                    ratio = f"{medians['built-in'] / median:.1f}" if short else ""
                    cells = (size, f"{seconds:g}", threads, name, f"{median:.2f}", f"{median / seconds:.3f}")
                    memory = peak(size, name, seconds, threads)
                    print("|", " | ".join(map(str, (*cells, ratio, f"{memory:.0f}"))), "|", flush=True)


if __name__ == "__main__":
    main()
