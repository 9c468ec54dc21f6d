"""ScaledAdam."""

import pytest
import torch

from modelscope_zipenhancer.train.optim import ScaledAdam


def test_the_first_step_of_scaled_adam_is_lr_of_a_tensors_rms_plus_its_scale():
    p = torch.nn.Parameter(torch.tensor([3.0, -1.0, 2.0, 2.0]))
    before = p.detach().clone()
    p.grad = torch.tensor([1.0, -2.0, 0.5, 4.0])  # p . grad > 0: the scale shrinks
    ScaledAdam([p], lr=0.01).step()
    rms = before.square().mean().sqrt()
    expected = before - 0.01 * rms * p.grad.sign() - 0.001 * before
    torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)


def test_scaled_adams_relative_step_does_not_depend_on_a_tensors_size():
    start, gradient = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    moved = []
    for size in (1.0, 0.01):
        p = torch.nn.Parameter(start * size)
        optimizer = ScaledAdam([p], lr=0.02)
        for _ in range(3):
            p.grad = gradient / size
            optimizer.step()
        moved.append(p.detach() / size)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_a_tensor_that_starts_at_zero_is_learnt_whatever_the_size_of_its_gradient(size):
    target = 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    p = torch.nn.Parameter(torch.zeros(64))
    optimizer = ScaledAdam([p], lr=0.04)
    for _ in range(400):
        p.grad = size * (p.detach() - target)
        optimizer.step()
    assert (p - target).norm() < 0.05 * target.norm()


def fit(steps, optimizer_steps=None):
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    y = x @ torch.randn(4, 3)
    model = torch.nn.Linear(4, 3)
    optimizer = ScaledAdam(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        if step == optimizer_steps:  # a process that was killed
            saved = model.state_dict(), optimizer.state_dict()
            model = torch.nn.Linear(4, 3)
            optimizer = ScaledAdam(model.parameters(), lr=0.5)
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_scaled_adam_lowers_a_loss_and_is_resumed_from_its_state_bit_for_bit():
    unbroken = fit(60)
    assert unbroken[-1] < 0.7 * unbroken[0]
    assert fit(60, optimizer_steps=30) == unbroken
