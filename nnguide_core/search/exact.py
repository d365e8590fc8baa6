"""Exact values and the order that decides: float64 sums rounded to float32, ties by the lower bank row.

A value and its bank row are packed into one int64 key that orders as (value descending, row ascending), so
that a top-k over keys is free of chance where values tie.
"""

from functools import partial

import torch
from torch import Tensor

from nnguide_core.search.rows import Excluded, Problem
from nnguide_core.search.threads import run_all, thread_count

__all__ = ["EMPTY", "best", "dense", "exact_values", "pack", "unpack", "without"]

EMPTY = -(2**63)  # a key below every other: no row
_ROWS = 2**32 - 1
_LEAST_SHARE = 256  # bank rows worth a thread
_MOST_PRODUCTS = 2**15  # of matrices in one call: 2**16 and more fail in some versions of cuBLAS


def pack(values: Tensor, rows: Tensor) -> Tensor:
    """Return int64 keys of float32 values and bank rows (< 2**32) of one shape; larger is better."""
    bits = (values + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 makes -0.0 equal to 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered << 32) | (_ROWS - rows)


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 values and int64 bank rows of keys; an empty key gives -inf and -1."""
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    values = bits.to(torch.int32).view(torch.float32)
    empty = keys == EMPTY
    return values.masked_fill(empty, -torch.inf), (_ROWS - (keys & _ROWS)).masked_fill(empty, -1)


def best(keys: Tensor, k: int) -> Tensor:
    """Return the k best keys of each row, best first, filled up with empty ones."""
    if keys.shape[1] < k:
        keys = torch.nn.functional.pad(keys, (0, k - keys.shape[1]), value=EMPTY)
    return keys.topk(k, dim=1).values


def exact_values(queries: Tensor, rows: Tensor) -> Tensor:
    """Return the inner products of queries (Q, D) and their own rows (Q, M, D) as float32 (Q, M)."""
    pairs = zip(torch.split(rows, _MOST_PRODUCTS), torch.split(queries, _MOST_PRODUCTS), strict=True)
    values = [torch.bmm(some.double(), each.double().unsqueeze(2)).squeeze(2) for some, each in pairs]
    return torch.cat(values).float()


def without(scores: Tensor, excluded: Excluded, start: int, absent: float | int) -> None:
    """Write absent where scores (Q, n) of bank rows from start on belong to an excluded row."""
    width = scores.shape[1]
    if excluded.everywhere.numel():
        scores.masked_fill_(excluded.everywhere[start : start + width].to(scores.device), absent)
    if excluded.own.shape[1]:
        places = excluded.own - start
        query, slot = ((places >= 0) & (places < width)).nonzero(as_tuple=True)
        scores[query.to(scores.device), places[query, slot].to(scores.device)] = absent


def dense(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return exact values and rows (Q, k) by computing all of them; each thread takes a part of the bank."""
    size = problem.rows.size
    share = max(-(-size // _tasks(problem)), _LEAST_SHARE)
    tasks = [partial(_part, problem, start, min(start + share, size)) for start in range(0, size, share)]
    return unpack(best(torch.cat(run_all(tasks), dim=1), problem.k))


def _part(problem: Problem, start: int, stop: int) -> Tensor:
    """Return the best keys (Q, k) of the bank rows from start to stop, a block of products at a time."""
    queries = problem.queries
    keys = torch.full((len(queries), problem.k), EMPTY, device=queries.device)
    many, wide = _block_shape(problem)
    for first in range(start, stop, wide):
        rows = problem.rows.block(first, min(first + wide, stop), queries.device).double()
        for some in range(0, len(queries), many):
            part = slice(some, some + many)
            values = queries[part].double() @ rows.T
            if not bool(values.sum().isfinite()):
                problem.rows.refuse_bad()
            fresh = _best_keys(values.float(), first, problem.excluded.rows(part), problem.k)
            keys[part] = best(torch.cat([keys[part], fresh], dim=1), problem.k)
    return keys


def _best_keys(values: Tensor, start: int, excluded: Excluded, k: int) -> Tensor:
    """Return the best keys of values (Q, n) of bank rows from start on; excluded values are overwritten."""
    without(values, excluded, start, -torch.inf)
    top = values.topk(min(k, values.shape[1]), dim=1)
    keys = pack(top.values, top.indices + start)
    least = top.values[:, -1:]
    # Which of several equal values a top-k takes is chance, and an excluded one is no value at all.
    unclear = ((values >= least).sum(dim=1) > keys.shape[1]) | (least[:, 0] == -torch.inf)
    if bool(unclear.any()):
        keys[unclear] = best(_all_keys(values[unclear], start, excluded.rows(unclear.cpu())), keys.shape[1])
    return keys


def _all_keys(values: Tensor, start: int, excluded: Excluded) -> Tensor:
    places = torch.arange(start, start + values.shape[1], device=values.device)
    keys = pack(values, places.expand(values.shape))
    without(keys, excluded, start, EMPTY)
    return keys


def _block_shape(problem: Problem) -> tuple[int, int]:
    """Return how many queries and bank rows a task compares at once, within its share of the budget."""
    share = problem.budget // _tasks(problem)
    wide = max(1, min(problem.rows.size, share // 2 // (12 * problem.rows.width + 1)))
    wide = min(wide, max(1, share // 2 // 40))
    many = max(1, share // 2 // (40 * wide))
    return many, wide


def _tasks(problem: Problem) -> int:
    """Return how many parts of the bank are searched at once: one for each core, on a GPU one."""
    return thread_count() if problem.queries.device.type == "cpu" else 1
