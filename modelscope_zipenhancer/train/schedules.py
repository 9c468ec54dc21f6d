"""Learning rates, step by step."""

import math

from .config import TrainOptions


def learning_rate(options: TrainOptions, step: int) -> float:
    """The rate of `step`, counted from 0, by `options.schedule`; TrainOptions says what the schedules are."""
    if options.schedule == "eden":
        return eden(options.learning_rate, step, step / options.epoch_steps, warmup=options.warmup)
    factor = min(1.0, (step + 1) / options.warmup)
    if options.schedule == "cosine":
        done = max(0.0, (step - options.warmup) / max(1, options.steps - options.warmup))
        factor = min(factor, (1 + math.cos(math.pi * done)) / 2)
    else:
        factor = min(factor, (options.steps - step) / max(1, options.decay))
    return options.learning_rate * max(0.0, factor)


def eden(
    base: float,
    step: int,
    epoch: float,
    *,
    step_scale: float = 7500.0,
    epoch_scale: float = 3.5,
    warmup: int = 500,
) -> float:
    """Zipformer's rate (Yao et al., arXiv 2310.11230) of `step`, from 0, when `epoch` epochs are done.

    Falls with the root of both once they are past their scales; rises from base / 2 over `warmup` steps.
    """
    fall = ((step / step_scale) ** 2 + 1) ** -0.25 * ((epoch / epoch_scale) ** 2 + 1) ** -0.25
    return base * fall * min(1.0, 0.5 + 0.5 * step / warmup)
