"""Enhance a file with numpy, soundfile and onnxruntime only: copy this one and model.onnx, nothing else.

    python onnx_numpy.py model.onnx noisy.wav clean.wav

model.onnx: `zipenhancer export tiny -o model.onnx`, or modelscope_zipenhancer/models/tiny/model.onnx. The
recording has 16 kHz; channels are enhanced one by one, and levels stay.
"""

import sys

import numpy as np
import onnxruntime
import soundfile

RATE = 16000  # Hz
WINDOW, MINIMUM = 6 * RATE, 2 * RATE  # samples: enhanced at once up to here; padded up to there
FADE = RATE // 2  # beyond WINDOW in chunks of it, each cross-faded into the next
HOP = WINDOW - FADE
OFFSET = 0.25  # of a chunk's RMS: a mean beyond it is taken away


def enhance(session, x: np.ndarray) -> np.ndarray:
    """Enhance float32 (samples,) at 16 kHz of any length; returns as many samples at the same level."""

    def run(chunk: np.ndarray) -> np.ndarray:
        return session.run(None, {"waveform": centred(chunk)[None]})[0][0]

    samples = len(x)
    if samples <= WINDOW:
        return run(np.pad(x, (0, max(0, MINIMUM - samples))))[:samples]
    out = np.zeros_like(x)
    rise = ((np.arange(FADE) + 0.5) / FADE).astype(np.float32)
    start = 0
    while start + WINDOW <= samples:
        chunk = run(x[start : start + WINDOW])
        if start:
            chunk[:FADE] *= rise
        out[start : start + FADE] += chunk[:FADE]  # to the end of the chunk before, already faded out
        out[start + FADE : start + HOP] = chunk[FADE:HOP]
        out[start + HOP : start + WINDOW] = chunk[HOP:] * rise[::-1]
        start += HOP
    # The last chunk ends where the recording ends; `start` is where the one before begins to fade.
    rest = samples - start
    last = run(x[samples - WINDOW :])[WINDOW - rest :]
    fade = min(FADE, rest)
    last[:fade] *= rise[:fade]
    out[start : start + fade] += last[:fade]
    out[start + fade :] = last[fade:]
    return out


def centred(x: np.ndarray) -> np.ndarray:
    """(samples,) without an offset, which the network takes for level; zeros at either end stay."""
    (heard,) = np.nonzero(x)
    sound = x[heard[0] : heard[-1] + 1] if len(heard) else x
    mean = np.float32(sound.mean(dtype=np.float64))
    if mean**2 <= OFFSET**2 * np.mean(np.square(sound, dtype=np.float64)):
        return x
    return np.concatenate([x[: heard[0]], sound - mean, x[heard[-1] + 1 :]])


def main() -> None:
    model, source, target = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # without the warning that the file has an optional input
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x, rate = soundfile.read(source, dtype="float32", always_2d=True)
    if rate != RATE or not len(x) or not np.isfinite(x).all():
        sys.exit(f"{source}: a recording of {RATE} Hz is needed, with samples and without NaN")
    y = np.stack([enhance(session, np.ascontiguousarray(channel)) for channel in x.T], axis=1)
    soundfile.write(target, y, RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
