"""Compiled loops of the search, one thread each: encoding, picking candidates out of a tile, re-ranking.

Imported only where it is needed: numba takes half a second to import and seconds to compile the first time,
after which its cache beside this file (or in the user's cache folder) is used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Absent",
    "Columns",
    "Shortlist",
    "Top",
    "Weights",
    "encode",
    "measure",
    "rank",
    "rank_all",
    "scan",
]

Floats = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

NOT_FINITE = np.int32(0x7F800000)  # the bits of infinity; those of NaN are more
_MAGNITUDE = np.int32(0x7FFFFFFF)  # all bits of a float32 but its sign
_BLOCK = 64  # bank rows that stay in the cache while every query passes over them


class Columns(NamedTuple):
    """What is known of each encoded bank row b ~ scale * code: lengths are bounds from above."""

    row: NDArray[np.int64]  # (N,) of the bank
    scale: Floats  # (N,)
    norm: Floats  # (N,) of b
    residual: Floats  # (N,) of b - scale * code, with the allowance for rounding

    def between(self, start: int, stop: int) -> "Columns":
        """Return the same for the rows from start to stop."""
        part = slice(start, stop)
        return Columns(self.row[part], self.scale[part], self.norm[part], self.residual[part])


class Weights(NamedTuple):
    """What is known of each encoded query q ~ scale * code, in multiples of its scale."""

    residual: Floats  # (Q,) length of q - scale * code
    norm: Floats  # (Q,) length of scale * code


class Absent(NamedTuple):
    """Bank rows that count as absent."""

    everywhere: NDArray[np.bool_]  # (N,) or (0,)
    own: NDArray[np.int64]  # (Q, E) ascending, -1 where there are none


class Shortlist(NamedTuple):
    """For each query the rows of a segment that can be among its k best, with bounds of their values."""

    places: NDArray[np.int32]  # (Q, M) rows of the segment
    upper: Floats  # (Q, M)
    lower: Floats  # (Q, M)
    length: NDArray[np.int64]  # (Q,), -1 once there were too many to hold
    lowest: Floats  # (Q, k) the k largest lower bounds, as a heap whose root is the smallest
    threshold: Floats  # (Q,) nothing below it can be among the k best


class Top(NamedTuple):
    """The best rows found so far, best first."""

    values: Floats  # (Q, k)
    places: NDArray[np.int64]  # (Q, k) rows of the bank
    filled: NDArray[np.int64]  # (Q,) how many of the k are there


def _compiled(flags: set[str] | None = None) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "fastmath": flags or False}
        try:
            return cast(Function, numba.njit(cache=True, **options)(function))
        except RuntimeError:  # no folder where the cache could be written
            return cast(Function, numba.njit(**options)(function))

    return decorate


@_compiled({"reassoc", "contract"})
def _dot(query: Floats, row: Floats) -> float:
    total = 0.0
    for d in range(query.shape[0]):
        total += np.float64(query[d]) * np.float64(row[d])
    return total


@_compiled({"reassoc", "contract"})
def measure(rows: Floats, norms: NDArray[np.float64]) -> int:
    """Write the rows' lengths; return the bits of the largest magnitude, from NOT_FINITE on if it is not."""
    peak = np.int32(0)
    bits = rows.view(np.int32)
    for i in range(rows.shape[0]):
        squares = 0.0
        for d in range(rows.shape[1]):
            squares += np.float64(rows[i, d]) * np.float64(rows[i, d])
            peak = max(peak, bits[i, d] & _MAGNITUDE)
        norms[i] = np.sqrt(squares)
    return int(peak)


@_compiled({"reassoc", "contract"})
def encode(rows: Floats, smallest: float, codes: NDArray[np.int8], lengths: NDArray[np.float64]) -> int:
    """Write rows ~ scale * codes, with lengths (3, N) of scale, norm and residual; return as measure does.

    Rows whose largest magnitude is not above smallest get scale and codes 0.
    """
    highest = np.int32(0)
    bits = rows.view(np.int32)
    for i in range(rows.shape[0]):
        peak = np.int32(0)
        largest = np.float32(0.0)
        for d in range(rows.shape[1]):
            peak = max(peak, bits[i, d] & _MAGNITUDE)
        highest = max(highest, peak)
        for d in range(rows.shape[1]):
            if (bits[i, d] & _MAGNITUDE) == peak:
                largest = abs(rows[i, d])
                break
        usable = largest > smallest and peak < NOT_FINITE
        scale = largest / np.float32(127.0) if usable else np.float32(0.0)
        factor = np.float32(127.0) / largest if usable else np.float32(0.0)
        squares, rest = 0.0, 0.0
        for d in range(rows.shape[1]):
            # Truncation is a vector instruction; any rounding will do, for what it loses is measured.
            code = np.int32(rows[i, d] * factor + np.float32(128.5)) - np.int32(128)
            codes[i, d] = np.int8(code)
            error = np.float64(rows[i, d]) - np.float64(code) * np.float64(scale)
            squares += np.float64(rows[i, d]) * np.float64(rows[i, d])
            rest += error * error
        lengths[0, i], lengths[1, i], lengths[2, i] = scale, np.sqrt(squares), np.sqrt(rest)
    return int(highest)


