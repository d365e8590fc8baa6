"""What a search is given, checked once: queries, bank rows that may lie on disk, rows that are absent."""

import operator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core.errors import BankMismatchError

__all__ = [
    "BankRows",
    "Excluded",
    "Problem",
    "as_whole",
    "checked_k",
    "checked_places",
    "checked_queries",
    "whole_k",
]

_COUNTING_BYTES = 2**26  # of rows looked at together when bad rows are counted


@dataclass(frozen=True)
class BankRows:
    """The rows that are searched, read block by block: a tensor, an array or a memory-mapped file."""

    source: Tensor | NDArray[Any]  # (N, D), any real type

    def __post_init__(self) -> None:
        if self.source.ndim != 2:
            raise ValueError(f"The bank must be (rows, features), got shape {tuple(self.source.shape)}.")
        real = (
            not self.source.is_complex()
            if isinstance(self.source, Tensor)
            else self.source.dtype.kind in "fiub"
        )
        if not real:
            raise ValueError(f"The bank must hold real numbers, got {self.source.dtype}.")

    @property
    def size(self) -> int:
        """How many rows there are."""
        return int(self.source.shape[0])

    @property
    def width(self) -> int:
        """How many features a row has."""
        return int(self.source.shape[1])

    @cached_property
    def direct(self) -> NDArray[np.float32] | None:
        """The rows as they lie in memory where they can be read without conversion, else None."""
        source = self.source
        if isinstance(source, Tensor):
            plain = source.device.type == "cpu" and source.dtype == torch.float32 and source.is_contiguous()
            return source.detach().numpy() if plain and not source.is_neg() else None
        plain = source.dtype == np.float32 and source.flags.c_contiguous and source.flags.writeable
        return np.asarray(source) if plain else None

    def block(self, start: int, stop: int, device: torch.device | str = "cpu") -> Tensor:
        """Return rows start to stop as contiguous float32 on the device, copied only where that is needed."""
        if isinstance(self.source, Tensor):
            return self.source[start:stop].detach().resolve_neg().to(device, torch.float32).contiguous()
        if self.direct is not None:
            return torch.from_numpy(self.direct[start:stop]).to(device)
        with np.errstate(over="ignore"):  # what is too large for float32 is found as infinite
            return torch.from_numpy(np.array(self.source[start:stop], dtype=np.float32, order="C")).to(device)

    def gather(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a float32 copy of the rows at the given places, in that order."""
        if isinstance(self.source, Tensor):
            index = torch.from_numpy(places).to(self.source.device)
            return np.asarray(self.source.detach()[index].to("cpu", torch.float32).numpy())
        return np.asarray(self.source[places], dtype=np.float32, order="C")

    def refuse_bad(self) -> None:
        """Raise ValueError that counts the rows that are NaN or infinite in float32, if there are any."""
        step = max(1, _COUNTING_BYTES // (4 * max(1, self.width)))
        bad: list[int] = []
        for start in range(0, self.size, step):
            finite = self.block(start, min(start + step, self.size)).isfinite().all(dim=1)
            bad.extend((start + (~finite).nonzero().flatten()).tolist())
        if bad:
            first = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
            raise ValueError(
                f"{len(bad)} of {self.size} bank rows are NaN or infinite in float32 (rows {first}). "
                "Leave them out of the bank."
            )


@dataclass(frozen=True)
class Excluded:
    """Bank rows that count as absent: for every query, and for single queries."""

    everywhere: Tensor  # (N,) bool, or (0,) where there are none
    own: Tensor  # (Q, E) int64, ascending, -1 where there are none

    @classmethod
    def checked(cls, exclude: Tensor | None, queries: int, size: int, k: int) -> "Excluded":
        """Read the exclude argument of topk_inner_product.

        Raises:
            ValueError: its shape, type or range is wrong, or fewer than k rows remain for some query.
        """
        none, nowhere = torch.zeros(0, dtype=torch.bool), torch.zeros(queries, 0, dtype=torch.int64)
        if exclude is None:
            return cls(none, nowhere)
        exclude = checked_places(exclude, queries, size)
        if exclude.ndim == 1:
            everywhere = torch.zeros(size, dtype=torch.bool)
            everywhere[exclude] = True
            _refuse_few(size - int(everywhere.sum()), size, k)
            return cls(everywhere if exclude.numel() else none, nowhere)
        own = exclude.sort(dim=1).values
        _refuse_few(size - _most_distinct(own), size, k)
        return cls(none, own)

    def rows(self, chosen: Tensor | slice) -> "Excluded":
        """Return the same for some of the queries."""
        return Excluded(self.everywhere, self.own[chosen])

    @property
    def most(self) -> int:
        """The largest number of rows that one query can miss."""
        return int(self.everywhere.sum()) + int(self.own.shape[1])


@dataclass(frozen=True)
class Problem:
    """One search: finite queries, checked against the bank."""

    queries: Tensor  # (Q, D) float32, finite, on the device
    magnitudes: Tensor  # (Q,) float32, each query's largest
    rows: BankRows
    k: int
    excluded: Excluded
    budget: int  # bytes

    def subset(self, chosen: Tensor | slice) -> "Problem":
        """Return the same search for some of the queries, given by distinct ascending indices or a slice."""
        if isinstance(chosen, Tensor) and len(chosen) == len(self.queries):
            return self
        return replace(
            self,
            queries=self.queries[chosen],
            magnitudes=self.magnitudes[chosen],
            excluded=self.excluded.rows(chosen.cpu() if isinstance(chosen, Tensor) else chosen),
        )


def as_whole(number: object) -> int | None:
    """Return a whole number of any type as an int; None for anything else, True and False among it."""
    if isinstance(number, bool | np.bool_) or not isinstance(number, SupportsIndex):
        return None
    try:
        return operator.index(number)
    except TypeError:  # a tensor or an array of several numbers
        return None


def whole_k(k: object, size: int) -> int:
    """Return k as an int, which may exceed the size; ValueError where it is no whole number from 1 on."""
    number = as_whole(k)
    if number is None or number < 1:
        raise ValueError(f"k must be a whole number from 1 to the {size} bank rows, got {k!r}.")
    return number


def checked_k(k: object, size: int) -> int:
    """Return k as an int; ValueError where it is no whole number from 1 to the bank's size."""
    number = whole_k(k, size)
    if number > size:
        raise ValueError(f"k must be a whole number from 1 to the {size} bank rows, got {number}.")
    return number


def checked_queries(queries: Tensor, width: int) -> Tensor:
    """Return the queries as a detached tensor; raises where they are not as wide as the bank."""
    queries = torch.as_tensor(queries).detach().resolve_neg()
    if queries.ndim != 2 or queries.is_complex():
        raise ValueError(
            f"The queries must be real and (queries, features), got {queries.dtype} {tuple(queries.shape)}."
        )
    if queries.shape[1] != width:
        raise BankMismatchError(
            f"The queries have {queries.shape[1]} features but the bank has {width}. "
            "Rebuild the bank with the model that produced the queries."
        )
    return queries


def checked_places(exclude: object, queries: int, size: int) -> Tensor:
    """Return bank rows that count as absent as an int64 tensor on the CPU, (M,) or (Q, E) padded with -1.

    Raises:
        ValueError: they are no integers, of a wrong shape, or not all in the bank.
    """
    try:
        exclude = torch.as_tensor(exclude)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"exclude must hold bank rows as integers: {error}.") from error
    other = exclude.dtype.is_floating_point or exclude.dtype.is_complex or exclude.dtype == torch.bool
    if other and exclude.numel():
        raise ValueError(f"exclude must hold bank rows as integers, got {exclude.dtype}.")
    if exclude.ndim not in (1, 2) or (exclude.ndim == 2 and exclude.shape[0] != queries):
        raise ValueError(
            f"exclude must be (rows,) or ({queries}, rows) for {queries} queries, got {tuple(exclude.shape)}."
        )
    exclude = exclude.detach().to("cpu", torch.int64)
    lowest = 0 if exclude.ndim == 1 else -1
    if exclude.numel() and not (int(exclude.min()) >= lowest and int(exclude.max()) < size):
        raise ValueError(
            f"exclude must hold rows from {lowest} to {size - 1} of a bank of {size}, "
            f"got {int(exclude.min())} to {int(exclude.max())}."
        )
    return exclude


def _most_distinct(own: Tensor) -> int:
    """Return the largest count of distinct non-negative numbers in a row of ascending numbers."""
    if not own.numel():
        return 0
    fresh = own >= 0
    fresh[:, 1:] &= own[:, 1:] != own[:, :-1]
    return int(fresh.sum(dim=1).max())


def _refuse_few(remaining: int, size: int, k: int) -> None:
    if remaining < k:
        raise ValueError(f"k is {k} but only {remaining} of {size} bank rows can be searched.")
