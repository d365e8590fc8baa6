"""The map: a bank's rows on a plane by UMAP, queries placed among them, and how far the map can be believed.

The map locates, it never decides: near on the map is often, not always, near in the features.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core import files
from nnguide_core.errors import BankMismatchError, CancelledError, StoreError
from nnguide_core.progress import Cancelled, OnProgress, Progress
from nnguide_core.projection import layout
from nnguide_core.scoring import unit_features
from nnguide_core.search import PreparedBank, prepare, topk_inner_product

__all__ = ["MapSettings", "Projection", "fit", "from_content", "load", "save"]

FORMAT = "nnguide-projection-1"
MOST_FITTED = 20_000  # rows that the layout is made of: seconds to a minute, however large the bank
_EPOCHS, _MANY, _EPOCHS_OF_MANY = 500, 10_000, 200  # umap-learn's numbers: fewer epochs above 10,000 rows
_QUERY_EPOCHS, _QUERY_RATE = 100, 0.25  # umap-learn's for up to 10,000 queries, here for any number
_BLOCK = 4096  # rows searched between two looks at whether to stop
_VALUES = 2**23  # feature values compared at a time


@dataclass(frozen=True)
class MapSettings:
    """What shapes a map."""

    seed: int = 0
    neighbours: int = 15  # how many neighbours hold a row in place, itself counted; umap-learn's default
    min_dist: float = 0.1  # how close points may come on the map; umap-learn's default
    most_fitted: int = MOST_FITTED  # a larger bank is laid out by a seeded sample of so many rows

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"The seed must be in [0, 2**32), got {self.seed}.")
        if self.neighbours < 2:
            raise ValueError(f"A map needs at least 2 neighbours, got {self.neighbours}.")
        if not 0.0 <= self.min_dist <= 1.0:
            raise ValueError(f"The smallest distance on the map must be in [0, 1], got {self.min_dist}.")
        if self.most_fitted < 1:
            raise ValueError(f"A map must be laid out by at least 1 row, got {self.most_fitted}.")


@dataclass(frozen=True, eq=False)
class Projection:
    """Where each of N bank rows lies on the map, and what is needed to place queries among them.

    UMAP with cosine distances laid out the `fitted` rows; all others were placed like queries. A row without
    a direction (all zero) has no place: NaN.
    """

    positions: Tensor  # (N, 2) float32
    fitted: Tensor  # (S,) int64 ascending, rows of the bank
    anchors: Tensor  # (S, D) float32, the unit features of the fitted rows
    settings: MapSettings
    bank: str  # fingerprint of the rows that the map was made of

    def transform(
        self, queries: Tensor, progress: OnProgress | None = None, cancelled: Cancelled | None = None
    ) -> Tensor:
        """Return where queries lie on this map, (Q, D) -> (Q, 2) float32.

        As in UMAP's own transform a query starts at the weighted mean of its nearest fitted rows and is then
        moved while they stay. A query's place depends on no other query. Queries without a direction, all
        zero or not finite, have no place: NaN.

        Raises:
            BankMismatchError: the queries are not as wide as the bank's rows.
            CancelledError: cancelled() became true.
        """
        if queries.ndim != 2 or queries.shape[1] != self.anchors.shape[1]:
            raise BankMismatchError(
                f"The queries have shape {tuple(queries.shape)} but the map was made of rows with "
                f"{self.anchors.shape[1]} features. Use features of the same model."
            )
        places = torch.full((len(queries), 2), torch.nan)
        units, placeable = _directions(queries)
        if len(self.fitted) and placeable.any():
            watch = _Watch(progress, cancelled, "placing images on the map", int(placeable.sum()))
            places[placeable] = self._place(units[placeable], watch)
        return places

    def content(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a file keeps, tensors and a description; the rows stay with the bank."""
        about = {"format": FORMAT, "bank": self.bank, "settings": asdict(self.settings)}
        return {"positions": self.positions, "fitted": self.fitted}, about

    def _place(self, units: Tensor, watch: "_Watch") -> Tensor:
        places = [torch.empty(0, 2)]
        for start in range(0, len(units), _BLOCK):
            watch(start)
            places.append(torch.from_numpy(self._place_block(units[start : start + _BLOCK])))
        watch(len(units))
        return torch.cat(places)

    def _place_block(self, units: Tensor) -> NDArray[np.float32]:
        neighbours = min(self.settings.neighbours, len(self.anchors))
        rows = topk_inner_product(units, self._prepared, neighbours).indices
        indices, distances = _by_distance(units, self.anchors, rows)
        belongs = layout.memberships(distances, np.zeros(len(units)), np.log2(neighbours), first=1)
        anchors = self.positions[self.fitted].numpy()
        places = layout.weighted_start(anchors, indices, belongs)
        edges = layout.query_edges(indices, belongs)
        curve, seeds = layout.shape_of_curve(self.settings.min_dist), _three(self.settings.seed)
        layout.lay_out(places, anchors, edges, curve, _QUERY_EPOCHS, _QUERY_RATE, seeds)
        return places

    @cached_property
    def _prepared(self) -> PreparedBank:
        return prepare(self.anchors)


