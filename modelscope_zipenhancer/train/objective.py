"""What training minimises: the weighted sum of the losses."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..network.spectrum import mag_pha_istft, mag_pha_stft
from . import losses


def training_losses(
    model: nn.Module,
    noisy: Tensor,
    clean: Tensor,
    weights: Mapping[str, float] = losses.WEIGHTS,
    metric_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    precision: str = "fp32",
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of a batch, and the enhanced waveform.

    Args:
        model: maps magnitude and phase to magnitude, phase and complex spectrum, as ZipEnhancer does.
        noisy, clean: (B, samples) each, scaled alike so that each noisy item has unit RMS.
        weights: {loss: weight}; a loss whose weight is 0 isn't computed.
        metric_loss: maps clean magnitude and magnitude, (B, F, T) each, to a scalar; needed where the weight
            of "metric" isn't 0.
        precision: "bf16" runs the model under autocast; the losses are always in float32.

    Returns:
        {loss: scalar}, in which "loss" is their weighted sum; and the enhanced waveform, (B, samples).
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
        "over_suppression": lambda: losses.over_suppression_loss(mag, clean_mag),
        "complex": lambda: losses.complex_loss(com, clean_com),
        "phase": lambda: losses.phase_loss(pha, clean_pha),
        "consistency": lambda: losses.consistency_loss(com, com_of_wave),
        "time": lambda: losses.time_loss(wave, clean),
        "snr": lambda: losses.snr_loss(wave, clean),
        "perceptual": lambda: losses.perceptual_loss(wave, clean),
        "metric": lambda: metric_loss(clean_mag, mag),
    }
    values = {name: formulas[name]() for name, weight in weights.items() if weight}
    values["loss"] = sum(weights[name] * value for name, value in values.items())
    return values, wave
