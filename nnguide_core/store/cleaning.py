"""How much room the workspace takes, and giving back what nothing needs any more."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nnguide_core.files import remove_parts
from nnguide_core.store.belongings import Belonging
from nnguide_core.store.packing import unpack_dataset
from nnguide_core.store.schema import Database
from nnguide_core.store.tensors import TensorFiles, list_set_aside

__all__ = ["Cleaning"]

_ASIDE_SECONDS = 30 * 24 * 3600.0  # how long a file that was set aside is kept
_DRAFT_SECONDS = 7 * 24 * 3600.0  # how long what a form held is kept
_DELETE_DRAFTS = (
    "DELETE FROM settings WHERE name GLOB 'draft.*'"
    " AND coalesce(CASE WHEN json_valid(json) THEN json_extract(json, '$.saved') END, 0) < ?"
)


class Cleaning:
    """Frees what no dataset, run, session, draft or unfinished job needs.

    Args:
        root: the workspace's folder.
        database: its rows, which say what is needed.
        tensors: its tensors.
    """

    def __init__(self, root: Path, database: Database, tensors: TensorFiles) -> None:
        self._root = root
        self._database = database
        self._tensors = tensors
        self._blobs = root / "blobs"

    def usage(self) -> dict[str, int]:
        """Return the bytes that each kind of memory takes, those of tensors by their kind."""
        folders = {folder.name: folder for folder in self._root.iterdir() if folder.is_dir()}
        kinds = folders.pop("tensors").iterdir()
        files = {"database": self._root.glob("workspace.*"), "thumbnails": self._root.glob("thumbnails.*")}
        by_folder = {name: _size(folder.rglob("*")) for name, folder in folders.items()}
        by_kind = {kind.name: _size(kind.rglob("*")) for kind in kinds}
        return by_kind | by_folder | {name: _size(paths) for name, paths in files.items()}

    def knows_all(self) -> bool:
        """Return whether no row can be missing: some are known, and none was set aside lately."""
        aside = list_set_aside(self._root / "set-aside")
        return bool(self._known()) and not any(self._database.path.name in each.was for each in aside)

    def clean_up(
        self, min_age: float, needed: Callable[[str], frozenset[str]], is_open: Callable[[str], bool]
    ) -> int:
        """Delete what nothing needs, and what killed writers left; return the bytes given back.

        Where rows may be missing, nothing is deleted for being unknown: where there are none at all, and for
        as long as a database or rows of it are kept among what was set aside.

        Args:
            min_age: seconds; younger files are kept, since what needs them may be saved only after them.
            needed: fingerprints of datasets and paths of uploads that are needed when a session is over: by
                unfinished jobs and by drafts of others.
            is_open: whether a session goes on, whose uploads are left to its own goodbye.
        """
        before = time.time() - min_age
        self._tensors.remove_parts()
        for folder in (self._blobs, *self._blobs.glob("*/")):
            remove_parts(folder)
        freed = 0
        if self.knows_all():
            for folder in self._blobs.glob("*/"):
                if not is_open(folder.name) and _changed(folder) < before:
                    freed += self.release(folder.name, needed(folder.name))
            unneeded = [*self._unknown_tensors(), *self._unknown_shards(), *self._stray_uploads(needed(""))]
            freed += sum(_delete(path) for path in unneeded if _changed(path) < before)
        self._forget_sessions(before, is_open)
        self._forget_drafts()
        aside = list((self._root / "set-aside").iterdir())
        return freed + sum(_delete(path) for path in aside if _changed(path) < time.time() - _ASIDE_SECONDS)

    def release(self, session: str, needed: frozenset[str]) -> int:
        """Free what a session that is over has uploaded, but for what runs need and what is needed otherwise.

        Returns:
            The bytes given back.
        """
        folder = self._blobs / session
        in_runs = self._column("SELECT fingerprint FROM run_datasets")
        for key, fingerprint, root in self._uploaded_datasets():
            if root.is_relative_to(folder) and fingerprint not in in_runs | needed:
                self._forget("DELETE FROM datasets WHERE key = ?", key)
                self._tensors.remove("datasets", key)
        self._forget("DELETE FROM uploads WHERE session = ?", session)
        used = self._used_uploads(needed)
        freed = sum(_delete(path) for path in folder.rglob("*") if path.is_file() and path not in used)
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        return freed

    def remove(self, files: Iterable[Belonging], needed: frozenset[str]) -> int:
        """Delete what belonged to a run that was removed, but for what unfinished jobs need.

        Returns:
            The bytes given back.
        """
        freed = 0
        for each in files:
            if not each.needs & needed:
                self._forget("DELETE FROM datasets WHERE key = ?", each.key)
                freed += _delete(each.path)
        return freed

    def _unknown_tensors(self) -> Iterator[Path]:
        known, datasets = self._known(), self._column("SELECT key FROM datasets")
        for kind, key, path in self._tensors.all():
            if not (key in datasets if kind == "datasets" else self._tensors.needs(kind, key) <= known):
                yield path

    def _unknown_shards(self) -> Iterator[Path]:
        known = self._known()
        for folder in (self._root / "shards").iterdir():
            if folder.name.partition("-")[0] not in known:
                yield folder

    def _stray_uploads(self, needed: frozenset[str]) -> Iterator[Path]:
        """Yield uploads that lie in no session's folder and that nothing needs."""
        used = self._used_uploads(needed)
        yield from (path for path in self._blobs.iterdir() if path.is_file() and path not in used)

    def _used_uploads(self, needed: frozenset[str]) -> set[Path]:
        """Return the uploaded files that datasets hold, and all paths that are needed otherwise."""
        used = {Path(text) for text in needed}
        for key, _, root in self._uploaded_datasets():
            if (packed := self._tensors.load("datasets", key)) is not None:
                used.add(root)
                used |= {root / image.location for image in unpack_dataset(*packed).images}
        return used

    def _uploaded_datasets(self) -> list[tuple[str, str, Path]]:
        """Return key, fingerprint and root of every dataset that was uploaded."""
        rows = self._rows("SELECT key, fingerprint, json FROM datasets")
        found = [(key, of, Path(json.loads(text)["root"]).resolve()) for key, of, text in rows]
        return [each for each in found if each[2].is_relative_to(self._blobs)]

    def _forget_sessions(self, before: float, is_open: Callable[[str], bool]) -> None:
        for session, latest in self._rows("SELECT session, latest FROM uploads"):
            if float(latest) < before and not is_open(session):
                self._forget("DELETE FROM uploads WHERE session = ?", session)

    def _forget_drafts(self) -> None:
        with self._database.write() as connection:
            connection.execute(_DELETE_DRAFTS, (time.time() - _DRAFT_SECONDS,))

    def _known(self) -> frozenset[str]:
        return self._column(
            "SELECT fingerprint FROM datasets UNION SELECT fingerprint FROM run_datasets"
            " UNION SELECT id FROM runs UNION SELECT question FROM runs"
            " UNION SELECT json_extract(json, '$.model') FROM runs WHERE json_valid(json)"
        )

    def _column(self, query: str) -> frozenset[str]:
        return frozenset(value for (value,) in self._rows(query))

    def _rows(self, query: str) -> list[tuple[str, ...]]:
        with self._database.read() as connection:
            return connection.execute(query).fetchall()

    def _forget(self, command: str, value: str) -> None:
        with self._database.write() as connection:
            connection.execute(command, (value,))


def _changed(path: Path) -> float:
    try:
        return max(item.lstat().st_mtime for item in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()


def _delete(path: Path) -> int:
    size = _size([path, *path.rglob("*")])
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return size


def _size(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
