"""The losses of the ZipEnhancer paper (arXiv 2501.05183, section 2.4; as in MP-SENet, 2305.13686), and ours.

Arguments are compressed magnitudes or phases in radians, (B, F, T), compressed complex spectra, (B, F, T, 2),
or waveforms, (B, samples), of mixtures at unit RMS. Each loss is a scalar, 0 or more, 0 at the target.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..names import SAMPLE_RATE


def magnitude_loss(mag: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of magnitudes."""
    return F.mse_loss(mag, target)


def over_suppression_loss(mag: Tensor, target: Tensor) -> Tensor:
    """The magnitude loss of what is too weak: holes in speech, not noise that is left.

    Added to the magnitude loss it makes that asymmetric, as in VoiceFilter-Lite (arXiv 2009.04323).
    """
    return F.relu(target - mag).square().mean()


def complex_loss(com: Tensor, target: Tensor) -> Tensor:
    """The squared error of real and imaginary parts."""
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
    """The mean absolute error of waveforms."""
    return F.l1_loss(wave, target)


def snr_loss(wave: Tensor, target: Tensor) -> Tensor:
    """The error's level over the target's, in dB from 30 dB below on; silent targets don't count."""
    signal, error = target.square().mean(-1), (wave - target).square().mean(-1)
    ratio = 30 + 10 * torch.log10(error / (signal + 1e-8) + 1e-3)
    return (ratio * (signal > 1e-8)).mean()


def consistency_loss(com: Tensor, com_of_wave: Tensor) -> Tensor:
    """The squared distance of spectra from those of their own inverse STFT."""
    return 2.0 * F.mse_loss(com, com_of_wave)


# ---- the perceptual disturbance

_FFT = 512  # 32 ms at 16 kHz
_BANDS = 49
_POWER_SCALE, _LOUDNESS_SCALE = 6.910853e-6, 0.1866055  # Sp and Sl of ITU-T P.862 at 16 kHz
_SPEECH_POWER = 1e7  # both sides' power from 325 to 3250 Hz


class _Ear(NamedTuple):
    """What an ear makes of power spectra; float32."""

    filters: Tensor  # (bands, bins), of power
    widths: Tensor  # (bands,), in Bark
    threshold: Tensor  # (bands,), of hearing, as power
    exponent: Tensor  # (bands,), Zwicker's
    speech: Tensor  # (bins,), 1 from 325 to 3250 Hz, 0 elsewhere


@functools.cache
def _ear() -> _Ear:
    frequency = torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1, dtype=torch.float64)
    bark = 6 * torch.asinh(frequency / 600)  # Schroeder
    edges = torch.linspace(0, float(bark[-1]), _BANDS + 1, dtype=torch.float64)
    step = edges[1] - edges[0]
    centre = (edges[1:] + edges[:-1]) / 2
    # triangles as wide as two bands, so that no band at the low end is without a bin
    filters = (1 - (bark[None] - centre[:, None]).abs() / step).clamp(min=0)
    khz = (600 * torch.sinh(centre / 6) / 1000).clamp(min=0.03)
    threshold_db = 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4  # Terhardt
    exponent = 0.23 * torch.where(centre < 4, 6 / (centre + 2), 1.0).clamp(max=2.0) ** 0.15
    # P.862.2's input filter, as the power response of its two poles and zeros
    z = torch.exp(-2j * math.pi * frequency / SAMPLE_RATE)
    response = (2.740826 - 5.4816519 * z + 2.740826 * z**2) / (1 - 1.9444777 * z + 0.94597794 * z**2)
    filters = filters * response.abs().square() * _POWER_SCALE
    widths = step.expand(_BANDS)
    speech = (frequency > 325) & (frequency < 3250)
    tensors = (filters, widths, 10 ** (threshold_db / 10), exponent, speech.double())
    return _Ear(*(t.float() for t in tensors))


