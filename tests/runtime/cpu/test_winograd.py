"""Winograd's algorithm computes a convolution."""

import torch
from cpu_networks import noise

from modelscope_zipenhancer.runtime.cpu.native.convolution import POINTS, winograd_filter
from modelscope_zipenhancer.runtime.cpu.winograd import matrices


def test_winograds_matrices_make_a_convolution():
    inverse, taps, forward = matrices()
    weight, x = noise(3).double(), noise(6).double()
    found = inverse @ ((taps @ weight) * (forward @ x))
    assert torch.allclose(found, torch.stack([x[i : i + 3] @ weight for i in range(4)]), atol=1e-12)


def test_the_factors_for_the_loops_in_c_make_a_convolution():
    a, b = POINTS[1], POINTS[3]
    product, total = a**2 * b**2, a**2 + b**2
    forward = [[product, 0, -total, 0, 1, 0], [0, product, 0, -total, 0, 1]]
    for p, other in ((a, b), (-a, b), (b, a), (-b, a)):
        forward.insert(-1, [0, -p * other**2, -(other**2), p, 1, 0])
    inverse = [[p**k for p in POINTS] + [float(k == 3)] for k in range(4)]
    weight, x = noise(3).double(), noise(6).double()
    x = torch.tensor(forward, dtype=torch.float64) @ x
    found = torch.tensor(inverse, dtype=torch.float64) @ ((winograd_filter() @ weight) * x)
    assert torch.allclose(
        found, torch.stack([noise(6).double()[i : i + 3] @ weight for i in range(4)]), atol=1e-12
    )
