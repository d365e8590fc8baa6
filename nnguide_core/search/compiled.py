"""The search on a processor with compiled kernels: tiles of products, scanned while they are in the cache."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ldexp

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core.search import kernels
from nnguide_core.search.exact import EMPTY, best, pack, unpack
from nnguide_core.search.kernels import Absent, Columns, Shortlist, Top, Weights
from nnguide_core.search.products import accumulation_error, multiply
from nnguide_core.search.rows import BankRows, Problem
from nnguide_core.search.scaling import ALLOWANCE, EXTREME, exponent_of, exponents, scaled
from nnguide_core.search.threads import run_all, thread_count

__all__ = ["Segment", "dense", "encoded", "find"]

_FLOOR = 2.0**-60  # rows shorter than this have bounds as if they were this long
_USUAL = 40  # powers of two around 1 that rows may have without being scaled
_NEVER = 10_000  # an exponent that no segment brings back to what is searched
_TILE = 2**19  # products that are computed before they are scanned: 2 MiB, which last-level caches hold
_TILE_QUERIES = (8, 512)  # at least and at most
_WIDEST_TILE = 8192  # rows
_FIRST_TILE = 64  # rows; with few rows seen most of a tile is kept, so tiles start small
_ENCODED_ROWS = 4096
_LEAST_SHORTLIST = 1024


@dataclass(frozen=True)
class Segment:
    """Bank rows, encoded; int8 codes in the order of their lengths, longest first."""

    codes: Tensor  # (N, D) int8 or float32
    columns: Columns
    reach: NDArray[np.float32]  # (N + 1,) the largest norm among a row and those after it
    unit: float  # a power of two that the columns' numbers are multiples of


@dataclass(frozen=True)
class _Queries:
    """A task's queries, encoded, and how far it is with them."""

    codes: Tensor  # (Q, D)
    weights: Weights
    scales: NDArray[np.float64]  # (Q,) what a code of 1 is worth
    exponents: NDArray[np.int64]  # (Q,) of the largest magnitude, _NEVER for a query that is zero
    top: Top  # what has been found for them
    proven: NDArray[np.bool_]  # (Q,) whether it is proven to be the best


@dataclass
class _Tally:
    """How a segment goes: once most queries could not be decided, the others are not tried."""

    done: int = 0
    given_up: int = 0

    @property
    def hopeless(self) -> bool:
        return 2 * self.given_up > self.done


