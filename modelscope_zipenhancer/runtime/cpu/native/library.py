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

logger = logging.getLogger(__name__)

VARIABLE = "ZIPENHANCER_NATIVE"  # 0: not used; the name of a variant ('avx2'): that one, for tests
INTERFACE = 3  # as in src/processor.c
PANEL = 16  # as in src/simd.h

Pointer = ctypes.c_void_p
Int = ctypes.c_int64


class Matrix(ctypes.Structure):
    """src/product.h"""

    _fields_ = [("panels", Pointer), ("bias", Pointer), ("depth", Int), ("columns", Int)]


class Library(NamedTuple):
    """Functions of one variant."""

    variant: str
    library: ctypes.CDLL

    def function(self, name: str, result: type | None, *arguments: type) -> "ctypes._NamedFuncPointer":
        found = self.library[f"zipenhancer_{name}_{self.variant}"]
        found.restype, found.argtypes = result, arguments
        return found


@functools.cache
def _find() -> tuple[Library | None, str]:
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
        return None, "not compiled: there was no C compiler when the package was installed"
    try:
        library = ctypes.CDLL(paths[0])
        if library.zipenhancer_interface() != INTERFACE:
            return None, f"of another version: {paths[0]} has to be compiled anew, by installing the package"
        library.zipenhancer_variants.restype = ctypes.c_char_p
        variants = library.zipenhancer_variants().decode().split()
    except (OSError, AttributeError) as error:
        return None, f"{paths[0]} can't be used: {error}"
    if not variants:
        return None, "not for this processor: it has neither AVX2 with FMA nor NEON"
    variant = wanted or variants[0]
    if variant not in variants:
        return None, f"not used: {VARIABLE} is {wanted!r}, this processor runs {', '.join(variants)}"
    return Library(variant, library), f"used, for {variant.upper()}"


def library() -> Library | None:
    """The library, or None where there is none; a log entry says so, once."""
    found, words = _find()
    if found is None:
        _log()
    return found


@functools.cache
def _log() -> None:
    logger.info("%s", status())


def status() -> str:
    """In words: which form runs on CPUs, and why."""
    found, words = _find()
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


def panels(x: Tensor) -> Tensor:
    """x (depth, columns) as src/product.h wants a matrix of weights, float32."""
    return rows(x).view(len(x), -1, PANEL).transpose(0, 1).contiguous()
