"""The ZipEnhancer network (Wang and Tian, ICASSP 2025, arXiv 2501.05183): the definition.

Training runs it as it stands; for inference it is arranged anew (runtime/), equal to this within 1e-5.

Shapes: B batch, T frames, F frequency bins (201; 101 inside the body), C channels.
Submodules are named as in the released checkpoint, so that its 453 entries load strictly.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..names import COMPRESSION
from .config import ModelConfig, StackConfig
from .spectrum import denoise
from .zipformer import Bypass, Downsample, RelativePositions, ZipformerLayer, unflatten


def norm_act(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.InstanceNorm2d(channels, affine=True), nn.PReLU(channels))


class DenseBlock(nn.Module):
    """Four dilated convolutions, causal in time, each reading all earlier outputs: (B, C, T, F)."""

    def __init__(self, channels: int):
        super().__init__()
        self.dense_block = nn.ModuleList()
        for i in range(4):
            dilation = 2**i
            layer = norm_act(
                nn.Conv2d(channels * (i + 1), channels, (2, 3), dilation=(dilation, 1)), channels
            )
            layer.insert(0, nn.ConstantPad2d((1, 1, dilation, 0), 0.0))
            self.dense_block.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        skip = x
        for layer in self.dense_block:
            x = layer(skip)
            skip = torch.cat([x, skip], dim=1)
        return x


class DenseEncoder(nn.Module):
    """(B, 2, T, F) -> (B, C, T, (F+1)//2)"""

    def __init__(self, channels: int):
        super().__init__()
        self.dense_conv_1 = norm_act(nn.Conv2d(2, channels, 1), channels)
        self.dense_block = DenseBlock(channels)
        self.dense_conv_2 = norm_act(
            nn.Conv2d(channels, channels, (1, 3), stride=(1, 2), padding=(0, 1)), channels
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_conv_2(self.dense_block(self.dense_conv_1(x)))


class SubPixelConv(nn.Module):
    """Twice the bins: (B, C, T, F) -> (B, C, T, 2F); channel 2c+i of the convolution is bin 2f+i."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return unflatten(self.conv1(x), 1, (-1, 2)).permute(0, 1, 3, 4, 2).flatten(-2)


class MagnitudeDecoder(nn.Module):
    """(B, C, T, 101) -> compressed magnitude (B, 1, T, 201): a mapping, not a mask."""

    def __init__(self, channels: int):
        super().__init__()
        self.dense_block = DenseBlock(channels)
        self.mask_conv = norm_act(SubPixelConv(channels), channels)
        self.mask_conv.append(nn.Conv2d(channels, 1, (1, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.mask_conv(self.dense_block(x)).relu()


class PhaseDecoder(nn.Module):
    """(B, C, T, 101) -> wrapped phase (B, 1, T, 201), radians."""

    def __init__(self, channels: int):
        super().__init__()
        self.dense_block = DenseBlock(channels)
        self.phase_conv = norm_act(SubPixelConv(channels), channels)
        self.phase_conv_r = nn.Conv2d(channels, 1, (1, 2))
        self.phase_conv_i = nn.Conv2d(channels, 1, (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.phase_conv(self.dense_block(x))
        # Half precision, as autocast has it here, would be too coarse for an angle.
        return torch.atan2(self.phase_conv_i(x).float(), self.phase_conv_r(x).float())


class DualPathBlock(nn.Module):
    """Pairs of Zipformer layers, along frequency then along time: (B, T, F, C) -> same."""

    def __init__(self, config: ModelConfig, stack: StackConfig):
        super().__init__()

        def layers() -> nn.ModuleList:
            return nn.ModuleList(
                ZipformerLayer(config.channels, config.pos_dim, stack, config.dropout)
                for _ in range(stack.layers)
            )

        self.encoder_pos = RelativePositions(config.pos_dim)
        self.f_layers = layers()
        self.t_layers = layers()
        # One bypass for all, registered many times: so the released network was trained.
        self.bypass_layers = nn.ModuleList([Bypass(config.channels)] * (2 * stack.layers))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        bypass = self.bypass_layers[0]
        f_positions = self.encoder_pos(x[0, 0])
        t_positions = self.encoder_pos(x[0, :, 0])
        for f_layer, t_layer in zip(self.f_layers, self.t_layers):
            for layer, positions in ((f_layer, f_positions), (t_layer, t_positions)):
                rows = x.flatten(0, 1)
                x = unflatten(bypass(rows, layer(rows, positions)), 0, (batch, -1))
                x = x.transpose(1, 2)  # (B, F, T, C) after the first, (B, T, F, C) after the second
        return x


class DownsampledBlock(nn.Module):
    """A dual-path block at a fraction of the time and frequency resolution: (B, T, F, C) -> same."""

    def __init__(self, config: ModelConfig, stack: StackConfig):
        super().__init__()
        self.factors = stack.time_factor, stack.freq_factor
        if stack.time_factor != 1:
            self.downsample_t = Downsample(stack.time_factor, dim=1)
        if stack.freq_factor != 1:
            self.downsample_f = Downsample(stack.freq_factor, dim=2)
        self.encoder = DualPathBlock(config, stack)
        self.out_combiner = Bypass(config.channels)

    def forward(self, x: Tensor) -> Tensor:
        time_factor, freq_factor = self.factors
        y = x
        if time_factor != 1:
            y = self.downsample_t(y)
        if freq_factor != 1:
            y = self.downsample_f(y)
        y = self.encoder(y)
        y = y.repeat_interleave(time_factor, 1).repeat_interleave(freq_factor, 2)
        return self.out_combiner(x, y[:, : x.shape[1], : x.shape[2]])


class DualPathZipformer(nn.Module):
    """The body: (B, T, F, C) -> same."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.encoders = nn.ModuleList(
            DualPathBlock(config, stack)
            if stack.time_factor == stack.freq_factor == 1
            else DownsampledBlock(config, stack)
            for stack in config.stacks
        )
        # In the released checkpoint and unused: kept, so that it loads and saves back whole.
        self.downsample_output = nn.Module()
        self.downsample_output.register_buffer("bias", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        for encoder in self.encoders:
            x = encoder(x)
        return x


def bounded(mag: Tensor, noisy_mag: Tensor, bound: float | None) -> Tensor:
    """Enhanced magnitudes, none above `bound` times the largest of the nine noisy ones around it.

    Compressed, (B, F, T) both. A mapping, other than a mask, can make sound where there was none: of inputs
    unlike all in training, such as tones over digital silence, it does. None: as they are.
    """
    if bound is None:
        return mag
    around = F.max_pool2d(noisy_mag[:, None], 3, stride=1, padding=1)[:, 0]
    return torch.minimum(mag, around * bound**COMPRESSION)


class ZipEnhancer(nn.Module):
    """Compressed magnitude and phase of noisy speech in, of clean speech out.

    `forward` is the network alone and keeps the built-in's signature; `denoise` goes from
    waveform to waveform.
    """

    def __init__(self, config: ModelConfig = ModelConfig()):
        super().__init__()
        self.config = config
        self.dense_encoder = DenseEncoder(config.channels)
        self.TSConformer = DualPathZipformer(config)
        self.mask_decoder = MagnitudeDecoder(config.channels)
        self.phase_decoder = PhaseDecoder(config.channels)

    def forward(self, noisy_mag: Tensor, noisy_pha: Tensor) -> tuple:
        """Enhance spectra.

        noisy_mag: (B, 201, T), magnitude ** 0.3 of a waveform of unit RMS; noisy_pha: (B, 201, T),
        radians in [-pi, pi]. Returns (magnitude, phase, complex, None, {}) as the built-in does:
        the first two shaped like the inputs, `complex` (B, 201, T, 2) real and imaginary.
        """
        x = torch.stack([noisy_mag, noisy_pha], dim=1).transpose(2, 3)  # (B, 2, T, F)
        x = self.dense_encoder(x).permute(0, 2, 3, 1)  # (B, T, F, C)
        x = self.TSConformer(x).permute(0, 3, 1, 2)  # (B, C, T, F)
        mag = self.mask_decoder(x).squeeze(1).transpose(1, 2)
        if not self.training:  # where it acts, it has no gradient
            mag = bounded(mag, noisy_mag, self.config.magnitude_bound)
        pha = self.phase_decoder(x).squeeze(1).transpose(1, 2)
        return mag, pha, torch.stack([mag * pha.cos(), mag * pha.sin()], dim=-1), None, {}

    def denoise(self, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
        """Enhance waveforms: `spectrum.denoise` with this network, on its device.

        waveform: (B, samples), 16 kHz, float32, any level. gain: (B,), by default each item's own.
        """
        return denoise(self._polar_to_complex, waveform, gain)

    def _polar_to_complex(self, noisy_mag: Tensor, noisy_pha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mag, _, com, *_ = self(noisy_mag, noisy_pha)
        return mag, *com.unbind(-1)
