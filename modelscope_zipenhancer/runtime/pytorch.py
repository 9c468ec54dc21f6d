"""The network as the engine calls it: arrays in and out, whatever device it is on."""

import numpy as np
import torch

from ..errors import OptionError
from ..network.zipenhancer import ZipEnhancer
from .cpu.network import FastNetwork
from .gpu import BATCH, DeviceNetwork

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchBackend:
    """float32 (batch, samples) at 16 kHz[, gain (batch,)] -> the same shape and level.

    On a CPU the network's fast form runs (fast.py), elsewhere device.py's; made anew when the weights
    have changed.

    precision: 'fp32'; 'bf16' on GPUs, and on CPUs that compute in it (AVX-512 BF16); 'fp16' on GPUs.
    What it changes, and what it gains: docs/performance.md. compile: torch.compile, for GPUs; the first
    call then takes minutes. OptionError where an option can't be had.
    """

    def __init__(self, model: ZipEnhancer, precision: str = "fp32", compile: bool = False):
        if precision not in DTYPES:
            raise OptionError(f"unknown precision {precision!r}, known are: {', '.join(DTYPES)}")
        device = next(model.parameters()).device.type
        if precision == "bf16" and device == "cpu" and not _has_bf16():
            raise OptionError("precision 'bf16' is for CPUs with AVX-512 BF16, not for this one: use 'fp32'")
        if device == "cpu" and (precision == "fp16" or compile):
            option = "compile=True" if compile else "precision 'fp16'"
            raise OptionError(f"{option} is for GPUs; on CPUs the default is faster")
        self.model, self.dtype, self.compile = model, DTYPES[precision], compile
        self._form = None  # (versions of the weights, what runs them)

    @property
    def batch(self) -> int:
        """How many chunks of a recording the engine should hand over at a time."""
        return 1 if self._device.type == "cpu" else BATCH

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
            gain = None if gain is None else torch.as_tensor(gain, dtype=torch.float32)
            return self.network().denoise(x, gain).numpy()

    def network(self):
        """What runs: FastNetwork for weights on a CPU, else DeviceNetwork."""
        weights = list(self.model.parameters())
        versions = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in weights]
        form = self._form
        if form is None or form[0] != versions:
            if self._device.type == "cpu":
                network = FastNetwork(self.model, self.dtype)
            else:
                network = DeviceNetwork(self.model, self.dtype, self.compile)
            form = self._form = (versions, network)
        return form[1]


def _has_bf16() -> bool:
    return getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
