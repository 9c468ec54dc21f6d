"""Enhancer: a model, whatever runs it, and recordings of any kind."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..audio.read import read
from ..audio.resample import check_rate, fit, resample
from ..audio.samples import to_mono
from ..audio.write import check_output, write
from ..errors import ModelNotFoundError, OptionError
from ..names import HUB_ID, SAMPLE_RATE
from . import overlap_add as engine
from .high_band import with_high_band
from .streaming import AHEAD_MS, CHUNK_MS, PAST_MS, Stream, stream_grid

MODELS = Path(__file__).parents[1] / "models"  # bundled, by name
BACKENDS = ("torch",)
BANDWIDTHS = ("low", "full")


class Enhancer:
    """Denoises recordings and streams.

        enhancer = Enhancer.from_pretrained("tiny")
        enhancer.enhance_file("noisy.wav", "clean.wav")
        clean = enhancer("noisy.wav", output_rate=16000, mono=True)  # float32 (samples,)

    Safe to call from several threads.

    Options of the calls:
    output_rate: Hz of what comes back; by default that of what came in.
    mono: mix the channels first. By default each is enhanced by itself, with a gain of its own.
    strength: dB by which noise is turned down at most, 0 or more: 12 leaves a quiet room where the
        default, None, leaves nothing. The input is mixed in again, sample by sample in phase:
        enhanced + 10 ** (-strength / 20) * (input - enhanced).
    bandwidth: 'low', the network's 16 kHz: nothing above 8 kHz is left; or 'full', for inputs beyond
        that: what is above 8 kHz stays, as loud as the band below it was left (bandwidth.py).
    progress: called as progress(samples done, samples), of all channels at 16 kHz.
    """

    sample_rate = SAMPLE_RATE  # of the network

    def __init__(self, backend):
        """backend: float32 (batch, samples) at 16 kHz[, gain (batch,)] -> the same shape and level."""
        self.backend = backend

    @classmethod
    def from_pretrained(
        cls,
        model: str = "tiny",
        device: str | None = None,
        backend: str = "torch",
        precision: str = "fp32",
        compile: bool = False,
    ) -> "Enhancer":
        """Load a bundled model by name, a model dir, or a model of the ModelScope hub by its id.

        device: 'cpu', 'cuda', 'cuda:1', 'mps'; by default a CUDA device if there is one.
        precision: 'fp32', 'bf16' on CPUs that have it, 'fp16' on GPUs; compile: for GPUs; see
        TorchBackend. Raises ModelNotFoundError, ConfigError, CheckpointError or OptionError.
        """
        if backend not in BACKENDS:
            raise OptionError(f"unknown backend {backend!r}, known are: {', '.join(BACKENDS)}")
        import torch

        from ..network.checkpoint import load_model
        from ..runtime.pytorch import TorchBackend

        folder = find_model(model)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no one kind for it
            reason = str(error).split("\n")[0]
            raise OptionError(f"device {device!r} can't be used: {reason}") from error
        return cls(TorchBackend(load_model(folder, device), precision, compile))

    def __call__(self, source, sample_rate: int | None = None, **options) -> np.ndarray:
        """Enhance what `audio.read` reads; returns float32 at its own level, rate and channels.

        Of one channel (samples,), of more (samples, channels); exactly as many samples as came in.
        sample_rate is that of an array or tensor, 16000 unless given. options: see the class. Raises
        AudioError, AudioNotFoundError, FetchError or OptionError.
        """
        y = self.enhance(*read(source, sample_rate), **options)
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
        progress=None,
    ) -> np.ndarray:
        """Enhance float32 (samples, channels) at `rate`, as `audio.read` returns it; keeps the axes.

        At another output_rate there are ceil(samples * output_rate / rate) samples.
        """
        check_options(output_rate, strength, bandwidth)
        check_rate(rate)
        target = int(output_rate or rate)
        backend = limited(self.backend, strength)
        x = to_mono(x)[:, None] if mono else x
        channels = x.shape[1]
        out = np.empty((-(-len(x) * target // rate), channels), np.float32)
        for i in range(channels):

            def report(done, samples, before=i):
                progress(before * samples + done, channels * samples)

            noisy = resample(x[:, i], rate, self.sample_rate)
            clean, clean_rate = engine.enhance(backend, noisy, progress=progress and report), self.sample_rate
            if bandwidth == "full" and min(rate, target) > self.sample_rate:
                clean, clean_rate = with_high_band(x[:, i], rate, noisy, clean), rate
            out[:, i] = fit(resample(clean, clean_rate, target), len(out))
        return out

    def batch(self, sources: Iterable, sample_rate: int | None = None, **options) -> Iterator:
        """Yield the enhanced of each source, in order, one at a time: memory doesn't grow with them.

        On a GPU several are worked on, in common batches: up to 8 sources are taken ahead. A source that
        can't be read raises when its turn comes.
        """
        if engine.chunks_at_once(self.backend) == 1:
            return (self(source, sample_rate, **options) for source in sources)
        from ..runtime.batching import AT_ONCE, ahead

        return ahead(lambda source: self(source, sample_rate, **options), sources, AT_ONCE)

    def enhance_file(self, source, path, **options) -> float:
        """Enhance what `audio.read` reads into a file, at the right rate; returns its seconds.

        Raises OutputError before the work if the path can't be written, else as a call does.
        """
        check_output(path)
        x, rate = read(source)
        y = self.enhance(x, rate, **options)
        rate = int(options.get("output_rate") or rate)
        self.save(path, y, rate)
        return len(y) / rate

    def save(self, path, waveform: np.ndarray, sample_rate: int) -> None:
        """Write 16-bit audio, (samples,) or (samples, channels); the suffix names the format.

        An array doesn't know its rate, and a wrong one is slow motion: so it must be said. Raises
        OutputError.
        """
        write(path, waveform, check_rate(sample_rate))

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

        chunk_ms: new audio in a step; past_ms and ahead_ms: context before and after it. Less chunk and
        ahead is less latency; less chunk or more past is more work for a second of audio; less context
        is less quality. sample_rate and channels: of what goes in and of what comes out.
        """
        check_options(None, strength, "low")
        grid = stream_grid(chunk_ms, past_ms, ahead_ms)
        return Stream(limited(self.backend, strength), grid, sample_rate, channels)


