"""Every k at once: what AUROC, both FPRs and both thresholds would be for each k, from one search.

The neighbours of the largest k hold those of every smaller one, so nothing is searched again. Per k, the two
sides are sorted apart and merged, which is all that these metrics need: ties are counted, never broken.
A table for a browser needs one side only; what needs the other is NaN in it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core.curves import DEFAULT_BINS, count_in_bins, robust_range
from nnguide_core.errors import UndefinedMetricError
from nnguide_core.metrics import DEFAULT_LEVEL, check_level, doubled_wins, least_count
from nnguide_core.scoring import running_guidance, score

__all__ = [
    "BinnedSweep",
    "KSweep",
    "Searched",
    "Similarities",
    "binned_over_k",
    "over_k",
    "scores_over_k",
]

_BLOCK = 32_000  # values that one thread handles at a time; torch would split more over its own threads
_SCORE_BYTES = 512 * 2**20  # scores held at a time

_Column = NDArray[np.float64]


class Searched(Protocol):
    """What a search found for Q queries; scoring.Neighbors is one."""

    @property
    def similarities(self) -> Tensor:
        """Guided similarities, best first, (Q, k_max) float32."""

    @property
    def energy(self) -> Tensor:
        """Energies of the queries, (Q,) float32."""


@dataclass(frozen=True)
class Similarities:
    """The part of a search's result that scores are made of."""

    similarities: Tensor  # (Q, k_max) float32, guided similarities, best first
    energy: Tensor  # (Q,) float32


@dataclass(frozen=True)
class KSweep:
    """The metrics of K values of k, OOD positive; a column that needs a side without scores is NaN."""

    ks: NDArray[np.int64]  # (K,)
    auroc: _Column  # (K,) in [0, 1]
    id_flagged_at_ood_caught: _Column  # (K,) share of ID flagged when `level` of OOD is caught
    ood_passed_at_id_kept: _Column  # (K,) share of OOD passed when `level` of ID is kept
    threshold_ood_caught: _Column  # (K,) the threshold behind the first share
    threshold_id_kept: _Column  # (K,) the threshold behind the second share
    level: float


@dataclass(frozen=True)
class BinnedSweep:
    """Counts by score for K values of k and G groups: what a browser needs to redraw without asking.

    Bin b of row i holds edge(b) <= score < edge(b + 1) with edge(b) = (first[i] + b) * step[i]; the first
    bin also holds all below and the last all above. A threshold on an edge gives exact counts; in between
    they are not known. The thresholds and metrics of the sweeps are exact at every k.
    """

    ks: NDArray[np.int64]  # (K,)
    groups: tuple[str, ...]  # G names, ID before OOD
    id_groups: int  # how many of them are ID
    first: NDArray[np.int64]  # (K,)
    step: _Column  # (K,) above 0
    counts: NDArray[np.int64]  # (K, G, B)
    pooled: KSweep  # all ID against all OOD
    sweeps: tuple[KSweep, ...]  # all ID against each OOD group
    flagged_at_ood_caught: NDArray[np.int64]  # (K, G) flagged at pooled.threshold_ood_caught
    flagged_at_id_kept: NDArray[np.int64]  # (K, G) flagged at pooled.threshold_id_kept

    def edges(self, row: int) -> _Column:
        """Return the edges of the bins at one k, (B + 1,) ascending."""
        edges: _Column = (self.first[row] + np.arange(self.counts.shape[2] + 1)) * self.step[row]
        return edges


def over_k(
    id_neighbors: Searched,
    ood_neighbors: Searched,
    ks: Sequence[int] | None = None,
    level: float = DEFAULT_LEVEL,
) -> KSweep:
    """Return AUROC, both FPRs and their thresholds for every k, each equal to `metrics` on that k's scores.

    Args:
        id_neighbors: N ID queries with their neighbours.
        ood_neighbors: M OOD queries with their neighbours.
        ks: which k, each between 1 and the neighbours kept; all of them by default.
        level: the share of OOD caught, or of ID kept, at which the shares are taken.

    Raises:
        UndefinedMetricError: a side is empty or a query's score is not finite; the message says how many.
        ValueError: a k is out of range, or the level is not in (0, 1].
    """
    check_level(level)
    for side, searched in (("ID", id_neighbors), ("OOD", ood_neighbors)):
        if not len(searched.energy):
            raise UndefinedMetricError(f"There are no {side} scores, so the metric is not defined.")
    return _over_k(id_neighbors, ood_neighbors, ks, level)


