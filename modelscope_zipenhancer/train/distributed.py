"""Several processes that train one network, as torchrun starts them."""

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


@contextlib.contextmanager
def processes() -> Iterator[int]:
    """Join torchrun's group, if this process is of one, until the end; yields its number, 0 if alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
    try:
        yield rank_and_count()[0]
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def rank_and_count() -> tuple[int, int]:
    """This process's number in the group, and how many there are: (0, 1) outside of `processes`."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def local_rank() -> int:
    """This process's number on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def parallel(module: torch.nn.Module) -> torch.nn.Module:
    """The module; if there are several processes, wrapped so that they get the mean of their gradients."""
    return DistributedDataParallel(module) if rank_and_count()[1] > 1 else module
