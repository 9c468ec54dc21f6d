"""The fast form computes the definition's function, whatever the sizes, threads and callers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
import torch
from cpu_networks import SIZES, assert_equal_networks, error, network, noise, spectra

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.runtime.cpu.convolution import DenseBlock
from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork
from modelscope_zipenhancer.runtime.cpu.winograd import WinogradBlock

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("each_form")


@pytest.mark.parametrize("size", SIZES)
def test_it_equals_the_definition(size):
    model = network(size)
    form = CpuNetwork(model)
    for batch, frames in [(1, 1), (2, 2), (1, 5), (3, 38)] + [(1, 161)] * (size != "S"):
        assert_equal_networks(model, form, batch, frames)


def test_it_equals_the_definition_over_six_seconds():
    model = network("unequal factors, two layers, odd numbers")
    assert_equal_networks(model, CpuNetwork(model), 1, 961)


@pytest.mark.parametrize("size, form", [("S", WinogradBlock), ("tiny", DenseBlock)])
def test_wide_networks_take_winograds_form(size, form, torch_form):
    fast = CpuNetwork(network(size))
    assert {type(fast.encoder.block), type(fast.mask.block), type(fast.phase.block)} == {form}


@pytest.mark.parametrize("size", ["32 channels", "tiny"])
def test_what_earlier_calls_left_in_memory_is_not_heard(size):
    form = CpuNetwork(network(size))
    first = form(*spectra(1, 50))
    form(*(x + torch.nan for x in spectra(1, 90)))
    for a, b in zip(form(*spectra(1, 50)), first):
        assert torch.equal(a, b)


def test_each_item_of_a_batch_is_as_if_alone():
    form = CpuNetwork(network())
    mag, pha = spectra(3, 40)
    mag[1] *= 5
    together = form(mag, pha)
    for item in range(3):
        for all_items, alone in zip(together, form(mag[item : item + 1], pha[item : item + 1])):
            assert torch.equal(all_items[item], alone[0])


def test_inputs_are_left_as_they_are():
    form = CpuNetwork(network())
    mag, pha = spectra(1, 20)
    before = mag.clone(), pha.clone()
    form(mag, pha)
    assert torch.equal(mag, before[0]) and torch.equal(pha, before[1])


def test_lengths_may_follow_each_other_in_any_order():
    form = CpuNetwork(network())
    first = {frames: form(*spectra(1, frames)) for frames in (50, 7, 120)}
    for frames in (7, 120, 7, 50):
        for a, b in zip(form(*spectra(1, frames)), first[frames]):
            assert torch.equal(a, b)


@pytest.mark.parametrize("samples", [1, 50, 399, 4001, 16000])
def test_denoise_equals_the_definition(samples):
    model = network()
    x = noise(2, samples)
    x[1] *= 0.01
    result = CpuNetwork(model).denoise(x)
    assert result.shape == x.shape and error(result, model.denoise(x)) < 1e-4


def test_denoise_takes_a_gain():
    model, x = network(), noise(2, 8000)
    gain = torch.tensor([3.0, 11.0])
    assert error(CpuNetwork(model).denoise(x, gain), model.denoise(x, gain)) < 1e-4


def test_a_silent_item_gives_silence():
    x = noise(2, 4000)
    x[0] = 0
    result = CpuNetwork(network()).denoise(x)
    assert torch.equal(result[0], x[0]) and result[1].abs().max() > 0


def test_results_can_be_used_as_ordinary_tensors():
    form = CpuNetwork(network())
    for tensor in (*form(*spectra(1, 4)), form.denoise(noise(1, 1000))):
        assert not tensor.is_inference()
        tensor.add_(1)


def test_weights_changed_later_are_not_seen():
    model = network()
    form = CpuNetwork(model)
    before = form(*spectra(1, 10))
    for parameter in model.parameters():
        parameter.zero_()
    for a, b in zip(form(*spectra(1, 10)), before):
        assert torch.equal(a, b)


def test_callers_in_several_threads_get_what_one_gets():
    form = CpuNetwork(network())
    inputs = [spectra(1, frames) for frames in (30, 31, 90, 5)] * 3
    expected = [form(*x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: form(*x), inputs))
    for result, one in zip(results, expected):
        assert all(torch.equal(a, b) for a, b in zip(result, one))


def speech(seconds: int) -> torch.Tensor:
    x, rate = soundfile.read(ROOT / "examples" / "noisy_speech.wav", dtype="float32")
    return torch.from_numpy(x)[None, : seconds * rate]


# ---- what the host program has set -------------------------------------------------------------


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_default_dtype_of_float64_changes_nothing(double_precision):
    torch.set_default_dtype(torch.float32)
    model, x, audio = network(), spectra(2, 20), noise(1, 4000)
    form = CpuNetwork(model)
    expected = *form(*x), form.denoise(audio)
    torch.set_default_dtype(torch.float64)
    for made in form, CpuNetwork(model):
        for result, one in zip((*made(*x), made.denoise(audio)), expected):
            assert result.dtype == torch.float32 and torch.equal(result, one)


@pytest.mark.parametrize("size", ["tiny", "32 channels"])
def test_weights_and_spectra_of_float64_are_taken(size):
    model, x = network(size), spectra(1, 20)
    expected = CpuNetwork(model)(*x)
    for result, one in zip(CpuNetwork(model.double())(*(part.double() for part in x)), expected):
        assert result.dtype == torch.float32 and error(result, one) < 1e-5


def test_weights_of_float64_changed_later_are_not_seen():
    model, x = network().double(), spectra(1, 10)
    form = CpuNetwork(model)
    before = form(*x)
    for parameter in model.parameters():
        parameter.zero_()
    for a, b in zip(form(*x), before):
        assert torch.equal(a, b)


def test_an_enhancer_made_and_called_under_a_default_dtype_of_float64_gives_the_same(double_precision):
    torch.set_default_dtype(torch.float32)
    x = speech(1)[0].numpy()
    expected = Enhancer.from_pretrained("tiny", "cpu")(x)
    torch.set_default_dtype(torch.float64)
    result = Enhancer.from_pretrained("tiny", "cpu")(x)
    assert result.dtype == expected.dtype and abs(result - expected).max() < 1e-5


@pytest.mark.parametrize("size", ["tiny", "32 channels"])
def test_autocast_outside_changes_nothing(size):
    model, x, audio = network(size), spectra(1, 20), noise(1, 4000)
    form = CpuNetwork(model)
    expected = *form(*x), form.denoise(audio)
    with torch.autocast("cpu", torch.bfloat16):
        for made in form, CpuNetwork(model):
            for result, one in zip((*made(*x), made.denoise(audio)), expected):
                assert result.dtype == torch.float32 and torch.equal(result, one)
        assert torch.is_autocast_enabled("cpu")


def test_a_default_device_elsewhere_changes_nothing():
    model, x = network(), spectra(1, 20)
    expected = CpuNetwork(model)(*x)
    with torch.device("meta"):
        results = CpuNetwork(model)(*x)
    for result, one in zip(results, expected):
        assert torch.equal(result, one)
