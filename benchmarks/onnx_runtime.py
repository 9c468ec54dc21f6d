"""ONNX Runtime beside torch: time, peak memory, and the time from a process's start to the first sound.

    python benchmarks/onnx_runtime.py [--sizes s tiny] [--seconds 2 10 60] [--threads 1 2] [...]

Each row in a process of its own, which enhances noise several times; the least time counts. 's' is the
released size with random weights: time and memory don't depend on their values. Beyond 6 s a recording goes
in chunks of 6 s, as the package has it; 'at once' hands all of it over in one call.

torch     the form for CPUs, the package's default
waveform  `zipenhancer export`, ONNX Runtime
card      `zipenhancer export --form card`, ONNX Runtime, STFT in numpy
exporter  the model card's way: torch's exporter on the definition, ONNX Runtime, STFT in numpy
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIANTS = ("torch", "waveform", "card", "exporter")

CHILD = """
import json, sys, time
variant, model, seconds, threads, repeats, at_once = sys.argv[1:]
import numpy as np
from modelscope_zipenhancer.enhance.overlap_add import enhance
if variant == "torch":
    import torch
    from modelscope_zipenhancer.runtime.pytorch import load
    torch.set_num_threads(int(threads))
    backend = load(model, "cpu")
else:
    from modelscope_zipenhancer.runtime.onnx import OnnxBackend
    backend = OnnxBackend(model, threads=int(threads))
x = (0.1 * np.random.default_rng(0).standard_normal(int(float(seconds) * 16000))).astype(np.float32)
spent = []
for _ in range(int(repeats)):
    start = time.perf_counter(), time.process_time()
    backend(x[None]) if at_once == "True" else enhance(backend, x)
    spent.append((time.perf_counter() - start[0], time.process_time() - start[1]))
peak = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps([min(wall for wall, _ in spent), min(cpu for _, cpu in spent), peak]))
"""

COLD = {
    "torch, Enhancer": "import sys, numpy\n"
    "from modelscope_zipenhancer import Enhancer\n"
    "Enhancer.from_pretrained('tiny', 'cpu')(numpy.load(sys.argv[1]))",
    "ONNX Runtime, Enhancer": "import sys, numpy\n"
    "from modelscope_zipenhancer import Enhancer\n"
    "Enhancer.from_pretrained('tiny', backend='onnx')(numpy.load(sys.argv[1]))",
    "ONNX Runtime alone": "import sys, numpy, onnxruntime\n"
    "o = onnxruntime.SessionOptions(); o.log_severity_level = 3\n"
    "o.add_session_config_entry('session.intra_op.allow_spinning', '0')\n"
    "s = onnxruntime.InferenceSession(sys.argv[2], o, providers=['CPUExecutionProvider'])\n"
    "s.run(None, {'waveform': numpy.load(sys.argv[1])[None]})",
}


def prepare(size: str, folder: Path) -> dict:
    """{variant: what a child loads} of a size."""
    import torch

    from modelscope_zipenhancer.network.checkpoint import load_model
    from modelscope_zipenhancer.network.config import ModelConfig
    from modelscope_zipenhancer.network.pretrained import find_model
    from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer
    from modelscope_zipenhancer.runtime.onnx_export import export_onnx
    from modelscope_zipenhancer.train.run_folder import save_model_dir

    model_dir = str(folder / size)
    names = {
        "exporter": f"{size}_exporter.onnx",
        "waveform": f"{size}_waveform.onnx",
        "card": f"{size}_card.onnx",
    }
    paths = {variant: str(folder / name) for variant, name in names.items()}
    paths["torch"] = model_dir if size == "s" else find_model(size)
    if os.path.exists(paths["exporter"]):
        return paths
    if size == "s":
        os.makedirs(model_dir, exist_ok=True)
        torch.manual_seed(0)
        save_model_dir(ZipEnhancer(ModelConfig()), model_dir)
    for form in ("waveform", "card"):
        export_onnx(paths["torch"], paths[form], form)
    network = load_model(paths["torch"])

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network

        def forward(self, mag, pha):
            return self.model(mag, pha)[:2]

    for name, module in network.named_modules():
        if name.endswith("encoder_pos"):
            module.extend_pe(torch.empty(161 * 60))
    names = ["noisy_mag", "noisy_pha", "amp_g", "pha_g"]
    example = torch.rand(1, 201, 161), torch.rand(1, 201, 161)
    axes = {name: {0: "N", 2: "T"} for name in names}
    torch.onnx.export(
        Network(),
        example,
        paths["exporter"],
        opset_version=17,
        input_names=names[:2],
        output_names=names[2:],
        dynamic_axes=axes,
        dynamo=False,
    )
    return paths


def child(code: str, *arguments, threads: int = 0) -> subprocess.CompletedProcess:
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def measure(paths: dict, size: str, args) -> None:
    for threads in args.threads:
        for seconds in args.seconds:
            for at_once in (False, True):
                if at_once and seconds not in args.at_once:
                    continue
                for variant in args.variants:
                    # at once, its attention along time has a table of 16 GB for 10 s; 60 s are 10 s six times
                    if variant == "exporter" and (at_once or seconds > 10):
                        continue
                    repeats = 1 if seconds > 20 else 2 if seconds > 5 else 3
                    done = child(
                        CHILD, variant, paths[variant], seconds, threads, repeats, at_once, threads=threads
                    )
                    if done.returncode:
                        print(f"| {size} | {seconds:g} | {threads} | {variant} | {done.stderr[-200:]!r} |")
                        continue
                    wall, cpu, peak = json.loads(done.stdout)
                    length = f"{seconds:g}{' at once' if at_once else ''}"
                    rtf = f"{wall / seconds:.3f} | {cpu / seconds:.3f}"
                    print(f"| {size} | {length} | {threads} | {variant} | {rtf} | {peak:.0f} |", flush=True)


def measure_cold(folder: Path, runs: int) -> None:
    import numpy as np

    from modelscope_zipenhancer.network.pretrained import find_model

    noise, graph = folder / "noise.npy", Path(find_model("tiny")) / "model.onnx"
    np.save(noise, (0.1 * np.random.default_rng(0).standard_normal(80000)).astype(np.float32))
    print("\n| from process start to 5 s enhanced, tiny | least, s | median, s | CPU time, least, s |")
    print("|---|---|---|---|")
    spent: dict = {name: [] for name in COLD}
    for _ in range(runs):
        for name, code in COLD.items():
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            child(code, noise, graph).check_returncode()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            spent[name].append((time.perf_counter() - start, cpu))
    for name, values in spent.items():
        wall, cpu = zip(*values)
        print(f"| {name} | {min(wall):.2f} | {statistics.median(wall):.2f} | {min(cpu):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "s"])
    parser.add_argument("--seconds", type=float, nargs="*", default=[2, 10, 60])
    parser.add_argument("--at-once", type=float, nargs="*", default=[10])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--cold-runs", type=int, default=7)
    parser.add_argument("--prepared", help="a folder in which the files stay, and are taken from")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.prepared or temporary)
        folder.mkdir(exist_ok=True)
        if args.cold_runs:
            measure_cold(folder, args.cold_runs)
        paths = {size: prepare(size, folder) for size in args.sizes}
        print("\n| model | seconds | threads | | RTF | CPU time / audio | peak RSS, MB |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for size in args.sizes:
            measure(paths[size], size, args)


if __name__ == "__main__":
    main()
