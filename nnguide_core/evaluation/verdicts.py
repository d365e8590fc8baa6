"""What metrics become once a person's verdicts are applied to the queries."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nnguide_core.evaluation.judging import Evaluation, Judged
from nnguide_core.records import Features, Role, Verdict

__all__ = ["apply_verdicts"]

_REALLY = {"really ID": Role.ID, "really OOD": Role.OOD}
_LEFT_OUT = "duplicate"


def apply_verdicts(evaluation: Evaluation, verdicts: Mapping[str, Verdict]) -> Evaluation:
    """Return the evaluation as if the datasets had been what the verdicts say.

    An image that is "really ID" in an OOD dataset, or "really OOD" in an ID dataset, moves to a dataset of
    its own with the other role; a "duplicate" is left out. Other verdicts change no metric, and none changes
    the bank or a score.

    Args:
        evaluation: what was judged.
        verdicts: image id -> the latest verdict.
    """
    said = {image: verdict.decision for image, verdict in verdicts.items()}
    queries = [part for judged in evaluation.queries for part in _parts(judged, said)]
    in_order = [part for role in (Role.ID, Role.OOD) for part in queries if part.dataset.role is role]
    return replace(evaluation, queries=tuple(in_order))


def _parts(judged: Judged, said: Mapping[str, str]) -> Iterable[Judged]:
    """Yield what stays in a dataset and what moves to the other role, without parts that became empty."""
    role = judged.dataset.role
    decisions = [said.get(image, "") for image in judged.features.ids]
    moves = torch.tensor([_REALLY.get(each, role) is not role for each in decisions], dtype=torch.bool)
    stays = torch.tensor([each != _LEFT_OUT for each in decisions], dtype=torch.bool) & ~moves
    if stays.any() or not decisions:
        yield judged if stays.all() else _rows(judged, stays, judged.dataset.name, role)
    if moves.any():
        other = Role.OOD if role is Role.ID else Role.ID
        words = next(word for word, meant in _REALLY.items() if meant is other)
        yield _rows(judged, moves, f"{judged.dataset.name}: {words}", other)


def _rows(judged: Judged, chosen: Tensor, name: str, role: Role) -> Judged:
    rows = chosen.nonzero().squeeze(1)
    images = tuple(judged.images[row] for row in rows.tolist())
    features = judged.features
    return Judged(
        replace(judged.dataset, name=name, role=role, images=images, skipped=()),
        Features(
            features.features[rows],
            features.logits[rows],
            tuple(image.id for image in images),
            features.labels[rows],
            features.model,
            features.dataset,
        ),
        judged.neighbors.rows(rows),
        {name: scores[rows] for name, scores in judged.baselines.items()},
    )
