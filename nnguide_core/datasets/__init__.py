"""Folders, zips, lists and uploads to datasets of checked images."""

from nnguide_core.datasets.sources import (
    from_files,
    from_uploads,
    labels_for,
    open_dataset,
    read_bytes,
    scan_folder,
    scan_zip,
    split,
    store_upload,
)

__all__ = [
    "from_files",
    "from_uploads",
    "labels_for",
    "open_dataset",
    "read_bytes",
    "scan_folder",
    "scan_zip",
    "split",
    "store_upload",
]
