"""From a dataset to features and logits: decoded in worker processes, batched, resumable, one forward each.

Batches are cut by position in the dataset, so an image always meets the same others, and each is computed by
one thread: an extraction that was resumed gives the same bits as one that was not.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnguide_core.datasets import labels_for
from nnguide_core.devices import describe_device
from nnguide_core.errors import CancelledError, DatasetError, ModelError
from nnguide_core.features.compute_threads import ComputeThreads
from nnguide_core.features.shards import Shard, ShardFolder
from nnguide_core.images.decoding import Decoder
from nnguide_core.images.reading import why_gone
from nnguide_core.logs import note_refusals
from nnguide_core.memory_errors import is_out_of_memory
from nnguide_core.models import Classifier
from nnguide_core.progress import Cancelled, OnProgress, Progress
from nnguide_core.records import Dataset, Features, Skipped
from nnguide_core.workers import Failure, Workers

__all__ = ["extract"]

_LOG = logging.getLogger(__name__)
_BATCH = {"cpu": 16, "cuda": 256}
_SHARD_SECONDS = 10.0  # of work that a power cut may cost; a kill costs no finished batch
_CHUNK = 8  # images per message from a worker
_AHEAD = 2  # batches for each compute thread that are decoded before they are needed
_IMAGE_SECONDS = 30.0  # after which a decoder is taken to hang

_Decoded = NDArray[Any] | Failure


def extract(
    dataset: Dataset,
    classifier: Classifier,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
    shards: Path | None = None,
) -> Features:
    """Return features and logits of every image that can be read, in the dataset's order.

    Rows with NaN or infinite values are kept. Running out of memory on the
    device halves the batch from there on; only then may bits depend on what the device had free.

    Args:
        dataset: images that were scanned before; one that has changed or gone since is skipped.
        classifier: gives features and logits, on the device where it lies.
        batch_size: images per forward; 16 on CPUs, 256 on GPUs if not given.
        workers: decode processes; as many as there are cores if not given.
        progress: told after every batch.
        cancelled: asked after every batch.
        shards: a folder for finished parts; what it holds of this very extraction is not computed again.

    Raises:
        CancelledError: stopped on request; finished parts are kept in shards.
        DatasetError: the folder or zip is gone; finished parts are kept in shards.
        ModelError: not even one image fits into the device's memory.
        ValueError: batch_size or workers below 1.
    """
    if batch_size is None:
        batch_size = _BATCH.get(classifier.device.type, _BATCH["cuda"])
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    work = _Extraction(dataset, classifier, batch_size, shards)
    work.resume()
    with Workers(workers) as pool:
        work.run(pool, progress or _silent, cancelled or _never)
    return work.result()


class _Extraction:
    """What is known of a dataset's features so far."""

    def __init__(
        self, dataset: Dataset, classifier: Classifier, batch_size: int, folder: Path | None
    ) -> None:
        count = len(dataset.images)
        self._dataset, self._classifier, self._batch_size = dataset, classifier, batch_size
        self._features = torch.empty(count, classifier.width)
        self._logits = torch.empty(count, classifier.class_count)
        self._is_read = torch.zeros(count, dtype=torch.bool)
        self._failed: dict[int, str] = {}
        self._todo = list(range(0, count, batch_size))  # the first position of each batch
        self._piece = batch_size  # images per forward, smaller once memory ran out
        self._unsaved: list[int] = []  # batches in order, since when no shard was written
        self._saved_at = time.monotonic()
        key = {
            "model": classifier.fingerprint,
            "dataset": dataset.fingerprint,
            "images": count,
            "batch_size": batch_size,
        }
        self._shards = ShardFolder(folder, key) if folder is not None else None

    @property
    def done(self) -> int:
        """How many images are behind us, read or failed."""
        return int(self._is_read.sum()) + len(self._failed)

    def resume(self) -> None:
        """Take over what earlier runs finished; batches in which images failed are tried again."""
        if self._shards is None:
            return
        finished: set[int] = set()
        for shard in self._shards.load(
            width=self._classifier.width, class_count=self._classifier.class_count
        ):
            again = {self._batch_of(position) for position in shard.failed}
            finished.update(set(range(shard.start, shard.stop, self._batch_size)) - again)
            kept = torch.tensor(
                [self._batch_of(each) not in again for each in shard.positions.tolist()]
            ).bool()
            self._keep(shard.positions[kept], shard.features[kept], shard.logits[kept], {})
        self._todo = [start for start in self._todo if start not in finished]

    def run(self, pool: Workers, progress: OnProgress, cancelled: Cancelled) -> None:
        """Compute what is missing."""
        resumed, total, began = self.done, len(self._dataset.images), time.monotonic()
        self._saved_at = began
        with closing(self._computed(pool)) as batches, self._saving():
            for batch in batches:
                self._keep(batch.positions, batch.features, batch.logits, batch.failed)
                if batch.failed and not len(batch.positions):
                    self._check_source()
                self._note(batch.start)
                if time.monotonic() - self._saved_at > _SHARD_SECONDS:
                    self._save()
                progress(Progress(self.done, total, time.monotonic() - began, resumed))
                if self.done < total and cancelled():
                    raise CancelledError(f"Stopped after {self.done:,} of {total:,} images.")

    def _check_source(self) -> None:
        """Stop where nothing can be read any more, so that the next start goes on from here."""
        root = self._dataset.root
        if (reason := why_gone(root)) is not None:
            raise DatasetError(
                f"The images of {self._dataset.name} are gone: {root} cannot be read ({reason}). Bring it "
                "back and start again; what was finished is kept."
            )

    def result(self) -> Features:
        """Return the rows of all images that were read."""
        dataset, is_read = self._dataset, self._is_read
        failed = sorted(self._failed.items())
        note_refusals(dataset.name, ((dataset.images[row].path, reason) for row, reason in failed))
        whole = bool(is_read.all())
        positions = range(len(is_read)) if whole else is_read.nonzero().flatten().tolist()
        return Features(
            features=self._features if whole else self._features[is_read],
            logits=self._logits if whole else self._logits[is_read],
            ids=tuple(dataset.images[position].id for position in positions),
            labels=labels_for(dataset, self._classifier.class_names)[is_read],
            model=self._classifier.fingerprint,
            dataset=dataset.fingerprint,
            skipped=tuple(Skipped(dataset.images[position].path, reason) for position, reason in failed),
            device=describe_device(self._classifier.device),
        )

    def _computed(self, pool: Workers) -> Generator["_Batch"]:
        """Yield batches in order: while some are computed, the next are decoded."""
        with ComputeThreads(self._classifier.device.type) as threads:
            decoded = self._decoded(pool, ahead=_AHEAD * threads.count * self._batch_size)
            computing: deque[Future[_Batch]] = deque()
            for start in self._todo:
                batch = list(islice(decoded, len(self._range(start))))
                computing.append(threads.submit(self._compute, start, batch))
                if len(computing) > threads.count:
                    yield computing.popleft().result()
            while computing:
                yield computing.popleft().result()

    def _decoded(self, pool: Workers, ahead: int) -> Iterator[_Decoded]:
        images = self._dataset.images
        places = (
            (images[row].location, images[row].id) for start in self._todo for row in self._range(start)
        )
        return pool.map_ordered(
            Decoder(self._dataset.root, self._classifier.preprocess),
            places,
            chunk=_CHUNK,
            timeout=_IMAGE_SECONDS,
            ahead=math.ceil(ahead / (_CHUNK * pool.count)),
        )

    def _compute(self, start: int, decoded: list[_Decoded]) -> "_Batch":
        arrays = {start + row: each for row, each in enumerate(decoded) if not isinstance(each, Failure)}
        failed = {start + row: each.reason for row, each in enumerate(decoded) if isinstance(each, Failure)}
        features, logits = self._features[:0], self._logits[:0]
        if arrays:
            features, logits = self._forward(torch.from_numpy(np.stack(list(arrays.values()))))
        return _Batch(start, torch.tensor(list(arrays), dtype=torch.int64), features, logits, failed)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network on (B, H, W, 3), in pieces as large as the device's memory has allowed so far."""
        while True:
            try:
                outputs = [self._forward_piece(piece) for piece in torch.split(images, self._piece)]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self._piece == 1:
                    device = self._classifier.device
                    raise ModelError(f"One image is too much for the memory of {device}: {error}") from error
            else:
                return torch.cat([each[0] for each in outputs]), torch.cat([each[1] for each in outputs])
            self._piece = max(1, min(self._piece, len(images)) // 2)
            _LOG.warning("Out of memory: going on with %d images at a time.", self._piece)

    def _forward_piece(self, images: Tensor) -> tuple[Tensor, Tensor]:
        classifier = self._classifier
        is_cuda = classifier.device.type == "cuda"
        if is_cuda:
            images = images.pin_memory()
        # A permuted (B, H, W, 3) is what "channels last" means: nothing is copied.
        images = images.to(classifier.device, non_blocking=is_cuda).permute(0, 3, 1, 2)
        features, logits = classifier.forward(classifier.normalise(images))
        return features.cpu(), logits.cpu()

    def _keep(self, positions: Tensor, features: Tensor, logits: Tensor, failed: dict[int, str]) -> None:
        self._features[positions], self._logits[positions] = features, logits
        self._is_read[positions] = True
        self._failed |= failed

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Keep what is finished, however the work ends."""
        try:
            yield
        finally:
            self._save()

    def _note(self, start: int) -> None:
        """Write what a batch gave before anyone is told that it is finished."""
        if self._shards is not None:
            self._shards.note(self._shard(start, self._range(start).stop))
            self._unsaved.append(start)

    def _save(self) -> None:
        """Write what was finished since the last time as one shard per unbroken row of batches."""
        unsaved, self._unsaved = self._unsaved, []
        self._saved_at = time.monotonic()
        while unsaved and self._shards is not None:
            length = 1
            while length < len(unsaved) and unsaved[length] == unsaved[length - 1] + self._batch_size:
                length += 1
            shard = self._shard(unsaved[0], self._range(unsaved[length - 1]).stop)
            self._shards.save(shard, notes=[self._range(start) for start in unsaved[:length]])
            unsaved = unsaved[length:]

    def _shard(self, start: int, stop: int) -> Shard:
        positions = start + self._is_read[start:stop].nonzero().flatten()
        failed = {
            position: self._failed[position] for position in range(start, stop) if position in self._failed
        }
        return Shard(start, stop, positions, self._features[positions], self._logits[positions], failed)

    def _batch_of(self, position: int) -> int:
        return position - position % self._batch_size

    def _range(self, start: int) -> range:
        """Return the positions of the batch that starts there."""
        return range(start, min(start + self._batch_size, len(self._dataset.images)))


@dataclass(frozen=True)
class _Batch:
    """What a batch gave."""

    start: int
    positions: Tensor  # (n,) int64, the images that gave rows
    features: Tensor  # (n, D) float32
    logits: Tensor  # (n, C) float32
    failed: dict[int, str]  # the images that gave none, and why


def _silent(_: Progress) -> None:
    """Tell nobody."""


def _never() -> bool:
    return False
