"""Several processes, as torchrun starts them."""

import contextlib
import os

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


@contextlib.contextmanager
def processes():
    """Join torchrun's group, if this process is of one; yields its rank, 0 of a single process."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
    try:
        yield rank_and_count()[0]
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def rank_and_count() -> tuple:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def parallel(module: torch.nn.Module) -> torch.nn.Module:
    """The module, its gradients averaged over the processes if there are several."""
    return DistributedDataParallel(module) if rank_and_count()[1] > 1 else module