def check_options(output_rate: int | None, strength: float | None, bandwidth: str) -> None:
    """OptionError if an option of Enhancer is out of range."""
    if output_rate is not None:
        check_rate(output_rate)
    if strength is not None and not strength >= 0:
        raise OptionError(f"strength={strength}: the dB by which noise is turned down at most, 0 or more")
    if bandwidth not in BANDWIDTHS:
        raise OptionError(f"bandwidth={bandwidth!r}: 'low' or 'full'")


def limited(backend, strength: float | None):
    """The backend that turns noise down by `strength` dB at most, by mixing the input in again."""
    left = 0.0 if strength is None else 10 ** (-strength / 20)
    if left == 0.0:
        return backend

    def mixed(waveform, *gain):
        enhanced = backend(waveform, *gain)
        return enhanced + np.float32(left) * (waveform - enhanced)

    mixed.batch = engine.chunks_at_once(backend)
    return mixed


def find_model(name: str) -> str:
    """The folder of a model: a bundled name, a model dir, or a hub id, which is downloaded."""
    name = os.fspath(name)
    if os.path.isdir(name):
        return name
    bundled = sorted(entry.name for entry in MODELS.iterdir() if entry.is_dir())
    if name in bundled:
        return str(MODELS / name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"unknown model {name!r}: give one of {', '.join(bundled)}, a model dir, or a hub id "
            f"such as {HUB_ID}"
        )
    from modelscope.hub.snapshot_download import snapshot_download

    try:
        return snapshot_download(name)
    except Exception as error:  # no network: what an earlier download left will do
        try:
            return snapshot_download(name, local_files_only=True)
        except Exception:
            raise ModelNotFoundError(f"model {name!r} can't be had from the hub: {error}") from error
