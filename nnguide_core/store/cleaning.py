"""How much room the workspace takes, and giving back what nothing needs any more."""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from nnguide_core.files import remove_parts
from nnguide_core.store.packing import unpack_dataset
from nnguide_core.store.schema import Database
from nnguide_core.store.tensors import TensorFiles, list_set_aside

__all__ = ["clean_up", "knows_all", "usage"]

_DAY = 24 * 3600.0
_ASIDE_SECONDS = 30 * _DAY  # how long a file that was set aside is kept
_DRAFT_SECONDS = 7 * _DAY  # how long what a form held is kept
_UPLOAD_SECONDS = 2 * _DAY  # how long a session that never said goodbye is counted
_DELETE_DRAFTS = (
    "DELETE FROM settings WHERE name GLOB 'draft.*'"
    " AND coalesce(CASE WHEN json_valid(json) THEN json_extract(json, '$.saved') END, 0) < ?"
)


def usage(root: Path) -> dict[str, int]:
    """Return the bytes that each kind of memory takes, those of tensors by their kind."""
    folders = {folder.name: folder for folder in root.iterdir() if folder.is_dir()}
    kinds = folders.pop("tensors").iterdir()
    files = {"database": root.glob("workspace.*"), "thumbnails": root.glob("thumbnails.*")}
    by_folder = {name: _size(folder.rglob("*")) for name, folder in folders.items()}
    by_kind = {kind.name: _size(kind.rglob("*")) for kind in kinds}
    return by_kind | by_folder | {name: _size(paths) for name, paths in files.items()}


def clean_up(root: Path, database: Database, tensors: TensorFiles, min_age: float) -> int:
    """Delete what no dataset or run needs, and what killed writers left; return the bytes given back.

    Where rows may be missing, nothing is deleted for being unknown: where there are none at all, and for as
    long as a database or rows of it are kept among what was set aside. Uploads of sessions that are still
    counted are left to their own goodbye.

    Args:
        root: the workspace's folder.
        database: its rows, which say what is needed.
        tensors: its tensors.
        min_age: seconds; younger files are kept, since what needs them may be saved only after them.
    """
    before = time.time() - min_age
    tensors.remove_parts()
    for folder in (root / "blobs", *(root / "blobs").glob("*/")):
        remove_parts(folder)
    unneeded = _unneeded(root, database, tensors) if knows_all(root, database) else []
    freed = sum(_delete(path) for path in unneeded if _changed(path) < before)
    aside = (path for path in (root / "set-aside").iterdir() if _changed(path) < time.time() - _ASIDE_SECONDS)
    with database.write() as connection:
        connection.execute("DELETE FROM uploads WHERE latest < ?", (time.time() - _UPLOAD_SECONDS,))
        connection.execute(_DELETE_DRAFTS, (time.time() - _DRAFT_SECONDS,))
    return freed + sum(_delete(path) for path in aside)


def knows_all(root: Path, database: Database) -> bool:
    """Return whether no row can be missing: some dataset or run is known, and none was set aside lately."""
    lost = any(database.path.name in aside.was for aside in list_set_aside(root / "set-aside"))
    return bool(_known(database)) and not lost


def _unneeded(root: Path, database: Database, tensors: TensorFiles) -> list[Path]:
    return [*_tensors(database, tensors), *_shards(database, root), *_blobs(database, tensors, root)]


def _tensors(database: Database, tensors: TensorFiles) -> Iterator[Path]:
    known, datasets = _known(database), _column(database, "SELECT key FROM datasets")
    for kind, key, path in tensors.all():
        if not (key in datasets if kind == "datasets" else tensors.needs(kind, key) <= known):
            yield path


def _shards(database: Database, root: Path) -> Iterator[Path]:
    known = _known(database)
    for folder in (root / "shards").iterdir():
        if folder.name.partition("-")[0] not in known:
            yield folder


def _blobs(database: Database, tensors: TensorFiles, root: Path) -> Iterator[Path]:
    blobs, used = root / "blobs", set(_used_blobs(database, tensors, root / "blobs"))
    sessions = _column(database, "SELECT session FROM uploads")
    for path in blobs.rglob("*"):
        if path.is_file() and path not in used and path.relative_to(blobs).parts[0] not in sessions:
            yield path


def _used_blobs(database: Database, tensors: TensorFiles, blobs: Path) -> Iterator[Path]:
    for key, text in _rows(database, "SELECT key, json FROM datasets"):
        folder = Path(json.loads(text)["root"]).resolve()
        if not folder.is_relative_to(blobs) or (packed := tensors.load("datasets", key)) is None:
            continue
        yield folder
        for image in unpack_dataset(*packed).images:
            yield folder / image.location


def _known(database: Database) -> frozenset[str]:
    return _column(
        database,
        "SELECT fingerprint FROM datasets UNION SELECT fingerprint FROM run_datasets"
        " UNION SELECT id FROM runs UNION SELECT question FROM runs",
    )


def _column(database: Database, query: str) -> frozenset[str]:
    return frozenset(value for (value,) in _rows(database, query))


def _rows(database: Database, query: str) -> list[tuple[str, ...]]:
    with database.read() as connection:
        return connection.execute(query).fetchall()


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
