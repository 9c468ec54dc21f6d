"""The training loop: any schedule, an average of weights, several processes, resumable to the step.

A run lives in a folder: `checkpoint.pt` (everything to go on), `log.csv`, `valid.csv`, and the
averaged weights as a ModelScope model dir. A batch depends on the seed, the step and the process
alone, so a killed run goes on as if it had not been.
"""

import logging
import os
import time
from collections.abc import Callable

import numpy as np
import torch

from ..network.checkpoint import load_model
from ..network.config import ModelConfig
from ..network.zipenhancer import ZipEnhancer
from .config import TrainOptions
from .discriminator import Judge
from .distributed import local_rank, parallel, rank_and_count
from .objective import training_losses
from .optim import make_optimizer
from .run_folder import _log, _resume, _save, save_model_dir
from .schedules import learning_rate

logger = logging.getLogger(__name__)


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


@torch.no_grad()
def _follow(average: ZipEnhancer, model: ZipEnhancer, decay: float) -> None:
    for kept, new in zip(average.parameters(), model.parameters()):
        kept.lerp_(new, 1.0 - decay)
