"""The ZipEnhancer network (Wang and Tian, ICASSP 2025, arXiv 2501.05183), and its STFT.

Shapes: B batch, T frames, F frequency bins (201; 101 inside the body), C channels.
Submodules are named as in the released checkpoint, so that its 453 entries load strictly.
"""

import torch
from torch import Tensor, nn

from .config import ModelConfig, StackConfig
from .zipformer import Bypass, Downsample, RelativePositions, ZipformerLayer, unflatten

N_FFT = 400  # 25 ms, 201 bins of 40 Hz; also the window's length
HOP_LENGTH = 100  # 6.25 ms, 160 frames a second
COMPRESSION = 0.3  # exponent of the magnitudes that the network reads and writes
SILENCE_POWER = 1e-20  # mean square, -200 dBFS: below it there is nothing to enhance
# Positions that one pass through a layer takes at inference; bounds the memory. A GPU needs more to be busy.
ROW_TOKENS = {"cpu": 4096, "cuda": 1 << 17}


# ---- the network -------------------------------------------------------------------------------


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
        imag, real = self.phase_conv_i(x), self.phase_conv_r(x)
        if imag.dtype in (torch.float16, torch.bfloat16):  # under autocast: too coarse for an angle
            imag, real = imag.float(), real.float()
        return torch.atan2(imag, real)


def by_rows(layer: ZipformerLayer, bypass: Bypass, x: Tensor, positions: Tensor) -> Tensor:
    """bypass(x, layer(x)) for x (N, L, C).

    Sequences don't see each other, so at inference they go through a few at a time: the same
    result, with a peak that doesn't grow with N.
    """
    step = max(1, ROW_TOKENS.get(x.device.type, 1 << 15) // x.shape[1])
    if torch.is_grad_enabled() or torch.jit.is_tracing() or x.shape[0] <= step:
        return bypass(x, layer(x, positions))
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for start in range(0, x.shape[0], step):
        rows = x[start : start + step]
        out[start : start + step] = bypass(rows, layer(rows, positions))
    return out


class DualPathBlock(nn.Module):
    """Pairs of Zipformer layers, along frequency then along time: (B, T, F, C) -> same."""

    def __init__(self, config: ModelConfig, stack: StackConfig):
        super().__init__()

        def layers():
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
            x = unflatten(by_rows(f_layer, bypass, x.flatten(0, 1), f_positions), 0, (batch, -1))
            x = x.transpose(1, 2)  # (B, F, T, C)
            x = unflatten(by_rows(t_layer, bypass, x.flatten(0, 1), t_positions), 0, (batch, -1))
            x = x.transpose(1, 2)
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

    def forward(self, noisy_mag: Tensor, noisy_pha: Tensor):
        """Enhance spectra.

        noisy_mag: (B, 201, T), magnitude ** 0.3 of a waveform of unit RMS; noisy_pha: (B, 201, T),
        radians in [-pi, pi]. Returns (magnitude, phase, complex, None, {}) as the built-in does:
        the first two shaped like the inputs, `complex` (B, 201, T, 2) real and imaginary.
        """
        x = torch.stack([noisy_mag, noisy_pha], dim=1).transpose(2, 3)  # (B, 2, T, F)
        x = self.dense_encoder(x).permute(0, 2, 3, 1)  # (B, T, F, C)
        x = self.TSConformer(x).permute(0, 3, 1, 2)  # (B, C, T, F)
        mag = self.mask_decoder(x).squeeze(1).transpose(1, 2)
        pha = self.phase_decoder(x).squeeze(1).transpose(1, 2)
        return mag, pha, torch.stack([mag * pha.cos(), mag * pha.sin()], dim=-1), None, {}

    def denoise(self, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
        """Enhance waveforms.

        waveform: (B, samples), 16 kHz, float32, any level. gain: (B,), the factor that brings each
        to the unit RMS that the network was trained on; by default each item's own. Returns the
        same shape at the same level. A silent item gives silence.
        """
        return at_unit_rms(self._denoise_scaled, waveform, gain)

    def _denoise_scaled(self, waveform: Tensor, samples: int) -> Tensor:
        mag, pha, _ = mag_pha_stft(waveform)
        mag, pha, *_ = self(mag, pha)
        return mag_pha_istft(mag, pha, length=samples)


# ---- the signal --------------------------------------------------------------------------------


def unit_rms_gain(waveform: Tensor) -> Tensor:
    """sqrt(samples / energy) of each item of (B, samples), as (B, 1), in the built-in's arithmetic.

    The network reads wrapped phase: where it lies at +-pi, one rounding apart here is a step of
    2 pi there. So this is not simplified to 1 / rms.
    """
    return torch.sqrt(waveform.shape[-1] / torch.sum(waveform**2.0, dim=-1, keepdim=True))


def at_unit_rms(enhance, waveform: Tensor, gain: Tensor | None = None) -> Tensor:
    """Call enhance(scaled, samples) on waveforms (B, samples) brought to unit RMS, and undo the gain.

    What `enhance` gets is zero-padded to N_FFT samples if shorter; it returns (B, samples).
    """
    samples = waveform.shape[-1]
    silent = waveform.square().mean(-1, keepdim=True) < SILENCE_POWER
    gain = unit_rms_gain(waveform) if gain is None else gain[:, None]
    gain = torch.where(silent, torch.ones_like(gain), gain)
    padded = nn.functional.pad(waveform * gain, (0, max(0, N_FFT - samples)))
    enhanced = enhance(padded, samples) / gain
    return torch.where(silent, torch.zeros_like(enhanced), enhanced)


def mag_pha_stft(
    y: Tensor,
    n_fft: int = N_FFT,
    hop_size: int = HOP_LENGTH,
    win_size: int = N_FFT,
    compress_factor: float = COMPRESSION,
    center: bool = True,
):
    """(B, samples) -> compressed magnitude and phase, (B, F, T) each, and both as (B, F, T, 2).

    The signature and the small constants are the built-in's; the model card's samples call it.
    """
    spec = torch.stft(
        y,
        n_fft,
        hop_length=hop_size,
        win_length=win_size,
        window=torch.hann_window(win_size, device=y.device),
        center=center,
        pad_mode="reflect",
        normalized=False,
        return_complex=True,
    )
    spec = torch.view_as_real(spec)
    mag = torch.sqrt(spec.pow(2).sum(-1) + 1e-9)
    pha = torch.atan2(spec[..., 1], spec[..., 0] + 1e-5)
    mag = torch.pow(mag, compress_factor)
    return mag, pha, torch.stack([mag * pha.cos(), mag * pha.sin()], dim=-1)


def mag_pha_istft(
    mag: Tensor,
    pha: Tensor,
    n_fft: int = N_FFT,
    hop_size: int = HOP_LENGTH,
    win_size: int = N_FFT,
    compress_factor: float = COMPRESSION,
    center: bool = True,
    length: int | None = None,
) -> Tensor:
    """The inverse of `mag_pha_stft`: (B, F, T) twice -> (B, length).

    Without `length`, as the built-in: (T - 1) * hop_size samples.
    """
    mag = torch.pow(mag, 1.0 / compress_factor)
    return torch.istft(
        torch.complex(mag * pha.cos(), mag * pha.sin()),
        n_fft,
        hop_length=hop_size,
        win_length=win_size,
        window=torch.hann_window(win_size, device=mag.device),
        center=center,
        length=length,
    )
