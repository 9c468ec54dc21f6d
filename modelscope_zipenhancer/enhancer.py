"""Enhancer: a model, whatever runs it, and recordings of any kind."""

import os
from pathlib import Path

import numpy as np

from . import audio, engine
from .errors import ModelNotFoundError

MODELS = Path(__file__).parent / "models"  # bundled, by name
HUB_ID = "damo/speech_zipenhancer_ans_multiloss_16k_base"


class Enhancer:
    """Denoises recordings.

        enhancer = Enhancer.from_pretrained("tiny")
        enhancer.save("clean.wav", enhancer("noisy.wav"))

    Safe to call from several threads.
    """

    sample_rate = audio.SAMPLE_RATE

    def __init__(self, backend):
        """backend: float32 (batch, samples) at 16 kHz[, gain (batch,)] -> the same shape and level."""
        self.backend = backend

    @classmethod
    def from_pretrained(cls, model: str = "tiny", device: str | None = None) -> "Enhancer":
        """Load a bundled model by name, a model dir, or a model of the ModelScope hub by its id.

        device: 'cpu', 'cuda', 'cuda:1', 'mps'; by default a CUDA device if there is one. Raises
        ModelNotFoundError, ConfigError or CheckpointError.
        """
        import torch

        from .model import TorchBackend, load_model

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(TorchBackend(load_model(find_model(model), device)))

    def __call__(self, source, sample_rate: int | None = None, progress=None) -> np.ndarray:
        """Enhance what `audio.read` reads; returns float32 (samples,), mono, 16 kHz, at its own level.

        sample_rate is that of an array or tensor, 16000 unless given. progress(done, samples) is
        called as the work goes on. Raises AudioError, AudioNotFoundError or FetchError.
        """
        x, rate = audio.read(source, sample_rate)
        x = audio.resample(audio.to_mono(x), rate, self.sample_rate)
        return engine.enhance(self.backend, x, progress=progress)

    def save(self, path, waveform: np.ndarray) -> None:
        """Write 16-bit audio at 16 kHz; the suffix names the format. Raises OutputError."""
        audio.write(path, waveform, self.sample_rate)


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
