"""The losses of the ZipEnhancer paper (arXiv 2501.05183, section 2.4; as in MP-SENet, 2305.13686).

Arguments are compressed magnitudes and phases, (B, F, T), or waveforms, (B, samples); each
returns a scalar, zero at the target.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def magnitude_loss(mag: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(mag, target)


def complex_loss(com: Tensor, target: Tensor) -> Tensor:
    """Over real and imaginary parts, (B, F, T, 2), of the compressed spectra."""
    return 2.0 * F.mse_loss(com, target)


def anti_wrapping(x: Tensor) -> Tensor:
    """|x| after the nearest multiple of 2 pi is taken away."""
    return (x - 2 * math.pi * torch.round(x / (2 * math.pi))).abs()


def phase_loss(pha: Tensor, target: Tensor) -> Tensor:
    """Instantaneous phase + group delay + instantaneous frequency, anti-wrapped."""
    error = pha - target
    return (
        anti_wrapping(error).mean()
        + anti_wrapping(error.diff(dim=1)).mean()
        + anti_wrapping(error.diff(dim=2)).mean()
    )


def time_loss(wave: Tensor, target: Tensor) -> Tensor:
    return F.l1_loss(wave, target)


def consistency_loss(com: Tensor, com_of_wave: Tensor) -> Tensor:
    """Distance of a spectrum from that of its own inverse STFT, (B, F, T, 2)."""
    return 2.0 * F.mse_loss(com, com_of_wave)


WEIGHTS = {"magnitude": 0.9, "complex": 0.2, "phase": 0.1, "consistency": 0.1, "time": 0.2}
