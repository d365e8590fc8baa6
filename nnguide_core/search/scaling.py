"""Powers of two that bring rows near 1: exact, and neither overflow nor underflow matters any more."""

from functools import partial
from math import frexp, ldexp

import torch
from torch import Tensor

from nnguide_core.search.threads import run_all

__all__ = [
    "ALLOWANCE",
    "EXTREME",
    "exponent_of",
    "exponents",
    "magnitudes",
    "power_of_two",
    "scaled",
]

_PARALLEL = 2**18  # numbers worth a task of their own

# Of the product of lengths, for what the bounds do not name: their own rounding, that of values to float32
# before they are compared, the float64 sums, numbers below the smallest normal float32.
ALLOWANCE = 2.0**-19

# Queries and segments whose exponents add up to more have values that float32 might not hold: see ALLOWANCE.
EXTREME = 60


def magnitudes(rows: Tensor) -> Tensor:
    """Return each row's largest magnitude (Q,), NaN for a row that holds NaN."""
    if rows.shape[1] == 0:
        return rows.new_zeros(len(rows))
    if rows.device.type != "cpu" or rows.numel() < _PARALLEL:
        return _magnitudes(rows)
    # Not by torch's own threads: they wait busily afterwards, on the cores that the search needs.
    parts = torch.split(rows, _PARALLEL // rows.shape[1] + 1)
    return torch.cat(run_all([partial(_magnitudes, part) for part in parts]))


def exponents(numbers: Tensor) -> Tensor:
    """Return int64 exponents of magnitudes: each is in [0.5, 1) * 2**exponent, or 0."""
    return torch.frexp(numbers).exponent.long()


def exponent_of(number: float) -> int:
    """Return the exponent e of a magnitude in [0.5, 1) * 2**e, or 0 for 0."""
    return frexp(number)[1]


def power_of_two(exponents: Tensor) -> Tensor:
    """Return float64 powers of two, exactly, which pow() does not promise; exponents from -1022 to 1023."""
    return ((exponents + 1023) << 52).view(torch.float64)


def scaled(rows: Tensor, exponent: int | Tensor) -> Tensor:
    """Return float32 rows (Q, D) divided by 2**exponent, one for all or one for each."""
    # In two steps, for the factor alone may leave the range of float32.
    if isinstance(exponent, Tensor):
        half = -exponent.unsqueeze(1) // 2
        return rows * power_of_two(half).float() * power_of_two(-exponent.unsqueeze(1) - half).float()
    return rows * ldexp(1.0, -exponent // 2) * ldexp(1.0, -exponent - -exponent // 2)


def _magnitudes(rows: Tensor) -> Tensor:
    return rows.abs().amax(dim=1)
