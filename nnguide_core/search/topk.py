"""The search itself: what is tried in which order until every query's rows are proven to be the best."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, SupportsIndex

import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core.devices import exact_device
from nnguide_core.search import exact, grouped
from nnguide_core.search.products import WIDEST_INT8, bfloat16_is_fast, float32_is_exact, int8_is_exact
from nnguide_core.search.rows import BankRows, Excluded, Problem, checked_k, checked_queries
from nnguide_core.search.scaling import magnitudes

__all__ = ["PreparedBank", "TopK", "prepare", "topk_inner_product"]

_PROCESSOR_BUDGET = 2**30  # bytes
_SMALL_BANK = 2**21  # numbers in a bank, up to which a search may not be worth encoding it
_SMALL_WORK = 2**29, 2**25  # multiplications: before the kernels are loaded, which takes a second, and after
_FEW_QUERIES = 4  # for so few, reading the bank costs more than multiplying


@dataclass(frozen=True)
class TopK:
    """The k bank rows of largest inner product with each of Q queries, best first, ties by lower row."""

    values: Tensor  # (Q, k) float32; NaN for a query that holds NaN or infinity
    indices: Tensor  # (Q, k) int64, rows of the bank; -1 for a query that holds NaN or infinity


@dataclass(frozen=True)
class Engine:
    """One way to find candidates: the type of its products, and compiled loops or plain torch."""

    dtype: torch.dtype
    compiled: bool

    def encode(self, rows: BankRows, device: torch.device, budget: int) -> Iterable[Any]:
        """Return the bank in segments, encoded as they are asked for."""
        if not self.compiled:
            return grouped.encoded(rows, self.dtype, device, budget // 2)
        from nnguide_core.search import compiled

        return compiled.encoded(rows, self.dtype, budget // 2)

    def find(self, problem: Problem, segments: Iterable[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return values (Q, k), rows (Q, k) and which queries' are proven to be the best (Q,)."""
        if not self.compiled:
            return grouped.find(problem, segments, self.dtype)
        from nnguide_core.search import compiled

        return compiled.find(problem, segments, self.dtype)


@dataclass(frozen=True)
class PreparedBank:
    """A bank with what every search of it needs, made once. The rows given must not change afterwards."""

    rows: BankRows
    device: torch.device
    segments: Mapping[Engine, Sequence[Any]] = field(default_factory=dict)


def prepare(bank: Tensor | NDArray[Any], *, device: torch.device | str | None = None) -> PreparedBank:
    """Encode a bank (N, D) once for several searches; a small bank is only checked.

    Takes a quarter of the bank's float32 size. On a GPU it takes half, and the rows are moved there; what has
    no room there is encoded anew in every search. The bank is referred to, not copied: do not change it
    afterwards.

    Raises:
        ValueError: the bank is not (rows, features), or rows are NaN or infinite.
    """
    rows = BankRows(bank)
    where = _device(device, rows)
    budget = _default_budget(where)
    rows = _resident(rows, where, budget)
    if rows.size * rows.width <= _SMALL_BANK:
        rows.refuse_bad()
        return PreparedBank(rows, where)
    best = engines(where, rows.width)[0]
    if where.type == "cuda" and best.dtype.itemsize * rows.size * rows.width > budget:
        return PreparedBank(rows, where)
    return PreparedBank(rows, where, {best: tuple(best.encode(rows, where, budget))})


def topk_inner_product(
    queries: Tensor,
    bank: Tensor | NDArray[Any] | PreparedBank,
    k: SupportsIndex,
    *,
    exclude: Tensor | None = None,
    device: torch.device | str | None = None,
    budget: int | None = None,
) -> TopK:
    """Return the k bank rows with the largest inner products with each query, exactly.

    Args:
        queries: (Q, D), any real type; computed in float32 at least.
        bank: (N, D), any real type; an array may be memory-mapped and larger than memory.
        k: how many rows.
        exclude: bank rows that count as absent: (M,) for every query, or (Q, E) for each query its own, where
            -1 stands for none.
        device: the CPU or a CUDA device to compute on; by default where the bank is prepared, or lies on a
            CUDA device, or the queries are. From any other device (a Mac's GPU) rows come to the CPU.
        budget: bytes to work with beside the arguments and the result; by default 1 GiB, on a GPU half of
            what is free.

    Returns:
        Values and rows, on the queries' device. A query that holds NaN or infinity has values NaN, rows -1.

    Raises:
        ValueError: k is no whole number from 1 to the number of rows that are not excluded; a shape, type or
            budget is wrong; bank rows are NaN or infinite.
        BankMismatchError: queries and bank are not equally wide.
    """
    prepared = bank if isinstance(bank, PreparedBank) else None
    rows = bank.rows if isinstance(bank, PreparedBank) else BankRows(bank)
    k = checked_k(k, rows.size)
    queries = checked_queries(queries, rows.width)
    excluded = Excluded.checked(exclude, len(queries), rows.size, k)
    where = _device(device, prepared or rows, queries)
    if budget is None:
        budget = _default_budget(where)
    elif budget < 1:
        raise ValueError(f"The budget must be at least 1 byte, got {budget}.")
    known = prepared.segments if prepared is not None and prepared.device == where else {}
    with torch.no_grad():
        single = queries.to(where, torch.float32).contiguous()
        problem = Problem(single, magnitudes(single), _resident(rows, where, budget), k, excluded, budget)
        return _search_finite(problem, known, queries.device)


