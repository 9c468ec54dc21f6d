"""Memory of `zipenhancer serve` on one core through uploads of 10 MB, one after the other.

    python benchmarks/serve_memory.py MODEL_DIR [--uploads 20] [--rate 96000] [--at-once 1]

MODEL_DIR: S with random weights by `--make`, or any other.
"""

import argparse
import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile
from serve_process import post, rss_mb, serving

MOST = 10 << 20  # bytes


def recording(rate: int, seed: int) -> bytes:
    """Noise in 24 bits and stereo, as much as goes into 10 MB."""
    samples = (MOST - 100) // 6
    x = np.random.default_rng(seed).standard_normal((samples, 2), np.float32) * 0.05
    file = io.BytesIO()
    soundfile.write(file, x, rate, format="WAV", subtype="PCM_24")
    return file.getvalue()


def make_s(folder: str) -> None:
    """A model dir of S, with random weights."""
    import torch

    from modelscope_zipenhancer.network.config import ModelConfig
    from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer
    from modelscope_zipenhancer.train.run_folder import save_model_dir

    torch.manual_seed(0)
    os.makedirs(folder, exist_ok=True)
    save_model_dir(ZipEnhancer(ModelConfig()), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--uploads", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--rate", type=int, default=96000)
    args = parser.parse_args()
    if args.make:
        make_s(args.model)
    with serving("--model", args.model, cores="0", OMP_NUM_THREADS="1") as (process, port):
        print(f"model loaded: {rss_mb(process):.0f} MB", flush=True)

        def upload(i: int) -> None:
            status, headers, body = post(port, recording(args.rate, i), "/v1/enhance?mono=1")
            assert status == 200, body[:500]
            print(
                f"upload {i + 1}, {headers['x-audio-seconds']} s, RTF {headers['x-rtf']}: "
                f"{rss_mb(process):.0f} MB, peak {rss_mb(process, peak=True):.0f} MB",
                flush=True,
            )

        with ThreadPoolExecutor(args.at_once) as pool:
            list(pool.map(upload, range(args.uploads)))


if __name__ == "__main__":
    main()