def fit(
    rows: Tensor,
    settings: MapSettings = MapSettings(),
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
) -> Projection:
    """Return the map of a bank's rows, (N, D): only their directions count, as neighbours are by cosine.

    The same rows and settings give the same map on the same machine. Any number of rows will do: one lies at
    the origin. The first map of a process waits some seconds for umap-learn and its compilation.

    Args:
        rows: unit features of the bank, (N, D), of any length; a row of negative energy must not be flipped.
        settings: what shapes the map.
        progress: called often, in three steps: neighbours, layout, rows outside the sample.
        cancelled: asked often; once it says true the work stops.

    Raises:
        CancelledError: cancelled() became true.
        ValueError: the rows are not of two dimensions.
    """
    if rows.ndim != 2:
        raise ValueError(f"The bank's rows must have shape (N, D), got {tuple(rows.shape)}.")
    units, placeable = _directions(rows)
    fitted = _sample(placeable.nonzero().squeeze(1), settings)
    positions = torch.full((len(rows), 2), torch.nan)
    positions[fitted] = torch.from_numpy(_lay_out(units[fitted], settings, progress, cancelled))
    projection = Projection(positions, fitted, units[fitted], settings, _fingerprint(rows))
    others = placeable.clone()
    others[fitted] = False
    if others.any():
        watch = _Watch(progress, cancelled, "placing the other bank images", int(others.sum()))
        positions[others] = projection._place(units[others], watch)
    return projection


def save(projection: Projection, path: Path) -> None:
    """Write a map as one safetensors file, atomically, without the bank's rows."""
    tensors, about = projection.content()
    files.save_tensors(path, tensors, about)


def load(path: Path, rows: Tensor) -> Projection:
    """Read what save wrote; rows are those that the map was made of, (N, D).

    Raises:
        BankMismatchError: the map was made of other rows.
        StoreError: the file is damaged, or no map, or of another version.
    """
    tensors, about = files.load_tensors(path)
    return from_content(tensors, about, rows)


def from_content(tensors: Mapping[str, Tensor], about: Mapping[str, Any], rows: Tensor) -> Projection:
    """Return the map whose content() this is; rows are those that it was made of, (N, D).

    Raises:
        BankMismatchError: the map was made of other rows.
        StoreError: the content is no map, or of another version.
    """
    if about.get("format") != FORMAT:
        raise StoreError(f"This is not a map of this version: its format is {about.get('format')!r}.")
    if about["bank"] != _fingerprint(rows):
        raise BankMismatchError("The map was made of another bank. Make it again from this one.")
    fitted = tensors["fitted"]
    settings = MapSettings(**about["settings"])
    return Projection(tensors["positions"], fitted, _directions(rows[fitted])[0], settings, about["bank"])


