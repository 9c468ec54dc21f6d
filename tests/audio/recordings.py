"""Recordings of every container and codec that the tests can make, as bytes."""

import io

import av
import numpy as np
import soundfile

SECONDS = 1.2
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def speech(rate: int, channels: int = 1, seconds: float = SECONDS, seed: int = 0) -> np.ndarray:
    """A tone that swells, in noise: (samples, channels) float32, other in each channel."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal((len(t), channels))
    tone = np.sin(2 * np.pi * 440 * t) * (1 + np.sin(2 * np.pi * 3 * t))
    return (0.2 * tone[:, None] / (1 + np.arange(channels)) + 0.01 * noise).astype(np.float32)


def by_soundfile(container: str, subtype: str, x: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, format=container, subtype=subtype)
    return file.getvalue()


def by_av(
    container: str, codec: str, x: np.ndarray, rate: int, bit_rate: int | None = None, **options
) -> bytes:
    """options: FFmpeg's, of the container; `flags` and `global_quality` are the codec's."""
    file = io.BytesIO()
    options = {name: str(value) for name, value in options.items()}
    of_codec = {name: options.pop(name) for name in ("flags", "global_quality") if name in options}
    with av.open(file, "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, options=of_codec)
        stream.layout = LAYOUTS[x.shape[1]]
        stream.bit_rate = bit_rate or 64_000 * x.shape[1]
        stream.format = stream.codec_context.codec.audio_formats[0]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(x.T), "fltp", LAYOUTS[x.shape[1]])
        frame.sample_rate, frame.pts = rate, 0
        for part in av.AudioResampler(stream.format, stream.layout, rate).resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return file.getvalue()


def samples_of(data: bytes) -> int:
    """How many samples FFmpeg's own full decode finds."""
    with av.open(io.BytesIO(data)) as container:
        return sum(frame.samples for frame in container.decode(audio=0))
