"""The inner loops in C: each function against float64, all of them under sanitizers, how they are found."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from modelscope_zipenhancer.runtime.cpu.native import convolution
from modelscope_zipenhancer.runtime.cpu.native import library as native
from modelscope_zipenhancer.runtime.cpu.native.layer import _Layer as Layer

SOURCES = ROOT / "modelscope_zipenhancer" / "runtime" / "cpu" / "native" / "src"
COMPILER = shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None or sys.platform == "win32", reason="needs gcc or clang")


def compiled(folder: Path, source: str, *options: str) -> native.Library:
    """A variant in a library of its own."""
    path = folder / f"{source}.so"
    command = [
        COMPILER,
        "-O1",
        "-shared",
        "-fPIC",
        *options,
        str(SOURCES / f"{source}.c"),
        "-o",
        str(path),
        "-lm",
    ]
    subprocess.run(command, check=True)
    return native.Library(source, ctypes.CDLL(str(path)))


def skip_unless_it_runs(variant: str) -> native.Library:
    """The compiled library's functions of that variant."""
    found = native.library()
    if found is None:
        pytest.skip(native.status())
    if variant not in found.library.zipenhancer_variants().decode().split():
        pytest.skip("not for this processor")
    return found._replace(variant=variant)


@pytest.fixture(scope="module", params=["avx2", "avx512", "avx512bf16", "neon", "plain, 4", "plain, 16"])
def variant(request, tmp_path_factory) -> native.Library:
    """Each variant's functions; the plain one's in the widths of other machines."""
    kind, _, width = request.param.partition(", ")
    if kind == "plain":
        if COMPILER is None or sys.platform == "win32":
            pytest.skip("needs gcc or clang")
        return compiled(tmp_path_factory.mktemp("native"), "plain", f"-DWIDTH={width}")
    return skip_unless_it_runs(kind)


def call(variant: native.Library, name: str, x: np.ndarray) -> np.ndarray:
    function = variant.function(name, None, native.Pointer, native.Pointer, native.Int)
    out = np.full(len(x) + 2, 7.0, np.float32)  # unaligned, and with a guard
    function(x.ctypes.data, out.ctypes.data + 4, len(x))
    assert out[0] == out[-1] == 7
    return out[1:-1]


def softplus2(x):
    return np.maximum(x, 0) + np.log1p(np.exp2(-np.abs(x))) / np.log(2)


