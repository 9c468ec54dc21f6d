"""The network on a GPU, for inference: as many waveforms at a time as fit, on request in half precision.

Written for CUDA and MPS. The tests run it on a CPU, which is slow and otherwise the same.
"""

import contextlib
import copy
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import DeviceMemoryError
from ..names import SAMPLE_RATE
from ..network.spectrum import Form, denoise
from ..network.zipenhancer import DualPathBlock, ZipEnhancer
from .batching import Batcher

logger = logging.getLogger(__name__)

BATCH = 64  # waveforms at a time, if they fit
ROW_TOKENS = 1 << 17  # positions that one pass through a layer takes: enough to keep a GPU busy
SHARE = 0.8  # of the free memory that a batch may take; the rest is for what else the program does


class GpuNetwork:
    """A ZipEnhancer on its device: `denoise(waveform)`, waveforms in main memory, from any threads.

    dtype: of the convolutions' and matrix products' inputs, by autocast; STFT, norms' statistics, softmax
    and phase are float32. compile: torch.compile, on CUDA with CUDA graphs, for each shape that comes;
    batches are filled up with silence, so that chunks are always of one shape.
    """

    def __init__(self, model: ZipEnhancer, dtype: torch.dtype = torch.float32, compile: bool = False):
        self.model, self.dtype = by_rows(model), dtype
        self.device = next(model.parameters()).device
        # MPS lacks some of the STFT's operations: there it stays on the CPU.
        self.signal_device = torch.device("cpu") if self.device.type == "mps" else self.device
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self.compiled = torch.compile(self.model, dynamic=False, mode=mode) if compile else None
        self._fits: dict[int, int] = {}  # samples -> how many such waveforms at a time
        self._batcher = Batcher(self._denoise_all, BATCH)

    def denoise(self, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
        """ZipEnhancer.denoise, from main memory to main memory: (B, samples)[, (B,)] -> (B, samples).

        Waveforms of one length that several threads ask for go over together. MemoryError if not even
        one waveform fits.
        """
        return self._batcher(waveform, gain)

    def _denoise_all(self, waveform: Tensor, gain: Tensor | None) -> Tensor:
        """As many at a time as fit."""
        out, samples = torch.empty_like(waveform), waveform.shape[-1]
        start = 0
        while start < len(waveform):
            # What fits of longer ones does of these: each length would else be computed twice.
            count = next((self._fits[known] for known in sorted(self._fits) if known >= samples), 0)
            if not count:
                count = self._fits[samples] = self._how_many_fit(waveform[start : start + 1])
            part = slice(start, min(start + count, len(waveform)))
            try:
                out[part] = self._denoise(waveform[part], None if gain is None else gain[part], count)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                # a compiled network was given `count`, however few were left
                fewer = (count if self.compiled else part.stop - part.start) // 2
                if fewer == 0:
                    raise DeviceMemoryError(
                        f"{samples / SAMPLE_RATE:.1f} s of audio don't fit on {self.device}: free memory "
                        f"there, or use device='cpu' ({str(error).splitlines()[0]})"
                    ) from error
                self._fits[samples] = fewer
            else:
                start = part.stop
                continue
            # Out of the handler: there, the error's traceback still holds what didn't fit.
            logger.info("%d waveforms at a time don't fit on %s, on with %d", count, self.device, fewer)
            _empty_cache(self.device)
        return out

    def _how_many_fit(self, waveform: Tensor) -> int:
        """By the memory that one takes; BATCH where the device can't tell."""
        if self.device.type != "cuda":
            return BATCH
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            denoise(self._form(self.model), waveform.to(self.device))
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            return 1  # and `denoise` says what is wrong if that fails again
        each = torch.cuda.max_memory_allocated(self.device) - before
        _empty_cache(self.device)
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(BATCH, int(SHARE * free / max(1, each))))

    def _denoise(self, waveform: Tensor, gain: Tensor | None, count: int) -> Tensor:
        asked = len(waveform)
        network: Callable = self.model
        if self.compiled is not None:
            network = self.compiled
            missing = count - asked
            waveform = torch.nn.functional.pad(waveform, (0, 0, 0, missing))
            gain = None if gain is None else torch.nn.functional.pad(gain, (0, missing), value=1.0)
        waveform = self._moved(waveform)
        gain = None if gain is None else self._moved(gain)
        return denoise(self._form(network), waveform, gain)[:asked].cpu()

    def _form(self, network: Callable) -> Form:
        """The network, from spectra on the signal's device to spectra there."""

        def form(mag: Tensor, pha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            half = self.dtype != torch.float32
            with torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext():
                mag, pha, *_ = network(mag.to(self.device), pha.to(self.device))
            mag, pha = (x.to(self.signal_device, torch.float32) for x in (mag, pha))
            return mag, mag * pha.cos(), mag * pha.sin()

        return form

    def _moved(self, x: Tensor) -> Tensor:
        pinned = x.pin_memory() if self.signal_device.type == "cuda" else x
        return pinned.to(self.signal_device, non_blocking=True)


class ByRows(nn.Module):
    """A Zipformer layer, (N, L, C) -> (N, L, C), to which sequences go a few at a time.

    They don't see each other inside a layer: the same result, with a peak that doesn't grow with N.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        rows = x.split(max(1, ROW_TOKENS // x.shape[1]))
        return torch.cat([self.layer(part, positions) for part in rows])


def by_rows(model: ZipEnhancer) -> ZipEnhancer:
    """A copy of the network, which shares its weights, whose layers go ByRows."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared)
    for block in model.modules():
        if isinstance(block, DualPathBlock):
            block.f_layers, block.t_layers = (
                nn.ModuleList(map(ByRows, layers)) for layers in (block.f_layers, block.t_layers)
            )
    return model


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)


def _empty_cache(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()
