"""What a network really sees of an image: its preprocessing as a picture, made in a worker process."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnguide_core.errors import CancelledError
from nnguide_core.images import reading, untrusted
from nnguide_core.workers import Failure, Workers

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from nnguide_core.images.preprocessing import Preprocess
    from nnguide_core.progress import Cancelled
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
        decoded = untrusted.decode(reading.read(self.root, location))
        self.preprocess.preview(decoded).save(file, "PNG")
        return file.getvalue()


def previews(
    dataset: Dataset,
    preprocess: Preprocess,
    wanted: Sequence[ImageRef],
    *,
    cancelled: Cancelled = lambda: False,
) -> tuple[tuple[str, bytes], ...]:
    """Return path and PNG of what the network sees of each image; what cannot be read is left out.

    Raises:
        CancelledError: stopped on request, which is asked for after every image.
    """
    locations = [image.location for image in wanted]
    made: list[bytes | Failure] = []
    with Workers(1) as workers, closing(_made(workers, dataset, preprocess, locations)) as results:
        for each in results:
            made.append(each)
            if len(made) < len(wanted) and cancelled():
                raise CancelledError(f"Stopped after {len(made)} of {len(wanted)} previews.")
    return tuple(
        (image.path, each) for image, each in zip(wanted, made, strict=True) if not isinstance(each, Failure)
    )


def _made(
    workers: Workers, dataset: Dataset, preprocess: Preprocess, locations: Sequence[str]
) -> Generator[bytes | Failure, None, None]:
    return workers.map_ordered(Previewer(dataset.root, preprocess), locations, chunk=1)
