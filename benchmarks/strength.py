"""What an attenuation limit does to the measures, by pairs of a speech and a noise folder.

    python benchmarks/strength.py --pair CLEAN NOISE [--pair ...] [--count 4] [--dnsmos sig_bak_ovr.onnx]

A mixture is enhanced once, and mixed with its input for each limit, as `strength` does. 10 s of each.
"""

import argparse
import tempfile

import numpy as np

from modelscope_zipenhancer.audio.read import read
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.evaluate.dnsmos import dnsmos
from modelscope_zipenhancer.evaluate.measures import MetricError, pesq, si_sdr, stoi
from modelscope_zipenhancer.evaluate.pairs import mix_pairs

STRENGTHS = (0, 15, 20, 25, 30, 35, 40, None)  # dB; 0 is the mixture, None no limit
SNRS = (-5, 0, 5, 10, 15)
SAMPLES = 10 * 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pair", nargs=2, action="append", required=True, metavar=("CLEAN", "NOISE"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=4, help="mixtures for each SNR and pair")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dnsmos", metavar="ONNX")
    args = parser.parse_args()
    enhancer = Enhancer.from_pretrained(args.model, "cpu")
    rows = {strength: [] for strength in STRENGTHS}
    for clean_dir, noise_dir in args.pair:
        with tempfile.TemporaryDirectory() as folder:
            pairs, _ = mix_pairs(clean_dir, noise_dir, SNRS, args.count, folder, args.seed)
            for pair in pairs:
                noisy, clean = (read(path)[0][:SAMPLES, 0] for path in (pair.test, pair.clean))
                enhanced = enhancer(noisy)
                for strength in STRENGTHS:
                    left = 0.0 if strength is None else 10 ** (-strength / 20)
                    y = enhanced + np.float32(left) * (noisy - enhanced)
                    try:
                        row = [pesq(clean, y), stoi(clean, y), si_sdr(clean, y)]
                    except MetricError:
                        continue
                    rows[strength].append([*row, dnsmos(y, args.dnsmos)[2] if args.dnsmos else np.nan])
    print("| strength, dB | files | WB-PESQ | STOI | SI-SDR, dB | DNSMOS OVR |\n|---|---|---|---|---|---|")
    for strength, found in rows.items():
        means = " | ".join(f"{x:.3f}" for x in np.mean(found, 0))
        print(f"| {'no limit' if strength is None else strength} | {len(found)} | {means} |")


if __name__ == "__main__":
    main()
