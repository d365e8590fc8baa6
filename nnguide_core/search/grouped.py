"""The search in plain torch, for GPUs and for processors without compiled kernels.

A tile of half- or single-precision products is reduced to the maxima of groups of columns; the best groups
hold the best columns; those are computed exactly as long as their bound reaches the k-th best exact value.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, ldexp

import torch
from torch import Tensor

from nnguide_core.search.exact import EMPTY, best, exact_values, pack, unpack, without
from nnguide_core.search.products import accumulation_error, multiply, output_error, plain_reductions
from nnguide_core.search.rows import BankRows, Problem
from nnguide_core.search.scaling import (
    ALLOWANCE,
    EXTREME,
    exponent_of,
    exponents,
    power_of_two,
    scaled,
)

__all__ = ["Segment", "encoded", "find"]

_GROUP = 32  # columns whose maximum stands for them
_CACHED_TILE = 2**23  # bytes; a tile that a processor's shared cache holds
_MOST_ELEMENTS = 2**31 - 1  # of one tensor, so that every kernel can index it


@dataclass(frozen=True)
class Segment:
    """Consecutive bank rows b ~ unit * code, with bounds on the lengths that hold for all of them."""

    start: int
    codes: Tensor  # (N, D) of a floating type, lengths at most 1
    norm: float  # of b / unit
    residual: float  # of b / unit - code
    unit: float  # a power of two


@dataclass(frozen=True)
class _Queries:
    exact: Tensor  # (Q, D) float32
    codes: Tensor  # (Q, D) like the segments'
    norms: Tensor  # (Q,) float64, of q / unit
    residuals: Tensor  # (Q,) float64, of q / unit - code
    exponents: Tensor  # (Q,) int64, of the units


def encoded(rows: BankRows, dtype: torch.dtype, device: torch.device, budget: int) -> Iterator[Segment]:
    """Yield the bank in segments whose codes and tiles fit the budget.

    Raises:
        ValueError: rows are NaN or infinite; the message says how many of the whole bank.
    """
    step = max(_GROUP, min(budget // 4 // (rows.width * (dtype.itemsize + 4)), _MOST_ELEMENTS // 256))
    if device.type == "cpu":
        step = min(step, 8 * 1024)
    for start in range(0, rows.size, step):
        yield _encode_rows(rows, start, min(start + step, rows.size), dtype, device)


def find(problem: Problem, segments: Iterable[Segment], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (Q, k), rows (Q, k) and whether a query's are proven to be the best (Q,)."""
    device, count = problem.queries.device, len(problem.queries)
    keys = torch.full((count, problem.k), EMPTY, device=device)
    missed = torch.full((count,), -inf, dtype=torch.float64, device=device)
    queries = _encode_queries(problem, dtype)
    for segment in segments:
        step = _tile_queries(problem, segment)
        for first in range(0, count, step):
            part = slice(first, first + step)
            keys[part], most = _search(problem, queries, segment, part, keys[part])
            missed[part] = torch.maximum(missed[part], most)
    values, places = unpack(keys)
    return values, places, missed < values[:, -1]


