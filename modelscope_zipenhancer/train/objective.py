"""What training minimises: the losses' weighted sum."""

import torch

from ..network.spectrum import mag_pha_istft, mag_pha_stft
from . import losses


def training_losses(
    model,
    noisy: torch.Tensor,
    clean: torch.Tensor,
    weights: dict = losses.WEIGHTS,
    metric=None,
    precision="fp32",
) -> tuple:
    """({loss: value}, estimated waveform) of a batch, (B, samples) twice, noisy at unit RMS.

    'loss' is the sum by `weights`. metric: what `losses` has no formula for, (clean magnitude,
    magnitude) -> value.
    """
    mag, pha, _ = mag_pha_stft(noisy)
    clean_mag, clean_pha, clean_com = mag_pha_stft(clean)
    with torch.autocast(noisy.device.type, torch.bfloat16, enabled=precision == "bf16"):
        mag, pha, com, *_ = model(mag, pha)
    mag, pha, com = mag.float(), pha.float(), com.float()
    wave = mag_pha_istft(mag, pha, length=noisy.shape[-1])
    _, _, com_of_wave = mag_pha_stft(wave)
    formulas = {
        "magnitude": lambda: losses.magnitude_loss(mag, clean_mag),
        "missing": lambda: losses.missing_loss(mag, clean_mag),
        "complex": lambda: losses.complex_loss(com, clean_com),
        "phase": lambda: losses.phase_loss(pha, clean_pha),
        "consistency": lambda: losses.consistency_loss(com, com_of_wave),
        "time": lambda: losses.time_loss(wave, clean),
        "snr": lambda: losses.snr_loss(wave, clean),
        "perceptual": lambda: losses.perceptual_loss(wave, clean),
        "metric": lambda: metric(clean_mag, mag),
    }
    values = {name: formulas[name]() for name, weight in weights.items() if weight}
    values["loss"] = sum(weights[name] * value for name, value in values.items())
    return values, wave
