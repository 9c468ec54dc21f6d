"""Memory for inference: plans of what lies where in it, and scratch memory that is kept between calls.

A plan has buffers, each with the first and the last step that uses it, and lays them out in one piece of
memory: two buffers that are in use at the same step never overlap, others may.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a line of the cache, and the widest vector register
VIEWS = 1000  # that a thread keeps: some hundred for a length of audio

T = TypeVar("T")


class Buffer(NamedTuple):
    """A float32 tensor that the steps from `first` to `last` use, both included; without `last`, one step."""

    name: str
    shape: tuple[int, ...]
    first: str
    last: str = ""

    @property
    def size(self) -> int:
        """Bytes, rounded up so that the next buffer is aligned."""
        return -(-math.prod(self.shape) * 4 // ALIGNMENT) * ALIGNMENT


class Plan:
    """Buffers, and where each lies: `offsets` by name, in bytes, within a memory of `size` bytes.

    Args:
        steps: names of what is done, in order.
        buffers: with the steps that use them; a name only once.
    """

    def __init__(self, steps: Sequence[str], buffers: Sequence[Buffer]):
        self.steps, self.buffers = tuple(steps), tuple(buffers)
        self.lives = {}
        for buffer in buffers:
            first = self.steps.index(buffer.first)
            self.lives[buffer.name] = range(first, self.steps.index(buffer.last or buffer.first, first) + 1)
        if len(self.lives) < len(self.buffers):
            raise ValueError("two buffers of a plan have the same name")
        sizes = [buffer.size for buffer in buffers]
        offsets = lay_out(sizes, list(self.lives.values()))
        self.offsets = dict(zip(self.lives, offsets))
        self.size = max(offset + size for offset, size in zip(offsets, sizes))


def lay_out(sizes: Sequence[int], lives: Sequence[range]) -> list[int]:
    """Offsets of buffers of these sizes, so that those with a step in common do not overlap.

    One buffer after the other goes to the lowest place that is free during all its life: the largest first,
    "greedy by size" of Pisarchyk and Lee, arXiv 2001.03288, or the longest-lived first, whichever is smaller.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    by_size = _lay_out(order, sizes, lives)
    by_life = _lay_out(sorted(order, key=lambda i: -len(lives[i])), sizes, lives)
    return min(by_size, by_life, key=lambda offsets: max(map(sum, zip(offsets, sizes))))


def _lay_out(order: Sequence[int], sizes: Sequence[int], lives: Sequence[range]) -> list[int]:
    offsets: dict[int, int] = {}
    for i in order:
        taken = sorted(
            (offset, offset + sizes[j]) for j, offset in offsets.items() if _meet(lives[i], lives[j])
        )
        offset = 0
        for start, stop in taken:
            if offset + sizes[i] <= start:
                break
            offset = max(offset, stop)
        offsets[i] = offset
    return [offsets[i] for i in range(len(sizes))]


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


class Buffers:
    """The buffers of a plan in a memory: buffers[name] is the tensor of that name."""

    def __init__(self, plan: Plan, memory: Tensor):
        self.plan, self.memory = plan, memory  # memory: (plan.size,), bytes
        self.tensors = {}
        for buffer in plan.buffers:
            offset, size = plan.offsets[buffer.name], math.prod(buffer.shape) * 4
            self.tensors[buffer.name] = memory[offset : offset + size].view(torch.float32).view(buffer.shape)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def begin(self, step: str) -> None:
        """Called as a step begins; does nothing. A test has it spoil what is not in use by the plan."""


class Scratch:
    """Named memory of one thread, which grows to the largest size asked for, and views of it.

    It is kept, because fresh memory costs 2 us for each 4 KB: as much as the arithmetic on it. And a view
    costs as much Python as a small operation, in which no other thread can be: those that wait for it are
    put to sleep, which took 10 % of a call on two threads.
    """

    def __init__(self) -> None:
        self.memories: dict[tuple[str, torch.dtype], Tensor] = {}
        self.kept: dict[Hashable, Any] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory of that shape, with anything in it; the last of that name and dtype is lost."""
        key = name, shape, dtype
        if key not in self.kept:
            size = math.prod(shape)
            memory = self.memories.get((name, dtype))
            if memory is None or memory.numel() < size:
                memory = self.memories[name, dtype] = torch.empty(size, dtype=dtype, device="cpu")
                self.kept.clear()  # else views of what was there before keep it in memory
            self._keep(key, memory[:size].view(shape))
        return self.kept[key]

    def planned(self, plan: Plan) -> Buffers:
        """The buffers of a plan, with anything in them; those of the last plan are lost."""
        return Buffers(plan, self.take("planned", plan.size, dtype=torch.uint8))

    def views(self, key: Hashable, make: Callable[[], T]) -> T:
        """make(), which takes memory and returns views of it, or what it returned for that key before."""
        if key not in self.kept:
            make()  # first the memory grows to what it needs, then there are views of it
            self._keep(key, make())
        return self.kept[key]

    def _keep(self, key: Hashable, views: Any) -> None:
        if len(self.kept) >= VIEWS:
            self.kept.clear()
        self.kept[key] = views


class Workspace:
    """The memory of one call: what its threads share, and the scratch memory of each."""

    def __init__(self) -> None:
        self.shared = Scratch()
        self.scratches: list[Scratch] = []

    def of_threads(self, count: int) -> list[Scratch]:
        """The scratch memory of so many threads."""
        self.scratches.extend(Scratch() for _ in range(count - len(self.scratches)))
        return self.scratches[:count]