def binned_over_k(
    id_groups: Mapping[str, Searched],
    ood_groups: Mapping[str, Searched],
    ks: Sequence[int] | None = None,
    bins: int = DEFAULT_BINS,
    level: float = DEFAULT_LEVEL,
) -> BinnedSweep:
    """Return counts by score of every group for every k, over bins that fit the scores of each k.

    One side is enough, and any group may be empty as long as one has queries.

    Args:
        id_groups: name -> N_g ID queries with their neighbours; pooled they are the ID side.
        ood_groups: name -> M_g OOD queries with their neighbours; pooled they are the OOD side.
        ks: which k, each between 1 and the neighbours kept; all of them by default.
        bins: how many, at least 2.
        level: the share of OOD caught, or of ID kept, of the exact thresholds and metrics.

    Raises:
        UndefinedMetricError: there are no queries at all, or a query's score is not finite.
        ValueError: a k is out of range, fewer than 2 bins, or the level is not in (0, 1].
    """
    if bins < 2:
        raise ValueError(f"The table needs at least 2 bins, got {bins}.")
    named = {**{("ID", n): g for n, g in id_groups.items()}, **{("OOD", n): g for n, g in ood_groups.items()}}
    groups = list(named.values())
    if not any(len(group.energy) for group in groups):
        raise UndefinedMetricError("There are no scores, neither ID nor OOD, so there is nothing to count.")
    k_max = min(map(_kept, groups))
    chosen = _check_ks(ks, k_max)
    id_side, ood_side = _pool(id_groups.values(), k_max), _pool(ood_groups.values(), k_max)
    pooled = _over_k(id_side, ood_side, chosen.tolist(), level)
    scores = [scores_over_k(group, chosen, name, allow_empty=True) for (_, name), group in named.items()]
    first, step, counts = _binned(scores, bins)
    return BinnedSweep(
        ks=chosen,
        groups=tuple(name for _, name in named),
        id_groups=len(id_groups),
        first=first,
        step=step,
        counts=counts,
        pooled=pooled,
        sweeps=tuple(_over_k(id_side, group, chosen.tolist(), level) for group in ood_groups.values()),
        flagged_at_ood_caught=_flagged(scores, pooled.threshold_ood_caught),
        flagged_at_id_kept=_flagged(scores, pooled.threshold_id_kept),
    )