def encoded(rows: BankRows, dtype: torch.dtype, budget: int) -> Iterator[Segment]:
    """Yield the bank in segments of at most about the budget's bytes.

    Raises:
        ValueError: rows are NaN or infinite; the message says how many of the whole bank.
    """
    held = 2 * rows.width * dtype.itemsize + 64
    step = max(_FIRST_TILE, budget // held)
    for start in range(0, rows.size, step):
        yield _segment(rows, start, min(start + step, rows.size), dtype)


def find(problem: Problem, segments: Iterable[Segment], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (Q, k), rows (Q, k) and whether a query's are proven to be the best (Q,)."""
    count = len(problem.queries)
    step = min(max(-(-count // thread_count()), _TILE_QUERIES[0]), _TILE_QUERIES[1])
    step = max(1, min(step, problem.budget // 4 // thread_count() // _held_per_query(problem.k)))
    parts = [problem.subset(slice(first, first + step)) for first in range(0, count, step)]
    queries = run_all([partial(_encode_queries, part, dtype) for part in parts])
    for segment in segments:
        tally = _Tally()
        run_all([partial(_search, *each, segment, tally) for each in zip(parts, queries, strict=True)])
    tops, proven = [part.top for part in queries], [part.proven for part in queries]
    return (
        torch.from_numpy(np.concatenate([top.values for top in tops])),
        torch.from_numpy(np.concatenate([top.places for top in tops])),
        torch.from_numpy(np.concatenate(proven)),
    )


def dense(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return exact values and rows (Q, k) by computing all of them; each thread takes a part of the bank."""
    share = -(-problem.rows.size // thread_count())
    starts = range(0, problem.rows.size, share)
    tops = run_all(
        [partial(_dense_part, problem, start, min(start + share, problem.rows.size)) for start in starts]
    )
    return unpack(best(torch.cat([_keys(top) for top in tops], dim=1), problem.k))


def _segment(rows: BankRows, start: int, stop: int, dtype: torch.dtype) -> Segment:
    shift = 0
    codes, lengths, exponent = _encode_rows(rows, start, stop, dtype, shift)
    if abs(exponent) > _USUAL:
        shift = exponent
        codes, lengths, _ = _encode_rows(rows, start, stop, dtype, shift)
    order = np.arange(stop - start)
    if dtype == torch.int8:
        order = np.argsort(-lengths[1])
        codes, lengths = _sorted(codes, torch.from_numpy(order)), lengths[:, order]
    columns = _columns(order + start, lengths, accumulation_error(dtype, rows.width))
    reach = np.append(np.maximum.accumulate(columns.norm[::-1])[::-1], np.float32(0))
    return Segment(codes, columns, reach, ldexp(1.0, shift))


def _encode_rows(
    rows: BankRows, start: int, stop: int, dtype: torch.dtype, shift: int
) -> tuple[Tensor, NDArray[np.float64], int]:
    """Return codes and lengths of the rows over 2**shift, and the exponent of their largest magnitude."""
    count = stop - start
    direct = dtype == torch.float32 and rows.direct is not None and shift == 0
    codes = rows.block(start, stop) if direct else torch.empty(count, rows.width, dtype=dtype)
    lengths = np.zeros((3, count))
    peak = max(
        run_all([partial(_encode_block, rows, start, part, shift, codes, lengths) for part in _parts(count)])
    )
    if peak >= kernels.NOT_FINITE:
        rows.refuse_bad()
    return codes, lengths, exponent_of(float(np.array(peak, np.int32).view(np.float32)))


def _parts(count: int) -> list[slice]:
    return [slice(first, min(first + _ENCODED_ROWS, count)) for first in range(0, count, _ENCODED_ROWS)]


def _sorted(codes: Tensor, order: Tensor) -> Tensor:
    """Return codes in another order."""
    ordered = torch.empty_like(codes)
    run_all(
        [partial(torch.index_select, codes, 0, order[part], out=ordered[part]) for part in _parts(len(order))]
    )
    return ordered


def _encode_block(
    rows: BankRows, start: int, part: slice, shift: int, codes: Tensor, lengths: NDArray[np.float64]
) -> int:
    block = rows.block(start + part.start, start + part.stop)
    if shift:
        block = scaled(block, shift)
    found = np.zeros((3, len(block)))
    if codes.dtype == torch.int8:
        peak = kernels.encode(block.numpy(), _FLOOR, codes[part].numpy(), found)
    else:
        peak = kernels.measure(block.numpy(), found[1])
        found[0] = 1.0
        if codes[part].data_ptr() != block.data_ptr():
            codes[part] = block
    lengths[:, part] = found
    return peak


def _columns(places: NDArray[np.int64], lengths: NDArray[np.float64], accumulation: float) -> Columns:
    scale, norm, residual = lengths
    norm = np.maximum(norm, _FLOOR) * (1 + ALLOWANCE)
    residual = residual * (1 + ALLOWANCE) + norm * (ALLOWANCE + accumulation)
    return Columns(places, scale.astype(np.float32), norm.astype(np.float32), residual.astype(np.float32))


def _encode_queries(problem: Problem, dtype: torch.dtype) -> _Queries:
    """Encode each query divided by the power of two above its largest magnitude."""
    powers = exponents(problem.magnitudes)
    codes = near = scaled(problem.queries, powers)
    lengths = np.ones((3, len(near)))
    if dtype == torch.int8:
        codes = torch.empty(near.shape, dtype=torch.int8)
        kernels.encode(near.numpy(), 0.0, codes.numpy(), lengths)
    else:
        kernels.measure(near.numpy(), lengths[1])
        lengths[2] = 0.0
    scale, norm, residual = lengths
    zero = scale == 0
    scale[zero] = 1.0
    weights = Weights(
        (residual / scale * (1 + ALLOWANCE)).astype(np.float32),
        ((norm + residual) / scale * (1 + ALLOWANCE)).astype(np.float32),
    )
    return _Queries(
        codes,
        weights,
        np.ldexp(scale, powers.numpy()),
        np.where(zero, _NEVER, powers.numpy()),
        _empty_top(len(near), problem.k),
        np.ones(len(near), bool),
    )


def _search(problem: Problem, queries: _Queries, segment: Segment, tally: _Tally) -> None:
    """Search a segment for a task's queries; their top and proven are brought up to date."""
    if tally.hopeless:
        queries.proven[:] = False
        return
    units = queries.scales * segment.unit
    extreme = np.abs(queries.exponents + exponent_of(segment.unit)) > EXTREME
    found = _shortlist(problem.k, units, queries.top, queries.proven & ~extreme)
    _scan_tiles(problem, queries, segment, found)
    _rank(problem, segment, units, found, queries.top)
    queries.proven[:] = found.length >= 0
    tally.done += len(units)
    tally.given_up += int((found.length < 0).sum())


def _room(k: int) -> int:
    """Return how long a shortlist can be when a tile is begun."""
    return 2 * max(_LEAST_SHORTLIST, 4 * k)


def _widest_tile(queries: int) -> int:
    return min(max(_TILE // queries, _TILE // _TILE_QUERIES[1]), _WIDEST_TILE)


def _held_per_query(k: int) -> int:
    return 12 * (_room(k) + _widest_tile(_TILE_QUERIES[1])) + 4 * _widest_tile(_TILE_QUERIES[1])


def _shortlist(k: int, units: NDArray[np.float64], top: Top, wanted: NDArray[np.bool_]) -> Shortlist:
    # Sixteen more, or the starts of all lists would compete for the same lines of the cache.
    shape = (len(units), _room(k) + _widest_tile(len(units)) + 16)
    threshold = np.where(top.filled == k, top.values[:, -1] / units, -np.inf)
    return Shortlist(
        np.empty(shape, np.int32),
        np.empty(shape, np.float32),
        np.empty(shape, np.float32),
        np.where(wanted, 0, -1),
        np.full((len(units), k), -np.inf, np.float32),
        threshold.astype(np.float32),
    )


def _scan_tiles(problem: Problem, queries: _Queries, segment: Segment, found: Shortlist) -> None:
    absent = Absent(problem.excluded.everywhere.numpy(), problem.excluded.own.numpy())
    active, codes = np.arange(len(found.length)), queries.codes
    start, step, widest = 0, _FIRST_TILE, _widest_tile(len(queries.codes))
    remaining = int((found.length >= 0).sum())
    while start < len(segment.codes) and remaining:
        if 4 * remaining < 3 * len(active):
            active = _still_active(active, queries.weights, float(segment.reach[start]), found)
            codes = queries.codes[torch.from_numpy(active)]
        stop = min(start + step, len(segment.codes))
        tile = multiply(codes, segment.codes[start:stop])
        columns = segment.columns.between(start, stop)
        remaining = kernels.scan(
            tile.numpy(),
            columns,
            active,
            queries.weights,
            start,
            segment.reach[stop],
            absent,
            found,
            _room(problem.k),
        )
        start, step = stop, min(2 * step, widest)


def _still_active(
    active: NDArray[np.int64], weights: Weights, reach: float, found: Shortlist
) -> NDArray[np.int64]:
    """Return the queries that may find more in rows as long as reach or shorter."""
    more = (found.length[active] >= 0) & (weights.norm[active] * reach >= found.threshold[active])
    return active[more]


def _rank(problem: Problem, segment: Segment, units: NDArray[np.float64], found: Shortlist, top: Top) -> None:
    rows, slots, places = problem.rows.direct, segment.columns.row, segment.columns.row
    if rows is None:
        listed = np.arange(found.places.shape[1]) < found.length[:, None]
        needed = np.unique(found.places[listed])
        rows, slots = problem.rows.gather(places[needed]), np.zeros_like(places)
        slots[needed] = np.arange(len(needed))
    kernels.rank(problem.queries.numpy(), rows, slots, places, units, found, top)


def _dense_part(problem: Problem, start: int, stop: int) -> Top:
    top = _empty_top(len(problem.queries), problem.k)
    absent = Absent(problem.excluded.everywhere.numpy(), problem.excluded.own.numpy())
    for first in range(start, stop, _ENCODED_ROWS):
        block = problem.rows.block(first, min(first + _ENCODED_ROWS, stop))
        if not kernels.rank_all(problem.queries.numpy(), block.numpy(), first, absent, top):
            problem.rows.refuse_bad()
    return top


def _empty_top(count: int, k: int) -> Top:
    return Top(np.full((count, k), -np.inf, np.float32), np.full((count, k), -1), np.zeros(count, np.int64))


def _keys(top: Top) -> Tensor:
    places = torch.from_numpy(top.places)
    return pack(torch.from_numpy(top.values), places).masked_fill(places < 0, EMPTY)
