"""Matrix products of candidates: which of them this machine runs, how fast and how far they can be off."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "WIDEST_INT8",
    "accumulation_error",
    "bfloat16_is_fast",
    "float32_is_exact",
    "int8_is_exact",
    "multiply",
    "output_error",
    "plain_reductions",
]

WIDEST_INT8 = 2**16  # features; the sum of as many products of 255 and 127 is below 2**31

_UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
_LESS_PRECISE = ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation")
_reductions = RLock()


def multiply(queries: Tensor, rows: Tensor) -> Tensor:
    """Return queries (Q, D) times rows (N, D) transposed: int32 for int8, else in their own type."""
    if queries.dtype == torch.int8:
        return torch._int_mm(queries, rows.T)
    if queries.dtype == torch.float32 and queries.device.type == "cpu" and _onednn_float32():
        # Twice as fast as MKL on processors that are not Intel's, and as fast on those.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(queries, rows, None, "none", [], "")
        return product
    return queries @ rows.T


def accumulation_error(dtype: torch.dtype, width: int) -> float:
    """Return how far a product of codes can be off before it is stored, relative to the lengths' product.

    For n additions in any order the error is at most n * u / (1 - n * u). Half-precision products are summed
    in float32, on tensor cores with truncation: four units of float32 for each addend cover it.
    """
    if dtype == torch.int8:
        return 0.0
    unit = _UNIT[dtype] if dtype in (torch.float32, torch.float64) else 4 * _UNIT[torch.float32]
    return 1.01 * (width + 8) * unit


def output_error(dtype: torch.dtype) -> float:
    """Return how far storing a product can move it, relative to itself."""
    return 1.01 * _UNIT[dtype] if dtype in (torch.float16, torch.bfloat16) else 0.0


@cache
def int8_is_exact() -> bool:
    """Return whether int8 products run here at full speed and without saturating: asked and tried."""
    able = torch.cpu.get_capabilities()
    if not hasattr(torch, "_int_mm") or not any(
        able.get(unit) for unit in ("avx512_vnni", "avx_vnni", "amx_int8")
    ):
        return False
    signs = torch.ones(64, 256, dtype=torch.int8)
    signs[::2, ::2], signs[1::3] = -1, -1
    codes = signs * 127
    return torch.equal(torch._int_mm(codes, codes.T).long(), codes.long() @ codes.long().T)


@cache
def bfloat16_is_fast() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware."""
    able = torch.cpu.get_capabilities()
    return any(bool(able.get(unit)) for unit in ("avx512_bf16", "amx_bf16"))


def float32_is_exact(device: torch.device) -> bool:
    """Return whether float32 products are float32 here, or were allowed to be less by torch's settings."""
    backends: Any = torch.backends  # some of its settings have no types
    backend = backends.cuda if device.type == "cuda" else backends.mkldnn
    return {backend.matmul.fp32_precision, backends.fp32_precision} <= {"none", "ieee"}


@contextmanager
def plain_reductions(device: torch.device) -> Iterator[None]:
    """Keep sums of half-precision products in float32 on a GPU: accumulation_error relies on it."""
    if device.type != "cuda":
        yield
        return
    matmul: Any = torch.backends.cuda.matmul
    with _reductions:
        before = {name: getattr(matmul, name) for name in _LESS_PRECISE}
        try:
            for name in _LESS_PRECISE:
                setattr(matmul, name, False)
            yield
        finally:
            for name, value in before.items():
                setattr(matmul, name, value)


@cache
def _onednn_float32() -> bool:
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
