"""Peak memory of ModelScope's pipeline running this package, by length of recording.

    python benchmarks/memory.py [--model s|tiny|DIR] [--minutes 5.46 60] [--cores 1]

Each length in a process of its own. 's' is the released size with random weights: memory and time
don't depend on their values. 5.46 minutes at 16 kHz are the 10 MB that the hub's widget takes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

CHILD = """
import json, os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[4])])
import modelscope_zipenhancer
from modelscope.pipelines import pipeline
model, path, out = sys.argv[1:4]
ans = pipeline("acoustic-noise-suppression", model=model, device="cpu")
rss = lambda: int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
loaded, start = rss(), time.perf_counter()
pcm = ans(path, output_path=out)["output_pcm"]
spent = time.perf_counter() - start
print(json.dumps({"loaded": loaded, "peak": rss(), "seconds": spent, "samples": len(pcm) // 2,
                  "class": type(ans).__module__}))
"""


def model_dir(name: str, folder: Path) -> str:
    if name != "s":
        from modelscope_zipenhancer.network.pretrained import find_model

        return find_model(name)
    import torch

    from modelscope_zipenhancer.network.config import ModelConfig
    from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer
    from modelscope_zipenhancer.train.run_folder import save_model_dir

    torch.manual_seed(0)
    save_model_dir(ZipEnhancer(ModelConfig()), str(folder))
    return str(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="s")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.46, 60])
    parser.add_argument("--cores", type=int, default=1)
    args = parser.parse_args()
    print(f"| minutes | file, MB | loaded, MB | peak, MB | peak less loaded, MB | RTF, {args.cores} cores |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = model_dir(args.model, folder)
        rng = np.random.default_rng(0)
        for minutes in args.minutes:
            path = folder / "noise.wav"
            with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
                for _ in range(round(minutes * 60)):
                    file.write((rng.standard_normal(16000) * 0.05).astype(np.float32))
            size = os.path.getsize(path) / 1e6
            command = [
                sys.executable,
                "-c",
                CHILD,
                model,
                str(path),
                str(folder / "out.wav"),
                str(args.cores),
            ]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                sys.exit(result.stderr)
            row = json.loads(result.stdout.strip().splitlines()[-1])
            assert row["class"].startswith("modelscope_zipenhancer."), row
            rtf = row["seconds"] / (minutes * 60)
            above = row["peak"] - row["loaded"]
            cells = (minutes, f"{size:.1f}", *(f"{m:.0f}" for m in (row["loaded"], row["peak"], above)))
            print("|", " | ".join(map(str, (*cells, f"{rtf:.2f}"))), "|", flush=True)


if __name__ == "__main__":
    main()
