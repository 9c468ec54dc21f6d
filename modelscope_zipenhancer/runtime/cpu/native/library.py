"""The compiled library: found by its name beside this file, called through ctypes.

It knows nothing of Python or torch, so one fits all their versions; and a call of ctypes gives Python's lock
back meanwhile. setup.py has it compiled where there is a compiler (an optional extension).
"""

import ctypes
import functools
import glob
import logging
import os
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

VARIABLE = "ZIPENHANCER_NATIVE"  # 0: not used; the name of a variant ('avx2'): that one, for tests
INTERFACE = 4  # as in src/processor.c
PANEL = 16  # as in src/simd.h

Pointer = ctypes.c_void_p
Int = ctypes.c_int64


class Matrix(ctypes.Structure):
    """src/product.h"""

    _fields_ = [("panels", Pointer), ("bias", Pointer), ("depth", Int), ("columns", Int)]


class Library(NamedTuple):
    """Functions of one variant, and how it wants matrices."""

    variant: str
    library: ctypes.CDLL

    @property
    def dtype(self) -> torch.dtype:
        """Of what products take."""
        return torch.bfloat16 if self.variant.endswith("bf16") else torch.float32

    def function(self, name: str, result: type | None, *arguments: type) -> "ctypes._NamedFuncPointer":
        found = self.library[f"zipenhancer_{name}_{self.variant}"]
        found.restype, found.argtypes = result, arguments
        return found

    def panels(self, x: Tensor) -> Tensor:
        """x (..., depth, columns), for left factors side by side, as src/product.h wants weights."""
        if self.dtype == torch.bfloat16:  # two of a column in the place of a float
            x = functional.pad(x, (0, 0, 0, x.shape[-2] % 2)).to(self.dtype)
            x = torch.stack([x[..., ::2, :], x[..., 1::2, :]], -1).view(torch.float32)[..., 0]
        x = rows(x.flatten(0, -2))
        return x.view(len(x), -1, PANEL).transpose(0, 1).contiguous()


@functools.cache
def _find(dtype: torch.dtype) -> tuple[Library | None, str]:
    """The library if it can be used, and in words whether and why not."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "0":
        return None, f"not used, as {VARIABLE} is 0"
    paths = [
        path
        for path in sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(__file__)), "_kernels*")))
        if path.endswith((".so", ".pyd", ".dylib"))
    ]
    if not paths:
        return None, (
            f"not compiled: none lie in {os.path.dirname(__file__)}. There was no C compiler when the "
            "package was installed, or this is a folder of sources, which pip install -e . compiles"
        )
    try:
        library = ctypes.CDLL(paths[0])
        if library.zipenhancer_interface() != INTERFACE:
            return None, f"of another version: {paths[0]} has to be compiled anew, by installing the package"
        library.zipenhancer_variants.restype = ctypes.c_char_p
        names = library.zipenhancer_variants().decode().split()
    except (OSError, AttributeError) as error:
        return None, f"{paths[0]} can't be used: {error}"
    found = {name: each for name in names if (each := Library(name, library)).dtype == dtype}
    if not found:
        if dtype == torch.bfloat16:
            return None, "not for this processor: it has no AVX-512 BF16, or the compiler knew none"
        return None, "not for this processor: it has neither AVX2 with FMA nor NEON"
    variant = wanted or next(iter(found))
    if variant not in found:
        return None, f"not used: {VARIABLE} is {wanted!r}, this processor runs {', '.join(found)}"
    return found[variant], f"used, for {variant.upper()}"


def library(dtype: torch.dtype = torch.float32) -> Library | None:
    """Functions whose products take that dtype, or None where there are none; a log entry says so, once."""
    found, _ = _find(dtype)
    if found is None:
        _log(dtype)
    return found


@functools.cache
def _log(dtype: torch.dtype) -> None:
    logger.info("%s", status(dtype))


def status(dtype: torch.dtype = torch.float32) -> str:
    """In words: which form runs on CPUs, and why. There is none but C's for bfloat16."""
    found, words = _find(dtype)
    if dtype == torch.bfloat16:
        return f"inner loops in C, for bfloat16, are {words}"
    return f"inner loops in C are {words}" + ("" if found else "; PyTorch's operations do their work")


def address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def padded(count: int) -> int:
    return -(-count // PANEL) * PANEL


def rows(x: Tensor) -> Tensor:
    """x (..., C) as float32, zeros up to a multiple of PANEL."""
    out = torch.zeros(*x.shape[:-1], padded(x.shape[-1]), dtype=torch.float32, device="cpu")
    out[..., : x.shape[-1]] = x
    return out
