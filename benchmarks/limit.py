"""What this machine's processor can do at best, and how far from it a network is.

    python benchmarks/limit.py [--sizes s tiny] [--threads 1 2]

The peak is the best median of matrix products and of channels-last convolutions of a network's kind;
the limit of a size is its floating-point operations for a second of audio over that peak.
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from modelscope_zipenhancer.network.config import ModelConfig
from modelscope_zipenhancer.network.summary import describe, flops_per_second
from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer

PRODUCTS = ((1024, 1024, 1024), (16384, 64, 256), (16384, 256, 64), (4096, 64, 64))
REPEATS = 30


def seconds(run, device: str = "cpu", repeats: int = REPEATS) -> float:
    """Of a run: the median of repeats, after a few to warm up."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    times = []
    for i in range(repeats + 5):
        wait()
        start = time.perf_counter()
        run()
        wait()
        if i >= 5:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.inference_mode()
def peaks(dtype: torch.dtype = torch.float32, device: str = "cpu", batch: int = 1) -> dict:
    """{name: GFLOP/s} with the threads that torch has; batch: by how much a GPU needs larger ones."""
    found, options = {}, {"dtype": dtype, "device": device}
    for rows, depth, columns in PRODUCTS:
        a, b = torch.randn(batch * rows, depth, **options), torch.randn(columns, depth, **options)
        took = seconds(lambda a=a, b=b: F.linear(a, b), device)
        found[f"product {batch * rows} x {depth} x {columns}"] = 2e-9 * batch * rows * depth * columns / took
    x = torch.randn(batch, 64, 161, 101, **options).contiguous(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 2, 3, **options).contiguous(memory_format=torch.channels_last)
    took = seconds(lambda: F.conv2d(x, w, padding=(0, 1)), device)
    found["convolution 2 x 3, 64 channels"] = 2e-9 * 64 * 64 * 6 * 160 * 101 * batch / took
    return found


def flops(size: str) -> float:
    """Of a second of audio."""
    if size == "s":
        with torch.device("meta"):
            return flops_per_second(ZipEnhancer(ModelConfig()).eval())
    return describe(size)["flops_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["s", "tiny"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    for threads in args.threads:
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.bfloat16):
            found = peaks(dtype)
            best = max(found.values())
            name = str(dtype).removeprefix("torch.")
            print(f"\n{threads} threads, {name}: {best:.0f} GFLOP/s")
            for key, value in found.items():
                print(f"  {key}: {value:.0f}")
            for size in args.sizes:
                print(f"  {size} can't be faster than RTF {flops(size) / best / 1e9:.4f}")


if __name__ == "__main__":
    main()
