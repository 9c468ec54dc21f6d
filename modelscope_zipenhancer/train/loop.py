"""The training loop: any schedule, an average of weights, several processes, resumable to the step.

A run lives in a folder: `checkpoint.pt` (everything to go on), `log.csv`, `valid.csv`, and the
averaged weights as a ModelScope model dir. A batch depends on the seed, the step and the process
alone, so a killed run goes on as if it had not been.
"""

import contextlib
import csv
import json
import logging
import math
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from ..errors import CheckpointError
from ..files import replacing
from ..names import CONFIG_FILE, WEIGHTS_FILE
from ..network.checkpoint import load_model, save_weights
from ..network.config import ModelConfig, model_dir_configuration
from ..network.zipenhancer import ZipEnhancer, mag_pha_istft, mag_pha_stft
from . import losses
from .config import TrainOptions
from .optim import ScaledAdam, eden

logger = logging.getLogger(__name__)


def learning_rate(options: TrainOptions, step: int) -> float:
    """Of `step`, counted from 0; the schedules are TrainOptions'."""
    if options.schedule == "eden":
        return eden(options.learning_rate, step, step / options.epoch_steps, warmup=options.warmup)
    factor = min(1.0, (step + 1) / options.warmup)
    if options.schedule == "cosine":
        done = max(0.0, (step - options.warmup) / max(1, options.steps - options.warmup))
        factor = min(factor, (1 + math.cos(math.pi * done)) / 2)
    else:
        factor = min(factor, (options.steps - step) / max(1, options.decay))
    return options.learning_rate * max(0.0, factor)


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


class Judge:
    """The metric discriminator and its optimiser (train/metric.py), for weights['metric'] above 0."""

    def __init__(self, options: TrainOptions, device):
        from .discriminator import MetricDiscriminator

        self.network = MetricDiscriminator().to(device).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.0, betas=(0.8, 0.99))
        self.options = options
        self.parallel = parallel(self.network)

    def loss(self, clean_mag: torch.Tensor, mag: torch.Tensor) -> torch.Tensor:
        from .discriminator import generator_loss

        return generator_loss(self.network, clean_mag, mag)

    def learn(self, step: int, clean: torch.Tensor, wave: torch.Tensor) -> torch.Tensor:
        """A step towards the PESQ of `wave`, (B, samples); returns the discriminator's loss."""
        from .discriminator import discriminator_loss, normalised_pesq

        scores, valid = normalised_pesq(clean, wave)
        (clean_mag, *_), (mag, *_) = mag_pha_stft(clean), mag_pha_stft(wave)
        loss = discriminator_loss(self.parallel, clean_mag, mag, scores, valid)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = 0.25 * learning_rate(self.options, step)
        self.optimizer.step()
        return loss


