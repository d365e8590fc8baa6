"""Single images of a view: found by id, with their decision, and as tiles for a gallery."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from nnguide_core.evaluation import Evaluation, Judged
from nnguide_core.names import visible
from nnguide_core.records import ImageRef, Role
from nnguide_core.scoring import Neighbors
from views import resources, state
from views.components.gallery import Tile, gallery
from views.current import View
from views.frame import number
from views.theme import Group, group_of

__all__ = ["Query", "gallery_of", "hardest", "looked_at", "query_at"]

_GALLERY_HEIGHT = 330  # pixels


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
    def key(self) -> state.ImageKey:
        """What tells it from every other image of the run."""
        return state.ImageKey(self.judged.dataset.name, self.judged.features.ids[self.row])

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


def looked_at(view: View) -> Query | None:
    """Return the judged image that is looked at; None if there is none."""
    image = state.image()
    judged = None if image is None else _holder(view.evaluation, image)
    return None if image is None or judged is None else query_at(view, judged, judged.row_of[image.id])


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


def gallery_of(view: View, queries: Iterable[Query], *, key: str, label: str) -> bool:
    """Show images, once for the same bytes in one dataset; the one that is clicked is opened.

    Returns:
        Whether one was just clicked.
    """
    shown: dict[str, Query] = {}
    for query in queries:
        shown.setdefault(str(query.key), query)

    def choose(selected: str | None) -> str | None:
        if selected is not None:
            state.open_image(shown[selected].key)
        opened = looked_at(view)
        return None if opened is None else str(opened.key)

    return gallery(_tiles(shown), choose, key=key, label=label, height=_GALLERY_HEIGHT) is not None


def _holder(evaluation: Evaluation, image: state.ImageKey) -> Judged | None:
    """Return the dataset that holds an image: the one named, else the first that has its bytes."""
    holders = [judged for judged in evaluation.queries if image.id in judged.row_of]
    named = [judged for judged in holders if visible(judged.dataset.name) == visible(image.dataset)]
    return next(iter(named or holders), None)


def _tiles(queries: Mapping[str, Query]) -> list[Tile]:
    pictures = resources.thumbnails((query.judged.dataset, query.image) for query in queries.values())
    return [
        Tile(
            name,
            pictures.get(query.image.id, b""),
            query.group,
            f"{number(query.score, 2)}  {query.image.path}",
        )
        for name, query in queries.items()
    ]
