"""The map of a question: where its bank and query images lie, made once and kept in the workspace."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nnguide_core.bank import clip
from nnguide_core.evaluation.judging import Evaluation
from nnguide_core.progress import Cancelled, OnProgress
from nnguide_core.projection import MapSettings, umap_fit
from nnguide_core.projection.reading import neighbour_agreement
from nnguide_core.records import fingerprint
from nnguide_core.store import Workspace

__all__ = ["ImageMap", "elsewhere", "find_map", "make_map", "map_key"]

_KIND = "projections"
_SETTINGS = MapSettings()


@dataclass(frozen=True, eq=False)
class ImageMap:
    """Places on the map; NaN for images whose features have no direction."""

    bank: Tensor  # (N, 2) float32
    queries: tuple[Tensor, ...]  # (Q, 2) float32 each, in the order of the evaluation's queries


def map_key(evaluation: Evaluation) -> str:
    """Return the fingerprint of all that a map is made from."""
    shape = [f"{name}={value!r}" for name, value in asdict(_SETTINGS).items()]
    return fingerprint("map", umap_fit.FORMAT, evaluation.run(1).question, *shape)


def find_map(workspace: Workspace, evaluation: Evaluation) -> ImageMap | None:
    """Return the map that the workspace keeps, or None if it must be made; one that does not fit is gone."""
    key = map_key(evaluation)
    if (kept := workspace.load(_KIND, key)) is None:
        return None
    sizes = [evaluation.bank.size, *(len(judged.features) for judged in evaluation.queries)]
    places = [kept[0].get(name, torch.empty(0)) for name in _names(evaluation)]
    if [tuple(each.shape) for each in places] != [(size, 2) for size in sizes]:
        workspace.set_aside(_KIND, key, "Its places do not fit the images.")
        return None
    return ImageMap(places[0], tuple(places[1:]))


def make_map(
    workspace: Workspace,
    evaluation: Evaluation,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
) -> None:
    """Fit the map on the bank, place the queries on it and keep it; nothing is done where it is kept already.

    Features are compared as the detector compares them: clipped where it clips, by direction alone.

    Raises:
        CancelledError: cancelled() became true.
    """
    if find_map(workspace, evaluation) is not None:
        return
    bank = evaluation.bank
    rows = evaluation.question.bank.features.features[bank.positions]
    fitted = umap_fit.fit(clip(rows, bank.react_threshold), _SETTINGS, progress, cancelled)
    places = [fitted.positions]
    for judged in evaluation.queries:
        queries = clip(judged.features.features, bank.react_threshold)
        places.append(fitted.transform(queries, progress, cancelled))
    about = {"format": umap_fit.FORMAT, "settings": asdict(_SETTINGS)}
    tensors = dict(zip(_names(evaluation), places, strict=True))
    question = evaluation.run(1).question
    workspace.save(_KIND, map_key(evaluation), tensors, about, needs=[question])


def elsewhere(places: ImageMap, evaluation: Evaluation, dataset: int, row: int, k: int) -> Tensor:
    """Return which of a query's k true neighbours do not lie near it on the map, (k,) bool.

    Args:
        places: the evaluation's map.
        evaluation: what was judged.
        dataset: place of the query's dataset in evaluation.queries.
        row: of the query in its dataset's features.
        k: how many neighbours, nearest first.
    """
    rows = slice(row, row + 1)
    indices = evaluation.queries[dataset].neighbors.rows(rows).first(k).indices
    return ~neighbour_agreement(places.bank, places.queries[dataset][rows], indices).near[0]


def _names(evaluation: Evaluation) -> list[str]:
    return ["bank", *(f"query.{place}" for place in range(len(evaluation.queries)))]
