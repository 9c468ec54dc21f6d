"""What the tests of the form for CPUs share: networks, spectra, and how far two results are apart."""

import torch

from modelscope_zipenhancer.network.config import ModelConfig, StackConfig
from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer

TINY_STACK = StackConfig(2, 2, query_dim=8, value_dim=6, feedforward_dim=96)
ODD_STACKS = (
    StackConfig(4, 3, 2, heads=3, query_dim=5, pos_head_dim=2, value_dim=3, feedforward_dim=20, kernel=7),
    StackConfig(1, 2, heads=1, feedforward_dim=12, kernel=3),
    StackConfig(2, 1, feedforward_dim=40, kernel=31),
)
SIZES = {
    "S": ModelConfig(),
    "tiny": ModelConfig(channels=16, stacks=(TINY_STACK,) * 2),
    "unequal factors, two layers, odd numbers": ModelConfig(channels=10, pos_dim=8, stacks=ODD_STACKS),
    "32 channels": ModelConfig(channels=32, stacks=(StackConfig(4, 4, feedforward_dim=32),)),
    "one stack at full resolution": ModelConfig(channels=8, stacks=(StackConfig(feedforward_dim=32),)),
    "bounded": ModelConfig(channels=16, stacks=(TINY_STACK,), magnitude_bound=1),
}


def network(size: str = "tiny") -> ZipEnhancer:
    """Weights that are all different, also where a new network has zeros, ones or halves."""
    torch.manual_seed(0)
    model = ZipEnhancer(SIZES[size]).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.1 * parameter.std() if parameter.ndim > 1 else 0.03))
    return model


def spectra(batch: int, frames: int):
    torch.manual_seed(frames)
    return torch.rand(batch, 201, frames) * 2, (torch.rand(batch, 201, frames) * 2 - 1) * torch.pi


def noise(*shape) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(shape) * 0.1


def error(result, expected) -> float:
    return ((result - expected).norm() / expected.norm()).item()


def assert_equal_networks(model, form, batch, frames, tolerance=2e-5):  # of S 1.0e-5 where torch has OpenBLAS
    mag, pha = spectra(batch, frames)
    expected_mag, _, expected_complex, *_ = model(mag, pha)
    result_mag, real, imag = form(mag, pha)
    assert error(result_mag, expected_mag) < tolerance
    assert error(torch.stack([real, imag], -1), expected_complex) < tolerance
