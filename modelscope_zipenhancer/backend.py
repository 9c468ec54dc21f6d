"""The network as the engine calls it: arrays in and out, on whatever device the network is."""

import numpy as np
import torch

from .errors import OptionError
from .fast import FastNetwork
from .model import ZipEnhancer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchBackend:
    """float32 (batch, samples) at 16 kHz[, gain (batch,)] -> the same shape and level.

    On a CPU the network's fast form runs (fast.py), folded anew when the weights have changed.

    precision: 'fp32', or 'bf16' for CPUs that compute in it (AVX-512 BF16): a fifth faster, the output
    of tiny 47 dB above the difference (docs/performance.md). OptionError where it can't be had.
    """

    def __init__(self, model: ZipEnhancer, precision: str = "fp32"):
        if precision not in DTYPES:
            raise OptionError(f"unknown precision {precision!r}, known are: {', '.join(DTYPES)}")
        device = next(model.parameters()).device.type
        if precision != "fp32" and not (device == "cpu" and _has_bf16()):
            raise OptionError(
                f"precision {precision!r} is for CPUs with AVX-512 BF16, not for this {device}: use 'fp32'"
            )
        self.model, self.dtype = model, DTYPES[precision]
        self._fast = None  # (versions of the weights, FastNetwork of them)

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        network = self.network()
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)).to(device)
            if gain is not None:
                gain = torch.as_tensor(gain, dtype=torch.float32, device=device)
            return network.denoise(x, gain).cpu().numpy()

    def network(self):
        """What runs: FastNetwork for weights on a CPU, else the model itself."""
        weights = list(self.model.parameters())
        if weights[0].device.type != "cpu":
            return self.model
        versions = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in weights]
        fast = self._fast
        if fast is None or fast[0] != versions:
            fast = self._fast = (versions, FastNetwork(self.model, self.dtype))
        return fast[1]


def _has_bf16() -> bool:
    return getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