def train(
    config: ModelConfig,
    batches,
    options: TrainOptions,
    out_dir: str,
    *,
    init: str | None = None,
    device: str | None = None,
    validate: Callable | None = None,
    progress: Callable | None = None,
) -> ZipEnhancer:
    """Train until `options.steps`, going on from out_dir/checkpoint.pt if there is one.

    batches: has `batch(seed, number, size)`, noisy and clean, float32 (size, samples). init: a model
    dir whose weights a new run starts from. validate(network) -> {name: value}, called every
    `options.valid_every` steps and at the end. progress(step, loss), after each step.

    Under torchrun each process takes batches of its own. Returns the averaged network; out_dir is then
    a model dir that holds it. Raises CheckpointError where the checkpoint is of another run.
    """
    rank, count = rank_and_count()
    device = torch.device(device or (f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"))
    os.makedirs(out_dir, exist_ok=True)
    torch.manual_seed(options.seed)
    model = (load_model(init) if init else ZipEnhancer(config)).to(device).train().requires_grad_()
    if options.dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = options.dropout
    average = ZipEnhancer(model.config).to(device).eval().requires_grad_(False)
    average.load_state_dict(model.state_dict())
    judge = Judge(options, device) if options.weights["metric"] else None
    optimizer = make_optimizer(options, model)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    if judge:
        parts |= {"judge": judge.network, "judge_optimizer": judge.optimizer}
    checkpoint_path = os.path.join(out_dir, "checkpoint.pt")
    step = _resume(checkpoint_path, parts, options.optimizer, device)
    network = parallel(model)

    sums, started, first = {}, time.monotonic(), step
    while step < options.steps:
        number = step * count + rank
        torch.manual_seed(options.seed * 1_000_003 + number)  # dropout's draws, whatever came before
        noisy, clean = (
            torch.from_numpy(x).to(device) for x in batches.batch(options.seed, number, options.batch_size)
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options, step)
        values, wave = training_losses(
            network, noisy, clean, options.weights, judge and judge.loss, options.precision
        )
        optimizer.zero_grad()
        values["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        if torch.isfinite(norm):
            optimizer.step()
        else:
            logger.warning("step %d: gradient is not finite, skipped", step)
        if judge:
            values["discriminator"] = judge.learn(step, clean, wave.detach())
        step += 1
        _follow(average, model, min(options.ema_decay, step / (step + 20)))
        for name, value in {**values, "grad_norm": norm}.items():
            sums.setdefault(name, []).append(float(value.detach()))
        if progress:
            progress(step, sums["loss"][-1])
        if step % options.save_every and step != options.steps:
            continue
        if rank == 0:
            row = {"lr": learning_rate(options, step - 1)}
            row |= {name: float(np.mean(column)) for name, column in sums.items()}
            row["seconds_per_step"] = (time.monotonic() - started) / (step - first)
            _log(os.path.join(out_dir, "log.csv"), step, row)
            _save(checkpoint_path, parts, options.optimizer, step)
            save_model_dir(average, out_dir)
            if validate and (step % options.valid_every < options.save_every or step == options.steps):
                _log(os.path.join(out_dir, "valid.csv"), step, validate(average))
        sums = {}
    return average


def make_optimizer(options: TrainOptions, model: torch.nn.Module) -> torch.optim.Optimizer:
    if options.optimizer == "scaled_adam":
        return ScaledAdam(model.parameters(), lr=0.0)
    return torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.8, 0.99), weight_decay=0.01)


# ---- several processes, as torchrun starts them


@contextlib.contextmanager
def processes():
    """Join torchrun's group, if this process is of one; yields its rank, 0 of a single process."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
    try:
        yield rank_and_count()[0]
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def rank_and_count() -> tuple:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def parallel(module: torch.nn.Module) -> torch.nn.Module:
    """The module, its gradients averaged over the processes if there are several."""
    return DistributedDataParallel(module) if rank_and_count()[1] > 1 else module


# ---- the run's folder


def save_model_dir(model: ZipEnhancer, model_dir: str) -> None:
    """configuration.json and weights, as ModelScope's model dirs have them."""
    path = os.path.join(model_dir, CONFIG_FILE)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(model_dir_configuration(model.config), file, indent=2)
        file.write("\n")
    save_weights(model, os.path.join(model_dir, WEIGHTS_FILE))


def _save(path: str, parts: dict, kind: str, step: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as temporary:
        torch.save(state | {"step": step, "kind": kind}, temporary)


def _resume(path: str, parts: dict, kind: str, device) -> int:
    """The step to go on from, 0 without a checkpoint."""
    if not os.path.exists(path):
        return 0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["kind"] != kind:
            raise ValueError(f"its optimiser is {state['kind']}, not {kind}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception as error:  # torch raises many kinds for a file that isn't what it should be
        raise CheckpointError(
            f"{path} can't be gone on from, it is damaged or of a run with other settings: choose another "
            f"folder, or remove it ({error})"
        ) from error
    logger.info("going on from step %d of %s", state["step"], path)
    return state["step"]


@torch.no_grad()
def _follow(average: ZipEnhancer, model: ZipEnhancer, decay: float) -> None:
    for kept, new in zip(average.parameters(), model.parameters()):
        kept.lerp_(new, 1.0 - decay)


def _log(path: str, step: int, row: dict) -> None:
    """Add a line; those of this step on, of a run that was killed before its checkpoint, go."""
    row = {"step": step, **row}
    logger.info("%s", " ".join(f"{k} {v:.4g}" for k, v in row.items()))
    before = []
    if os.path.exists(path):
        with open(path, newline="", encoding="utf-8") as file:
            before = [line for line in csv.DictReader(file) if int(line["step"]) < step]
    names = list(dict.fromkeys(key for line in [*before, row] for key in line))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows([*before, row])
