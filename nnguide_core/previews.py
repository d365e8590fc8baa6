"""What a network really sees of an image: its preprocessing as a picture, made in a worker process."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnguide_core import images, reading
from nnguide_core.workers import Failure, Workers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nnguide_core.preprocessing import Preprocess
    from nnguide_core.records import Dataset, ImageRef

__all__ = ["Previewer", "previews"]


@dataclass(frozen=True)
class Previewer:
    """Turns where an image lies into a picture of what the network sees. Picklable."""

    root: Path  # the dataset's: a folder or a zip
    preprocess: Preprocess

    def __call__(self, location: str) -> bytes:
        """Return a PNG.

        Raises:
            ImageError: the file is gone or cannot be decoded.
        """
        file = io.BytesIO()
        decoded = images.decode(reading.read(self.root, location))
        self.preprocess.preview(decoded).save(file, "PNG")
        return file.getvalue()


def previews(
    dataset: Dataset, preprocess: Preprocess, wanted: Sequence[ImageRef]
) -> tuple[tuple[str, bytes], ...]:
    """Return path and PNG of what the network sees of each image; what cannot be read is left out."""
    locations = [image.location for image in wanted]
    with Workers(1) as workers:
        made = list(workers.map_ordered(Previewer(dataset.root, preprocess), locations, chunk=1))
    return tuple(
        (image.path, each) for image, each in zip(wanted, made, strict=True) if not isinstance(each, Failure)
    )
