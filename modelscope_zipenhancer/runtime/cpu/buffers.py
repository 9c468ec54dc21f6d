"""Memory that is kept between calls."""

import math

import torch
from torch import Tensor

VIEWS = 1000  # that a thread keeps: some hundred for a length of audio


class Scratch:
    """Named buffers of one thread, which grow to the largest shape asked for, and views of them.

    Kept, because fresh memory costs 2 us for each 4 KB: as much as the arithmetic on it. And a view costs
    as much Python as a small operation, in which no other thread can be: those that wait for it are put
    to sleep, which took 10 % of a call on two threads.
    """

    def __init__(self):
        self.buffers = {}
        self.kept = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory of that shape, with anything in it; the last of that name and dtype is lost."""
        key = name, shape, dtype
        if key not in self.kept:
            size = math.prod(shape)
            buffer = self.buffers.get((name, dtype))
            if buffer is None or buffer.numel() < size:
                buffer = self.buffers[name, dtype] = torch.empty(size, dtype=dtype)
                self.kept.clear()  # else views of the old buffer keep it in memory
            self._keep(key, buffer[:size].view(shape))
        return self.kept[key]

    def views(self, key, make):
        """make(), which takes memory and returns views of it, or what it returned for that key before."""
        if key not in self.kept:
            make()  # first the buffers grow to what it needs, then there are views of them
            self._keep(key, make())
        return self.kept[key]

    def _keep(self, key, views) -> None:
        if len(self.kept) >= VIEWS:
            self.kept.clear()
        self.kept[key] = views


class Workspace:
    """The memory of one call."""

    def __init__(self):
        self.shared = Scratch()
        self.scratches = []  # of each thread

    def take(self, size: int) -> Tensor:
        return self.shared.take("planes", size)
