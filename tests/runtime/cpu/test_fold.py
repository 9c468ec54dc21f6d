"""Folded weights compute a module's function of what is stored, and the offset says what that lacks.

In float64: module(x) + x of the true x = stored x + offset, against the folded form of the stored one.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from modelscope_zipenhancer.network import zipformer
from modelscope_zipenhancer.network.config import StackConfig
from modelscope_zipenhancer.runtime.cpu import fold

CHANNELS, HEADS, HIDDEN, KERNEL = 6, 2, 10, 5


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tokens() -> torch.Tensor:
    """(N, L, C)"""
    return torch.randn(3, 7, CHANNELS, dtype=torch.float64)


def offset() -> torch.Tensor:
    return torch.randn(CHANNELS, dtype=torch.float64)


def attention() -> torch.Tensor:
    """Weights (N, H, L, L)"""
    return torch.randn(3, HEADS, 7, 7, dtype=torch.float64).softmax(-1)


def made(module: torch.nn.Module) -> torch.nn.Module:
    """The module in float64, its parameters random."""
    for parameter in module.double().requires_grad_(False).parameters():
        parameter.normal_(std=0.3)
    return module


def linear(x: torch.Tensor, folded: fold.Linear) -> torch.Tensor:
    return x @ folded.weight + folded.bias


def swoosh(z: torch.Tensor) -> torch.Tensor:
    return (1 + 2**z).log() - 0.08 * z / fold.LOG2_E


def feed_forward(x: torch.Tensor, folded: fold.FeedForward) -> torch.Tensor:
    return x + swoosh(linear(x, folded.in_proj)) @ folded.out


def gated_attention(x: torch.Tensor, folded: fold.GatedAttention, weights: torch.Tensor) -> torch.Tensor:
    value = linear(x, folded.value)
    value = value - 2 * value * linear(x, folded.gate).sigmoid()
    return x + zipformer.attend(weights[:, :1], value) * linear(x, folded.output) @ folded.out


def self_attention(x: torch.Tensor, folded: fold.Attention, weights: torch.Tensor) -> torch.Tensor:
    return x + zipformer.attend(weights, x @ folded.value.t()) @ folded.out


def convolution(x: torch.Tensor, folded: fold.Convolution) -> torch.Tensor:
    y = linear(x, folded.value) * linear(x, folded.gate).sigmoid()
    y = F.conv1d(y.mT, folded.taps[:, :, 0], folded.bias, padding=KERNEL // 2, groups=CHANNELS).mT
    return x + swoosh(y) @ folded.out


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    assert a.dtype == b.dtype == torch.float64
    return torch.allclose(a, b, rtol=1e-11, atol=1e-11)


CASES = {
    "feed-forward": (
        lambda: zipformer.FeedForward(CHANNELS, HIDDEN, 0.0),
        fold.fold_feed_forward,
        feed_forward,
        False,
    ),
    "gated attention": (
        lambda: zipformer.NonlinAttention(CHANNELS, HIDDEN),
        fold.fold_gated_attention,
        gated_attention,
        True,
    ),
    "attention": (
        lambda: zipformer.SelfAttention(CHANNELS, HEADS, 3),
        fold.fold_attention,
        self_attention,
        True,
    ),
    "convolution": (
        lambda: zipformer.ConvModule(CHANNELS, KERNEL),
        fold.fold_convolution,
        convolution,
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_folded_module_of_what_is_stored_plus_its_offset_is_the_module_of_the_truth(case):
    make, fold_module, compute, takes_weights = CASES[case]
    module, stored, before = made(make()), tokens(), offset()
    weights = [attention()] if takes_weights else []
    folded, after = fold_module(module, before)
    true = stored + before
    assert close(compute(stored, folded, *weights) + after, true + module(true, *weights))
    assert not torch.equal(after, before)  # there was something to leave out


def test_folding_changes_neither_the_module_nor_the_offset():
    for make, fold_module, *_ in CASES.values():
        module, before = made(make()), offset()
        parameters, copy = [p.clone() for p in module.parameters()], before.clone()
        fold_module(module, before)
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), parameters))
        assert torch.equal(before, copy)


def test_a_linear_map_takes_scale_shift_and_offset():
    weight, bias = torch.randn(4, CHANNELS).double(), torch.randn(4).double()
    stored, before, scale = tokens(), offset(), torch.rand(4, 1).double()
    expected = ((stored + before) @ weight.t() + bias - 3.0) * scale[:, 0]
    assert close(linear(stored, fold.fold_linear(weight, bias, before, scale, shift=3.0)), expected)


def test_folded_scores_are_to_the_base_of_two():
    module = made(zipformer.AttentionWeights(CHANNELS, 8, HEADS, query_dim=3, pos_head_dim=2))
    stored, before = tokens(), offset()
    query, key, positional = linear(stored, fold.fold_scores(module, before)).split(module.split, -1)
    true_query, true_key, true_positional = module.in_proj(stored + before).split(module.split, -1)
    assert close(2 ** (query @ key.mT), (true_query @ true_key.mT).exp())
    assert close(positional, true_positional * math.log2(math.e))


def test_a_folded_layer_is_its_modules_one_after_the_other(monkeypatch):
    stack = StackConfig(
        heads=HEADS, query_dim=3, pos_head_dim=2, value_dim=3, feedforward_dim=8, kernel=KERNEL
    )
    layer, true, weights = made(zipformer.ZipformerLayer(CHANNELS, 8, stack, 0.0)), tokens(), attention()
    folded = fold.fold_layer(layer)
    x = feed_forward(true, folded.feed_forward1)  # the layer's input lacks nothing
    x = gated_attention(x, folded.gated_attention, weights)
    x = self_attention(x, folded.attention1, weights)
    x = convolution(x, folded.convolution1)
    x = feed_forward(x, folded.feed_forward2)
    x = torch.lerp(true, x, folded.bypass)
    x = self_attention(x, folded.attention2, weights)
    x = convolution(x, folded.convolution2)
    x = feed_forward(x, folded.feed_forward3) + folded.offset

    class Last(torch.nn.Module):
        def forward(self, *inputs):
            return inputs[-1]

    monkeypatch.setattr(layer.self_attn_weights, "forward", lambda *_: weights)
    layer.norm = layer.bypass = Last()  # the fold ends before them
    assert close(x, layer(true, None))


def test_weights_are_copied_when_they_are_converted():
    module = made(zipformer.FeedForward(CHANNELS, HIDDEN, 0.0))
    folded, _ = fold.fold_feed_forward(module, offset())
    for dtype in torch.float64, torch.float32:
        copy = fold.converted(folded, dtype)
        assert type(copy) is fold.FeedForward and copy.in_proj.weight.dtype == copy.out.dtype == dtype
        assert copy.out.data_ptr() != folded.out.data_ptr()
        assert torch.equal(copy.out, folded.out.to(dtype))
