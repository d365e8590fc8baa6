"""Datasets and features as tensors and a description, and back; a million images take 40 MB and seconds."""

import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnguide_core.errors import StoreError
from nnguide_core.records import Dataset, Features, ImageRef, Role, Skipped, fingerprint

__all__ = ["describe_dataset", "pack_dataset", "pack_features", "unpack_dataset", "unpack_features"]

Packed = tuple[dict[str, Tensor], dict[str, Any]]

_HEX = re.compile(r"[0-9a-f]*")
_ID_DIGITS, _LOOK_DIGITS = 64, 32


def pack_dataset(dataset: Dataset) -> Packed:
    """Return the dataset's images by column, and what describes it."""
    images = dataset.images
    ids = _pack_digests("ids", [image.id for image in images], _ID_DIGITS)
    looks = _pack_digests("looks", [image.look for image in images], _LOOK_DIGITS)
    columns = {
        "names": _pack(_constant_or_all([image.dataset for image in images])),
        "paths": _pack([image.path for image in images]),
        "labels": _pack(_constant_or_all([image.label for image in images])),
        "locations": _pack([image.location if image.location != image.path else None for image in images]),
        "skipped": _pack_skipped(dataset.skipped),
    }
    return ids | looks | columns, describe_dataset(dataset)


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return what tells a dataset from others with the same fingerprint: its name, role, root and files."""
    images = dataset.images
    columns = (
        [image.dataset for image in images],
        [image.path for image in images],
        [image.location for image in images],
        [image.look or "" for image in images],
        [text for each in dataset.skipped for text in (each.path, each.reason)],
    )
    return {
        "name": dataset.name,
        "role": dataset.role,
        "root": str(dataset.root),
        "size": len(images),
        "files": fingerprint(*("\0".join(column) for column in columns)),  # no path has a zero in it
    }


def unpack_dataset(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Dataset:
    """Return the dataset that pack_dataset was given.

    Raises:
        StoreError: tensors of something else.
    """
    try:
        size, root, role = about["size"], Path(about["root"]), Role(about["role"])
        images = _images(tensors, size)
        return Dataset(about["name"], role, root, images, _unpack_skipped(tensors["skipped"]))
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise StoreError("It holds no dataset.") from error


def pack_features(features: Features) -> Packed:
    """Return the features with their ids and labels, and what describes them."""
    tensors = _pack_digests("ids", features.ids, _ID_DIGITS) | {
        "features": features.features,
        "logits": features.logits,
        "labels": features.labels,
        "skipped": _pack_skipped(features.skipped),
    }
    return tensors, {"model": features.model, "dataset": features.dataset}


def unpack_features(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Features:
    """Return the features that pack_features was given.

    Raises:
        StoreError: tensors of something else, or arrays that do not fit each other.
    """
    try:
        features, logits, labels = (tensors[name] for name in ("features", "logits", "labels"))
        ids = tuple(_unpack_digests("ids", tensors, _ID_DIGITS))
        skipped = _unpack_skipped(tensors["skipped"])
        if not len(features) == len(logits) == len(labels) == len(ids):
            raise ValueError("rows that do not fit each other")
        return Features(features, logits, ids, labels, about["model"], about["dataset"], skipped)
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise StoreError("It holds no features.") from error


def _images(tensors: Mapping[str, Tensor], size: int) -> tuple[ImageRef, ...]:
    ids = _unpack_digests("ids", tensors, _ID_DIGITS)
    looks = _unpack_digests("looks", tensors, _LOOK_DIGITS)
    names = _spread(_unpack(tensors["names"]), size)
    paths = _unpack(tensors["paths"])
    labels = _spread(_unpack(tensors["labels"]), size)
    locations = _unpack(tensors["locations"])
    known: dict[str | None, str | None] = {}  # one string object per class, not per image
    return tuple(
        ImageRef(
            image, name, path, known.setdefault(label, label), path if location is None else location, look
        )
        for image, name, path, label, location, look in zip(
            ids, names, paths, labels, locations, looks, strict=True
        )
    )


def _pack_digests(name: str, values: Sequence[str | None], digits: int) -> dict[str, Tensor]:
    # Hashes take half the room as bytes, and do not compress; anything else is kept as it is.
    if not all(value and len(value) == digits and _HEX.fullmatch(value) for value in values):
        return {f"{name} as text": _pack(values)}
    raw = bytearray().join(bytes.fromhex(value or "") for value in values)
    return {name: torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)}


def _unpack_digests(name: str, tensors: Mapping[str, Tensor], digits: int) -> list[Any]:
    if name not in tensors:
        return _unpack(tensors[f"{name} as text"])
    whole = tensors[name].numpy().tobytes().hex()
    if len(whole) % digits:
        raise ValueError("no whole hashes")
    return [whole[start : start + digits] for start in range(0, len(whole), digits)]


def _constant_or_all(values: Sequence[str | None]) -> Sequence[str | None]:
    return values[:1] if len(set(values)) == 1 else values


def _spread(values: Sequence[Any], size: int) -> Sequence[Any]:
    return [values[0]] * size if len(values) == 1 else values


def _pack_skipped(skipped: Iterable[Skipped]) -> Tensor:
    return _pack([(item.path, item.reason) for item in skipped])


def _unpack_skipped(packed: Tensor) -> tuple[Skipped, ...]:
    return tuple(Skipped(path, reason) for path, reason in _unpack(packed))


def _pack(values: Sequence[Any]) -> Tensor:
    # JSON in ASCII keeps every file name, also those that are no valid Unicode.
    return torch.frombuffer(
        bytearray(zlib.compress(json.dumps(values).encode("ascii"), 1)), dtype=torch.uint8
    )


def _unpack(packed: Tensor) -> list[Any]:
    values = json.loads(zlib.decompress(packed.numpy().tobytes()))
    if not isinstance(values, list):
        raise ValueError("no list")
    return values
