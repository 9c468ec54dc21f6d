"""The network on a GPU, for inference: as many waveforms at a time as fit, on request in half precision.

Written for CUDA and MPS. The tests run it on a CPU, which is slow and otherwise the same.
"""

import contextlib
import logging

import torch
from torch import Tensor

from ..names import SAMPLE_RATE
from ..network.zipenhancer import ZipEnhancer, at_unit_rms, mag_pha_istft, mag_pha_stft
from .batching import Pool

logger = logging.getLogger(__name__)

BATCH = 64  # waveforms at a time, if they fit
SHARE = 0.8  # of the free memory that a batch may take; the rest is for what else the program does


class DeviceNetwork:
    """A ZipEnhancer on its device: `denoise(waveform)`, waveforms in main memory, from any threads.

    dtype: of the convolutions' and matrix products' inputs, by autocast; STFT, norms' statistics, softmax
    and phase are float32. compile: torch.compile, on CUDA with CUDA graphs, for each shape that comes;
    batches are filled up with silence, so that chunks are always of one shape.
    """

    def __init__(self, model: ZipEnhancer, dtype: torch.dtype = torch.float32, compile: bool = False):
        self.model, self.dtype = model, dtype
        self.device = next(model.parameters()).device
        # MPS lacks some of the STFT's operations: there it stays on the CPU.
        self.signal_device = torch.device("cpu") if self.device.type == "mps" else self.device
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self.compiled = torch.compile(model, dynamic=False, mode=mode) if compile else None
        self._fits = {}  # samples -> how many such waveforms at a time
        self._pool = Pool(self._denoise_all, BATCH)

    def denoise(self, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
        """ZipEnhancer.denoise, from main memory to main memory: (B, samples)[, (B,)] -> (B, samples).

        Waveforms of one length that several threads ask for go over together. MemoryError if not even
        one waveform fits.
        """
        return self._pool(waveform, gain)

    def _denoise_all(self, waveform: Tensor, gain: Tensor | None) -> Tensor:
        """As many at a time as fit."""
        out, samples = torch.empty_like(waveform), waveform.shape[-1]
        start = 0
        while start < len(waveform):
            if samples not in self._fits:
                self._fits[samples] = self._how_many_fit(waveform[start : start + 1])
            count = self._fits[samples]
            part = slice(start, min(start + count, len(waveform)))
            try:
                out[part] = self._denoise(waveform[part], None if gain is None else gain[part], count)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                # a compiled network was given `count`, however few were left
                fewer = (count if self.compiled else part.stop - part.start) // 2
                if fewer == 0:
                    raise MemoryError(
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
            at_unit_rms(self._scaled(self.model), waveform.to(self.device))
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
        network = self.model
        if self.compiled is not None:
            network = self.compiled
            missing = count - asked
            waveform = torch.nn.functional.pad(waveform, (0, 0, 0, missing))
            gain = None if gain is None else torch.nn.functional.pad(gain, (0, missing), value=1.0)
        waveform = self._moved(waveform)
        gain = None if gain is None else self._moved(gain)
        return at_unit_rms(self._scaled(network), waveform, gain)[:asked].cpu()

    def _scaled(self, network):
        """What at_unit_rms calls, through `network`."""

        def enhance(scaled, samples):
            mag, pha, _ = mag_pha_stft(scaled)
            half = self.dtype != torch.float32
            with torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext():
                mag, pha, *_ = network(mag.to(self.device), pha.to(self.device))
            mag, pha = (x.to(self.signal_device, torch.float32) for x in (mag, pha))
            return mag_pha_istft(mag, pha, length=samples)

        return enhance

    def _moved(self, x: Tensor) -> Tensor:
        pinned = x.pin_memory() if self.signal_device.type == "cuda" else x
        return pinned.to(self.signal_device, non_blocking=True)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)


def _empty_cache(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).empty_cache()