def engines(device: torch.device, width: int) -> tuple[Engine, ...]:
    """Return the ways to find candidates among rows of a width, the fastest and least precise first."""
    if device.type == "cuda":
        return (Engine(torch.float16, compiled=False),)
    compiled = _can_compile()
    single = Engine(torch.float32 if float32_is_exact(device) else torch.float64, compiled=False)
    if not compiled:
        return (Engine(torch.bfloat16, compiled=False), single) if bfloat16_is_fast() else (single,)
    precise = Engine(torch.float32, compiled=True) if float32_is_exact(device) else single
    whole = int8_is_exact() and width <= WIDEST_INT8
    return (Engine(torch.int8, compiled=True), precise) if whole else (precise,)


def search(problem: Problem, tiers: Sequence[Engine], known: Mapping[Engine, Sequence[Any]]) -> TopK:
    """Return the best rows of finite queries: candidates by each engine in turn, what is left exactly."""
    count, device = len(problem.queries), problem.queries.device
    values = torch.empty(count, problem.k, device=device)
    places = torch.empty(count, problem.k, dtype=torch.int64, device=device)
    pending = torch.arange(count, device=device)
    for engine in tiers:
        if not len(pending):
            break
        part = problem.subset(pending)
        segments = known.get(engine) or engine.encode(problem.rows, device, problem.budget)
        some_values, some_places, proven = engine.find(part, segments)
        if bool(proven.all()) and part is problem:
            return TopK(some_values + 0.0, some_places)
        done = pending[proven]
        values[done], places[done] = some_values[proven], some_places[proven]
        pending = pending[~proven]
    if len(pending):
        values[pending], places[pending] = _dense(problem.subset(pending))
    return TopK(values + 0.0, places)


def _search_finite(problem: Problem, known: Mapping[Engine, Sequence[Any]], device: torch.device) -> TopK:
    """Search for the queries that can be searched for; the others get NaN and -1."""
    finite = problem.magnitudes.isfinite()
    if bool(finite.all()):
        found = _search(problem, known)
        return TopK(found.values.to(device), found.indices.to(device))
    chosen = finite.nonzero().flatten()
    found = _search(problem.subset(chosen), known)
    values = torch.full((len(finite), problem.k), torch.nan, device=device)
    indices = torch.full((len(finite), problem.k), -1, device=device)
    values[finite.to(device)] = found.values.to(device)
    indices[finite.to(device)] = found.indices.to(device)
    return TopK(values, indices)


def _search(problem: Problem, known: Mapping[Engine, Sequence[Any]]) -> TopK:
    size, width = problem.rows.size, problem.rows.width
    if not len(problem.queries) or _is_small(len(problem.queries), size * width):
        return TopK(*exact.dense(problem))
    if len(problem.queries) <= (1 if known else _FEW_QUERIES) or 8 * problem.k >= size:
        return TopK(*_dense(problem))
    zero = problem.magnitudes == 0
    if not bool(zero.any()):
        return search(problem, engines(problem.queries.device, width), known)
    return _search_with_zeros(problem, zero, known)


def _is_small(queries: int, numbers: int) -> bool:
    loaded = "nnguide_core.search.kernels" in sys.modules
    return numbers <= _SMALL_BANK and queries * numbers <= _SMALL_WORK[loaded]


def _search_with_zeros(problem: Problem, zero: Tensor, known: Mapping[Engine, Sequence[Any]]) -> TopK:
    """Answer queries that are zero from the first rows alone: all their values tie."""
    zeros = problem.subset(zero.nonzero().flatten())
    first = BankRows(problem.rows.source[: problem.k + problem.excluded.most])
    others = problem.subset((~zero).nonzero().flatten())
    if not len(others.queries):
        problem.rows.refuse_bad()
    found = search(others, engines(problem.queries.device, problem.rows.width), known)
    values = found.values.new_zeros(len(zero), problem.k)
    indices = found.indices.new_zeros(len(zero), problem.k)
    values[~zero], indices[~zero] = found.values, found.indices
    _, indices[zero] = exact.dense(replace(zeros, rows=first))
    return TopK(values, indices)


def _dense(problem: Problem) -> tuple[Tensor, Tensor]:
    if problem.queries.device.type != "cpu" or not _can_compile():
        return exact.dense(problem)
    from nnguide_core.search import compiled

    return compiled.dense(problem)


@cache
def _can_compile() -> bool:
    try:
        import numba  # noqa: F401 - asked for, not used
    except ImportError:
        return False
    return True


def _device(
    asked: torch.device | str | None, bank: PreparedBank | BankRows, queries: Tensor | None = None
) -> torch.device:
    """Return where to compute; raises ValueError if asked for what is neither a CPU nor a CUDA device."""
    source = bank.source if isinstance(bank, BankRows) else None
    if asked is not None:
        device = torch.device(asked)
    elif isinstance(bank, PreparedBank):
        device = bank.device
    elif isinstance(source, Tensor) and source.device.type == "cuda":
        device = source.device
    else:
        device = torch.device("cpu") if queries is None else exact_device(queries.device)
    if device != exact_device(device):
        raise ValueError(f'The search runs on "cpu" or "cuda", got {str(device)!r}.')
    # With its number, as tensors name it: "cuda" and "cuda:0" are not equal.
    bare = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if bare else device


def _resident(rows: BankRows, device: torch.device, budget: int) -> BankRows:
    """Return rows that lie on the device if a GPU has room for them, else the rows as they are."""
    moves = device.type == "cuda" and not (isinstance(rows.source, Tensor) and rows.source.device == device)
    if moves and 4 * rows.size * rows.width <= budget // 2:
        return BankRows(rows.block(0, rows.size, device))
    return rows


def _default_budget(device: torch.device) -> int:
    if device.type == "cpu":
        return _PROCESSOR_BUDGET
    # What torch holds and does not use is free too, and after one search that is most of the memory.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused) // 2
