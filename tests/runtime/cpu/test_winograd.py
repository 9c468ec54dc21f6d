"""Winograd's algorithm computes a convolution."""

import torch
from cpu_networks import noise

from modelscope_zipenhancer.runtime.cpu.winograd import matrices


def test_winograds_matrices_make_a_convolution():
    inverse, taps, forward = matrices()
    weight, x = noise(3).double(), noise(6).double()
    found = inverse @ ((taps @ weight) * (forward @ x))
    assert torch.allclose(found, torch.stack([x[i : i + 3] @ weight for i in range(4)]), atol=1e-12)
