"""Optimisers: Zipformer's ScaledAdam (Yao et al., arXiv 2310.11230), and the choice between it and AdamW."""

from collections.abc import Callable, Iterable

import torch

from .config import TrainOptions


def make_optimizer(options: TrainOptions, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser that `options.optimizer` names, with its rate at 0 until the loop sets it."""
    if options.optimizer == "scaled_adam":
        return ScaledAdam(model.parameters(), lr=0.0)
    return torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.8, 0.99), weight_decay=0.01)


class ScaledAdam(torch.optim.Optimizer):
    """Adam whose steps are in proportion to each tensor's RMS, and that learns that RMS too.

    A single number has no scale of its own: it gets plain Adam, at a tenth of lr.

    Args:
        params: tensors or groups, as for any optimiser of torch.
        lr: the relative change of a tensor's entries in a step; 0.04 for Zipformers.
        betas, eps: Adam's.
        scale_rate: what the logarithm of a tensor's RMS learns at, as a fraction of lr.
        rms_range: a tensor whose RMS is below or above is stepped as if it were at the range's end.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.04,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        scale_rate: float = 0.1,
        rms_range: tuple[float, float] = (1e-5, 3.0),
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "scale_rate": scale_rate, "rms_range": rms_range}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Update the parameters; returns the closure's loss if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: torch.Tensor, group: dict) -> None:
        state, gradient, lr = self.state[p], p.grad, group["lr"]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
            state["scale_mean"], state["scale_square"] = p.new_zeros(()), p.new_zeros(())
        state["step"] += 1
        if p.numel() == 1:
            p.sub_(0.1 * lr * self._direction(state, "mean", "square", gradient, group))
            return
        low, high = group["rms_range"]
        rms = p.square().mean().sqrt()
        # d loss / d log(scale), if p were scale * (p / scale)
        scale_direction = self._direction(
            state, "scale_mean", "scale_square", (p * gradient).sum(), group
        ) * (group["scale_rate"] * lr)
        scale_direction = torch.where(rms < low, scale_direction.clamp(max=0), scale_direction)
        scale_direction = torch.where(rms > high, scale_direction.clamp(min=0), scale_direction)
        # the gradient as it is: times an RMS of 1e-5, of a tensor that starts at 0, eps would swallow it
        direction = self._direction(state, "mean", "square", gradient, group)
        p.sub_(direction * (lr * rms.clamp(low, high)) + p * scale_direction)

    @staticmethod
    def _direction(state: dict, mean: str, square: str, gradient: torch.Tensor, group: dict) -> torch.Tensor:
        """Adam's step for a rate of 1, its two averages corrected for their start at 0."""
        first, second = group["betas"]
        state[mean].mul_(first).add_(gradient, alpha=1 - first)
        state[square].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = (state[square] / (1 - second ** state["step"])).sqrt() + group["eps"]
        return state[mean] / (1 - first ** state["step"]) / size
