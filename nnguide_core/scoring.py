"""Energy, guidance and score. Every score here is higher for more out-of-distribution inputs.

Source: Park et al., Nearest Neighbor Guidance for OOD Detection, ICCV 2023, arXiv 2309.14888.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from nnguide_core.devices import exact_device

__all__ = ["Neighbors", "energy", "flagged", "running_guidance", "score", "unit_features", "usage"]

SMALLEST_NORM = 1e-12  # features shorter than this are divided by it instead of by their norm


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The k bank rows of highest guided similarity to each of Q queries, best first, ties by bank row.

    A query with NaN or infinity in its features or logits has no neighbours: its indices are -1, its
    similarities, cosines, energy and score NaN. A zero-norm query has guidance 0 and score 0.
    """

    indices: Tensor  # (Q, k) int64, rows of the bank, -1 for none
    similarities: Tensor  # (Q, k) float32, guided similarity
    cosines: Tensor  # (Q, k) float32 in [-1, 1]; 0 where the bank row is zero and has no direction
    energy: Tensor  # (Q,) float32, offset included
    zero_norm: Tensor  # (Q,) bool, the query's features, clipped with ReAct, are all zero

    @property
    def k(self) -> int:
        """How many neighbours each query has."""
        return self.similarities.shape[1]

    @property
    def guidance(self) -> Tensor:
        """Mean guided similarity of all k neighbours, (Q,) float32."""
        return self.guidance_at(self.k)

    @property
    def score(self) -> Tensor:
        """-guidance * energy with all k neighbours, (Q,) float32, higher = more OOD, NaN if not finite."""
        return self.score_at(self.k)

    def guidance_at(self, k: int) -> Tensor:
        """Return the mean guided similarity of the first k neighbours, (Q,) float32.

        Raises:
            ValueError: k is below 1 or above the neighbours kept.
        """
        return running_guidance(self.first(k).similarities)[:, -1]

    def score_at(self, k: int) -> Tensor:
        """Return the score with the first k neighbours, (Q,) float32, higher = more OOD; NaN if undefined."""
        scores = score(self.guidance_at(k), self.energy)
        return scores.where(scores.isfinite(), torch.nan)

    @property
    def shares(self) -> Tensor:
        """Share of the guidance each neighbour carries, (Q, k) float32 in [-1, 1], never NaN.

        Similarity over the sum of all k absolute similarities: they add up to 1 where no similarity is
        negative; a negative share pulls the guidance down. All 0 where every similarity is 0 or not finite.
        """
        # Divide by the largest first, so that the sum of huge similarities cannot overflow.
        largest = self.similarities.abs().amax(dim=1, keepdim=True)
        scaled = self.similarities / largest
        return (scaled / scaled.abs().sum(dim=1, keepdim=True)).nan_to_num(0.0)

    @cached_property
    def finite(self) -> Tensor:
        """Whether each query's score is a number, (Q,) bool; kept, since every page asks for it."""
        return self.score.isfinite()

    @property
    def negative_energies(self) -> int:
        """How many queries have an energy of 0 or less, for which the ranking can invert."""
        return int((self.energy <= 0).sum())

    def first(self, k: int) -> "Neighbors":
        """Return the first k neighbours of every query: those of a search with this k.

        Raises:
            ValueError: k is below 1 or above the neighbours kept.
        """
        if not 1 <= k <= self.k:
            raise ValueError(f"k must be between 1 and the {self.k} neighbours kept, got {k}.")
        kept = {name: getattr(self, name)[:, :k] for name in ("indices", "similarities", "cosines")}
        return replace(self, **kept)

    def rows(self, chosen: Tensor | slice) -> "Neighbors":
        """Return the neighbours of some queries: a (Q,) bool mask, (M,) int64 rows, or a slice."""
        return Neighbors(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Neighbors":
        """Return the same neighbours on a device."""
        return Neighbors(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def energy(logits: Tensor, offset: float = 0.0) -> Tensor:
    """Return log(sum(exp(logits))) + offset, (N, C) -> (N,) float32, higher = more confident.

    Half-precision logits are summed in float32, float64 logits in float64.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (wide.logsumexp(dim=1) + offset).float()


def unit_features(features: Tensor) -> Tensor:
    """Return features / max(norm, 1e-12) in float32, (N, D) -> (N, D); zero-norm rows stay zero."""
    features = features.float()
    norms: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    units = features / norms.clamp_min(SMALLEST_NORM)
    if (huge := norms.isinf().squeeze(1)).any():
        # The squares overflowed float32; where a feature itself is infinite, this gives NaN.
        wide = features[huge].double()
        units[huge] = (wide / torch.linalg.vector_norm(wide, dim=1, keepdim=True)).float()
    return units


def running_guidance(similarities: Tensor) -> Tensor:
    """Return the guidance for every k at once: column j is the mean of the first j + 1, (Q, k) -> (Q, k)."""
    exact = similarities.to(exact_device(similarities.device))
    counts = torch.arange(1, exact.shape[1] + 1, device=exact.device)
    return (exact.cumsum(dim=1, dtype=torch.float64) / counts).float().to(similarities.device)


def score(guidance: Tensor, energy: Tensor) -> Tensor:
    """Return -guidance * energy, (Q,) and (Q,) -> (Q,), higher = more OOD."""
    return -(guidance * energy)


def flagged(scores: Tensor, threshold: float | Tensor) -> Tensor:
    """Return the decisions: score >= threshold, (Q,) -> (Q,) bool; a NaN score is not flagged.

    Compared in float64: a threshold rounded to float32 could flag a score that is below it.

    Args:
        scores: (Q,) of any precision.
        threshold: one for all, or (Q,) for each score its own.

    Infinity as a threshold flags nothing, minus infinity every score.

    Raises:
        ValueError: a threshold is NaN.
    """
    exact = scores.to(exact_device(scores.device))
    limits = torch.as_tensor(threshold, dtype=torch.float64, device=exact.device)
    if limits.isnan().any():
        raise ValueError("The threshold is NaN: give a number.")
    return (exact.double() >= limits).to(scores.device)


def usage(neighbors: Neighbors, bank_size: int, k: int | None = None) -> Tensor:
    """Return how many queries each bank row serves as one of the first k neighbours, (bank_size,) int64.

    A few rows that serve most queries are energy hubs. Queries without a finite score are not counted.

    Raises:
        ValueError: k is below 1 or above the neighbours kept.
    """
    found = neighbors if k is None else neighbors.first(k)
    served = found.indices[neighbors.finite]
    return torch.bincount(served.flatten(), minlength=bank_size)
