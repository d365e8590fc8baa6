"""Which images the model put into a wrong class: what the figures hatch."""

from torch import Tensor

from nnguide_core.evaluation import Judged
from nnguide_core.records import Role

__all__ = ["wrongly_classified"]


def wrongly_classified(judged: Judged) -> Tensor:
    """Return which images the model took for another class than theirs, (Q,) bool.

    Only of ID images can that be said, and only where their class is one that the model knows.
    """
    return ~judged.correct & (judged.features.labels >= 0) & (judged.dataset.role is Role.ID)
