"""How much audio a GPU enhances in a second: this package in batches, and the built-in as it comes.

    python benchmarks/gpu.py [--device cuda] [--model s] [--seconds 4] [--batches 1 8 64] [--compile]

's' is the released size with random weights. Arrays in main memory in and out, transfers included;
medians. 'of the limit' is the share of the floating-point rate that the device's best matrix product or
convolution reaches in that precision. The built-in takes one window of 2 s at a time, as its pipeline
hands them over. Then a corpus, 64 clips of 10 s: one after the other, and by Enhancer.batch. Last, what half
precision changes on trained weights (tiny).
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
import torch
from limit import peaks, seconds
from speed import network, variant

from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.names import SAMPLE_RATE
from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.network.summary import flops_per_second
from modelscope_zipenhancer.runtime.gpu import GpuNetwork
from modelscope_zipenhancer.runtime.pytorch import TorchBackend

EXAMPLE = Path(__file__).parent.parent / "examples" / "noisy_speech.wav"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def noise(batch: int, samples: int) -> torch.Tensor:
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(0)) * 0.1


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="s")
    parser.add_argument("--seconds", type=float, default=4, help="of a chunk")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--clips", type=int, default=64, help="of the corpus")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes for each row")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    model = network(args.model).to(args.device)
    flops = flops_per_second(network(args.model))
    print(f"{torch.cuda.get_device_name(args.device) if cuda else args.device}, torch {torch.__version__}\n")
    print("| what | precision | batch | audio seconds a second | x built-in | of the limit |")
    print("|---|---|---|---|---|---|")

    window, run = noise(1, 2 * SAMPLE_RATE)[0].numpy(), variant("built-in", model)
    built_in = 2 / seconds(lambda: run(window), args.device, args.repeats)
    print(f"| built-in, 2 s | fp32 | 1 | {built_in:.1f} | 1.0 | |", flush=True)
    for precision in args.precisions:
        dtype = DTYPES[precision]
        best = 1e9 * max(peaks(dtype, args.device, 32 if cuda else 1).values())
        for compiled in (False, True) if args.compile else (False,):
            for batch in args.batches:
                form = GpuNetwork(model, dtype, compiled)
                waveform = noise(batch, int(args.seconds * SAMPLE_RATE))
                took = seconds(lambda f=form, w=waveform: f.denoise(w), args.device, args.repeats)
                rate = batch * args.seconds / took
                name = f"{args.seconds:g} s{', compiled' if compiled else ''}"
                print(
                    f"| {name} | {precision} | {batch} | {rate:.1f} | {rate / built_in:.1f} "
                    f"| {flops * rate / best:.2f} |",
                    flush=True,
                )

    clips = list(noise(args.clips, 10 * SAMPLE_RATE).numpy())
    for precision in args.precisions:
        enhancer = Enhancer(TorchBackend(model, precision))
        ways = {"one by one": lambda e=enhancer: [e(x) for x in clips]}
        ways["together"] = lambda e=enhancer: list(e.batch(clips))
        for name, run in ways.items():
            rate = 10 * len(clips) / seconds(run, args.device, 3)
            print(
                f"| clips of 10 s, {name} | {precision} | | {rate:.1f} | {rate / built_in:.1f} | |",
                flush=True,
            )

    tiny = load_model(find_model("tiny")).to(args.device)
    speech = torch.from_numpy(soundfile.read(EXAMPLE, dtype="float32")[0])[None, : 4 * SAMPLE_RATE]
    exact = GpuNetwork(tiny).denoise(speech)
    for precision in args.precisions:
        error = GpuNetwork(tiny, DTYPES[precision]).denoise(speech) - exact
        ratio = float(error.norm() / exact.norm())
        print(f"\ntiny in {precision}: {20 * np.log10(ratio + 1e-12):.1f} dB from fp32")


if __name__ == "__main__":
    main()
