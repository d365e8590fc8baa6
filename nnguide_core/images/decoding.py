"""What decode workers do with one image: read it, make sure it is the same still, decode it, resize it.

Worker processes import this, so torch stays out: it would cost each of them a second and 200 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnguide_core.errors import ImageError
from nnguide_core.images import reading, untrusted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nnguide_core.images.preprocessing import Preprocess

__all__ = ["Decoder"]


@dataclass(frozen=True)
class Decoder:
    """Turns where an image lies into what a network takes. Picklable."""

    root: Path  # the dataset's: a folder or a zip
    preprocess: Preprocess

    def __call__(self, place: tuple[str, str]) -> NDArray[Any]:
        """Return an image as the network takes it, (H, W, 3).

        Args:
            place: location and id, as an ImageRef has them.

        Raises:
            ImageError: the file is gone, changed since it was scanned, or cannot be decoded.
        """
        location, identity = place
        data = reading.read(self.root, location)
        if untrusted.image_id(data) != identity:
            raise ImageError("Changed: its content is not what it was when the dataset was read.")
        return self.preprocess.array(untrusted.decode(data))
