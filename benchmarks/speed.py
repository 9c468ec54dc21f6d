"""How fast: the form for CPUs, the definition and the built-in, side by side in one run.

    python benchmarks/speed.py [--sizes s tiny] [--seconds 2 5] [--threads 1 2] [--runs 5] [...]

The same weights (random for 's'), the same noise. In each round every variant runs once, so that
what else the machine does hits all alike; the table has medians, ratios of medians to the built-in,
the limit by limit.py, and each variant's peak memory in a process of its own. With --runs, medians over
that many fresh processes, and the range: the machine differs from one to the next. 'onnx' is the graph
that the model card's export makes of the built-in, in ONNX Runtime. The built-in and it are not run
beyond 6 s, where the built-in cuts the recording. 'cpu' is the form for CPUs as it is installed,
'cpu-torch' the same without its inner loops in C, 'cpu-bf16' with precision="bf16".

    python benchmarks/speed.py --cold

is the time from the start of a process until 5 s are enhanced by tiny, against `import torch`.
"""

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
import unittest.mock
from pathlib import Path

import numpy as np
import torch
from limit import peaks

from modelscope_zipenhancer.enhance.grid import ONE_PASS
from modelscope_zipenhancer.enhance.overlap_add import enhance
from modelscope_zipenhancer.names import SAMPLE_RATE
from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.config import ModelConfig
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.network.summary import flops_per_second
from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer
from modelscope_zipenhancer.runtime.cpu import network as cpu_network
from modelscope_zipenhancer.runtime.pytorch import TorchBackend

VARIANTS = ("built-in", "onnx", "definition", "cpu-torch", "cpu")

COLD = """
import sys, numpy
from modelscope_zipenhancer import Enhancer
Enhancer.from_pretrained("tiny", "cpu")(numpy.load(sys.argv[1]))
"""


def network(size: str) -> ZipEnhancer:
    if size != "s":
        return load_model(find_model(size))
    torch.manual_seed(0)
    return ZipEnhancer(ModelConfig()).eval().requires_grad_(False)


def variant(name: str, model: ZipEnhancer):
    """A function of float32 (samples,) that enhances them."""
    if name.startswith("cpu"):
        backend = TorchBackend(model, "bf16" if name == "cpu-bf16" else "fp32")
        library = (lambda dtype: None) if name == "cpu-torch" else cpu_network.library
        with unittest.mock.patch.object(cpu_network, "library", library):
            backend.form()
        return lambda x: enhance(backend, x)
    if name == "definition":
        return lambda x: model.denoise(torch.from_numpy(x)[None])
    from modelscope.models.audio.ans.zipenhancer import (
        AttrDict,
        ZipenhancerDecorator,
    )
    from modelscope.models.audio.ans.zipenhancer import (
        ZipEnhancer as BuiltIn,
    )

    section = {key: value for key, value in model.config.to_dict().items() if key != "type"}
    device = next(model.parameters()).device
    built_in = BuiltIn(AttrDict(section)).eval().requires_grad_(False).to(device)
    built_in.load_state_dict(model.state_dict())

    holder = types.SimpleNamespace(model=onnx_session(built_in) if name == "onnx" else built_in)

    def run(x):
        noisy = torch.from_numpy(x)[None].to(device)
        return ZipenhancerDecorator.forward(holder, {"noisy": noisy})["wav_l2"].cpu()

    return run


def onnx_session(built_in):
    """The built-in's network in ONNX Runtime, called as it is: traced and exported as the card does."""
    import onnxruntime

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = built_in

        def forward(self, mag, pha):
            return self.model(mag, pha)[:2]

    inputs = torch.randn(1, 201, 322), torch.randn(1, 201, 322)
    for key, module in built_in.TSConformer.encoders.named_modules():
        if key.endswith("encoder_pos"):
            module.extend_pe(torch.tensor(0.0).expand(161 * 60))
    axes = dict.fromkeys(("mag", "pha", "out_mag", "out_pha"), {0: "N", 2: "T"})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.onnx"
        names = {"input_names": ["mag", "pha"], "output_names": ["out_mag", "out_pha"]}
        traced = torch.jit.trace(Network(), inputs)
        torch.onnx.export(traced, inputs, path, opset_version=13, dynamic_axes=axes, dynamo=False, **names)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(mag, pha):
        mag, pha = (torch.from_numpy(x) for x in session.run(None, {"mag": mag.numpy(), "pha": pha.numpy()}))
        return mag, pha, torch.stack([mag * pha.cos(), mag * pha.sin()], -1), None, None

    return types.SimpleNamespace(forward=run)


