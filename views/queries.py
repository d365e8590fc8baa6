"""Single images of a view: found by id, with their decision, and as tiles for a gallery."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from nnguide_core.evaluation import Judged
from nnguide_core.records import ImageRef, Role
from nnguide_core.scoring import Neighbors
from views import resources
from views.components.gallery import Tile
from views.current import View
from views.frame import number
from views.theme import Group, group_of

__all__ = ["Query", "find_query", "hardest", "query_at", "tiles"]


@dataclass(frozen=True)
class Query:
    """One judged image at the view's k and threshold."""

    judged: Judged
    row: int  # of the dataset's features
    k: int
    score: float  # higher = more OOD; NaN where it is not defined
    margin: float  # score - threshold; 0 or more = flagged

    @property
    def image(self) -> ImageRef:
        """The image itself."""
        return self.judged.images[self.row]

    @property
    def neighbors(self) -> Neighbors:
        """Its k neighbours, (1, k)."""
        return self.judged.neighbors.rows(slice(self.row, self.row + 1)).first(self.k)

    @property
    def is_ood(self) -> bool:
        """Whether its dataset says that it is OOD."""
        return self.judged.dataset.role is Role.OOD

    @property
    def flagged(self) -> bool:
        """The detector's decision."""
        return self.margin >= 0

    @property
    def group(self) -> Group:
        """Truth and decision."""
        return group_of(ood=self.is_ood, flagged=self.flagged)

    @property
    def is_wrong(self) -> bool:
        """Whether it is a false alarm or a miss; neither without a score or a threshold."""
        return math.isfinite(self.margin) and self.flagged is not self.is_ood


def query_at(view: View, judged: Judged, row: int) -> Query:
    """Return one row of a dataset at the view's k and threshold."""
    score = float(judged.neighbors.rows(slice(row, row + 1)).score_at(view.k))
    margin = score - view.threshold if view.threshold is not None else float("nan")
    return Query(judged, row, view.k, score, margin)


def find_query(view: View, image_id: str) -> Query | None:
    """Return the judged image with this id, the first where several have its bytes; None if there is none."""
    for judged in view.evaluation.queries:
        if image_id in judged.row_of:
            return query_at(view, judged, judged.row_of[image_id])
    return None


def hardest(view: View, count: int) -> list[Query]:
    """Return wrongly judged images, those closest to the threshold first, then the other images likewise."""
    if view.threshold is None or not view.evaluation.queries:
        return []
    margins, wrong, places = [], [], []
    for judged in view.evaluation.queries:
        margin = judged.neighbors.score_at(view.k) - view.threshold
        margins.append(margin.abs())
        wrong.append((margin >= 0) != (judged.dataset.role is Role.OOD))
        places += [(judged, row) for row in range(len(margin))]
    distance = torch.cat(margins)
    order = torch.where(torch.cat(wrong), distance, distance + distance.nan_to_num(0.0).max() + 1)
    best = order.nan_to_num(torch.inf).argsort(stable=True)[:count].tolist()
    return [query_at(view, *places[place]) for place in best if distance[place].isfinite()]


def tiles(queries: Iterable[Query]) -> list[Tile]:
    """Return tiles for a gallery; of images with the same bytes the first."""
    unique: dict[str, Query] = {}
    for query in queries:
        unique.setdefault(query.image.id, query)
    pictures = resources.thumbnails((query.judged.dataset, query.image) for query in unique.values())
    return [
        Tile(name, pictures.get(name, b""), query.group, f"{number(query.score, 2)}  {query.image.path}")
        for name, query in unique.items()
    ]
