"""The training loop: AdamW, a trapezoidal learning rate, an average of weights, resumable to the step.

A run lives in a folder: `checkpoint.pt` (everything to go on), `log.csv`, and the averaged weights
as a ModelScope model dir. A batch depends on (seed, step) alone, so a killed run goes on as if it
had not been.
"""

import csv
import json
import logging
import os
import time
from dataclasses import dataclass

import numpy as np
import torch

from ..config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig, model_dir_configuration
from ..model import ZipEnhancer, mag_pha_istft, mag_pha_stft, save_weights
from . import losses
from .data import Mixer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """Learning rate: up over `warmup` steps, level, down to 0 over the last `decay` of `steps`."""

    steps: int
    decay: int
    warmup: int = 200
    learning_rate: float = 2e-3
    batch_size: int = 4
    seed: int = 0
    clip_norm: float = 5.0
    ema_decay: float = 0.999
    save_every: int = 100


def learning_rate(options: TrainOptions, step: int) -> float:
    """Of `step`, counted from 0."""
    up = (step + 1) / options.warmup
    down = (options.steps - step) / max(1, options.decay)
    return options.learning_rate * max(0.0, min(1.0, up, down))


def training_losses(model: ZipEnhancer, noisy: torch.Tensor, clean: torch.Tensor) -> dict:
    """Every loss of a batch, (B, samples) twice; their weighted sum is 'loss'."""
    mag, pha, _ = mag_pha_stft(noisy)
    clean_mag, clean_pha, clean_com = mag_pha_stft(clean)
    mag, pha, com, *_ = model(mag, pha)
    wave = mag_pha_istft(mag, pha, length=noisy.shape[-1])
    _, _, com_of_wave = mag_pha_stft(wave)
    values = {
        "magnitude": losses.magnitude_loss(mag, clean_mag),
        "complex": losses.complex_loss(com, clean_com),
        "phase": losses.phase_loss(pha, clean_pha),
        "consistency": losses.consistency_loss(com, com_of_wave),
        "time": losses.time_loss(wave, clean),
    }
    values["loss"] = sum(losses.WEIGHTS[name] * value for name, value in values.items())
    return values


def train(config: ModelConfig, mixer: Mixer, options: TrainOptions, out_dir: str) -> ZipEnhancer:
    """Train until `options.steps`, going on from out_dir/checkpoint.pt if there is one.

    Returns the averaged network; out_dir is then a model dir that holds it.
    """
    os.makedirs(out_dir, exist_ok=True)
    checkpoint_path = os.path.join(out_dir, "checkpoint.pt")
    torch.manual_seed(options.seed)
    model = ZipEnhancer(config).train()
    average = ZipEnhancer(config).eval().requires_grad_(False)
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.8, 0.99), weight_decay=0.01)
    step = 0
    if os.path.exists(checkpoint_path):
        state = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        logger.info("going on from step %d of %s", step, checkpoint_path)

    sums, started, first = {}, time.monotonic(), step
    while step < options.steps:
        torch.manual_seed(options.seed * 1_000_003 + step)  # dropout's draws, whatever came before
        noisy, clean = (torch.from_numpy(x) for x in mixer.batch(options.seed, step, options.batch_size))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options, step)
        values = training_losses(model, noisy, clean)
        optimizer.zero_grad()
        values["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        if torch.isfinite(norm):
            optimizer.step()
        else:
            logger.warning("step %d: gradient is not finite, skipped", step)
        step += 1
        _follow(average, model, min(options.ema_decay, step / (step + 20)))
        for name, value in {**values, "grad_norm": norm}.items():
            sums.setdefault(name, []).append(float(value.detach()))
        if step % options.save_every == 0 or step == options.steps:
            row = {"step": step, "lr": learning_rate(options, step - 1)}
            row |= {name: float(np.mean(column)) for name, column in sums.items()}
            row["seconds_per_step"] = (time.monotonic() - started) / (step - first)
            sums = {}
            _log(os.path.join(out_dir, "log.csv"), row)
            logger.info(" ".join(f"{name} {value:.4g}" for name, value in row.items()))
            state = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            torch.save(state, checkpoint_path + ".part")
            os.replace(checkpoint_path + ".part", checkpoint_path)
            save_model_dir(average, out_dir)
    return average


def save_model_dir(model: ZipEnhancer, model_dir: str) -> None:
    """configuration.json and weights, as ModelScope's model dirs have them."""
    with open(os.path.join(model_dir, CONFIG_FILE), "w", encoding="utf-8") as file:
        json.dump(model_dir_configuration(model.config), file, indent=2)
        file.write("\n")
    save_weights(model, os.path.join(model_dir, WEIGHTS_FILE))


@torch.no_grad()
def _follow(average: ZipEnhancer, model: ZipEnhancer, decay: float) -> None:
    for kept, new in zip(average.parameters(), model.parameters()):
        kept.lerp_(new, 1.0 - decay)


def _log(path: str, row: dict) -> None:
    new = not os.path.exists(path)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
