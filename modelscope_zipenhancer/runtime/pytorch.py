"""The network by PyTorch: its form for CPUs, or for GPUs, behind the protocol of backends."""

import threading

import numpy as np
import torch

from ..errors import OptionError
from ..network.checkpoint import load_model
from ..network.zipenhancer import ZipEnhancer
from .cpu.native.library import library, status
from .cpu.network import CpuNetwork
from .gpu import BATCH, GpuNetwork

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchBackend:
    """A ZipEnhancer as a `Backend`.

    On a CPU the network's form for CPUs runs (cpu/), elsewhere that for GPUs (gpu.py); made anew when
    the weights have changed, or have moved: by what torch counts (optimizers, load_state_dict, copy_), which
    changes through `.data` aren't.

    Args:
        model: the network, on its device.
        precision: 'fp32'; 'bf16' on GPUs, and on CPUs that compute in it (AVX-512 BF16, and inner loops
            in C); 'fp16' on GPUs. What it changes, and what it gains: docs/performance.md.
        compile: torch.compile, for GPUs; the first call then takes minutes.

    Raises:
        OptionError: where an option can't be had.
    """

    def __init__(self, model: ZipEnhancer, precision: str = "fp32", compile: bool = False) -> None:
        if precision not in DTYPES:
            raise OptionError(f"unknown precision {precision!r}, known are: {', '.join(DTYPES)}")
        device = next(model.parameters()).device.type
        if precision == "bf16" and device == "cpu" and library(torch.bfloat16) is None:
            raise OptionError(f"precision 'bf16' can't be had: {status(torch.bfloat16)}; use 'fp32'")
        if device == "cpu" and (precision == "fp16" or compile):
            option = "compile=True" if compile else "precision 'fp16'"
            raise OptionError(f"{option} is for GPUs; on CPUs the default is faster")
        self.model, self.dtype, self.compile = model, DTYPES[precision], compile
        self._form: tuple | None = None  # (versions of the weights, what runs them)
        self._forming = threading.Lock()

    def __getstate__(self) -> dict:
        # The form holds folded weights and buffers, hundreds of MB after a few seconds of audio.
        return {name: value for name, value in self.__dict__.items() if name != "_forming"} | {"_form": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._forming = threading.Lock()

    @property
    def preferred_batch_size(self) -> int:
        return 1 if self._device.type == "cpu" else BATCH

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """`Backend.__call__`."""
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
            factor = None if gain is None else torch.from_numpy(np.ascontiguousarray(gain, np.float32))
            return self.form().denoise(x, factor).numpy()

    def form(self) -> CpuNetwork | GpuNetwork:
        """What runs: the form for the device that the weights are on."""
        weights = list(self.model.parameters())
        versions = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in weights]
        with self._forming:  # the first threads would else make one each
            form = self._form
            if form is None or form[0] != versions:
                if self._device.type == "cpu":
                    network: CpuNetwork | GpuNetwork = CpuNetwork(self.model, self.dtype)
                else:
                    network = GpuNetwork(self.model, self.dtype, self.compile)
                form = self._form = (versions, network)
            return form[1]


def load(
    model_dir: str, device: str | None = None, precision: str = "fp32", compile: bool = False
) -> TorchBackend:
    """The backend for a model dir; device: by default a CUDA device if there is one, else the CPU.

    precision, compile: see TorchBackend. Raises OptionError for a device that can't be used, and what
    TorchBackend and load_model raise.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no one kind for it
        reason = str(error).split("\n")[0]
        raise OptionError(f"device {device!r} can't be used: {reason}") from error
    return TorchBackend(load_model(model_dir, device), precision, compile)
