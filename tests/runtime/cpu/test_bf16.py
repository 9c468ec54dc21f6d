"""bfloat16 on CPUs: near float32, and refused where it can't be had."""

import math

import pytest
import torch
from conftest import ROOT
from cpu_networks import SIZES, error, network, spectra
from soundfile import read

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.errors import OptionError
from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.runtime.cpu.native import library as native
from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork

needs_bf16 = pytest.mark.skipif(native.library(torch.bfloat16) is None, reason=native.status(torch.bfloat16))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Signal to noise in dB."""
    return -20 * math.log10(error(a, b))


@pytest.fixture
def speech() -> torch.Tensor:
    return torch.from_numpy(read(ROOT / "examples" / "noisy_speech.wav", dtype="float32")[0])[
        None, : 4 * 16000
    ]


@needs_bf16
@pytest.mark.parametrize("frames", [1, 2, 38])
@pytest.mark.parametrize("size", SIZES)
def test_a_network_of_any_size_is_near_its_definition(size, frames):
    model, x = network(size), spectra(1, frames)
    assert 30 < difference(CpuNetwork(model, torch.bfloat16)(*x)[0], model(*x)[0]) < 70


@needs_bf16
def test_it_changes_little_on_trained_weights(speech):
    model = load_model(find_model("tiny"))
    found = CpuNetwork(model, torch.bfloat16).denoise(speech)
    assert 40 < difference(found, model.denoise(speech)) < 70


@needs_bf16
@pytest.mark.parametrize("size", SIZES)
def test_what_earlier_calls_left_in_memory_is_not_heard(size):
    form = CpuNetwork(network(size), torch.bfloat16)
    first = form(*spectra(1, 11))
    form(*(x + torch.nan for x in spectra(1, 30)))
    for a, b in zip(form(*spectra(1, 11)), first):
        assert torch.equal(a, b)


@needs_bf16
def test_an_enhancer_of_bf16_runs_in_it(speech):
    exact, rough = (Enhancer.from_pretrained("tiny", "cpu", precision=p)(speech[0]) for p in ("fp32", "bf16"))
    assert 40 < difference(*map(torch.from_numpy, (rough, exact))) < 70


def test_it_is_refused_where_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(native.glob, "glob", lambda pattern: [])
    native._find.cache_clear()
    with pytest.raises(OptionError, match="'bf16' can't be had: .* not compiled: .*; use 'fp32'"):
        Enhancer.from_pretrained("tiny", "cpu", precision="bf16")
    native._find.cache_clear()


def test_an_unknown_precision_is_refused():
    with pytest.raises(OptionError, match="unknown precision 'fp8', known are: fp32, bf16, fp16"):
        Enhancer.from_pretrained("tiny", "cpu", precision="fp8")
