"""The one contract: a backend, as the engine calls it; and where backends are found by name."""

import importlib
import inspect
import os
from typing import Any, Protocol

import numpy as np

from ..errors import OptionError

# name: the module of this folder whose `load(model_dir, **options)` makes the backend
BACKENDS = {"torch": "pytorch", "onnx": "onnx"}


class Backend(Protocol):
    """What runs a network: waveforms in, enhanced waveforms out.

    STFT, gain and silence live inside. May be called from several threads, and pickled: what it has
    computed from the weights is made again, not sent.

    Attributes:
        preferred_batch_size: how many chunks of a recording it wants at a time. 1 on a CPU, where
            chunks are computed one after the other anyway.
    """

    preferred_batch_size: int

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """Enhance waveforms.

        Args:
            waveform: float32 (batch, samples) at 16 kHz, any level; all items equally long.
            gain: float32 (batch,), the factor that brings each item to the unit RMS that the network
                was trained on. By default each item's own, sqrt(samples / energy).

        Returns:
            float32 (batch, samples), at the level that came in. A silent item gives zeros.
        """
        ...


def preferred_batch_size(backend: Any) -> int:
    """A backend's `preferred_batch_size`; 1 of a plain function, which will do as a backend."""
    return getattr(backend, "preferred_batch_size", 1)


def load_backend(name: str, model_dir: str | os.PathLike, **options: Any) -> Backend:
    """The backend of that name for the network of a ModelScope model dir.

    Args:
        name: one of BACKENDS.
        model_dir: holds configuration.json and the weights.
        options: those of the backend's own `load`.

    Raises:
        OptionError: for an unknown name, or an option that can't be had here.
        ModelNotFoundError, ConfigError, CheckpointError: for a model dir that isn't whole.
    """
    if name not in BACKENDS:
        raise OptionError(f"unknown backend {name!r}, known are: {', '.join(BACKENDS)}")
    load = importlib.import_module(f".{BACKENDS[name]}", __package__).load
    _, *known = inspect.signature(load).parameters
    for option, value in options.items():
        if option not in known:
            raise OptionError(f"{option}={value!r}: backend {name!r} takes only {', '.join(known)}")
    return load(os.fspath(model_dir), **options)


def omp_threads() -> int:
    """OMP_NUM_THREADS, of several numbers (for nested loops) the first; 0, all cores, if that is none."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0
