"""Finished parts of a long extraction, so that a killed one goes on where it stopped.

A shard holds the rows of some consecutive batches. Batches are the same whatever was finished before, so
what is resumed ends bit for bit as if it had never been interrupted. Each batch is noted as soon as it is
finished, which a kill survives; every few seconds the notes become one shard, which a power cut survives too.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nnguide_core.errors import StoreError
from nnguide_core.files import load_tensors, remove_parts, save_tensors

__all__ = ["Shard", "ShardFolder"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """What came of the images from start to stop (exclusive) of a dataset."""

    start: int
    stop: int
    positions: Tensor  # (n,) int64, the images that gave rows
    features: Tensor  # (n, D) float32
    logits: Tensor  # (n, C) float32
    failed: dict[int, str]  # the images that gave none, and why; together with positions all of the range


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one extraction."""

    folder: Path
    key: dict[str, Any]  # model, dataset, batch size: shards of another key are not of this extraction

    def note(self, shard: Shard) -> None:
        """Write a shard at once; only a power cut may lose it.

        Raises:
            OSError: the disk is full or not writable.
        """
        self._write(shard, durable=False)

    def save(self, shard: Shard, notes: Iterable[range] = ()) -> None:
        """Write a shard that also a power cut does not lose, then remove the notes that it takes over.

        Args:
            shard: some consecutive batches.
            notes: the positions that each noted shard covers.

        Raises:
            OSError: the disk is full or not writable; the notes are still there.
        """
        self._write(shard, durable=True)
        written = self._path(shard.start, shard.stop)
        for noted in notes:
            if (path := self._path(noted.start, noted.stop)) != written:
                path.unlink(missing_ok=True)

    def _write(self, shard: Shard, durable: bool) -> None:
        about = {
            **self.key,
            "start": shard.start,
            "stop": shard.stop,
            "failed": {str(position): reason for position, reason in shard.failed.items()},
        }
        tensors = {"positions": shard.positions, "features": shard.features, "logits": shard.logits}
        save_tensors(self._path(shard.start, shard.stop), tensors, about, durable=durable)

    def _path(self, start: int, stop: int) -> Path:
        return self.folder / f"{start:09d}-{stop:09d}.safetensors"

    def load(self, *, width: int, class_count: int) -> Iterator[Shard]:
        """Yield the finished shards; those that are damaged or of another extraction are set aside.

        Args:
            width: D, as the classifier has it.
            class_count: C, likewise.
        """
        if not self.folder.is_dir():
            return
        remove_parts(self.folder)
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                yield self._read(path, width, class_count)
            except (StoreError, OSError) as error:
                _LOG.warning("A finished part of an extraction is set aside and computed again: %s", error)
                path.replace(path.with_suffix(".damaged"))

    def _read(self, path: Path, width: int, class_count: int) -> Shard:
        tensors, about = load_tensors(path)
        if any(about.get(name) != value for name, value in self.key.items()):
            raise StoreError(f"{path.name} is of another model, dataset or batch size.")
        try:
            failed = {int(position): str(reason) for position, reason in about["failed"].items()}
            shard = Shard(about["start"], about["stop"], failed=failed, **tensors)
            count = len(shard.positions)
            whole = sorted([*shard.positions.tolist(), *failed]) == list(range(shard.start, shard.stop))
            fits = shard.features.shape == (count, width) and shard.logits.shape == (count, class_count)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path.name} is no part of an extraction.") from error
        if not (whole and fits):
            raise StoreError(f"{path.name} does not hold the rows that its name says.")
        return shard
