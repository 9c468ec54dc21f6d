"""A layer computes what the definition does, also where exp would overflow."""

import pytest
from cpu_networks import assert_equal_networks, error, network, noise

from modelscope_zipenhancer.runtime.cpu.buffers import Workspace
from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork
from modelscope_zipenhancer.runtime.cpu.threads import SlicePool
from modelscope_zipenhancer.runtime.cpu.zipformer_layer import Layer


def network_with_large(part: str):
    """A network in which scores, or activations, are beyond the range of exp."""
    model = network()
    for module in model.modules():
        if part == "attention" and hasattr(module, "linear_pos"):
            module.in_proj.weight.mul_(40)
        if part == "activations" and type(module).__name__ == "FeedForward":
            module.in_proj.weight.mul_(100)
            module.out_proj.weight.mul_(0.01)
    return model


@pytest.mark.parametrize("part", ["nothing", "attention", "activations"])
@pytest.mark.parametrize("length", [1, 51])
def test_a_layer_computes_them_in_each_form(part, length, each_form):
    model = network_with_large(part)
    (pair, *_), block = CpuNetwork(model).stacks[0].layers, model.TSConformer.encoders[0].encoder
    x, bypass = noise(3, length, 16) * 10, block.bypass_layers[0]
    for form, layer in zip(pair, (block.f_layers[0], block.t_layers[0])):
        y = x.clone()
        with SlicePool(Workspace()) as pool:
            form.apply(y, pool)
        assert error(y, bypass(x, layer(x, block.encoder_pos(x[0])))) < 4e-6


@pytest.mark.parametrize("part", ["nothing", "attention", "activations"])
def test_numbers_beyond_the_range_of_exp_are_computed_all_the_same(part, monkeypatch, torch_form):
    model = network_with_large(part)
    exact, run = [], Layer._run
    monkeypatch.setattr(Layer, "_run", lambda *args, **kw: exact.append(kw["exact"]) or run(*args, **kw))
    assert_equal_networks(model, CpuNetwork(model), 1, 30, tolerance=1e-4)
    assert any(exact) == (part != "nothing")  # the slow way is taken when needed, and only then