def _encode_rows(rows: BankRows, start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Segment:
    block = rows.block(start, stop, device)
    largest = float(block.abs().amax())
    if not largest < inf:
        rows.refuse_bad()
    exponent = exponent_of(largest) + exponent_of(rows.width**0.5)
    codes = torch.empty(block.shape, dtype=dtype, device=device)
    norm = residual = 0.0
    for first in range(0, len(block), _GROUP * 1024):
        part = slice(first, first + _GROUP * 1024)
        near = scaled(block[part], exponent)
        codes[part] = near
        norm = max(norm, float(near.norm(dim=1).amax()))
        residual = max(residual, float((near - codes[part].float()).norm(dim=1).amax()))
    rounding = 1 + rows.width * 2.0**-22
    return Segment(start, codes, norm * rounding, residual * rounding, ldexp(1.0, exponent))


def _encode_queries(problem: Problem, dtype: torch.dtype) -> _Queries:
    powers = exponents(problem.magnitudes) + exponent_of(problem.rows.width**0.5)
    near = scaled(problem.queries, powers)
    codes = near.to(dtype)
    residuals = (near.double() - codes.double()).norm(dim=1)
    return _Queries(problem.queries, codes, near.double().norm(dim=1), residuals, powers)


def _tile_queries(problem: Problem, segment: Segment) -> int:
    tile, item = _MOST_ELEMENTS // len(segment.codes), 2 * segment.codes.element_size()
    if segment.codes.device.type == "cpu":
        tile = min(tile, _CACHED_TILE // (item * len(segment.codes)))
    else:
        tile = min(tile, problem.budget // 4 // (item * len(segment.codes)))
    return max(1, tile // 128 * 128 or tile)


def _search(
    problem: Problem, queries: _Queries, segment: Segment, part: slice, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the best keys with a segment's among them, and a bound (Q,) on the values of its other rows."""
    codes = queries.codes[part]
    with plain_reductions(codes.device):
        tile = multiply(codes, segment.codes)
    without(tile, problem.excluded.rows(part), segment.start, -inf)
    take = min(tile.shape[1], _shortlist_length(problem.k, tile.dtype))
    scores, places, others = _largest(tile, take)
    scale = power_of_two(queries.exponents[part]) * segment.unit
    margin = _margin(queries, segment, part)
    upper = _upper(scores, tile.dtype, margin.unsqueeze(1)) * scale.unsqueeze(1)
    missed = _upper(others, tile.dtype, margin) * scale
    extreme = (queries.exponents[part] + exponent_of(segment.unit)).abs() > EXTREME
    keys = _rank(problem, queries.exact[part], segment.start + places, upper, keys)
    return keys, missed.masked_fill(extreme, inf)


def _shortlist_length(k: int, dtype: torch.dtype) -> int:
    """Return how many rows to compute exactly: k, and what usually lies within the error of the k-th best."""
    return 2 * k + 64 if dtype == torch.bfloat16 else k + k // 2 + 32


def _largest(tile: Tensor, take: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each row's take largest entries, their columns, and the largest of its other entries."""
    many, width = tile.shape
    groups = width // _GROUP
    if groups <= 2 * take:
        return _split(tile, torch.arange(width, device=tile.device).expand(tile.shape), take)
    whole = tile[:, : groups * _GROUP].view(many, _GROUP, groups)
    # The columns of a group lie far apart, so that maxima of neighbouring groups are one vector operation.
    _, chosen, unchosen = _split(
        whole.amax(dim=1), torch.arange(groups, device=tile.device).expand(many, groups), take
    )
    columns = (chosen.unsqueeze(2) + groups * torch.arange(_GROUP, device=tile.device)).flatten(1)
    rest = torch.arange(groups * _GROUP, width, device=tile.device).expand(many, -1)
    columns = torch.cat([columns, rest], dim=1)
    scores, columns, others = _split(tile.gather(1, columns), columns, take)
    return scores, columns, torch.maximum(others, unchosen)


def _split(scores: Tensor, columns: Tensor, take: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the take largest scores, their columns, and the largest of the others, -inf without others."""
    top = scores.topk(min(take + 1, scores.shape[1]), dim=1)
    others = top.values[:, take] if scores.shape[1] > take else top.values.new_full((len(scores),), -inf)
    return top.values[:, :take], columns.gather(1, top.indices[:, :take]), others


def _margin(queries: _Queries, segment: Segment, part: slice) -> Tensor:
    """Return the bound (Q,) on how far a product of codes is from that of the rows themselves."""
    residual = queries.residuals[part]
    codes = queries.norms[part] + residual
    accumulated = accumulation_error(segment.codes.dtype, segment.codes.shape[1])
    length = segment.norm + segment.residual
    error = residual * segment.norm + codes * segment.residual + codes * length * (accumulated + ALLOWANCE)
    # The smallest half-precision number is 2**-24: a product is stored to within half of it.
    return error * (1 + ALLOWANCE) + (2.0**-25 if output_error(segment.codes.dtype) else 2.0**-100)


def _upper(scores: Tensor, dtype: torch.dtype, margin: Tensor) -> Tensor:
    scores = scores.double()
    return scores + output_error(dtype) * scores.abs().nan_to_num(posinf=0.0) + margin


def _rank(problem: Problem, queries: Tensor, places: Tensor, upper: Tensor, keys: Tensor) -> Tensor:
    """Return the best keys after exact values of the k likeliest rows, then of all that reach the k-th."""
    k = min(problem.k, places.shape[1])
    least = unpack(keys[:, -1])[0]
    likely = (upper[:, :k] >= least.unsqueeze(1)) & (upper[:, :k] > -inf)
    keys = best(torch.cat([keys, _exact_keys(problem, queries, places[:, :k], likely)], dim=1), problem.k)
    least = unpack(keys[:, -1])[0]
    reaching = (upper[:, k:] >= least.unsqueeze(1)) & (upper[:, k:] > -inf)
    if not bool(reaching.any()):
        return keys
    return best(torch.cat([keys, _exact_keys(problem, queries, places[:, k:], reaching)], dim=1), problem.k)


def _exact_keys(problem: Problem, queries: Tensor, places: Tensor, wanted: Tensor) -> Tensor:
    """Return the keys (Q, M) of the wanted places, empty elsewhere."""
    keys = torch.full(places.shape, EMPTY, device=places.device)
    room = max(1, problem.budget // 4 // (32 * problem.rows.width))
    if bool(wanted.all()):
        step = max(1, room // places.shape[1])
        for first in range(0, len(queries), step):
            near = places[first : first + step]
            rows = _rows_at(problem.rows, near.flatten()).view(*near.shape, -1)
            keys[first : first + step] = pack(exact_values(queries[first : first + step], rows), near)
        return keys
    query, slot = wanted.nonzero(as_tuple=True)
    for first in range(0, len(query), room):
        q, s = query[first : first + room], slot[first : first + room]
        rows = _rows_at(problem.rows, places[q, s])
        keys[q, s] = pack(exact_values(queries[q], rows.unsqueeze(1)).squeeze(1), places[q, s])
    return keys


def _rows_at(rows: BankRows, places: Tensor) -> Tensor:
    if isinstance(rows.source, Tensor) and rows.source.device == places.device:
        return rows.source.detach()[places].float()
    return torch.from_numpy(rows.gather(places.cpu().numpy())).to(places.device)
