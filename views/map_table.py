"""What the map shows of every image: its place, group, score, classes; one row per point."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core.evaluation import Evaluation, Judged, rows_with_features
from nnguide_core.evaluation.maps import ImageMap
from nnguide_core.records import Dataset, ImageRef, Role
from views.components.map import MapPoints
from views.state import Selection
from views.theme import GROUPS, Group, group_of

__all__ = ["MapTable", "map_table"]


@dataclass(frozen=True, eq=False)
class _Part:
    """The images of one dataset that are on the map."""

    dataset: Dataset
    judged: Judged | None  # None for the bank
    rows: NDArray[np.int64]  # (M,) of the bank, or of the dataset's features
    images: tuple[ImageRef, ...]  # M
    positions: NDArray[np.float32]  # (M, 2)
    groups: NDArray[np.uint8]  # (M,) places in theme.GROUPS
    scores: NDArray[np.float32]  # (M,) NaN for the bank
    energies: NDArray[np.float32]
    guidances: NDArray[np.float32]  # (M,) NaN for the bank
    predicted: NDArray[np.int64]  # (M,) class indices


@dataclass(frozen=True, eq=False)
class MapTable:
    """N points of the map, those of one dataset after those of the other, the bank first."""

    parts: tuple[_Part, ...]
    without_place: int  # images left out because their features have no direction
    class_names: tuple[str, ...]  # of the model

    @cached_property
    def points(self) -> MapPoints:
        """Where they lie."""
        return MapPoints(self.column("positions").reshape(-1, 2), self.column("groups").astype(np.uint8))

    @cached_property
    def datasets(self) -> NDArray[np.int64]:
        """The place in parts of each point's dataset, (N,)."""
        return np.repeat(np.arange(len(self.parts)), [len(part.rows) for part in self.parts])

    @cached_property
    def labels(self) -> tuple[NDArray[np.int64], list[str]]:
        """Each point's class, (N,) places in a list of names, -1 where unknown; and that list."""
        given = [image.label for part in self.parts for image in part.images]
        names = sorted({label for label in given if label is not None})
        place = {name: at for at, name in enumerate(names)}
        return np.array([-1 if label is None else place[label] for label in given], dtype=np.int64), names

    def column(self, name: str) -> NDArray[Any]:
        """Return one of the parts' arrays for all points."""
        return np.concatenate(
            [np.empty(0, np.float32), *(getattr(part, name).ravel() for part in self.parts)]
        )

    def at(self, point: int) -> tuple[_Part, int]:
        """Return the part that a point belongs to, and its place therein."""
        at = int(self.datasets[point])
        return self.parts[at], point - int(np.searchsorted(self.datasets, at))

    def of(self, chosen: Selection) -> NDArray[np.bool_]:
        """Return which points' images are selected, (N,) bool."""
        found = np.zeros(len(self.datasets), dtype=bool)
        start = 0
        for part in self.parts:
            if ids := chosen.of(part.dataset.name):
                hits = (image.id in ids for image in part.images)
                found[start : start + len(part.images)] = np.fromiter(hits, bool, len(part.images))
            start += len(part.images)
        return found

    def selection(self, chosen: NDArray[np.bool_]) -> dict[str, frozenset[str]]:
        """Return the ids of the points' images where chosen, (N,) bool, is true, by dataset name."""
        found, start = {}, 0
        for part in self.parts:
            rows = np.flatnonzero(chosen[start : start + len(part.images)])
            found[part.dataset.name] = frozenset(part.images[row].id for row in rows.tolist())
            start += len(part.images)
        return found


def map_table(
    evaluation: Evaluation, places: ImageMap, k: int, threshold: float, shown: Sequence[str]
) -> MapTable:
    """Return the points of the datasets with the names in shown, judged at one k and threshold."""
    every = [_bank_part(evaluation, places.bank)] if evaluation.question.bank.dataset.name in shown else []
    every += [
        _query_part(judged, where, k, threshold)
        for judged, where in zip(evaluation.queries, places.queries, strict=True)
        if judged.dataset.name in shown
    ]
    placed = tuple(_placed(part) for part in every)
    lost = sum(len(part.rows) for part in every) - sum(len(part.rows) for part in placed)
    return MapTable(placed, lost, evaluation.question.class_names)


def _bank_part(evaluation: Evaluation, places: Tensor) -> _Part:
    bank, part = evaluation.bank, evaluation.question.bank
    found = rows_with_features(part.dataset, part.features)
    unknown = np.full(bank.size, np.nan, dtype=np.float32)
    return _Part(
        part.dataset,
        None,
        np.arange(bank.size),
        tuple(part.dataset.images[found[row]] for row in bank.positions.tolist()),
        places.numpy(),
        np.full(bank.size, GROUPS.index(Group.BANK), dtype=np.uint8),
        unknown,
        bank.energies.numpy(),
        unknown,
        part.features.logits[bank.positions].argmax(dim=1).numpy(),
    )


def _query_part(judged: Judged, places: Tensor, k: int, threshold: float) -> _Part:
    ood = judged.dataset.role is Role.OOD
    passed, flagged = (GROUPS.index(group_of(ood=ood, flagged=each)) for each in (False, True))
    return _Part(
        judged.dataset,
        judged,
        np.arange(len(judged.features)),
        judged.images,
        places.numpy(),
        torch.where(judged.flagged(k, threshold), flagged, passed).numpy().astype(np.uint8),
        judged.neighbors.score_at(k).numpy(),
        judged.neighbors.energy.numpy(),
        judged.neighbors.guidance_at(k).numpy(),
        judged.predicted.numpy(),
    )


def _placed(part: _Part) -> _Part:
    """Return a part without the images that have no place."""
    kept = np.flatnonzero(np.isfinite(part.positions).all(axis=1))
    if len(kept) == len(part.rows):
        return part
    arrays = ("rows", "positions", "groups", "scores", "energies", "guidances", "predicted")
    images = tuple(part.images[row] for row in kept)
    return _Part(
        part.dataset, part.judged, images=images, **{name: getattr(part, name)[kept] for name in arrays}
    )