class _Watch:
    """Tells how far a step is, and stops it."""

    def __init__(self, progress: OnProgress | None, cancelled: Cancelled | None, step: str, total: int):
        self._progress, self._cancelled = progress, cancelled
        self._step, self._total = step, total
        self._started = time.monotonic()

    def __call__(self, done: int) -> None:
        if self._cancelled is not None and self._cancelled():
            raise CancelledError("The map was stopped before it was finished.")
        if self._progress is not None:
            seconds = time.monotonic() - self._started
            self._progress(Progress(done, self._total, seconds, step=self._step))


def _lay_out(
    units: Tensor, settings: MapSettings, progress: OnProgress | None, cancelled: Cancelled | None
) -> NDArray[np.float32]:
    """Return UMAP's layout of R unit rows, (R, D) -> (R, 2)."""
    if len(units) < 2:
        return np.zeros((len(units), 2), dtype=np.float32)
    watch = _Watch(progress, cancelled, "finding the neighbours of bank images", len(units))
    indices, distances = _neighbours_within(units, min(settings.neighbours, len(units)) - 1, watch)
    nearest = np.where(distances > 0, distances, np.inf).min(axis=1)
    belongs = layout.memberships(distances, nearest.astype(np.float64), np.log2(1 + indices.shape[1]))
    places = layout.pca_start(units.numpy(), settings.seed)
    epochs = _EPOCHS if len(units) <= _MANY else _EPOCHS_OF_MANY
    layout.lay_out(
        places,
        places,
        layout.united_edges(indices, belongs),
        layout.shape_of_curve(settings.min_dist),
        epochs,
        1.0,
        _three(settings.seed),
        _Watch(progress, cancelled, "laying out the map", epochs),
    )
    return places


def _neighbours_within(units: Tensor, k: int, watch: _Watch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k nearest other rows of each of R unit rows and their distances, (R, k) each."""
    prepared, found = prepare(units), []
    for start in range(0, len(units), _BLOCK):
        watch(start)
        block = units[start : start + _BLOCK]
        own = torch.arange(start, start + len(block))[:, None]
        found.append(_by_distance(block, units, topk_inner_product(block, prepared, k, exclude=own).indices))
    watch(len(units))
    indices, distances = zip(*found, strict=True)
    return np.concatenate(indices), np.concatenate(distances)


def _by_distance(
    units: Tensor, others: Tensor, rows: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows found for each query, nearest first, and their cosine distances, (Q, k) each.

    Half the squared chord is 1 - cosine for unit rows, but exactly 0 for equal ones.
    """
    distances = torch.empty(rows.shape)
    per_block = max(1, _VALUES // max(1, rows.shape[1] * units.shape[1]))
    for start in range(0, len(units), per_block):
        part = slice(start, start + per_block)
        distances[part] = (units[part, None] - others[rows[part]]).square().sum(dim=2) / 2
    distances, order = distances.sort(dim=1, stable=True)
    return rows.gather(1, order).numpy(), distances.numpy()


def _directions(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of length 1 in float32 on the CPU, (N, D), and which have a direction at all, (N,) bool."""
    features = features.detach().cpu().float()
    largest = features.abs().amax(dim=1, keepdim=True) if features.shape[1] else features.sum(1, keepdim=True)
    placeable = (largest.isfinite() & (largest > 0)).squeeze(1)
    # Divided by the largest feature first, so that no square overflows or vanishes.
    units = unit_features(features / largest).where(placeable[:, None], 0.0)
    return units, placeable


def _sample(candidates: Tensor, settings: MapSettings) -> Tensor:
    if len(candidates) <= settings.most_fitted:
        return candidates
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = torch.randperm(len(candidates), generator=generator)[: settings.most_fitted]
    return candidates[chosen.sort().values]


def _three(seed: int) -> NDArray[np.int64]:
    """Return the three random numbers that UMAP's inner loop starts from."""
    return np.random.default_rng(seed).integers(-(2**31) + 1, 2**31 - 1, size=3)


def _fingerprint(rows: Tensor) -> str:
    content = np.ascontiguousarray(rows.detach().cpu().float().numpy())
    return hashlib.sha256(f"{content.shape}".encode() + hashlib.sha256(content.data).digest()).hexdigest()