def cold_start(repeats: int) -> None:
    """Medians of `import torch` and of a process that enhances 5 s, started in turn."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/noise.npy", noise(5))
        commands = {"import torch": ["-c", "import torch"], "tiny, 5 s": ["-c", COLD, f"{folder}/noise.npy"]}
        times = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True)
                times[name].append(time.perf_counter() - start)
    first, second = (statistics.median(column) for column in times.values())
    print(f"import torch {first:.2f} s; process start to 5 s enhanced {second:.2f} s: {second / first:.2f} x")


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
def measure(sizes: list, seconds: list, threads: list, repeats: int, variants: list) -> list:
    """A dict for each size, length, number of threads and variant; variants take turns, medians."""
    limits = {}
    for count in threads:
        torch.set_num_threads(count)
        limits[count] = max(peaks().values())
    rows = []
    for size in sizes:
        model = network(size)
        for length, count in itertools.product(seconds, threads):
            torch.set_num_threads(count)
            x = noise(length)
            runs = {
                name: variant(name, model)
                for name in variants
                if len(x) <= ONE_PASS or name.startswith("cpu")
            }
            times = {name: [] for name in runs}
            for repeat in range(repeats + 1):  # the first is to warm up
                for name, run in runs.items():
                    start = time.perf_counter()
                    run(x)
                    if repeat:
                        times[name].append(time.perf_counter() - start)
            medians = {name: statistics.median(column) for name, column in times.items()}
            for name, median in medians.items():
                row = {"size": size, "audio, s": length, "threads": count, "variant": name}
                row["RTF"] = median / length
                row["x limit"] = row["RTF"] / (flops_per_second(model) / limits[count] / 1e9)
                if "built-in" in medians:
                    row["x built-in"] = medians["built-in"] / median
                rows.append(row)
    return rows


def table(runs: list, peaks_too: bool) -> None:
    """The rows of several runs as Markdown: medians, and from the least to the most."""
    print("| size | audio, s | threads | variant | RTF | x limit | x built-in | peak RSS, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for same in zip(*runs):
        cells = [str(same[0][key]) for key in ("size", "audio, s", "threads", "variant")]
        for key, decimals in (("RTF", 3), ("x limit", 2), ("x built-in", 1)):
            found = sorted(row[key] for row in same if key in row)
            text = f"{statistics.median(found):.{decimals}f}" if found else ""
            if len(found) > 1:
                text += f" ({found[0]:.{decimals}f} to {found[-1]:.{decimals}f})"
            cells.append(text)
        row = same[0]
        memory = peak(row["size"], row["variant"], row["audio, s"], row["threads"]) if peaks_too else None
        print("|", " | ".join([*cells, "" if memory is None else f"{memory:.0f}"]), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["s", "tiny"])
    parser.add_argument("--seconds", type=float, nargs="+", default=[2, 5, 30])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1, help="in fresh processes, one after the other")
    parser.add_argument("--variants", nargs="+", choices=(*VARIANTS, "cpu-bf16"), default=VARIANTS)
    parser.add_argument("--no-memory", action="store_true", help="leave the peak out")
    parser.add_argument("--cold", action="store_true", help="only the cold start")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*json.loads(args.child))
    if args.cold:
        return cold_start(args.repeats)
    what = [args.sizes, args.seconds, args.threads, args.repeats, list(args.variants)]
    if args.rows:
        Path(args.rows).write_text(json.dumps(measure(*what)))
        return
    print(f"{processor()}, torch {torch.__version__}, Python {platform.python_version()}\n", flush=True)
    if args.runs == 1:
        return table([measure(*what)], not args.no_memory)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.runs):
            rows = Path(folder, f"{i}.json")
            subprocess.run([sys.executable, *sys.argv, "--rows", str(rows)], check=True)
            runs.append(json.loads(rows.read_text()))
    table(runs, not args.no_memory)


if __name__ == "__main__":
    main()
