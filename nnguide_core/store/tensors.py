"""Tensors by kind and fingerprint: whole files only; what is damaged or foreign is set aside, with a note."""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from nnguide_core.errors import StoreError
from nnguide_core.files import load_tensors, read_header, remove_parts, save_tensors, write_atomic

__all__ = ["SetAside", "TensorFiles", "list_set_aside", "private_folder", "set_aside"]

_LOG = logging.getLogger(__name__)
_KIND = re.compile(r"[a-z][a-z0-9-]{0,30}")
_KEY = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class SetAside:
    """A file of the workspace that could not be used, and where it lies now."""

    path: Path
    was: str  # its place in the workspace
    reason: str
    when: datetime


class TensorFiles:
    """Files of tensors in one folder per kind, named by what they were computed from."""

    def __init__(self, folder: Path, aside: Path) -> None:
        self.folder = folder
        self._aside = aside

    def save(
        self,
        kind: str,
        key: str,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        needs: Iterable[str],
    ) -> None:
        """Keep tensors and their description under a key; what was there before is replaced as a whole."""
        private_folder(self.folder / kind)
        stored = {"kind": kind, "key": key, "needs": sorted(needs)}
        save_tensors(self._path(kind, key), tensors, {"stored": stored, "about": dict(about)}, private=True)

    def load(self, kind: str, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and description, or None where there are none; an unusable file is set aside."""
        path = self._path(kind, key)
        try:
            tensors, content = load_tensors(path)
            _check_place(content, kind, key)
        except FileNotFoundError:
            return None
        except StoreError as error:
            self.set_aside(kind, key, str(error))
            return None
        return tensors, content["about"]

    def has(self, kind: str, key: str) -> bool:
        """Return whether there is a file under the key, without judging its contents."""
        return self._path(kind, key).is_file()

    def remove(self, kind: str, key: str) -> None:
        """Delete what is kept under the key, if anything."""
        self._path(kind, key).unlink(missing_ok=True)

    def set_aside(self, kind: str, key: str, reason: str) -> None:
        """Move a file that cannot be used out of the way, with a note and a line in the log."""
        set_aside(self._path(kind, key), self._aside, reason)

    def all(self) -> Iterator[tuple[str, str, Path]]:
        """Yield kind, key and path of every file, foreign names left out."""
        for path in sorted(self.folder.glob(f"*/*{_SUFFIX}")):
            if _KIND.fullmatch(path.parent.name) and _KEY.fullmatch(path.stem):
                yield path.parent.name, path.stem, path

    def needs(self, kind: str, key: str) -> frozenset[str]:
        """Return the fingerprints that a file was computed from; none where it is gone or set aside."""
        content = self._header(kind, key)
        return frozenset() if content is None else frozenset(content["stored"]["needs"])

    def about(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return a file's description without its tensors; None where it is gone or set aside."""
        content = self._header(kind, key)
        return None if content is None else dict(content["about"])

    def remove_parts(self) -> None:
        """Remove what killed writers left."""
        for folder in self.folder.iterdir():
            if folder.is_dir():
                remove_parts(folder)

    def _header(self, kind: str, key: str) -> dict[str, Any] | None:
        try:
            content = read_header(self._path(kind, key))
            _check_place(content, kind, key)
        except FileNotFoundError:
            return None
        except StoreError as error:
            self.set_aside(kind, key, str(error))
            return None
        return content

    def _path(self, kind: str, key: str) -> Path:
        if not _KIND.fullmatch(kind):
            raise ValueError(f"A kind is a short lower-case word, got {kind!r}.")
        if not _KEY.fullmatch(key):
            raise ValueError(f"A key is a fingerprint of 64 hex digits, got {key!r}.")
        return self.folder / kind / f"{key}{_SUFFIX}"


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, if it is not there yet; return it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def set_aside(path: Path, aside: Path, reason: str) -> Path | None:
    """Move a file into the folder of files set aside, with a note; None if another was faster."""
    now = datetime.now(UTC)
    place = private_folder(aside) / f"{now:%Y%m%dT%H%M%S%f}-{path.name}"
    was = f"{path.parent.name}/{path.name}"
    try:
        path.rename(place)
    except FileNotFoundError:
        return None
    # From now on the file is kept for a while, however old it was.
    os.utime(place, follow_symlinks=False)
    note = {"was": was, "reason": reason, "when": now.isoformat()}
    write_atomic(place.with_name(f"{place.name}.json"), json.dumps(note).encode(), private=True)
    _LOG.warning("set aside %s as %s: %s", was, place.name, reason)
    return place


def list_set_aside(aside: Path) -> tuple[SetAside, ...]:
    """Return what was set aside in a folder, newest first; notes that cannot be read are left out."""
    found = []
    for note in aside.glob("*.json"):
        try:
            content = json.loads(note.read_bytes())
            when = datetime.fromisoformat(content["when"])
            found.append(SetAside(note.with_suffix(""), content["was"], content["reason"], when))
        except (OSError, ValueError, KeyError, TypeError):
            _LOG.warning("left out an unreadable note: %s", note.name)
    return tuple(sorted(found, key=lambda item: item.when, reverse=True))


def _check_place(content: Mapping[str, Any], kind: str, key: str) -> None:
    stored = content.get("stored")
    if not isinstance(stored, dict) or not isinstance(content.get("about"), dict):
        raise StoreError("It is no file of a workspace.")
    if (stored.get("kind"), stored.get("key")) != (kind, key):
        raise StoreError("It was moved or copied here from another place in a workspace.")