@_compiled()
def scan(
    tile: NDArray[Any],
    columns: Columns,
    queries: NDArray[np.int64],
    weights: Weights,
    start: int,
    reach: float,
    absent: Absent,
    found: Shortlist,
    room: int,
) -> int:
    """Add to the shortlists the rows of a tile of products that can be among the k best.

    Args:
        tile: (R, B) products of codes, int32 or float32, with the segment's rows from start on.
        columns: of the segment's rows from start on.
        queries: (R,) the queries whose products the tile holds.
        weights: of all queries.
        start: the segment's row in the tile's first column.
        reach: the largest norm among the rows that follow.
        absent: rows never added.
        found: the shortlists of all queries.
        room: how many entries a shortlist may have, beside which it holds another B; given up where more than
            half of them remain.

    Returns:
        How many of the queries may find more in the rows that follow.
    """
    # One function, for numba copies the records' fields at each call of another.
    alive, some_absent = 0, absent.everywhere.shape[0] > 0 or absent.own.shape[1] > 0
    scales, norms, residuals = columns.scale, columns.norm, columns.residual
    marks = np.zeros((tile.shape[1] + 31) // 32 * 32, np.uint8)
    words = marks.view(np.uint64)  # eight columns at once
    for r in range(tile.shape[0]):
        i = queries[r]
        count, threshold, a, b = found.length[i], found.threshold[i], weights.residual[i], weights.norm[i]
        if count < 0:
            continue
        _mark(tile[r], scales, norms, residuals, a, b, threshold, marks)
        for w in range(0, words.shape[0], 4):
            if words[w] | words[w + 1] | words[w + 2] | words[w + 3] == 0:
                continue
            for j in range(8 * w, 8 * w + 32):
                if marks[j] == 0 or (some_absent and _is_absent(absent, i, columns.row[j])):
                    continue
                middle, margin = scales[j] * np.float32(tile[r, j]), a * norms[j] + b * residuals[j]
                if middle + margin < threshold:
                    continue
                found.places[i, count] = start + j
                found.upper[i, count], found.lower[i, count] = middle + margin, middle - margin
                count += 1
                if middle - margin > found.lowest[i, 0]:
                    _replace_smallest(found.lowest, i, middle - margin)
                    threshold = max(threshold, found.lowest[i, 0])
        found.length[i], found.threshold[i] = count, threshold
        if count > room:
            _prune(found, i, room // 2)
        alive += found.length[i] >= 0 and b * reach >= threshold
    return alive


@_compiled({"contract"})
def _mark(
    products: NDArray[Any],
    scales: Floats,
    norms: Floats,
    residuals: Floats,
    residual: float,
    norm: float,
    threshold: float,
    marks: NDArray[np.uint8],
) -> None:
    """Write 1 for each column whose value can reach the threshold, else 0. Plain enough to become vectors."""
    for j in range(products.shape[0]):
        margin = residual * norms[j] + norm * residuals[j]
        marks[j] = np.uint8(scales[j] * np.float32(products[j]) + margin >= threshold)


@_compiled()
def _is_absent(absent: Absent, i: int, place: int) -> bool:
    if absent.everywhere.shape[0] > 0 and absent.everywhere[place]:
        return True
    low, high = 0, absent.own.shape[1]
    while low < high:
        middle = (low + high) // 2
        if absent.own[i, middle] < place:
            low = middle + 1
        else:
            high = middle
    return bool(low < absent.own.shape[1] and absent.own[i, low] == place)


@_compiled()
def _replace_smallest(heaps: Floats, i: int, value: float) -> None:
    """Put value in the place of the root of a heap, which is the smallest, and restore the heap."""
    at, child = 0, 1
    while child < heaps.shape[1]:
        if child + 1 < heaps.shape[1] and heaps[i, child + 1] < heaps[i, child]:
            child += 1
        if heaps[i, child] >= value:
            break
        heaps[i, at] = heaps[i, child]
        at, child = child, 2 * child + 1
    heaps[i, at] = value


@_compiled()
def _prune(found: Shortlist, i: int, most: int) -> None:
    """Drop what is certainly below the k-th best; give the query up where more than most remain."""
    kept = 0
    for c in range(found.length[i]):
        if found.upper[i, c] >= found.threshold[i]:
            found.places[i, kept] = found.places[i, c]
            found.upper[i, kept] = found.upper[i, c]
            found.lower[i, kept] = found.lower[i, c]
            kept += 1
    found.length[i] = kept if kept <= most else -1


@_compiled()
def rank(
    queries: Floats,
    rows: Floats,
    slots: NDArray[np.int64],
    places: NDArray[np.int64],
    units: NDArray[np.float64],
    found: Shortlist,
    top: Top,
) -> None:
    """Compute the exact values of what is on the shortlists, likeliest first, and merge them into top.

    Args:
        queries: (Q, D).
        rows: (R, D) rows that slots point to.
        slots: (N,) where in rows each row of the segment is.
        places: (N,) where in the bank each row of the segment is.
        units: (Q,) what the shortlist's bounds are multiples of.
        found: the shortlists; given-up ones are left alone.
        top: the best rows so far.
    """
    k = top.values.shape[1]
    chosen = np.empty(found.places.shape[1], np.int64)
    values = np.empty(found.places.shape[1])
    for i in range(queries.shape[0]):
        for later in range(2):
            least = np.float64(top.values[i, k - 1]) / units[i] if top.filled[i] == k else -np.inf
            count = 0
            for c in range(found.length[i]):
                if (found.lower[i, c] < found.lowest[i, 0]) == (later == 1) and found.upper[i, c] >= least:
                    chosen[count] = c
                    count += 1
            _dots(queries[i], rows, slots, found.places[i], chosen[:count], values)
            for v in range(count):
                _insert(top, i, values[v], places[found.places[i, chosen[v]]])


@_compiled({"reassoc", "contract"})
def _dots(
    query: Floats,
    rows: Floats,
    slots: NDArray[np.int64],
    listed: NDArray[np.int32],
    chosen: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:
    """Write the products of a query with chosen listed rows, four at a time to wait for memory less often."""
    last = chosen.shape[0] - 1
    for c in range(0, chosen.shape[0], 4):
        second, third, fourth = min(c + 1, last), min(c + 2, last), min(c + 3, last)
        one, two = rows[slots[listed[chosen[c]]]], rows[slots[listed[chosen[second]]]]
        three, four = rows[slots[listed[chosen[third]]]], rows[slots[listed[chosen[fourth]]]]
        w, x, y, z = 0.0, 0.0, 0.0, 0.0
        for d in range(query.shape[0]):
            factor = np.float64(query[d])
            w += factor * np.float64(one[d])
            x += factor * np.float64(two[d])
            y += factor * np.float64(three[d])
            z += factor * np.float64(four[d])
        values[c], values[second], values[third], values[fourth] = w, x, y, z


@_compiled()
def rank_all(queries: Floats, rows: Floats, start: int, absent: Absent, top: Top) -> bool:
    """Merge the exact values of all rows (start and on) into top; False where a row is not finite."""
    for first in range(0, rows.shape[0], _BLOCK):
        for i in range(queries.shape[0]):
            for j in range(first, min(first + _BLOCK, rows.shape[0])):
                value = _dot(queries[i], rows[j])
                if not np.isfinite(value):
                    return False
                if not _is_absent(absent, i, start + j):
                    _insert(top, i, value, start + j)
    return True


@_compiled()
def _insert(top: Top, i: int, exact: float, place: int) -> None:
    """Put a row where it belongs by its value in float32: larger values first, then lower rows."""
    value = np.float32(exact)
    k = top.values.shape[1]
    at = top.filled[i]
    if at == k:
        last = top.values[i, k - 1]
        if value < last or (value == last and place > top.places[i, k - 1]):
            return
        at = k - 1
    else:
        top.filled[i] = at + 1
    while at > 0 and (
        value > top.values[i, at - 1] or (value == top.values[i, at - 1] and place < top.places[i, at - 1])
    ):
        top.values[i, at] = top.values[i, at - 1]
        top.places[i, at] = top.places[i, at - 1]
        at -= 1
    top.values[i, at] = value
    top.places[i, at] = place
