"""Small pictures of images already seen: a cache in one SQLite file, made again whenever it is lost."""

import json
import logging
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

from nnguide_core.errors import StoreError
from nnguide_core.store.schema import THUMBNAIL_TABLES, Database, damage

__all__ = ["Thumbnails"]

_LOG = logging.getLogger(__name__)
_LIMIT = 2**30  # bytes; some 200,000 pictures, after which the cache starts afresh


class Thumbnails:
    """Encoded pictures by image id and side length."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if reason := damage(path, THUMBNAIL_TABLES):
            self._remove(reason)
        try:
            self._database = Database(path, THUMBNAIL_TABLES, durable=False)
        except (StoreError, sqlite3.Error) as error:
            self._remove(str(error))
            self._database = Database(path, THUMBNAIL_TABLES, durable=False)

    def get(self, images: Iterable[str], side: int) -> dict[str, bytes]:
        """Return the pictures that are there, by image id; side is the longer one, in pixels."""
        query = (
            "SELECT image, bytes FROM thumbnails WHERE side = ? AND image IN (SELECT value FROM json_each(?))"
        )
        try:
            with self._database.read() as connection:
                return dict(connection.execute(query, (side, json.dumps(list(images)))).fetchall())
        except (StoreError, sqlite3.Error) as error:
            _LOG.warning("no thumbnails are read: %s", error)
            self._remove_if_damaged()
            return {}

    def put(self, pictures: Mapping[str, bytes], side: int) -> None:
        """Keep pictures by image id; a full disk loses them, with a line in the log, and nothing else."""
        rows = [(image, side, picture) for image, picture in pictures.items()]
        try:
            if self.size() > _LIMIT:
                self.clear()
            with self._database.write() as connection:
                connection.executemany("INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?)", rows)
        except (StoreError, sqlite3.Error) as error:
            _LOG.warning("%d thumbnails are not kept: %s", len(rows), error)
            self._remove_if_damaged()

    def size(self) -> int:
        """Return the bytes that all pictures take."""
        with self._database.read() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (page,) = connection.execute("PRAGMA page_size").fetchone()
        return int((pages - free) * page)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._database.close()

    def clear(self) -> None:
        """Forget every picture."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM thumbnails")

    def _remove_if_damaged(self) -> None:
        if reason := damage(self._path, THUMBNAIL_TABLES):
            self._database.close()
            self._remove(reason)

    def _remove(self, reason: str) -> None:
        _LOG.warning("made %s anew: %s", self._path.name, reason)
        for suffix in ("", "-wal", "-shm", "-journal"):
            path = self._path.with_name(self._path.name + suffix)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
