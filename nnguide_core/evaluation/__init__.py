"""One run from a question to judged, explained and exported queries."""

from nnguide_core.evaluation.judging import (
    DEFAULT_THRESHOLD,
    MOST_NEIGHBOURS,
    NNGUIDE,
    BankCounts,
    Evaluation,
    Judged,
    Part,
    Question,
    evaluate,
    neighbors,
    rows_with_features,
    with_baselines,
)

__all__ = [
    "DEFAULT_THRESHOLD",
    "MOST_NEIGHBOURS",
    "NNGUIDE",
    "BankCounts",
    "Evaluation",
    "Judged",
    "Part",
    "Question",
    "evaluate",
    "neighbors",
    "rows_with_features",
    "with_baselines",
]
