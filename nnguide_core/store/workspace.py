"""The workspace: what is remembered between sessions, in one folder, safe for many threads and processes.

Datasets, runs, verdicts, settings and jobs lie in SQLite; tensors in safetensors files named by the
fingerprint of what they were computed from. Every write is whole or absent. What is damaged or foreign is set
aside with a note and counts as absent: it is computed again, never silently used.
"""

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from nnguide_core.errors import StoreError
from nnguide_core.locks import is_locked, locked
from nnguide_core.outcomes import Outcome
from nnguide_core.progress import Cancelled
from nnguide_core.records import Dataset, Features, Role, Run, fingerprint, texts_in
from nnguide_core.settings import workspace_home
from nnguide_core.store.belongings import RunSize, belongings, run_sizes
from nnguide_core.store.checks import mend, sound
from nnguide_core.store.cleaning import Cleaning
from nnguide_core.store.packing import (
    describe_dataset,
    pack_dataset,
    pack_features,
    unpack_dataset,
    unpack_features,
)
from nnguide_core.store.recovery import back_up_daily, prepare
from nnguide_core.store.rows import Given, Rows
from nnguide_core.store.schema import WORKSPACE_TABLES, Database
from nnguide_core.store.tensors import SetAside, TensorFiles, list_set_aside, private_folder
from nnguide_core.store.thumbnails import Thumbnails

__all__ = ["Given", "SetAside", "StoredDataset", "Workspace"]

_LOG = logging.getLogger(__name__)
_DAY = 24 * 3600.0  # seconds
_CLEANED = "cleaned up"  # the setting that says when
_DATABASE, _BACKUP = "workspace.sqlite", "workspace.backup"
_SAVE_DATASET = (
    "INSERT OR REPLACE INTO datasets (key, fingerprint, json, saved, checksum)"
    " VALUES (?1, ?2, ?3, ?4, row_checksum(?1, ?2, ?3, ?4))"
)


@dataclass(frozen=True)
class StoredDataset:
    """A dataset that the workspace knows, without its images."""

    fingerprint: str
    name: str
    role: Role
    root: Path
    size: int  # images
    skipped: int  # files that were found and not read
    saved: datetime


