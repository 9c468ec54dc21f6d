"""Rooms of a source that no model here was trained in: for `speech_kinds.py --rir OUT`.

    pip install rir-generator
    python benchmarks/halls.py OUT

Writes the responses of 24 halls and large rooms into OUT/halls, by the image method of rir-generator (MIT).
Those of shared/audio are pyroomacoustics', Voxengo's, web-audio-samples' and OpenAIR's. Other responses, at
16 kHz, go into other folders of OUT.
"""

import sys
from pathlib import Path

import numpy as np
import rir_generator
import soundfile

from modelscope_zipenhancer.names import SAMPLE_RATE


def main() -> None:
    out = Path(sys.argv[1], "halls")
    out.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(24):
        soundfile.write(out / f"{n:02}.wav", hall(rng), SAMPLE_RATE, "FLOAT")


def hall(rng: np.random.Generator) -> np.ndarray:
    """The response (samples,) of a box of 6 x 5 x 3 to 25 x 18 x 8 m, RT60 0.5 to 2 s, 2 m or more away."""
    size, rt60 = rng.uniform([6, 5, 3], [25, 18, 8]), rng.uniform(0.5, 2)
    source = receiver = size / 2
    while np.linalg.norm(source - receiver) < 2:
        source, receiver = rng.uniform(0.5, size - 0.5), rng.uniform(0.5, size - 0.5)
    response = rir_generator.generate(
        340, SAMPLE_RATE, receiver, source, size, reverberation_time=rt60, nsample=int(rt60 * SAMPLE_RATE)
    )
    return response[:, 0] / np.max(np.abs(response))


if __name__ == "__main__":
    main()
