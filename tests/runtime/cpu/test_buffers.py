"""Memory is laid out by plans, which are true, and kept."""

import random

import pytest
import torch
from cpu_networks import SIZES, network, spectra

from modelscope_zipenhancer.runtime.cpu import layer_memory
from modelscope_zipenhancer.runtime.cpu.buffers import ALIGNMENT, Buffer, Buffers, Plan, Scratch, lay_out
from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork

pytestmark = pytest.mark.usefixtures("torch_form")


def plans(size: str) -> list[Plan]:
    """Of a network for some lengths, and of its layers for slices of some sizes."""
    form = CpuNetwork(network(size))
    layers = {layer.sizes for stack in form.stacks for pair in stack.layers for layer in pair}
    return [form.plan(frames, 201) for frames in (1, 38, 161, 801)] + [
        layer_memory.plan(sizes, n, length)
        for sizes in layers
        for n, length in ((1, 1), (2, 19), (1, 161), (12, 161), (3, 401), (1, 801), (18, 101), (40, 51))
    ]


def largest_use(plan: Plan) -> int:
    """Bytes that are in use at the same time, at most."""
    return max(
        sum(buffer.size for buffer in plan.buffers if step in plan.lives[buffer.name])
        for step in range(len(plan.steps))
    )


def assert_sound(plan: Plan) -> None:
    spans = {b.name: range(plan.offsets[b.name], plan.offsets[b.name] + b.size) for b in plan.buffers}
    for one in plan.buffers:
        assert spans[one.name].stop <= plan.size and plan.offsets[one.name] % ALIGNMENT == 0
        for other in plan.buffers:
            together = set(plan.lives[one.name]) & set(plan.lives[other.name])
            a, b = spans[one.name], spans[other.name]
            assert one is other or not together or a.stop <= b.start or b.stop <= a.start


@pytest.mark.parametrize("size", SIZES)
def test_buffers_in_use_at_the_same_time_never_overlap(size):
    for plan in plans(size):
        assert_sound(plan)


def test_buffers_of_any_sizes_and_lives_never_overlap_while_both_are_in_use():
    rng, steps = random.Random(0), [str(i) for i in range(9)]
    for _ in range(300):
        buffers = []
        for i in range(rng.randrange(1, 12)):
            first = rng.randrange(9)
            last = rng.randrange(first, 9)
            buffers.append(Buffer(str(i), (rng.choice([0, 1, 16, 100, 300]),), steps[first], steps[last]))
        plan = Plan(steps, buffers)
        assert_sound(plan)
        assert largest_use(plan) <= plan.size <= sum(buffer.size for buffer in buffers)


def test_a_buffer_goes_where_one_was_that_is_no_longer_in_use():
    assert lay_out([4, 2, 2], [range(0, 1), range(1, 2), range(1, 2)]) == [0, 0, 2]
    assert lay_out([4, 2, 1], [range(0, 3), range(0, 1), range(1, 3)]) == [0, 4, 4]
    assert lay_out([2, 4], [range(0, 2), range(1, 3)]) == [4, 0]


@pytest.mark.parametrize("size", ["S", "tiny"])
def test_plans_take_no_more_than_is_in_use_at_a_time(size):
    for plan in plans(size):
        assert plan.size == largest_use(plan)


@pytest.mark.parametrize("size, floats", [("S", 65_280), ("tiny", 16_080)])
def test_a_network_takes_the_memory_of_its_first_dense_block(size, floats):
    assert CpuNetwork(network(size)).plan(321, 201).size == 321 * floats * 4


def test_a_plan_gives_tensors_in_one_memory():
    plan = Plan(["one", "two"], [Buffer("a", (2, 3), "one", "two"), Buffer("b", (5,), "two")])
    memory = torch.empty(plan.size, dtype=torch.uint8)
    buffers = Buffers(plan, memory)
    assert buffers["a"].shape == (2, 3) and buffers["a"].dtype == torch.float32
    assert buffers["b"].shape == (5,) and buffers["b"].dtype == torch.float32
    assert {x.untyped_storage().data_ptr() for x in buffers.tensors.values()} == {memory.data_ptr()}


def test_a_plan_refuses_a_name_twice_and_an_unknown_step():
    with pytest.raises(ValueError, match="two buffers of a plan have the same name"):
        Plan(["one"], [Buffer("a", (1,), "one"), Buffer("a", (2,), "one")])
    with pytest.raises(ValueError):
        Plan(["one"], [Buffer("a", (1,), "two")])
    with pytest.raises(ValueError):
        Plan(["one", "two"], [Buffer("a", (1,), "two", "one")])


