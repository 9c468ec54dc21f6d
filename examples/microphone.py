"""Hear yourself without the noise: microphone -> Enhancer.stream -> headphones. Stop with Ctrl-C.

pip install sounddevice
python examples/microphone.py [--rate 48000] [--chunk-ms 1000] [--strength 15]

What you hear is late by the latency that it prints. The computer must be faster than real time
(`zipenhancer enhance` prints the RTF: below 1); where it isn't, this says so and drops what waits.
"""

import argparse
import queue

import numpy as np

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.enhance.grid import CHUNK_MS

CUSHION = 0.3  # seconds of silence played first, so that one slow chunk isn't heard as a gap
BEHIND = 5.0  # seconds of waiting input that count as too slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=int, default=48000, help="of microphone and headphones, Hz")
    parser.add_argument("--chunk-ms", type=float, default=CHUNK_MS)
    parser.add_argument("--strength", type=float, help="dB by which noise is turned down at most")
    args = parser.parse_args()
    import sounddevice

    enhancer = Enhancer.from_pretrained("tiny")
    stream = enhancer.stream(chunk_ms=args.chunk_ms, sample_rate=args.rate, strength=args.strength)
    print(f"late by {stream.latency_ms:.0f} ms and {CUSHION * 1000:.0f} ms; Ctrl-C stops")
    heard = queue.SimpleQueue()

    def callback(block, frames, time, status):
        heard.put(block[:, 0].copy())

    options = {"samplerate": args.rate, "channels": 1, "dtype": "float32"}
    microphone = sounddevice.InputStream(callback=callback, blocksize=args.rate // 50, **options)
    with microphone, sounddevice.OutputStream(**options) as headphones:
        headphones.write(np.zeros((int(CUSHION * args.rate), 1), np.float32))
        for enhanced in stream.run(blocks(heard)):
            headphones.write(enhanced[:, None])


def blocks(heard):
    """What the microphone hears, for ever; 20 ms blocks."""
    while True:
        yield heard.get()
        if heard.qsize() > BEHIND * 50:
            print("this computer is too slow: a few seconds are dropped")
            while heard.qsize():
                heard.get()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
