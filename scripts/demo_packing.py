"""Draw the demo's photos and pack them as zips of PNG files, in the same bytes each time."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.demo_sources import Split

__all__ = ["draw", "noise", "pack"]

_DATE = (2017, 8, 25, 0, 0, 0)  # any fixed date; the day Fashion-MNIST was published


def draw(
    split: Split, names: tuple[str, ...], chosen: tuple[str, ...], per_class: int, seed: int
) -> dict[str, NDArray[np.uint8]]:
    """Return per_class pictures of every chosen class, by file name: the class, and the place in the split.

    names are the split's classes in the order of its labels.
    """
    generator = np.random.default_rng(seed)
    pictures = {}
    for name in chosen:
        places = np.flatnonzero(split.labels == names.index(name))
        for place in sorted(generator.choice(places, per_class, replace=False)):
            pictures[f"{name}/{place:05}.png"] = split.pixels[place]
    return pictures


def noise(count: int, side: int, seed: int) -> dict[str, NDArray[np.uint8]]:
    """Return count pictures of uniform random RGB pixels, by file name."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    return {f"{place:05}.png": picture for place, picture in enumerate(pixels)}


def pack(pictures: dict[str, NDArray[np.uint8]], path: Path) -> None:
    """Write pictures as PNG into a zip, uncompressed since PNG already is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(_encoded(pictures)):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, whatever wrote it
            archive.writestr(entry, data)


def _encoded(pictures: dict[str, NDArray[np.uint8]]) -> Iterator[tuple[str, bytes]]:
    for name, pixels in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        yield name, buffer.getvalue()