class Workspace(Rows):
    """One folder of memory. Any number of these may use it at once, in any number of threads and processes.

    Args:
        root: the folder, made if missing; None is settings.workspace_home().

    Raises:
        StoreError: the folder cannot be used, or a newer version of the program wrote it.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (workspace_home() if root is None else root).resolve()
        try:
            private_folder(self.root)
            for name in ("set-aside", "locks", "shards"):
                private_folder(self.root / name)
            self.blobs = private_folder(self.root / "blobs")  # uploads, under the hash of their bytes
            self._tensors = TensorFiles(private_folder(self.root / "tensors"), self.root / "set-aside")
            super().__init__(self._open_database(), self._back_up_daily)
            self._cleaning = Cleaning(self.root, self._database, self._tensors)
            with self.lock("open"):
                self.thumbnails = Thumbnails(self.root / "thumbnails.sqlite")
        except OSError as error:
            raise StoreError(
                f"The workspace {self.root} cannot be used: {error.strerror}. "
                "Set NNGUIDE_HOME to a folder that can be written."
            ) from error

    def save_dataset(self, dataset: Dataset) -> None:
        """Remember a dataset with all its images; the same contents, name and role replace each other.

        What is kept already as it is now is not written again.
        """
        key = _dataset_key(dataset.fingerprint, dataset.name, dataset.role)
        about = describe_dataset(dataset)
        summary = json.dumps({**about, "skipped": len(dataset.skipped)})
        if self._tensors.about("datasets", key) != about:
            self._tensors.save("datasets", key, *pack_dataset(dataset), needs=[dataset.fingerprint])
        row = (key, dataset.fingerprint, summary, datetime.now(UTC).isoformat())
        with self._database.write() as connection:
            connection.execute(_SAVE_DATASET, row)

    def datasets(self) -> tuple[StoredDataset, ...]:
        """Return what is known of every dataset, the one saved last first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT checksum, key, fingerprint, json, saved FROM datasets ORDER BY saved DESC"
            ).fetchall()
        found = (_stored_dataset(of, text, saved) for _, of, text, saved in sound("datasets", rows))
        return tuple(stored for stored in found if stored is not None)

    def dataset(
        self, fingerprint: str, *, name: str | None = None, role: Role | None = None
    ) -> Dataset | None:
        """Return a dataset with its images, the one saved last where several fit; None if there is none."""
        for stored in self.datasets():
            if (
                stored.fingerprint == fingerprint
                and name in (None, stored.name)
                and role in (None, stored.role)
                and (dataset := self._load_dataset(stored)) is not None
            ):
                return dataset
        return None

    def save_features(self, features: Features, extra: str = "") -> None:
        """Keep features under their model and dataset; extra tells apart what else changed them."""
        tensors, about = pack_features(features)
        key = _features_key(features.model, features.dataset, extra)
        self._tensors.save("features", key, tensors, about, needs=[features.dataset])

    def has_features(self, model: str, dataset: str, extra: str = "") -> bool:
        """Return whether a dataset's features by a model are kept, without reading them."""
        return self._tensors.has("features", _features_key(model, dataset, extra))

    def load_features(self, model: str, dataset: str, extra: str = "") -> Features | None:
        """Return a dataset's features by a model, both by fingerprint; None if they must be computed."""
        key = _features_key(model, dataset, extra)
        if (packed := self._tensors.load("features", key)) is None:
            return None
        try:
            return unpack_features(*packed)
        except StoreError as error:
            self._tensors.set_aside("features", key, str(error))
            return None

    def save(
        self,
        kind: str,
        key: str,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        *,
        needs: Iterable[str] = (),
    ) -> None:
        """Keep tensors and a JSON-able description; what was there before is replaced as a whole.

        Args:
            kind: a short lower-case word, such as "banks", "neighbours" or "projections".
            key: the fingerprint of all that they were computed from.
            tensors: as files.save_tensors takes them.
            about: the description, at most 100 MB as JSON.
            needs: fingerprints of datasets, ids of runs or their questions; clean_up deletes the file once
                one of them is known no more. Without any the file stays until it is removed.
        """
        self._tensors.save(kind, key, tensors, about, needs)

    def load(self, kind: str, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and description, or None where there are none; an unusable file is set aside."""
        return self._tensors.load(kind, key)

    def remove(self, kind: str, key: str) -> None:
        """Delete what is kept under the key, if anything."""
        self._tensors.remove(kind, key)

    def set_aside(self, kind: str, key: str, reason: str) -> None:
        """Move a file whose contents turned out to be unusable out of the way, with a note and a log line."""
        self._tensors.set_aside(kind, key, reason)

    def shards_folder(self, model: str, dataset: str, extra: str = "") -> Path:
        """Return the folder, made if missing, where an extraction keeps its finished batches."""
        return private_folder(self.root / "shards" / f"{dataset}-{_features_key(model, dataset, extra)}")

    def remove_shards(self, model: str, dataset: str, extra: str = "") -> None:
        """Delete the finished batches of an extraction, once its features are saved as a whole."""
        shutil.rmtree(self.shards_folder(model, dataset, extra), ignore_errors=True)

    def lock(self, name: str, *, cancelled: Cancelled | None = None) -> AbstractContextManager[None]:
        """Return a lock between all threads and processes of this workspace; see locks.locked."""
        return locked(self._lock_path(name), cancelled=cancelled)

    def is_locked(self, name: str) -> bool:
        """Return whether any thread or process holds the lock now."""
        return is_locked(self._lock_path(name))

    def all_set_aside(self) -> tuple[SetAside, ...]:
        """Return what was set aside in the last 30 days, newest first."""
        return list_set_aside(self.root / "set-aside")

    def usage(self) -> dict[str, int]:
        """Return the bytes that each kind of memory takes."""
        return self._cleaning.usage()

    def run_sizes(self, runs: Sequence[Run] | None = None) -> dict[str, RunSize]:
        """Return the bytes that each run takes, by its id; None asks for every run."""
        return run_sizes(belongings(self._tensors, self.runs() if runs is None else runs))

    def remove_run(self, run: str) -> int:
        """Forget a run by its full id, with the head, features, datasets and maps that no other run needs.

        The verdicts given in it stay, what an unfinished job needs, and the datasets that a draft lists.

        Returns:
            The bytes given back.
        """
        owned = belongings(self._tensors, self.runs())
        alone = owned.pop(run, frozenset()).difference(*owned.values())
        self.forget_run(run)
        listed = self._listed_in_drafts()  # a draft needs its datasets; features can be computed again
        spared = {each for each in alone if each.kind == "datasets" and each.needs & listed}
        return self._cleaning.remove(alone - spared, self._needed_by_jobs())

    def knows_all(self) -> bool:
        """Return whether what no dataset or run names is really needed by none: no row can be missing."""
        return self._cleaning.knows_all()

    def clean_up(self, min_age: float = _DAY) -> int:
        """Delete what no dataset or run needs, older than min_age seconds; return the bytes given back."""
        return self._cleaning.clean_up(min_age, self._needed_besides, self._is_open)

    def open_session(self, session: str) -> AbstractContextManager[None]:
        """Return a lock to hold while a browser session goes on: no process frees its uploads meanwhile.

        Raises:
            CancelledError: on entering, another process holds it; nobody waits for a session to end.
        """
        return self.lock(f"session {session}", cancelled=lambda: True)

    def release_uploads(self, session: str) -> None:
        """Free what a session that is over uploaded, unless a run, a job or another one's draft needs it."""
        self._cleaning.release(session, self._needed_besides(session))

    def clean_up_in_background(self) -> threading.Thread:
        """Clean up once a day in a thread of its own, which is returned."""
        thread = threading.Thread(target=self.clean_up_daily, name="clean up", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Close the open files; the next use opens them again."""
        super().close()
        self.thumbnails.close()

    def clean_up_daily(self) -> None:
        """Clean up unless some process did within a day; how that went is a line in the log."""
        with Outcome() as cleaning, self.lock("clean up"):
            if time.time() - self.setting(_CLEANED, 0.0) > _DAY:
                if freed := self.clean_up():
                    _LOG.info("cleaned up: %d bytes given back", freed)
                self.save_setting(_CLEANED, time.time())
        if cleaning.error is not None:
            _LOG.warning("not cleaned up: %r", cleaning.error)

    def _is_open(self, session: str) -> bool:
        return self.is_locked(f"session {session}")

    def _needed_by_jobs(self) -> frozenset[str]:
        unfinished = (job.texts for job in self.job_records() if not job.state.is_finished)
        return frozenset().union(*unfinished)

    def _needed_besides(self, session: str) -> frozenset[str]:
        """Return what unfinished jobs need and drafts list, but for the drafts of a session that is over."""
        return self._needed_by_jobs() | self._listed_in_drafts(session)

    def _listed_in_drafts(self, besides: str = "") -> frozenset[str]:
        others = (each for each in self.drafts() if each.get("session") != besides)
        return frozenset().union(*map(texts_in, others))

    def _lock_path(self, name: str) -> Path:
        return self.root / "locks" / f"{fingerprint(name)}.lock"

    def _load_dataset(self, stored: StoredDataset) -> Dataset | None:
        key = _dataset_key(stored.fingerprint, stored.name, stored.role)
        try:
            if (packed := self._tensors.load("datasets", key)) is not None:
                return unpack_dataset(*packed)
        except StoreError as error:
            self._tensors.set_aside("datasets", key, str(error))
        # Its images are lost: it must be scanned again, and not be offered as if it were there.
        with self._database.write() as connection:
            connection.execute("DELETE FROM datasets WHERE key = ?", (key,))
        return None

    def _open_database(self) -> Database:
        self._prepare_database()
        path = self.root / _DATABASE
        database = Database(path, WORKSPACE_TABLES, make=self._prepare_database)
        with self.lock("open"):
            mend(database, self.root / "set-aside")
        self._back_up_daily(database)
        return database

    def _prepare_database(self) -> None:
        # Not with its parents: a workspace that was deleted while it is in use stays deleted.
        (self.root / "locks").mkdir(mode=0o700, exist_ok=True)
        with self.lock("open"):
            prepare(self.root / _DATABASE, self.root / _BACKUP, self.root / "set-aside")

    def _back_up_daily(self, database: Database) -> None:
        with self.lock("daily copy"):
            back_up_daily(database, self.root / _BACKUP, self.root / "set-aside")


def _dataset_key(content: str, name: str, role: Role) -> str:
    return fingerprint("dataset", content, name, role)


def _features_key(model: str, dataset: str, extra: str) -> str:
    return fingerprint("features", model, dataset, extra)


def _stored_dataset(content: str, text: str, saved: str) -> StoredDataset | None:
    try:
        about = json.loads(text)
        root, role, when = Path(about["root"]), Role(about["role"]), datetime.fromisoformat(saved)
        return StoredDataset(content, about["name"], role, root, about["size"], about["skipped"], when)
    except (ValueError, KeyError, TypeError) as error:
        _LOG.warning("left out a dataset: %r", error)
        return None
