"""The fast form computes the definition's function, whatever the sizes, threads and callers."""

import math
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
import torch

from modelscope_zipenhancer import Enhancer
from modelscope_zipenhancer.errors import OptionError
from modelscope_zipenhancer.network.checkpoint import load_model
from modelscope_zipenhancer.network.config import ModelConfig, StackConfig
from modelscope_zipenhancer.network.pretrained import find_model
from modelscope_zipenhancer.network.zipenhancer import ZipEnhancer
from modelscope_zipenhancer.runtime.cpu import threads as jobs
from modelscope_zipenhancer.runtime.cpu.buffers import Scratch
from modelscope_zipenhancer.runtime.cpu.convolution import DenseBlock
from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork
from modelscope_zipenhancer.runtime.cpu.winograd import WinogradBlock, matrices
from modelscope_zipenhancer.runtime.cpu.zipformer_layer import Layer

ROOT = Path(__file__).parents[3]

TINY_STACK = StackConfig(2, 2, query_dim=8, value_dim=6, feedforward_dim=96)
ODD_STACKS = (
    StackConfig(4, 3, 2, heads=3, query_dim=5, pos_head_dim=2, value_dim=3, feedforward_dim=20, kernel=7),
    StackConfig(1, 2, heads=1, feedforward_dim=12, kernel=3),
    StackConfig(2, 1, feedforward_dim=40, kernel=31),
)
SIZES = {
    "S": ModelConfig(),
    "tiny": ModelConfig(channels=16, stacks=(TINY_STACK,) * 2),
    "unequal factors, two layers, odd numbers": ModelConfig(channels=10, pos_dim=8, stacks=ODD_STACKS),
    "32 channels": ModelConfig(channels=32, stacks=(StackConfig(4, 4, feedforward_dim=32),)),
    "one stack at full resolution": ModelConfig(channels=8, stacks=(StackConfig(feedforward_dim=32),)),
}


def network(size: str = "tiny") -> ZipEnhancer:
    """Weights that are all different, also where a new network has zeros, ones or halves."""
    torch.manual_seed(0)
    model = ZipEnhancer(SIZES[size]).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.1 * parameter.std() if parameter.ndim > 1 else 0.03))
    return model


def spectra(batch: int, frames: int):
    torch.manual_seed(frames)
    return torch.rand(batch, 201, frames) * 2, (torch.rand(batch, 201, frames) * 2 - 1) * torch.pi


def noise(*shape) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(shape) * 0.1


def error(result, expected) -> float:
    return ((result - expected).norm() / expected.norm()).item()


def assert_equal_networks(model, form, batch, frames, tolerance=1e-5):
    mag, pha = spectra(batch, frames)
    expected_mag, _, expected_complex, *_ = model(mag, pha)
    result_mag, real, imag = form(mag, pha)
    assert error(result_mag, expected_mag) < tolerance
    assert error(torch.stack([real, imag], -1), expected_complex) < tolerance


@pytest.mark.parametrize("size", SIZES)
def test_it_equals_the_definition(size):
    model = network(size)
    form = CpuNetwork(model)
    for batch, frames in [(1, 1), (2, 2), (1, 5), (3, 38)] + [(1, 161)] * (size != "S"):
        assert_equal_networks(model, form, batch, frames)


def test_it_equals_the_definition_over_six_seconds():
    model = network("unequal factors, two layers, odd numbers")
    assert_equal_networks(model, CpuNetwork(model), 1, 961)


def test_winograds_matrices_make_a_convolution():
    inverse, taps, forward = matrices()
    weight, x = noise(3).double(), noise(6).double()
    found = inverse @ ((taps @ weight) * (forward @ x))
    assert torch.allclose(found, torch.stack([x[i : i + 3] @ weight for i in range(4)]), atol=1e-12)


@pytest.mark.parametrize(
    "size, dtype, form",
    [
        ("S", torch.float32, WinogradBlock),
        ("S", torch.bfloat16, DenseBlock),
        ("tiny", torch.float32, DenseBlock),
    ],
)
def test_wide_networks_take_winograds_form_in_float32(size, dtype, form):
    fast = CpuNetwork(network(size), dtype)
    assert {type(fast.encoder.block), type(fast.mask.block), type(fast.phase.block)} == {form}


@pytest.mark.parametrize("size", ["32 channels", "tiny"])
def test_what_earlier_calls_left_in_memory_is_not_heard(size):
    form = CpuNetwork(network(size))
    first = form(*spectra(1, 50))
    form(*(x + torch.nan for x in spectra(1, 90)))
    for a, b in zip(form(*spectra(1, 50)), first):
        assert torch.equal(a, b)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("length, step", [(1, 5), (7, 1), (10, 3), (100, 33), (321, 40), (5, 0)])