# ---- what the plans say is true ----------------------------------------------------------------


def unused(plan: Plan, *steps: int) -> torch.Tensor:
    """(plan.size,), where no buffer lies that is in use at all these steps."""
    mask = torch.ones(plan.size, dtype=torch.bool)
    for buffer in plan.buffers:
        if set(steps) <= set(plan.lives[buffer.name]):
            mask[plan.offsets[buffer.name] :][: buffer.size] = False
    return mask


class Spoiler:
    """Before each step fills with NaN all memory that the plan doesn't say is in use since before.

    `strays`: steps in which memory was written that was not in use; `begun`: the steps, as they came.
    """

    def __init__(self, monkeypatch):
        self.strays, self.begun, self.masks = [], {}, {}
        monkeypatch.setattr(Buffers, "begin", lambda buffers, step: self.begin(buffers, step))

    def begin(self, buffers: Buffers, step: str) -> None:
        plan, memory = buffers.plan, buffers.memory
        self.begun.setdefault(plan.steps, []).append(step)
        if plan not in self.masks:
            self.masks[plan] = [(unused(plan, i), unused(plan, i - 1, i)) for i in range(len(plan.steps))]
        now = plan.steps.index(step)
        if now and ((memory != 255) & self.masks[plan][now - 1][0]).any():
            self.strays.append(plan.steps[now - 1])
        memory.masked_fill_(self.masks[plan][now][1], 255)  # bytes of NaN


@pytest.mark.parametrize("size", ["unequal factors, two layers, odd numbers", "32 channels"])
def test_no_step_reads_or_writes_what_the_plan_says_is_not_in_use(size, monkeypatch):
    form, x = CpuNetwork(network(size)), spectra(1, 38)
    expected = form(*x)
    spoiler = Spoiler(monkeypatch)
    for result, one in zip(form(*x), expected):
        assert torch.equal(result, one)
    assert spoiler.strays == []
    for steps, begun in spoiler.begun.items():
        assert begun == list(steps) * (len(begun) // len(steps))
    assert len(spoiler.begun) == 2  # of the network, and of layers


def shortened(plan: Plan, name: str, end: str) -> Plan:
    """The plan with a life that is said to begin a step later, or to end a step earlier."""

    def change(buffer: Buffer) -> Buffer:
        if buffer.name != name:
            return buffer
        life = plan.lives[name]
        if end == "first":
            return buffer._replace(first=plan.steps[life[1]])
        return buffer._replace(last=plan.steps[life[-2]])

    return Plan(plan.steps, [change(buffer) for buffer in plan.buffers])


SMALL = "one stack at full resolution"


@pytest.mark.parametrize("end", ["first", "last"])
@pytest.mark.parametrize("name", ["origin", "tokens", "weights", "norms"])
def test_a_plan_of_a_layer_that_says_too_little_is_found_out(name, end, monkeypatch):
    form, x = CpuNetwork(network(SMALL)), spectra(1, 12)
    expected = form(*x)[0]
    plan, form = layer_memory.plan, CpuNetwork(network(SMALL))
    monkeypatch.setattr(layer_memory, "plan", lambda *args: shortened(plan(*args), name, end))
    spoiler = Spoiler(monkeypatch)
    assert not torch.equal(form(*x)[0], expected) or spoiler.strays


@pytest.mark.parametrize("end", ["first", "last"])
@pytest.mark.parametrize("name", ["body", "encoder plane 4", "mask plane 4", "phase plane 4"])
def test_a_plan_of_a_network_that_says_too_little_is_found_out(name, end, monkeypatch):
    form, x = CpuNetwork(network(SMALL)), spectra(1, 12)
    expected = form(*x)
    plan, form = CpuNetwork.plan, CpuNetwork(network(SMALL))
    monkeypatch.setattr(CpuNetwork, "plan", lambda *args: shortened(plan(*args), name, end))
    spoiler = Spoiler(monkeypatch)
    same = all(torch.equal(a, b) for a, b in zip(form(*x), expected))
    assert not same or spoiler.strays


# ---- scratch memory ----------------------------------------------------------------------------


def test_views_are_made_once_and_anew_when_their_memory_has_moved():
    scratch = Scratch()
    small = scratch.views("small", lambda: scratch.take("x", 3))
    assert scratch.views("small", lambda: pytest.fail("made again")) is small
    large = scratch.views("large", lambda: [scratch.take("x", 4), scratch.take("x", 9)])
    assert len({x.data_ptr() for x in large}) == 1, "views of memory that a later one left behind"
    assert scratch.views("small", lambda: scratch.take("x", 3)).data_ptr() == large[0].data_ptr()