# the functions, and over what an error is counted
FUNCTIONS = {
    "exp2": (np.exp2, np.exp2),
    "softplus2": (softplus2, softplus2),
    "swoosh2": (lambda x: softplus2(x) - 0.08 * x, lambda x: softplus2(x) + 0.08 * np.abs(x)),
    "sigmoid2": (lambda x: 1 / (1 + np.exp2(-x)), lambda x: 1 / (1 + np.exp2(-x))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_within_a_millionth_of_float64(variant, name):
    rng = np.random.default_rng(0)
    tiny = np.float32([0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1e-30, -1e-30, 126, -126, 127, -100.5])
    x = np.concatenate([tiny, *(rng.uniform(-s, s, 20000) for s in (1e-3, 1, 20, 126))]).astype(np.float32)
    function, scale = FUNCTIONS[name]
    error = np.abs(call(variant, name, x) - function(x.astype(np.float64))) / scale(x.astype(np.float64))
    assert error.max() < 1e-6


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_any_length_and_place(variant, name):
    x = np.random.default_rng(1).uniform(-10, 10, 104).astype(np.float32)
    expected = call(variant, name, x)
    for length in range(1, 101):
        assert np.array_equal(call(variant, name, x[length % 4 :][:length]), expected[length % 4 :][:length])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_its_limits_and_keeps_nan(variant, name):
    largest, infinite = np.finfo(np.float32).max, np.float32(np.inf)
    x = np.float32([1e4, -1e4, largest, -largest, infinite, -infinite, np.nan, -np.nan])
    high, low, highest, lowest, up, down, *nan = call(variant, name, x)
    assert np.isnan(nan).all()
    if name == "exp2":
        assert high == highest == up == np.inf and low == lowest == down == 0
    if name == "softplus2":
        assert high == 1e4 and highest == largest and up == np.inf and low == lowest == down == 0
    if name == "swoosh2":
        assert np.allclose([high, low], [9200, 800]) and np.isfinite([highest, lowest]).all()
    if name == "sigmoid2":
        assert high == highest == up == 1 and low == lowest == down == 0


def numbers(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).uniform(-scale, scale, shape).astype(np.float32))


def padded_rows(x: torch.Tensor) -> torch.Tensor:
    """As native.rows, in a place that is no multiple of a register's width."""
    wide = native.rows(x)
    return torch.cat([torch.empty(1), wide.flatten()])[1:].view_as(wide)


MODES = {  # what follows a product y, where z is before
    "store": lambda y, z: y,
    "add": lambda y, z: y + z,
    "swoosh": lambda y, z: torch.from_numpy(softplus2(y.numpy())) - 0.08 * y,
    "sigmoid": lambda y, z: y / (1 + torch.exp2(-z)),
    "tanh": lambda y, z: y * -torch.tanh(z * np.log(2) / 2),
}


def linear(variant, mode: str, x, weight, bias, out) -> torch.Tensor:
    """x (rows, depth), weight (depth, columns), bias (columns,), out (rows, columns) -> out."""
    x, out, bias, panels = padded_rows(x), padded_rows(out), native.rows(bias), variant.panels(weight)
    matrix = native.Matrix(panels.data_ptr(), bias.data_ptr(), len(weight), out.shape[1])
    function = variant.function("linear", None, *[native.Pointer] + [native.Int, native.Pointer] * 2)
    function(ctypes.byref(matrix), list(MODES).index(mode), x.data_ptr(), len(x), out.data_ptr())
    if mode == "swoosh":
        out = out.view(-1).view(variant.dtype)[: out.numel()].view_as(out)
    return out[:, : weight.shape[1]]


@pytest.mark.parametrize("mode", MODES)
def test_a_product_and_what_follows_it_are_within_a_millionth_of_float64(variant, mode):
    for rows in range(1, 101):
        depth, columns = rows % 35 + 1, rows % 21 + 1
        x, weight = numbers(rows, depth), numbers(depth, columns)
        bias, out = numbers(columns, scale=3), numbers(rows, columns, scale=20)
        found = linear(variant, mode, x, weight, bias, out).double()
        x, weight = (part.to(variant.dtype).double() for part in (x, weight))
        expected = MODES[mode](x @ weight + bias.double(), out.double())
        size = x.abs() @ weight.abs() + bias.abs() + out.abs() * (mode == "add")
        rounding = 2**-8 if mode == "swoosh" and variant.dtype == torch.bfloat16 else 0  # of the result
        assert ((found - expected).abs() < 1e-6 * size + rounding * expected.abs()).all()


@pytest.mark.parametrize("mode", ["sigmoid", "tanh"])
def test_a_gate_takes_any_number_and_keeps_nan(variant, mode):
    special = [0.0, -0.0, 1e-45, -1e-40, 1e-30, 1.0, -3.0, 100.0, -120.0, 1e30, -3e38]
    y, z = (x.flatten() for x in torch.meshgrid(*[torch.tensor(special)] * 2, indexing="ij"))

    def gated(y, z):
        return linear(variant, mode, torch.zeros(1, 1), torch.zeros(1, len(y)), y, z[None])[0]

    expected = MODES[mode](y.double(), z.double())
    # tanh is 1 - 2 sigmoid: its error is one of 1
    size = expected.abs() if mode == "sigmoid" else y.double().abs()
    assert ((gated(y, z) - expected).abs() <= 1e-6 * size + 1e-37).all()
    nan = torch.full_like(y, torch.nan)
    assert gated(nan, z).isnan().all() and gated(y, nan).isnan().all()


@pytest.mark.parametrize("channels", [1, 10, 64, 100])
def test_bias_norm_and_its_bypass_are_within_a_millionth_of_float64(variant, channels):
    length = 40
    tokens, origin = numbers(length, channels), numbers(length, channels).flip(0)
    tokens *= torch.logspace(-15, 15, length)[:, None]  # squares from 1e-30 to 1e30
    tokens[5] = 0
    tokens[7, -1] = torch.nan
    offset, bias, bypass = numbers(3, channels).flip(1)
    rows = [padded_rows(x) for x in (tokens, origin, offset, bias, bypass)]
    names = dict(zip(("offset", "norm_bias", "out_bypass"), (x.data_ptr() for x in rows[2:])))
    layer = Layer(channels=channels, norm_scale=1.7, **names)
    function = variant.function("bias_norm", None, *[native.Pointer] * 3, native.Int)
    function(ctypes.byref(layer), rows[0].data_ptr(), rows[1].data_ptr(), length)
    found = rows[0][:, :channels]
    x, origin, bypass = tokens.double() + offset.double(), origin.double(), bypass.double()
    normed = x * 1.7 / (x - bias.double()).norm(dim=1, keepdim=True)
    size = origin.abs() + normed.abs() + 1
    error = (found - torch.lerp(origin, normed, bypass)).abs() / size
    assert found[7].isnan().all() and not error[7].isfinite().any()
    assert np.delete(error.numpy(), 7, 0).max() < 1e-6


@pytest.mark.parametrize("channels", [10, 16, 33])
def test_an_instance_norm_and_prelu_are_within_a_millionth_of_float64(variant, channels):
    functions = convolution.Functions(variant)
    weight, bias, slope = numbers(3, channels).double()
    for bins in range(1, 101):
        x = numbers(3, bins, channels) * torch.logspace(-10, 10, channels)
        x[:, :, 1] = 5.0  # no variance
        parts = []
        for part in x[:1].double(), x[1:].double():
            part, pivot = part.flatten(0, 1), part[0, 0]
            moments = pivot, (part - pivot).sum(0), (part - pivot).square().sum(0)
            padding = torch.zeros(native.padded(channels) - channels).double()
            parts += [torch.tensor([len(part)]).double(), *(z for m in moments for z in (m, padding))]
        moments, scale, shift = torch.cat(parts), native.rows(weight), native.rows(weight)
        pointers = [z.data_ptr() for z in (weight, bias)]
        functions.norm(moments.data_ptr(), 2, channels, *pointers, 1e-5, scale.data_ptr(), shift.data_ptr())
        read, out = convolution.Rows(x, (scale, shift, native.rows(slope))), torch.empty_like(x)
        scratch = torch.empty(bins * native.padded(channels))
        functions.settle(read.pointer, 0, 3, bins, channels, out.data_ptr(), scratch.data_ptr())
        y = torch.nn.functional.instance_norm(x.double().permute(2, 0, 1)[None], None, None, weight, bias)
        expected = torch.nn.functional.prelu(y, slope)[0].permute(1, 2, 0)
        size = (x.double() * scale[:channels]).abs() + shift[:channels].abs() + 1e-30
        assert ((out - expected).abs() / size).max() < 1e-6


def test_an_instance_norm_keeps_nan_in_its_channel(variant):
    moments = torch.ones(1 + 3 * native.PANEL).double()
    moments[1 + 2 * native.PANEL + 3] = torch.nan
    ones, scale, shift = (
        torch.ones(native.PANEL).double(),
        torch.zeros(native.PANEL),
        torch.zeros(native.PANEL),
    )
    pointers = [x.data_ptr() for x in (moments, ones, ones, scale, shift)]
    convolution.Functions(variant).norm(pointers[0], 1, native.PANEL, *pointers[1:3], 1e-5, *pointers[3:])
    assert scale.isnan().nonzero().tolist() == shift.isnan().nonzero().tolist() == [[3]]


@needs_compiler
@pytest.mark.parametrize("source", ["avx2", "avx512", "avx512bf16", "neon", "plain"])
def test_no_sanitizer_finds_a_fault(tmp_path, source):
    options = ["-DWIDTH=16"] if source == "plain" else []
    if source != "plain":
        skip_unless_it_runs(source)
    program = str(tmp_path / "sanitized")
    flags = [
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-Wno-unused-function",
        "-Wno-psabi",
    ]
    flags += [f'-DSOURCE="{SOURCES / source}.c"', *options]
    done = subprocess.run(
        [COMPILER, *flags, str(Path(__file__).parent / "sanitized.c"), "-o", program, "-lm"],
        capture_output=True,
        text=True,
    )
    if "cannot find -l" in done.stderr or "libasan" in done.stderr:
        pytest.skip("the compiler has no sanitizers here")
    assert done.returncode == 0, done.stderr
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "fine\n", done.stdout + done.stderr


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64-static")),
    reason="needs a compiler for 64-bit Arm and QEMU (gcc-aarch64-linux-gnu, qemu-user-static)",
)
def test_the_variant_for_arm_runs_in_an_emulator(tmp_path):
    program, source = str(tmp_path / "neon"), str(Path(__file__).parent / "sanitized.c")
    command = ["aarch64-linux-gnu-gcc", "-O1", "-static", f'-DSOURCE="{SOURCES / "neon.c"}"', source]
    subprocess.run([*command, "-o", program, "-lm"], check=True)
    done = subprocess.run(["qemu-aarch64-static", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "fine\n", done.stdout + done.stderr


# ---- how it is found, and built ----------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    """The search is done anew, before and after."""
    for cached in native._find, native._log:
        cached.cache_clear()
    yield monkeypatch
    for cached in native._find, native._log:
        cached.cache_clear()


def test_a_setting_turns_it_off(fresh):
    fresh.setenv(native.VARIABLE, "0")
    assert native.library() is None
    assert native.status() == (
        "inner loops in C are not used, as ZIPENHANCER_NATIVE is 0; PyTorch's operations do their work"
    )


def test_where_nothing_is_compiled_the_log_says_so_once(fresh, caplog):
    fresh.setattr(native.glob, "glob", lambda pattern: [])
    with caplog.at_level(logging.INFO, native.logger.name):
        assert native.library() is None and native.library() is None
    assert [record.message for record in caplog.records] == [native.status()]
    assert "are not compiled: none lie in" in native.status()


def test_a_library_that_cannot_be_opened_is_not_used(fresh, tmp_path):
    path = tmp_path / "_kernels.so"
    path.write_bytes(b"no library")
    fresh.setattr(native.glob, "glob", lambda pattern: [str(path)])
    assert native.library() is None and f"{path} can't be used" in native.status()


@needs_compiler
def test_a_library_of_another_version_is_not_used(fresh, tmp_path):
    path = tmp_path / "_kernels.so"
    (tmp_path / "other.c").write_text("int zipenhancer_interface(void) { return 0; }")
    subprocess.run([COMPILER, "-shared", "-fPIC", str(tmp_path / "other.c"), "-o", str(path)], check=True)
    fresh.setattr(native.glob, "glob", lambda pattern: [str(path)])
    assert native.library() is None and "of another version" in native.status()


def test_a_variant_that_the_processor_does_not_run_is_not_used(fresh):
    if native.library() is None:
        pytest.skip(native.status())
    native._find.cache_clear()
    fresh.setenv(native.VARIABLE, "sse9")
    assert native.library() is None and "'sse9', this processor runs" in native.status()


def wheel(folder: Path, **environment: str) -> list[str]:
    """Names of what is in the wheel that is built from a copy of the sources."""
    source = folder / "source"
    source.mkdir()
    for name in "setup.py", "pyproject.toml", "README.md", "LICENSE":
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "models")
    shutil.copytree(ROOT / "modelscope_zipenhancer", source / "modelscope_zipenhancer", ignore=ignored)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(folder)]
    done = subprocess.run(
        command, cwd=source, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


@pytest.mark.skipif(sys.platform == "win32", reason="its compiler is not found by CC")
def test_without_a_compiler_a_wheel_is_built_all_the_same(tmp_path):
    pytest.importorskip("setuptools", "77")
    names = wheel(tmp_path, CC="/bin/false")
    assert "modelscope_zipenhancer/runtime/cpu/native/library.py" in names
    assert not [name for name in names if "_kernels" in name]


@needs_compiler
def test_a_wheel_has_the_library_and_it_works_where_it_is_installed(tmp_path, run_python):
    pytest.importorskip("setuptools", "77")
    wheel(tmp_path)
    (path,) = tmp_path.glob("*-cp310-abi3-*.whl")
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(path)]
    subprocess.run([sys.executable, *install], check=True)
    code = (
        "from modelscope_zipenhancer.runtime.cpu.native import library\n"
        "print(library.__file__)\nprint(library.status())"
    )
    place, status = run_python(code, PYTHONPATH=str(site)).splitlines()
    assert place.startswith(str(site))
    assert status == native.status() or "not compiled" in native.status()