def test_slices_cover_all_once_and_keep_the_threads_equally_busy(length, step, threads):
    class Here:
        """A pool that works at once."""

        def submit(self, work, *args):
            return type("Done", (), {"result": lambda self, value=work(*args): value})()

    run = jobs.SlicePool.__new__(jobs.SlicePool)
    run.scratches, run.executor = [Scratch() for _ in range(threads)], Here()
    slices = run.slices(lambda start, stop, scratch: (start, stop), length, step)
    assert [i for start, stop in slices for i in range(start, stop)] == list(range(length))
    sizes = [stop - start for start, stop in slices]
    assert max(sizes) <= max(1, step)
    rounds = -(-len(sizes) // threads)
    assert rounds * max(sizes) <= length / threads + rounds


def test_views_are_made_once_and_anew_when_their_memory_has_moved():
    scratch = Scratch()
    small = scratch.views("small", lambda: scratch.take("x", 3))
    assert scratch.views("small", lambda: pytest.fail("made again")) is small
    large = scratch.views("large", lambda: [scratch.take("x", 4), scratch.take("x", 9)])
    assert len({x.data_ptr() for x in large}) == 1, "views of memory that a later one left behind"
    assert scratch.views("small", lambda: scratch.take("x", 3)).data_ptr() == large[0].data_ptr()


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


@pytest.mark.parametrize("part", ["nothing", "attention", "activations"])
def test_numbers_beyond_the_range_of_exp_are_computed_all_the_same(part, monkeypatch):
    model = network()
    for module in model.modules():
        if part == "attention" and hasattr(module, "linear_pos"):
            module.in_proj.weight.mul_(40)
        if part == "activations" and type(module).__name__ == "FeedForward":
            module.in_proj.weight.mul_(100)
            module.out_proj.weight.mul_(0.01)
    exact, run = [], Layer._run
    monkeypatch.setattr(Layer, "_run", lambda *args, **kw: exact.append(kw["exact"]) or run(*args, **kw))
    assert_equal_networks(model, CpuNetwork(model), 1, 30, tolerance=1e-4)
    assert any(exact) == (part != "nothing")  # the slow way is taken when needed, and only then


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


def run(code: str) -> str:
    """Run code in a process of its own; what it prints."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_any_number_of_torch_threads_gives_the_same_and_is_left_alone(tmp_path):
    torch.save(network(), tmp_path / "model.pt")
    threads = run(
        f"""
        import threading, torch
        from modelscope_zipenhancer.runtime.cpu.network import CpuNetwork

        form = CpuNetwork(torch.load({str(tmp_path / "model.pt")!r}, weights_only=False))
        x = torch.rand(1, 201, 60), torch.rand(1, 201, 60)
        results = []
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(form(*x))
            seen = [torch.get_num_threads()]
            new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            new.start()
            new.join()
            assert seen == [count, count], seen
        for result in results:
            assert all((a - b).abs().max() < 1e-4 for a, b in zip(result, results[0]))
        print("fine")
        """
    )
    assert threads.strip() == "fine"


def test_it_runs_where_threads_cannot_be_held_to_a_core(monkeypatch):
    form = CpuNetwork(network())
    expected = form(*spectra(1, 20))
    monkeypatch.setattr(jobs, "_torch_library", lambda: None)
    for a, b in zip(form(*spectra(1, 20)), expected):
        assert error(a, b) < 1e-5


def speech(seconds: int) -> torch.Tensor:
    x, rate = soundfile.read(ROOT / "examples" / "noisy_speech.wav", dtype="float32")
    return torch.from_numpy(x)[None, : seconds * rate]


def test_bf16_changes_little_on_trained_weights():
    model = load_model(find_model("tiny"))
    exact, rough = (CpuNetwork(model, dtype).denoise(speech(4)) for dtype in (torch.float32, torch.bfloat16))
    assert 35 < -20 * math.log10(error(rough, exact)) < 70  # it is used, and does no harm


def test_bf16_is_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    with pytest.raises(OptionError, match="'bf16' is for CPUs with AVX-512 BF16"):
        Enhancer.from_pretrained("tiny", "cpu", precision="bf16")
    with pytest.raises(OptionError, match="unknown precision 'fp8', known are: fp32, bf16, fp16"):
        Enhancer.from_pretrained("tiny", "cpu", precision="fp8")


def test_an_enhancer_of_bf16_runs_in_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    exact, rough = (
        torch.from_numpy(Enhancer.from_pretrained("tiny", "cpu", precision=p)(speech(2)[0]))
        for p in ("fp32", "bf16")
    )
    assert (exact != rough).any() and error(rough, exact) < 0.02
