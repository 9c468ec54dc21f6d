"""The form for GPUs, run on the CPU: batches, what happens when they don't fit, half precision."""

import numpy as np
import pytest
import torch
from conftest import QUICK, seeded_model

from modelscope_zipenhancer.enhance.grid import Grid
from modelscope_zipenhancer.enhance.overlap_add import enhance
from modelscope_zipenhancer.errors import OptionError
from modelscope_zipenhancer.network.zipformer import ZipformerLayer
from modelscope_zipenhancer.runtime import gpu as device_module
from modelscope_zipenhancer.runtime import pytorch as backend_module
from modelscope_zipenhancer.runtime.gpu import GpuNetwork
from modelscope_zipenhancer.runtime.pytorch import TorchBackend

SECOND = 16_000


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * 0.1


def equal(found, expected):
    assert found.shape == expected.shape and found.dtype == torch.float32
    # 1e-3, not less: a batch rounds otherwise than one waveform, and the network reads wrapped phase
    assert (found - expected).norm() < 1e-3 * expected.norm()


@pytest.fixture(scope="module")
def model():
    return seeded_model(QUICK)


@pytest.fixture
def crowded(model, monkeypatch):
    """A device on which no more than `limit` waveforms fit; the sizes of the batches that came."""
    sizes = []

    def network(limit):
        form = GpuNetwork(model)

        def forward(mag, pha):
            sizes.append(len(mag))
            if len(mag) > limit:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return model(mag, pha)

        monkeypatch.setattr(form, "model", forward)
        return form, sizes

    return network


@torch.inference_mode()
def test_it_equals_the_definition(model):
    x = noise(3, SECOND // 2)
    equal(GpuNetwork(model).denoise(x), model.denoise(x))
    gain = torch.tensor([3.0, 5.0, 7.0])
    equal(GpuNetwork(model).denoise(x, gain), model.denoise(x, gain))


@torch.inference_mode()
def test_rows_in_parts_give_what_all_rows_at_once_give(model, monkeypatch):
    monkeypatch.setattr(device_module, "ROW_TOKENS", 60)
    x = noise(2, SECOND // 2)
    rows = []
    layer = ZipformerLayer.forward
    monkeypatch.setattr(
        ZipformerLayer, "forward", lambda self, x, p: rows.append(x.shape) or layer(self, x, p)
    )
    found = GpuNetwork(model).denoise(x)
    assert all(n * length <= max(60, length) for n, length, _ in rows) and len(rows) > 10
    equal(found, model.denoise(x))


def test_the_copy_for_gpus_shares_its_weights(model):
    copied = GpuNetwork(model).model
    assert {p.data_ptr() for p in copied.parameters()} == {p.data_ptr() for p in model.parameters()}


@torch.inference_mode()
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_nothing_is_lost(model, crowded):
    form, sizes = crowded(limit=3)
    x = noise(9, 4000)
    equal(form.denoise(x), model.denoise(x))
    assert sizes == [9, 4, 2, 2, 2, 2, 1]
    sizes.clear()
    equal(form.denoise(x[:2]), model.denoise(x[:2]))
    assert sizes == [2]  # it has learnt what fits


@torch.inference_mode()
def test_a_waveform_that_does_not_fit_alone_is_a_clear_error(crowded):
    form, _ = crowded(limit=0)
    with pytest.raises(MemoryError, match="0.2 s of audio don't fit on cpu.*device='cpu'"):
        form.denoise(noise(2, 4000))


@torch.inference_mode()
def test_how_many_fit_is_measured_for_the_longest_alone(model, monkeypatch):
    form, measured = GpuNetwork(model), []
    monkeypatch.setattr(form, "_how_many_fit", lambda x: measured.append(x.shape[-1]) or 2)
    for samples in (3000, 2000, 2500, 4000, 3500, 1000):
        form.denoise(noise(3, samples))
    assert measured == [3000, 4000]


@torch.inference_mode()
def test_other_errors_of_the_device_are_not_taken_for_want_of_memory(model, monkeypatch):
    form = GpuNetwork(model)

    def forward(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(form, "model", forward)
    with pytest.raises(RuntimeError, match="illegal"):
        form.denoise(noise(2, 4000))


@torch.inference_mode()
def test_a_compiled_network_sees_batches_of_one_size_only(model, monkeypatch):
    sizes = []

    def compiled(module, **_):
        def forward(mag, pha):
            sizes.append(len(mag))
            return module(mag, pha)

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(device_module, "BATCH", 4)
    x = noise(6, 4000)
    equal(GpuNetwork(model, compile=True).denoise(x), model.denoise(x))
    assert sizes == [4, 4]


@torch.inference_mode()
def test_a_last_small_batch_that_is_filled_up_and_does_not_fit_is_halved_too(model, monkeypatch):
    def compiled(module, **_):
        def forward(mag, pha):
            if len(mag) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return module(mag, pha)

        return forward

    monkeypatch.setattr(torch, "compile", compiled)
    x = noise(1, 4000)
    equal(GpuNetwork(model, compile=True).denoise(x), model.denoise(x))


def test_a_recording_is_sent_in_batches_of_chunks_and_sounds_the_same(model, monkeypatch):
    """On a device that is no CPU by name only."""
    alone = TorchBackend(model)
    form = GpuNetwork(model)
    sizes = []

    class Batched:
        preferred_batch_size = 3

        def __call__(self, waveform):
            sizes.append(waveform.shape)
            with torch.inference_mode():
                return form.denoise(torch.from_numpy(waveform)).numpy()

    x = noise(23 * SECOND).numpy()
    found, expected = enhance(Batched(), x), enhance(alone, x)
    assert sizes == [(3, Grid().window), (1, Grid().window), (1, Grid().window)]
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_on_a_gpu_the_form_for_gpus_runs_and_asks_for_batches(model, monkeypatch):
    monkeypatch.setattr(TorchBackend, "_device", torch.device("cuda"))
    backend = TorchBackend(model)
    assert backend.preferred_batch_size == device_module.BATCH
    assert isinstance(backend.form(), GpuNetwork)
    monkeypatch.undo()
    assert TorchBackend(model).preferred_batch_size == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": "fp16"}, "precision 'fp16' is for GPUs"),
        ({"compile": True}, "compile=True is for GPUs"),
    ],
)
def test_what_only_pays_on_gpus_is_refused_on_a_cpu(model, options, message):
    with pytest.raises(OptionError, match=message):
        backend_module.TorchBackend(model, **options)


@torch.inference_mode()
def test_a_phase_is_computed_in_float32_also_under_autocast(model, monkeypatch):
    seen = []
    atan2 = torch.atan2
    monkeypatch.setattr(torch, "atan2", lambda y, x: seen.append(y.dtype) or atan2(y, x))
    decoder = model.phase_decoder
    x = noise(1, model.config.channels, 5, 101)
    with torch.autocast("cpu", torch.bfloat16):
        assert decoder.phase_conv_i(x).dtype == torch.bfloat16
        assert decoder(x).dtype == torch.float32
    decoder(x)
    assert seen == [torch.float32, torch.float32]
