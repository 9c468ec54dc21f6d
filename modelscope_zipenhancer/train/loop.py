"""The training loop: any schedule, an EMA of the weights, several processes, resumable to the step.

A run lives in a folder (run_folder.py). A batch depends on the seed, the step and the process alone, so
a killed run that is resumed is as one that was never killed.
"""

import logging
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ..files import make_folder
from ..network.checkpoint import load_model
from ..network.config import ModelConfig
from ..network.zipenhancer import ZipEnhancer
from .config import TrainOptions
from .discriminator import DiscriminatorTrainer
from .distributed import local_rank, parallel, rank_and_count
from .objective import training_losses
from .optim import make_optimizer
from .pairs import Batches
from .run_folder import add_row, resume, save_checkpoint, save_model_dir
from .schedules import learning_rate

logger = logging.getLogger(__name__)


def train(
    config: ModelConfig,
    batches: Batches,
    options: TrainOptions,
    out_dir: str | os.PathLike,
    *,
    init: str | None = None,
    device: str | None = None,
    validate: Callable[[ZipEnhancer], dict[str, float]] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> ZipEnhancer:
    """Train a network until `options.steps`, resumed from the checkpoint in `out_dir` if there is one.

    Under torchrun (distributed.processes) each process takes batches of its own.

    Args:
        config: the network's shape, if there is no `init`.
        batches: a Mixer, a PairFolder, or what has their `batch(seed, number, size)`.
        options: how it is trained.
        out_dir: the run's folder, made if it isn't there; afterwards a model dir that holds the EMA.
        init: the model dir whose shape and weights a new run starts from.
        device: 'cpu', 'cuda:1', ...; by default this process's GPU if there is one.
        validate: gets the EMA every `options.valid_every` steps and at the end; its figures go to valid.csv.
        progress: gets the number of steps done and the last loss, after each step.

    Returns:
        The EMA of the network.

    Raises:
        CheckpointError: the checkpoint is of another run, or damaged.
        AudioError: a recording can't be read.
        OutputError: something can't be written to `out_dir`.
    """
    rank, count = rank_and_count()
    device = torch.device(device or (f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"))
    make_folder(out_dir)
    torch.manual_seed(options.seed)
    model = (load_model(init) if init else ZipEnhancer(config)).to(device).train().requires_grad_()
    if options.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = options.dropout
    ema = ZipEnhancer(model.config).to(device).eval().requires_grad_(False)
    ema.load_state_dict(model.state_dict())
    discriminator = DiscriminatorTrainer(options, device) if options.weights.get("metric") else None
    optimizer = make_optimizer(options, model)
    parts = {"model": model, "ema": ema, "optimizer": optimizer}
    if discriminator:
        parts |= {"discriminator": discriminator.network, "discriminator_optimizer": discriminator.optimizer}
    step = first = resume(out_dir, parts, options.optimizer, device)
    network = parallel(model)

    seen: dict[str, list[float]] = {}  # {name: its values since the last row of the log}
    started = time.monotonic()
    while step < options.steps:
        number = step * count + rank
        torch.manual_seed(options.seed * 1_000_003 + number)  # dropout's draws, whatever came before
        noisy, clean = (
            torch.from_numpy(x).to(device) for x in batches.batch(options.seed, number, options.batch_size)
        )
        values = _take_step(network, optimizer, discriminator, options, step, noisy, clean)
        step += 1
        _update_ema(ema, model, min(options.ema_decay, step / (step + 20)))
        for name, value in values.items():
            seen.setdefault(name, []).append(float(value.detach()))
        if progress:
            progress(step, seen["loss"][-1])
        if step % options.save_every and step != options.steps:
            continue
        if rank == 0:
            row = {"lr": learning_rate(options, step - 1)}
            row |= {name: float(np.mean(column)) for name, column in seen.items()}
            row["seconds_per_step"] = (time.monotonic() - started) / (step - first)
            add_row(os.path.join(out_dir, "log.csv"), step, row)
            save_model_dir(ema, out_dir)
            if validate and (step % options.valid_every < options.save_every or step == options.steps):
                add_row(os.path.join(out_dir, "valid.csv"), step, validate(ema))
            # the last, so that what a kill leaves out is done by the run that resumes
            save_checkpoint(out_dir, parts, options.optimizer, step)
        seen = {}
    return ema


def _take_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    discriminator: DiscriminatorTrainer | None,
    options: TrainOptions,
    step: int,
    noisy: Tensor,
    clean: Tensor,
) -> dict[str, Tensor]:
    """Update the network, and the discriminator if there is one, by a batch; returns what goes to the log."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(options, step)
    metric_loss = discriminator and discriminator.generator_loss
    values, wave = training_losses(network, noisy, clean, options.weights, metric_loss, options.precision)
    optimizer.zero_grad()
    values["loss"].backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
    if torch.isfinite(norm):
        optimizer.step()
    else:
        logger.warning("step %d: gradient is not finite, skipped", step)
    if discriminator:
        values["discriminator"] = discriminator.step(step, clean, wave.detach())
    return {**values, "grad_norm": norm}


@torch.no_grad()
def _update_ema(ema: ZipEnhancer, model: ZipEnhancer, decay: float) -> None:
    for kept, new in zip(ema.parameters(), model.parameters()):
        kept.lerp_(new, 1.0 - decay)
