"""Classifiers: named, found or loaded from checkpoints, and split into encoder and head."""

from nnguide_core.models.specs import (
    Classifier,
    ModelSpec,
    Precision,
    available,
    library_and_name,
    load_model,
    weights_of,
)

__all__ = [
    "Classifier",
    "ModelSpec",
    "Precision",
    "available",
    "library_and_name",
    "load_model",
    "weights_of",
]