def perceptual_loss(wave: Tensor, target: Tensor) -> Tensor:
    """The perceptual disturbance after ITU-T P.862 (PESQ), differentiable; of waveforms at 16 kHz.

    Level alignment, Bark spectra, compensation of the frequency response and of short-time gain,
    Zwicker loudness, then 0.1 x the symmetric + 0.0309 x the asymmetric disturbance: about what PESQ
    takes from 4.5. There is no time alignment, and bands and thresholds are from formulas (Schroeder's
    Bark scale, Terhardt's threshold). Items whose target is silent don't count.
    """
    heard = target.square().mean(dim=-1) > 1e-8
    if not heard.any():
        return wave.sum() * 0.0
    short = max(0, 19 * (_FFT // 2) + _FFT - wave.shape[-1])  # of the 20 frames that are pooled
    wave, target = (F.pad(x, (0, short)) for x in (wave, target))
    filters, widths, threshold, exponent, speech = (t.to(wave) for t in _ear())
    window = torch.hann_window(_FFT).to(wave)

    def bark_power(x: Tensor) -> Tensor:
        spectrum = torch.stft(x[heard], _FFT, _FFT // 2, window=window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()  # (B, bins, frames)
        level = (power * speech[:, None]).sum(1).mean(-1) * 2 / (_FFT * window.square().sum())
        power = power * (_SPEECH_POWER / (level + 1e-20))[:, None, None]
        return filters @ power  # (B, bands, frames)

    def audible(x: Tensor, factor: float) -> Tensor:
        return (x * (x > factor * threshold[:, None]))[:, 1:].sum(1, keepdim=True)

    def loudness(x: Tensor) -> Tensor:
        p, e = threshold[:, None], exponent[:, None]
        return _LOUDNESS_SCALE * ((p / 0.5) ** e * ((0.5 + 0.5 * x / p) ** e - 1)).clamp(min=0)

    def norm(x: Tensor, p: int) -> Tensor:
        w = widths[1:, None]
        return ((x[:, 1:].abs() * w).pow(p).sum(1) / w.sum() + 1e-12) ** (1 / p) * w.sum()

    def pooled(x: Tensor) -> Tensor:  # L6 over 20 frames, L2 over those
        return (x.unfold(-1, 20, 10).pow(6).mean(-1) + 1e-12).pow(1 / 3).mean(-1).sqrt()

    out, ref = bark_power(wave), bark_power(target)
    active = (audible(ref, 100) > 1e7).to(wave)
    frames = active.sum(-1, keepdim=True) + 1e-6
    loud = [(x * (x > 100 * threshold[:, None]) * active).sum(-1, keepdim=True) / frames for x in (out, ref)]
    ref = ref * ((loud[0] + 1000) / (loud[1] + 1000)).clamp(0.01, 100)
    gain = (audible(ref, 1) + 5e3) / (audible(out, 1) + 5e3)
    gain = torch.cat([gain[..., :1], 0.8 * gain[..., 1:] + 0.2 * gain[..., :-1]], -1).clamp(3e-4, 5)
    out = gain * out
    out_loudness, ref_loudness = loudness(out), loudness(ref)
    error = out_loudness - ref_loudness
    error = error.sign() * (error.abs() - 0.25 * torch.minimum(out_loudness, ref_loudness)).clamp(min=0)
    added = ((out + 50) / (ref + 50)) ** 1.2
    added = (added * (added >= 3)).clamp(max=12)
    weight = ((audible(ref, 1)[:, 0] + 1e5) / 1e7) ** 0.04
    symmetric = pooled((norm(error, 2) / weight).clamp(max=45))
    asymmetric = pooled((norm(error * added, 1) / weight).clamp(max=45))
    return (0.1 * symmetric + 0.0309 * asymmetric).sum() / len(wave)


WEIGHTS = {  # of the sum; a loss at 0 isn't computed. "metric" is the discriminator's (discriminator.py)
    "magnitude": 0.9,
    "over_suppression": 0.0,
    "complex": 0.3,
    "phase": 0.05,
    "consistency": 0.1,
    "time": 0.2,
    "snr": 0.015,
    "perceptual": 0.12,
    "metric": 0.0,
}