def scores_over_k(
    searched: Searched, ks: NDArray[np.int64], side: str = "query", *, allow_empty: bool = False
) -> NDArray[np.float32]:
    """Return the scores for each k, (K, Q) float32: the same numbers as scoring gives for that k.

    Args:
        searched: Q queries with their neighbours.
        ks: which k, (K,), each between 1 and the neighbours kept.
        side: what the queries are called in an error.
        allow_empty: no queries give an empty table instead of an error.

    Raises:
        UndefinedMetricError: there are no queries, or some scores are not finite; the message says how many.
    """
    queries, k_max = len(searched.energy), int(ks.max())
    if queries == 0 and not allow_empty:
        raise UndefinedMetricError(f"There are no {side} scores, so the metric is not defined.")
    similarities, energy = searched.similarities[:, :k_max].cpu(), searched.energy.cpu()
    # Neighbouring columns are a view; picking them one by one would double the time of the whole sweep.
    in_turn = bool((np.diff(ks) == 1).all())
    columns = slice(int(ks[0]) - 1, k_max) if in_turn else torch.from_numpy(ks - 1)
    table = np.empty((ks.size, queries), dtype=np.float32)
    usable = np.empty(queries, dtype=bool)

    def fill(start: int) -> None:
        rows = slice(start, start + per_task)
        scores = score(running_guidance(similarities[rows])[:, columns], energy[rows, None]).numpy()
        table[:, rows], usable[rows] = scores.T, np.isfinite(scores).all(axis=1)

    per_task = max(1, _BLOCK // k_max)
    _in_threads(fill, range(0, queries, per_task))
    if not usable.all():
        raise UndefinedMetricError(
            f"{np.sum(~usable):,} of {queries:,} {side} scores are not finite, so the metric is not defined. "
            "Leave these queries out."
        )
    return table


def _over_k(
    id_neighbors: Searched, ood_neighbors: Searched, ks: Sequence[int] | None, level: float
) -> KSweep:
    """Return what over_k returns; a side may be empty, and what needs it is then NaN."""
    chosen = _check_ks(ks, min(_kept(id_neighbors), _kept(ood_neighbors)))
    queries = len(id_neighbors.energy) + len(ood_neighbors.energy)
    per_block = max(1, _SCORE_BYTES // (4 * max(1, queries)))
    parts = [
        _metrics_of(
            scores_over_k(id_neighbors, block, "ID", allow_empty=True),
            scores_over_k(ood_neighbors, block, "OOD", allow_empty=True),
            level,
        )
        for block in np.split(chosen, range(per_block, chosen.size, per_block))
    ]
    auroc, id_flagged, ood_passed, ood_caught, id_kept = np.concatenate(parts, axis=1)
    return KSweep(chosen, auroc, id_flagged, ood_passed, ood_caught, id_kept, level)


def _metrics_of(
    id_scores: NDArray[np.float32], ood_scores: NDArray[np.float32], level: float
) -> NDArray[np.float64]:
    """Return the five columns of a KSweep, (5, K); sorts both tables, (K, N) and (K, M), in place."""
    found = np.full((5, len(id_scores)), np.nan)
    id_size, ood_size = id_scores.shape[1], ood_scores.shape[1]
    first_caught = ood_size - least_count(level, ood_size) if ood_size else None
    last_kept = least_count(level, id_size) - 1 if id_size else None

    def measure(row: int) -> None:
        id_row, ood_row = id_scores[row], ood_scores[row]
        id_row.sort()
        ood_row.sort()
        if first_caught is not None:
            found[3, row] = ood_row[first_caught]
        if last_kept is not None:
            found[4, row] = np.nextafter(id_row[last_kept], np.float32(np.inf))
        if first_caught is not None and last_kept is not None:
            caught, kept = ood_row[first_caught], id_row[last_kept]
            found[:3, row] = (
                doubled_wins(id_row, ood_row) / (2 * id_size * ood_size),
                (id_size - np.searchsorted(id_row, caught, side="left")) / id_size,
                np.searchsorted(ood_row, kept, side="right") / ood_size,
            )

    _in_threads(measure, range(len(id_scores)))
    return found


def _binned(
    scores: Sequence[NDArray[np.float32]], bins: int
) -> tuple[NDArray[np.int64], _Column, NDArray[np.int64]]:
    """Return the first edge's multiple, the step, and the counts of G tables (K, Q_g) for each k."""
    ranges = np.array([robust_range([group[row] for group in scores]) for row in range(len(scores[0]))])
    step = (ranges[:, 1] - ranges[:, 0]) / (bins - 1)
    first = np.floor(ranges[:, 0] / step).astype(np.int64)
    # Edges are whole multiples of the step, so that a browser computes the same ones to the last bit.
    edges = (first[:, None] + np.arange(bins + 1)) * step[:, None]
    counts = [[count_in_bins(group[row], edges[row]) for group in scores] for row in range(len(scores[0]))]
    return first, step, np.array(counts)


def _flagged(scores: Sequence[NDArray[np.float32]], thresholds: _Column) -> NDArray[np.int64]:
    """Return how many of each group are flagged at the threshold of each k, (K, G)."""
    return np.stack([(group >= thresholds[:, None]).sum(axis=1) for group in scores], axis=1)


def _pool(groups: Iterable[Searched], k_max: int) -> Similarities:
    return Similarities(
        torch.cat([torch.empty(0, k_max), *(group.similarities[:, :k_max].cpu() for group in groups)]),
        torch.cat([torch.empty(0), *(group.energy.cpu() for group in groups)]),
    )


def _kept(searched: Searched) -> int:
    return searched.similarities.shape[1]


def _check_ks(ks: Sequence[int] | None, k_max: int) -> NDArray[np.int64]:
    chosen = np.arange(1, k_max + 1) if ks is None else np.array(ks, dtype=np.int64)
    if chosen.size == 0 or chosen.min() < 1 or chosen.max() > k_max:
        raise ValueError(f"Every k must be between 1 and the {k_max} neighbours kept, got {ks}.")
    return chosen


def _in_threads(work: Callable[[int], None], tasks: Sequence[int]) -> None:
    """Do every task on as many threads as torch uses; sorting and torch release the interpreter."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(work, tasks):
            pass
