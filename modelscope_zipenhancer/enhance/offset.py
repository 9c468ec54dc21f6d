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
    """(samples,) without its mean if that counts; zeros at the end are no part of the recording."""
    sound = x[: len(x) - np.argmax(x[::-1] != 0)]
    mean = sound.mean(dtype=np.float64)
    if mean**2 <= AUDIBLE**2 * np.mean(np.square(sound, dtype=np.float64)):
        return x
    return np.concatenate([sound - np.float32(mean), x[len(sound) :]])
