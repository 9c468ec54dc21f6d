"""Enhancer: a model, whatever runs it, and recordings of any kind."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..audio.policy import Policy
from ..audio.read import read
from ..audio.resample import check_rate, fit, resample
from ..audio.samples import check_finite, to_float32, to_mono
from ..audio.write import check_format, check_output, encode, write
from ..errors import AudioError, OptionError
from ..names import SAMPLE_RATE
from ..network.pretrained import find_model
from ..runtime.backend import Backend, load_backend, preferred_batch_size
from . import overlap_add
from .attenuation import check_strength, limited
from .grid import AHEAD_MS, CHUNK_MS, PAST_MS, stream_grid
from .high_band import with_high_band
from .offset import WithoutOffset
from .streaming import Stream

BANDWIDTHS = ("low", "full")
AT_ONCE = 8  # recordings at a time on a device that wants batches: enough of clips of 30 s to fill one


class Enhancer:
    """Denoises recordings and streams.

        enhancer = Enhancer.from_pretrained("tiny")
        enhancer.enhance_file("noisy.wav", "clean.wav")
        clean = enhancer("noisy.wav", output_rate=16000, mono=True)  # float32 (samples,)

    Safe to call from several threads.

    Args:
        backend: what runs the network (runtime/backend.py).
    """

    sample_rate = SAMPLE_RATE  # of the network

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @classmethod
    def from_pretrained(
        cls,
        model: str = "tiny",
        device: str | None = None,
        backend: str = "torch",
        precision: str = "fp32",
        compile: bool = False,
        **options: Any,
    ) -> "Enhancer":
        """Load a model.

        Args:
            model: a bundled one by name, a ModelScope model dir, or a model's id on ModelScope's hub, which
                is downloaded.
            device: 'cpu', 'cuda', 'cuda:1', 'mps'; by default a CUDA device if there is one (onnx: the CPU).
            backend: 'torch'; or 'onnx', ONNX Runtime, for a model that has an ONNX file: it imports no torch.
            precision: 'fp32', 'bf16' on CPUs that have it, 'fp16' on GPUs.
            compile: torch.compile, for GPUs.
            options: the backend's own, such as threads of 'onnx' (runtime/onnx.py).

        Raises:
            ModelNotFoundError, ConfigError, CheckpointError: for a model that isn't there or isn't whole.
            OptionError: for an option that can't be had.
        """
        return cls(
            load_backend(
                backend, find_model(model), device=device, precision=precision, compile=compile, **options
            )
        )

    @property
    def recordings_at_once(self) -> int:
        """How many recordings are best enhanced at a time, by threads: more than 1 on a GPU."""
        return AT_ONCE if preferred_batch_size(self.backend) > 1 else 1

    def __call__(
        self,
        source: Any,
        sample_rate: int | None = None,
        *,
        strict: bool = False,
        policy: Policy | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Enhance a recording.

            clean = enhancer("talk_48k.wav", strength=15, bandwidth="full")

        Args:
            source: what `audio.read` reads: a path, URL, bytes, an open file, an array, ...
            sample_rate: Hz, of an array or tensor; 16000 unless given.
            strict: refuse a recording of which a part is missing, instead of a warning in the log.
            policy: what may be read, and how much of it; audio.policy.SERVED for what strangers send.
            options: those of `enhance`.

        Returns:
            float32 at the recording's level, rate and channels: (samples,) of one channel, (samples,
            channels) of more; exactly as many samples as came in.

        Raises:
            AudioError, AudioNotFoundError, FetchError, OptionError.
        """
        y = self.enhance(*read(source, sample_rate, strict=strict, policy=policy), **options)
        return y[:, 0] if y.shape[1] == 1 else y

    def enhance(
        self,
        x: np.ndarray,
        rate: int,
        *,
        output_rate: int | None = None,
        mono: bool = False,
        strength: float | None = None,
        bandwidth: str = "low",
        gain: str = "chunk",
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Enhance samples, as `audio.read` returns them.

        Args:
            x: (samples, channels), or (samples,) of one; float at full scale +-1, or signed integers.
            rate: Hz.
            output_rate: Hz of what comes back; by default `rate`.
            mono: mix the channels first. By default each is enhanced by itself, with a gain of its own.
            strength: dB by which noise is turned down at most, 0 or more: 12 leaves a quiet room where the
                default, None, leaves nothing (attenuation.py).
            bandwidth: 'low', the network's 16 kHz: nothing above 8 kHz is left; or 'full', for inputs
                beyond that: what is above 8 kHz stays, as loud as the band below it was left (high_band.py).
            gain: what brings a recording beyond 6 s to the level that the network was trained on: 'chunk',
                each chunk its own factor; or 'recording', one for all. docs/evaluation.md says when which.
            progress: called as progress(samples done, samples), of all channels at 16 kHz.

        Returns:
            float32 (samples, channels), at the level of `x`; at another output_rate
            ceil(samples * output_rate / rate) samples.

        Raises:
            OptionError; AudioError for samples that are NaN, infinite or of another shape.
        """
        check_options(output_rate, strength, bandwidth, gain)
        rate = check_rate(rate)
        x = to_float32(np.asarray(x), "the array")
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2 or x.shape[1] < 1:
            raise AudioError(f"an array of shape {x.shape}: expected (samples,) or (samples, channels)")
        check_finite(x, "the array")
        target = int(output_rate or rate)
        backend = limited(WithoutOffset(self.backend), strength)
        x = to_mono(x)[:, None] if mono else x
        channels = x.shape[1]
        samples = -(-len(x) * target // rate)

        def enhanced(channel: int) -> np.ndarray:
            def report(done: int, samples: int) -> None:
                if progress:
                    progress(channel * samples + done, channels * samples)

            noisy = resample(x[:, channel], rate, self.sample_rate)
            clean = overlap_add.enhance(backend, noisy, gain=gain, progress=report)
            clean_rate = self.sample_rate
            if bandwidth == "full" and min(rate, target) > self.sample_rate:
                clean, clean_rate = with_high_band(x[:, channel], rate, noisy, clean), rate
            return fit(resample(clean, clean_rate, target), samples)

        if channels == 1:  # an hour is not held twice
            return np.asarray(enhanced(0), np.float32)[:, None]
        out = np.empty((samples, channels), np.float32)
        for channel in range(channels):
            out[:, channel] = enhanced(channel)
        return out

    def batch(
        self, sources: Iterable, sample_rate: int | None = None, **options: Any
    ) -> Iterator[np.ndarray]:
        """Yield the enhanced of each source, in order, one at a time: memory doesn't grow with them.

        On a GPU several are worked on, in common batches: up to 8 sources are taken ahead. A source that
        can't be read raises when its turn comes. OptionError for one source that is no list of them.
        """
        if isinstance(sources, (str, bytes, os.PathLike)):
            raise OptionError(
                f"sources={sources!r:.80}: several were expected, a list; for one call the enhancer"
            )
        if self.recordings_at_once == 1:
            return (self(source, sample_rate, **options) for source in sources)
        from ..workers import ahead  # multiprocessing would be 10 ms of every cold start

        return ahead(lambda source: self(source, sample_rate, **options), sources, self.recordings_at_once)

    def map_batch(
        self, batch: Mapping[str, Any], column: str = "audio", format: str = "flac", **options: Any
    ) -> dict[str, list[dict | None]]:
        """Enhance a column of a batch: for `Dataset.map(batched=True)` of Hugging Face's datasets.

            ds = ds.cast_column("audio", Audio(decode=False))  # datasets.Audio; torchcodec isn't needed then
            ds = ds.map(enhancer.map_batch, batched=True, batch_size=16, num_proc=2)

        Args:
            batch: {column: cells}, each anything that a call takes.
            column: the one with the audio.
            format: of the enhanced recordings: a suffix that `save` takes, without its dot.
            options: those of a call, sample_rate, strict and policy among them.

        Returns:
            {column: [{"bytes", "path"}, ...]}, as an Audio column stores recordings; None stays None.

        Raises:
            OptionError for a column that isn't there, OutputError for a format, and what a call raises.
        """
        suffix = os.path.splitext(check_format(f"x.{format}"))[1].lower()
        cells: list[dict | None] = []
        if column not in batch:
            raise OptionError(f"column={column!r}: the batch has {', '.join(map(repr, batch))}")
        reading = {name: options.pop(name) for name in ("sample_rate", "strict", "policy") if name in options}
        for cell in batch[column]:
            if cell is None:  # of a row without audio
                cells.append(None)
                continue
            x, rate = read(cell, **reading)
            y = self.enhance(x, rate, **options)
            path = cell.get("path") if isinstance(cell, dict) else None
            name = os.path.splitext(os.path.basename(path))[0] + suffix if path else None
            data = encode(y, int(options.get("output_rate") or rate), suffix)
            cells.append({"bytes": data, "path": name})
        return {column: cells}

    def enhance_file(
        self,
        source: Any,
        path: Any,
        sample_rate: int | None = None,
        *,
        strict: bool = False,
        policy: Policy | None = None,
        bits: int | str | None = None,
        bitrate: float | None = None,
        **options: Any,
    ) -> float:
        """Enhance what `audio.read` reads into a file, at the right rate; returns its seconds.

        Args:
            source, sample_rate, options: as of a call.
            path: its suffix names the format.
            strict, policy: as of a call.
            bits, bitrate: as `audio.write` has them.

        Raises:
            OutputError before the work if the path can't be written, else as a call does.
        """
        check_output(path, bits=bits, bitrate=bitrate)
        x, rate = read(source, sample_rate, strict=strict, policy=policy)
        target = int(options.get("output_rate") or rate)
        check_format(path, target, 1 if options.get("mono") else x.shape[1], bits, bitrate)
        y = self.enhance(x, rate, **options)
        del x  # of an hour 230 MB
        self.save(path, y, target, bits=bits, bitrate=bitrate)
        return len(y) / target

    def save(
        self,
        path: Any,
        waveform: np.ndarray,
        sample_rate: int,
        *,
        bits: int | str | None = None,
        bitrate: float | None = None,
    ) -> None:
        """Write audio, (samples,) or (samples, channels), in 16 bits unless told; the suffix is the format.

        An array doesn't know its rate, and a wrong one is slow motion: so it must be said. bits, bitrate: as
        `audio.write` has them. Raises OutputError or OptionError.
        """
        write(path, waveform, check_rate(sample_rate), bits=bits, bitrate=bitrate)

    def stream(
        self,
        chunk_ms: float = CHUNK_MS,
        past_ms: float = PAST_MS,
        ahead_ms: float = AHEAD_MS,
        sample_rate: int = SAMPLE_RATE,
        channels: int = 1,
        strength: float | None = None,
    ) -> Stream:
        """A session for audio that keeps arriving: `feed`, `flush`, `latency_ms`; content up to 8 kHz.

        Less chunk and ahead is less latency; less chunk or more past is more work for a second of audio; less
        context is less quality.

        Args:
            chunk_ms: new audio in a step.
            past_ms, ahead_ms: context before and after it.
            sample_rate, channels: of what goes in and of what comes out.
            strength: as of `enhance`.

        Raises:
            OptionError.
        """
        check_strength(strength)
        grid = stream_grid(chunk_ms, past_ms, ahead_ms)
        return Stream(limited(WithoutOffset(self.backend), strength), grid, sample_rate, channels)


def check_options(
    output_rate: int | None, strength: float | None, bandwidth: str, gain: str = "chunk"
) -> None:
    """OptionError if an option of Enhancer is out of range."""
    if output_rate is not None:
        check_rate(output_rate)
    check_strength(strength)
    if bandwidth not in BANDWIDTHS:
        raise OptionError(f"bandwidth={bandwidth!r}: {' or '.join(map(repr, BANDWIDTHS))}")
    if gain not in overlap_add.GAINS:
        raise OptionError(f"gain={gain!r}: {' or '.join(map(repr, overlap_add.GAINS))}")
