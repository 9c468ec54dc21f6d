"""The signal around the network: STFT, gain, silence and inverse STFT, once for whatever runs it.

Shapes: B batch, F bins (201), T frames. Spectra are compressed: magnitude ** 0.3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..names import COMPRESSION, HOP_LENGTH, N_FFT, SILENCE_POWER

# (magnitude, phase) -> (magnitude, real, imaginary), (B, F, T) each, compressed: any form of the network.
# Real and imaginary part are the enhanced magnitude times cos and sin of the enhanced phase.
Form = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def denoise(form: Form, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
    """Enhance waveforms by a form of the network.

    waveform: (B, samples), 16 kHz, float32, any level. gain: (B,), the factor that brings each to the
    unit RMS that the network was trained on; by default each item's own. Returns the same shape at the
    same level. A silent item gives silence.
    """

    def enhance(scaled: Tensor, samples: int) -> Tensor:
        return synthesise(*form(*analyse(scaled)), samples)

    return at_unit_rms(enhance, waveform, gain)


def unit_rms_gain(waveform: Tensor) -> Tensor:
    """sqrt(samples / energy) of each item of (B, samples), as (B, 1), in the built-in's arithmetic.

    The network reads wrapped phase: where it lies at +-pi, one rounding apart here is a step of
    2 pi there. So this is not simplified to 1 / rms.
    """
    return torch.sqrt(waveform.shape[-1] / torch.sum(waveform**2.0, dim=-1, keepdim=True))


def at_unit_rms(
    enhance: Callable[[Tensor, int], Tensor], waveform: Tensor, gain: Tensor | None = None
) -> Tensor:
    """Call enhance(scaled, samples) on waveforms (B, samples) brought to unit RMS, and undo the gain.

    What `enhance` gets is zero-padded to N_FFT samples if shorter; it returns (B, samples).
    """
    samples = waveform.shape[-1]
    silent = waveform.square().mean(-1, keepdim=True) < SILENCE_POWER
    gain = unit_rms_gain(waveform) if gain is None else gain[:, None]
    gain = torch.where(silent, torch.ones_like(gain), gain)
    padded = nn.functional.pad(waveform * gain, (0, max(0, N_FFT - samples)))
    enhanced = enhance(padded, samples) / gain
    return torch.where(silent, torch.zeros_like(enhanced), enhanced)


def analyse(
    waveform: Tensor,
    n_fft: int = N_FFT,
    hop_size: int = HOP_LENGTH,
    win_size: int = N_FFT,
    compress_factor: float = COMPRESSION,
    center: bool = True,
) -> tuple[Tensor, Tensor]:
    """(B, samples) -> compressed magnitude and phase in [-pi, pi], (B, F, T) each.

    The small constants are the built-in's.
    """
    spec = torch.stft(
        waveform,
        n_fft,
        hop_length=hop_size,
        win_length=win_size,
        window=_window(win_size, waveform),
        center=center,
        pad_mode="reflect",
        normalized=False,
        return_complex=True,
    )
    spec = torch.view_as_real(spec)
    magnitude = torch.sqrt(spec.pow(2).sum(-1) + 1e-9)
    phase = torch.atan2(spec[..., 1], spec[..., 0] + 1e-5)
    return torch.pow(magnitude, compress_factor), phase


def synthesise(magnitude: Tensor, real: Tensor, imaginary: Tensor, samples: int) -> Tensor:
    """The inverse of `analyse`: what a Form returns, (B, F, T) three times -> (B, samples)."""
    expand = magnitude.pow(1.0 / COMPRESSION - 1.0)  # by which magnitude ** (1 / COMPRESSION) exceeds it
    spectrum = torch.complex(real * expand, imaginary * expand)
    return torch.istft(spectrum, N_FFT, HOP_LENGTH, window=_window(N_FFT, magnitude), length=samples)


def mag_pha_stft(
    y: Tensor,
    n_fft: int = N_FFT,
    hop_size: int = HOP_LENGTH,
    win_size: int = N_FFT,
    compress_factor: float = COMPRESSION,
    center: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """`analyse`, and both as (B, F, T, 2), real and imaginary: the built-in's function, by its signature.

    The model card's samples call it, and training's losses.
    """
    mag, pha = analyse(y, n_fft, hop_size, win_size, compress_factor, center)
    return mag, pha, torch.stack([mag * pha.cos(), mag * pha.sin()], dim=-1)


def mag_pha_istft(
    mag: Tensor,
    pha: Tensor,
    n_fft: int = N_FFT,
    hop_size: int = HOP_LENGTH,
    win_size: int = N_FFT,
    compress_factor: float = COMPRESSION,
    center: bool = True,
    length: int | None = None,
) -> Tensor:
    """The inverse of `mag_pha_stft`: (B, F, T) twice -> (B, length).

    Without `length`, as the built-in: (T - 1) * hop_size samples.
    """
    mag = torch.pow(mag, 1.0 / compress_factor)
    return torch.istft(
        torch.complex(mag * pha.cos(), mag * pha.sin()),
        n_fft,
        hop_length=hop_size,
        win_length=win_size,
        window=_window(win_size, mag),
        center=center,
        length=length,
    )


def _window(samples: int, like: Tensor) -> Tensor:
    return torch.hann_window(samples, dtype=like.dtype, device=like.device)
