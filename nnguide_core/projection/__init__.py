"""The map: UMAP of bank and queries, its layout, and what can be read from it."""

from nnguide_core.projection.umap_fit import MapSettings, Projection, fit, from_content, load, save

__all__ = ["MapSettings", "Projection", "fit", "from_content", "load", "save"]
