"""The PyTorch backend: pickled, under other settings of its host, and found by name."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import QUICK, noisy_speech, seeded_model

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.errors import OptionError
from modelscope_zipenhancer.network.checkpoint import save_weights
from modelscope_zipenhancer.network.spectrum import analyse, denoise
from modelscope_zipenhancer.runtime import pytorch
from modelscope_zipenhancer.runtime.backend import load_backend, preferred_batch_size
from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork
from modelscope_zipenhancer.runtime.pytorch import TorchBackend


def test_an_enhancer_pickles_to_its_weights_whatever_it_has_computed(tmp_path):
    enhancer = Enhancer.from_pretrained("tiny", device="cpu")
    expected = enhancer(noisy_speech(9.0))
    data = pickle.dumps(enhancer)
    save_weights(enhancer.backend.model, str(tmp_path / "weights.bin"))
    assert len(data) < 1.5 * (tmp_path / "weights.bin").stat().st_size
    np.testing.assert_array_equal(pickle.loads(data)(noisy_speech(9.0)), expected)


def test_threads_that_come_at_once_share_one_form(monkeypatch):
    made = []

    class Slow(CpuNetwork):
        def __init__(self, *arguments):
            made.append(1)
            time.sleep(0.2)
            super().__init__(*arguments)

    monkeypatch.setattr(pytorch, "CpuNetwork", Slow)
    backend = TorchBackend(seeded_model(QUICK))
    with ThreadPoolExecutor(8) as pool:
        forms = list(pool.map(lambda _: backend.form(), range(8)))
    assert len(made) == 1 and all(form is forms[0] for form in forms)


def test_the_hosts_default_dtype_changes_nothing():
    x = noisy_speech(2.0)[None]
    expected = TorchBackend(seeded_model(QUICK))(x)
    model = seeded_model(QUICK)
    torch.set_default_dtype(torch.float64)
    try:
        found = TorchBackend(model)(x)
        mag, pha = analyse(torch.from_numpy(x))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == np.float32 and mag.dtype == pha.dtype == torch.float32
    np.testing.assert_array_equal(found, expected)


def test_any_form_of_the_network_gets_the_signal_once_around_it():
    def identity(mag, pha):
        return mag, mag * pha.cos(), mag * pha.sin()

    x = torch.from_numpy(noisy_speech(1.0))[None]
    y = denoise(identity, x)
    assert y.shape == x.shape and (y - x).norm() < 1e-3 * x.norm()


def test_a_backend_is_found_by_name_and_an_unknown_one_is_named(quick_model_dir):
    backend = load_backend("torch", quick_model_dir, device="cpu")
    assert isinstance(backend, TorchBackend) and preferred_batch_size(backend) == 1
    with pytest.raises(OptionError, match="unknown backend 'tensorflow', known are: torch"):
        load_backend("tensorflow", quick_model_dir)


def test_an_option_that_the_backend_does_not_have_is_named(quick_model_dir):
    # `threads`, which 'onnx' has, was a TypeError that named a private __init__
    with pytest.raises(OptionError, match="threads=1: backend 'torch' takes only device, precision, compile"):
        Enhancer.from_pretrained(quick_model_dir, threads=1)
    with pytest.raises(OptionError, match="sped=2: backend 'onnx' takes only device, .*threads, providers"):
        Enhancer.from_pretrained("tiny", backend="onnx", sped=2)


def test_the_hosts_default_device_changes_nothing():
    enhancer, x = Enhancer(TorchBackend(seeded_model(QUICK))), noisy_speech(7.0)
    expected = enhancer(x, gain="recording")
    torch.set_default_device("meta")
    try:
        found = enhancer(x, gain="recording")
        by_name = Enhancer.from_pretrained("tiny", device="cpu")(x)
    finally:
        torch.set_default_device(None)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(by_name, Enhancer.from_pretrained("tiny", device="cpu")(x))
