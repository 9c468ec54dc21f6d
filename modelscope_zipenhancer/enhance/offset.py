"""An offset of the waveform (DC), as cheap sound cards add it."""

import numpy as np

from ..runtime.backend import Backend, preferred_batch_size

AUDIBLE = 0.25  # of a chunk's RMS; a smaller mean, as rumble has it, changes the gain by less than 0.3 dB


class WithoutOffset:
    """A backend that doesn't hear an offset: the mean of a chunk is taken away if it counts.

    The network is given unit RMS, and an offset is part of that: with 0.1 of full scale the speech of an
    ordinary recording comes in 2 dB too low. A chunk without an offset goes through bit for bit.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend, self.preferred_batch_size = backend, preferred_batch_size(backend)

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """`Backend.__call__`."""
        waveform = np.stack([centred(x) for x in waveform])
        return self.backend(waveform) if gain is None else self.backend(waveform, gain)


def centred(x: np.ndarray) -> np.ndarray:
    """(samples,) without its mean if that counts; zeros at either end are no part of the recording."""
    sounding = extent(x)
    sound = x[sounding]
    total, energy = np.sum(sound, dtype=np.float64), np.sum(np.square(sound, dtype=np.float64))
    if not counts(total, energy, len(sound)):
        return x
    out = x.copy()
    out[sounding] -= np.float32(total / len(sound))
    return out


def extent(x: np.ndarray) -> slice:
    """From the first sample of (samples,) that isn't 0 to the last."""
    heard = x != 0
    if not heard.any():
        return slice(0, 0)
    return slice(int(np.argmax(heard)), len(x) - int(np.argmax(heard[::-1])))


def counts(total: float, energy: float, samples: int) -> bool:
    """Whether the mean of samples with this sum and this sum of squares is to be taken away."""
    return total**2 > AUDIBLE**2 * energy * samples
