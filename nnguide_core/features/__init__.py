"""Features and logits: computed from images in resumable shards, or read from files."""

from nnguide_core.features.extraction import extract

__all__ = ["extract"]
