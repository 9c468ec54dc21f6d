"""The weighted sum of the losses, of a batch."""

import torch
from conftest import SMALL

from modelscope_zipenhancer.network.spectrum import mag_pha_stft
from modelscope_zipenhancer.train.mixer import Mixer, MixOptions
from modelscope_zipenhancer.train.objective import training_losses


def test_training_lowers_the_loss_on_one_batch(folders):
    from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer

    torch.manual_seed(0)
    model = ZipEnhancer(SMALL).train()
    noisy, clean = (
        torch.from_numpy(x) for x in Mixer(*folders, MixOptions(crop_samples=4000)).batch(0, 0, 2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(15):
        loss = training_losses(model, noisy, clean)[0]["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.8 * seen[0]


def test_every_loss_of_a_perfect_estimate_is_nearly_zero_but_for_the_gradient():
    x = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    mag, pha, _ = mag_pha_stft(x)

    class Perfect(torch.nn.Module):
        def forward(self, *_):
            return mag, pha, torch.stack([mag * pha.cos(), mag * pha.sin()], -1), None, {}

    values, _ = training_losses(Perfect(), x, x)
    assert values["loss"].item() < 2e-3
