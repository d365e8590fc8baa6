"""Small pictures of images, made once in worker processes and then kept in the workspace."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from threading import Lock

from nnguide_core.datasets import read_bytes
from nnguide_core.errors import ImageError
from nnguide_core.images import thumbnail
from nnguide_core.records import Dataset, ImageRef
from nnguide_core.store import Workspace
from nnguide_core.workers import Failure, Workers

__all__ = ["ThumbnailMaker"]


class ThumbnailMaker:
    """Makes thumbnails for any number of threads; untrusted bytes are decoded outside this process.

    Args:
        workspace: keeps what was made.
        side: of the square that a thumbnail fits into, in pixels.
    """

    def __init__(self, workspace: Workspace, side: int) -> None:
        self.side = side
        self._workspace = workspace
        self._workers = Workers(1)
        self._one_at_a_time = Lock()

    def make(self, images: Iterable[tuple[Dataset, ImageRef]]) -> dict[str, bytes]:
        """Return the thumbnails of these images by id; those that cannot be read are left out."""
        wanted = {image.id: (dataset, image) for dataset, image in images}
        found = dict(self._workspace.thumbnails.get(wanted, self.side))
        missing = {name: each for name, each in wanted.items() if name not in found}
        if missing:
            made = self._decode(missing)
            self._workspace.thumbnails.put(made, self.side)
            found |= made
        return found

    def _decode(self, missing: Mapping[str, tuple[Dataset, ImageRef]]) -> dict[str, bytes]:
        names: list[str] = []
        with self._one_at_a_time:
            make = partial(thumbnail, side=self.side)
            results = list(self._workers.map_ordered(make, _readable(missing, names)))
        return {
            name: result
            for name, result in zip(names, results, strict=True)
            if not isinstance(result, Failure)
        }


def _readable(missing: Mapping[str, tuple[Dataset, ImageRef]], names: list[str]) -> Iterator[bytes]:
    """Yield the bytes of the images whose files are still what they were, and note their names."""
    for name, (dataset, image) in missing.items():
        try:
            data = read_bytes(dataset, image)
        except ImageError:
            continue
        names.append(name)
        yield data
