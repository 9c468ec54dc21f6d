"""What a model is: how large, at what cost, and which weights exactly these are."""

import os

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..files import sha256
from ..names import HOP_LENGTH, N_FFT, SAMPLE_RATE, WEIGHTS_FILE
from .checkpoint import load_model
from .pretrained import find_model
from .zipenhancer import ZipEnhancer


def describe(name: str = "tiny") -> dict:
    """{what: value} of a model that `Enhancer.from_pretrained` knows; raises as that does."""
    folder = find_model(name)
    path = os.path.join(folder, WEIGHTS_FILE)
    model = load_model(folder)
    return {
        "model": name,
        "folder": os.path.abspath(folder),
        "checkpoint": WEIGHTS_FILE,
        "bytes": os.path.getsize(path),
        "sha256": sha256(path),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_second": flops_per_second(model),
        "channels": model.config.channels,
        "stacks": [vars(stack) for stack in model.config.stacks],
        "sample_rate": SAMPLE_RATE,
    }


def flops_per_second(model: ZipEnhancer) -> int:
    """Operations for a second of audio, within four; a multiplication with its addition counts as two.

    By torch.utils.flop_counter, on the device of the model, 'meta' too.
    """
    device = next(model.parameters()).device
    frames = torch.rand(1, N_FFT // 2 + 1, 4 * SAMPLE_RATE // HOP_LENGTH, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(frames, frames)
    return counter.get_total_flops() // 4
