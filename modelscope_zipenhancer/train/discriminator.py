"""The metric discriminator, which learns PESQ, so that the network can be trained towards it.

MetricGAN (Fu et al., arXiv 1905.04874) in the form of CMGAN and MP-SENet, which ZipEnhancer's paper
takes over (arXiv 2501.05183, section 2.4). Magnitudes are the compressed ones, (B, F, T).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..evaluate.measures import MetricError, pesq
from ..network.spectrum import mag_pha_stft
from .config import TrainOptions
from .distributed import parallel
from .schedules import learning_rate


class MetricDiscriminator(nn.Module):
    """Maps a clean magnitude and another, (B, F, T) each, to the PESQ that it expects, (B,), from 0 to 1.

    PESQ is normalised as in `normalised_pesq`. F is 16 or more, and so is T.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        sizes = (2, channels, 2 * channels, 4 * channels, 8 * channels)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    spectral_norm(nn.Conv2d(before, after, 4, 2, 1, bias=False)),
                    nn.InstanceNorm2d(after, affine=True),
                    nn.PReLU(after),
                )
                for before, after in zip(sizes, sizes[1:])
            )
        )
        self.head = nn.Sequential(
            spectral_norm(nn.Linear(sizes[-1], sizes[-2])),
            nn.PReLU(sizes[-2]),
            spectral_norm(nn.Linear(sizes[-2], 1)),
        )

    def forward(self, clean_mag: Tensor, mag: Tensor) -> Tensor:
        x = self.blocks(torch.stack([clean_mag, mag], 1))
        return self.head(x.amax((2, 3)))[:, 0].sigmoid()


def normalised_pesq(clean: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
    """The PESQ of `wave` against `clean`, (B, samples) each, 16 kHz, brought to about 0 to 1.

    Returns:
        (WB-PESQ - 1) / 3.5, (B,), up to 1.04, that of equal waveforms; and whether there is one, (B,) bool.
        PESQ finds no utterance in silence, and refuses NaN: such items are 0 and False.

    Raises:
        MissingPackageError: the package `pesq` isn't installed.
    """
    scores, valid = torch.zeros(len(wave)), torch.zeros(len(wave), dtype=torch.bool)
    for i, (reference, estimate) in enumerate(zip(clean.detach().cpu().numpy(), wave.detach().cpu().numpy())):
        try:
            score = (pesq(reference, estimate) - 1) / 3.5
        except MetricError:
            continue
        if math.isfinite(score):
            scores[i], valid[i] = score, True
    return scores.to(wave.device), valid.to(wave.device)


def discriminator_loss(
    discriminator: nn.Module, clean_mag: Tensor, mag: Tensor, scores: Tensor, valid: Tensor
) -> Tensor:
    """The squared distance of the discriminator's scores from 1 for `clean_mag` and from `scores` for `mag`.

    Magnitudes are (B, F, T), `scores` (B,), `valid` (B,) bool. The mean over valid items; a zero with a graph
    if there are none. What isn't valid may be NaN: it is taken out before the network, for 0 * NaN would be
    a gradient of NaN.
    """
    clean_mag, mag = (x.detach().where(valid[:, None, None], 0.0) for x in (clean_mag, mag))
    # one pass for both: DistributedDataParallel wants one forward for one backward
    found = discriminator(torch.cat([clean_mag, clean_mag]), torch.cat([clean_mag, mag]))
    best, estimated = found.chunk(2)
    errors = (best - 1).square() + (estimated - scores).square()
    return (errors * valid).sum() / valid.sum().clamp(min=1)


def generator_loss(discriminator: nn.Module, clean_mag: Tensor, mag: Tensor) -> Tensor:
    """The squared distance of the discriminator's score of `mag` from 1; its parameters get no gradient."""
    fixed = {name: p.detach() for name, p in discriminator.named_parameters()}
    score = torch.func.functional_call(discriminator, fixed, (clean_mag, mag))
    return F.mse_loss(score, torch.ones_like(score))


class DiscriminatorTrainer:
    """A discriminator that learns along with the network, for weights["metric"] above 0.

    Attributes:
        network: the MetricDiscriminator.
        optimizer: AdamW, at a quarter of the network's learning rate.
    """

    def __init__(self, options: TrainOptions, device: torch.device) -> None:
        self.network = MetricDiscriminator().to(device).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.0, betas=(0.8, 0.99))
        self._options = options
        self._parallel = parallel(self.network)

    def generator_loss(self, clean_mag: Tensor, mag: Tensor) -> Tensor:
        """What the network is to lower: `generator_loss` by the discriminator as it is now."""
        return generator_loss(self.network, clean_mag, mag)

    def step(self, number: int, clean: Tensor, wave: Tensor) -> Tensor:
        """Learn the PESQ of `wave` against `clean`, (B, samples) each, in the run's step `number`, from 0.

        Returns the discriminator's loss. MissingPackageError without the package `pesq`.
        """
        scores, valid = normalised_pesq(clean, wave)
        (clean_mag, *_), (mag, *_) = mag_pha_stft(clean), mag_pha_stft(wave)
        loss = discriminator_loss(self._parallel, clean_mag, mag, scores, valid)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = 0.25 * learning_rate(self._options, number)
        self.optimizer.step()
        return loss
