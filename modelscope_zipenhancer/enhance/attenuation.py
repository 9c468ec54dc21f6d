"""A limit to how far noise is turned down."""

from numbers import Real

import numpy as np

from ..errors import OptionError
from ..runtime.backend import Backend, preferred_batch_size


class AttenuationLimit:
    """A backend that turns noise down by at most `strength` dB, by mixing its input in again.

    enhanced + 10 ** (-strength / 20) * (input - enhanced), sample by sample and in phase. A little of the
    room often sounds more natural than none, and hides what a network gets wrong.

    Args:
        backend: what enhances.
        strength: dB, 0 or more: 0 gives the input back.
    """

    def __init__(self, backend: Backend, strength: float) -> None:
        self.backend, self.left = backend, np.float32(10 ** (-strength / 20))
        self.preferred_batch_size = preferred_batch_size(backend)

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """`Backend.__call__`."""
        enhanced = self.backend(waveform) if gain is None else self.backend(waveform, gain)
        return enhanced + self.left * (waveform - enhanced)


def limited(backend: Backend, strength: float | None) -> Backend:
    """The backend with an AttenuationLimit, or as it is for None, no limit."""
    return backend if strength is None else AttenuationLimit(backend, strength)


def check_strength(strength: float | None) -> float | None:
    """`strength` as it is, if it is None or 0 dB or more; else OptionError."""
    if strength is not None and not (isinstance(strength, Real) and strength >= 0):
        raise OptionError(f"strength={strength!r}: the dB by which noise is turned down at most, 0 or more")
    return strength
