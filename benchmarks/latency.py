"""What a stream's latency costs in quality: the table in docs/usage.md behind the defaults.

    python benchmarks/latency.py --clean DIR --noise DIR [--model tiny] [--recordings 6]

The recordings of grid.py, in one pass and streamed with smaller and smaller chunks.
"""

import numpy as np
from grid import arguments, recordings
from pesq import pesq
from pystoi import stoi

from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.evaluate.measures import si_sdr
from modelscope_zipenhancer.names import SAMPLE_RATE

STREAMS = (  # chunk, past, ahead in ms
    (2000, 750, 200),
    (1000, 750, 200),
    (500, 1250, 200),
    (500, 750, 100),
    (250, 1650, 50),
)


def main() -> None:
    args = arguments(__doc__)
    enhancer = Enhancer.from_pretrained(args.model, "cpu")
    rows = {}

    def score(name, y, clean):
        values = pesq(SAMPLE_RATE, clean, y, "wb"), stoi(clean, y, SAMPLE_RATE), si_sdr(clean, y)
        rows.setdefault(name, []).append(values)

    for noisy, clean in recordings(args.clean, args.noise, args.recordings):
        score("| noisy | | | |", noisy, clean)
        score("| one pass | | | |", enhancer.backend(noisy[None])[0], clean)
        for chunk, past, ahead in STREAMS:
            stream = enhancer.stream(chunk, past, ahead)
            work = (chunk + past + ahead + 50) / chunk
            name = f"| {chunk} | {past} | {ahead} | {stream.latency_ms:.0f} ms, work {work:.1f} |"
            score(name, np.concatenate([stream.feed(noisy), stream.flush()]), clean)
    print("| chunk, ms | past, ms | ahead, ms | latency | WB-PESQ | STOI | SI-SDR, dB |")
    print("|---|---|---|---|---|---|---|")
    for name, values in rows.items():
        quality, intelligible, ratio = np.mean(values, axis=0)
        print(f"{name} {quality:.3f} | {intelligible:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
