"""Own features instead of images: safetensors or npz files, checked and read in a worker process.

Arrays by name, N images, D features, C classes:

    features     (N, D) floating        required
    logits       (N, C) floating        required unless head_weight is there
    head_weight  (C, D) floating        the last linear layer, as torch.nn.Linear keeps it; allows ReAct
    head_bias    (C,) floating          only beside head_weight
    labels       (N,) integer           class of each image, 0 to C - 1, or -1 where unknown
    paths        (N,) text in npz; in safetensors one uint8 array, UTF-8, one path per line
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnguide_core.apart import Bounds
from nnguide_core.array_files import (
    ArrayHeader,
    BadFileError,
    npz_headers,
    read_npz,
    read_safetensors,
    safetensors_headers,
    tensors_apart,
)
from nnguide_core.errors import FeaturesFileError, ImageError
from nnguide_core.logs import refusals_noted
from nnguide_core.names import brief
from nnguide_core.networks import linear
from nnguide_core.paths.regular_files import open_regular
from nnguide_core.progress import Cancelled
from nnguide_core.records import Features, fingerprint

__all__ = ["OwnFeatures", "judged", "load"]

_RATIO_LIMIT = 100  # bytes unpacked for each byte of the file
_RATIO_FREE = 64 * 2**20  # bytes up to which any ratio is harmless
_MOST_ROWS = 1_500_000  # each becomes an image of a dataset; ImageNet has 1.3 million
_MOST_CLASSES = 1_000_000
_ROW_BYTES = 500  # of an image's id, name and place, beside its numbers
_CLASS_BYTES = 200
_SECONDS = 60.0  # of computing, and for each 50 MB of the file one more
_BYTES_PER_SECOND = 50_000_000
_MARGIN = 2**28  # bytes, for looking at what is read
_FINITE_BLOCK = 2**22  # numbers looked at together, or the looking takes more memory than the array
_LONGEST_PATH = 4_096  # characters, Linux's own limit
_SHOWN_ROWS = 5
_SHOWN_ARRAYS = 10
_TYPES = {  # safetensors' names, and NumPy's without the byte order
    "floating": {"F64", "F32", "F16", "BF16", "f8", "f4", "f2"},
    "integer": {"I64", "I32", "I16", "I8", "U8", "i8", "i4", "i2", "i1", "u4", "u2", "u1"},
    "text": {"U8", "U", "S"},
}
_EXPECTED = {
    "features": ("floating", 2, "(images, features)"),
    "logits": ("floating", 2, "(images, classes)"),
    "head_weight": ("floating", 2, "(classes, features)"),
    "head_bias": ("floating", 1, "(classes,)"),
    "labels": ("integer", 1, "(images,)"),
    "paths": ("text", 1, "(images,)"),
}

_Arrays = dict[str, Tensor | list[str]]


@dataclass(frozen=True, eq=False)
class OwnFeatures:
    """Features that somebody computed elsewhere, one row per image."""

    features: Tensor  # (N, D) float32
    logits: Tensor  # (N, C) float32, the file's own or those of its head
    labels: Tensor | None  # (N,) int64, -1 where unknown
    paths: tuple[str, ...] | None  # N names of images
    head: nn.Linear | None  # D -> C, float32

    def __len__(self) -> int:
        return len(self.features)

    def as_features(self) -> Features:
        """Return them as if a model had computed them; files of equal widths count as of one model."""
        return self._features

    @cached_property
    def _features(self) -> Features:
        count, width = self.features.shape
        contents = fingerprint(_digest(self.features), _digest(self.logits))
        return Features(
            features=self.features,
            logits=self.logits,
            # A hash of each row's own would take longer than reading the file.
            ids=tuple(f"{row:08x}{contents[:-8]}" for row in range(count)),
            labels=self.labels if self.labels is not None else torch.full((count,), -1),
            model=fingerprint("own features", str(width), str(self.logits.shape[1])),
            dataset=contents,
        )


@refusals_noted("features file")
def load(
    path: Path,
    *,
    within: Path | None = None,
    limit: int | None = None,
    allow_nonfinite: bool = False,
    cancelled: Cancelled | None = None,
) -> OwnFeatures:
    """Read a features file in a worker process; the format is told by its first bytes, not by its name.

    Args:
        path: a safetensors or npz file.
        within: as regular_files.open_regular.
        limit: bytes that its arrays and rows may take in memory, copies included, by default half of the
            machine's; checked before any is read.
        allow_nonfinite: keep NaN and infinite features and logits instead of refusing them.
        cancelled: asked while it is read; True stops the reading.

    Raises:
        FeaturesFileError: the file is no such file, is damaged or too large, or an array is missing or has
            another type, shape, range or number of rows than expected; names the array and what it has.
        CancelledError: cancelled returned True.
    """

    def refused(reason: str) -> FeaturesFileError:
        return FeaturesFileError(f"{path.name} cannot be read. {reason}")

    limit = _half_of_memory() if limit is None else limit
    try:
        file = open_regular(path, within=within)
    except ImageError as error:
        raise FeaturesFileError(f"{path.name} is not a readable file. {error}") from error
    with file:
        seconds = _SECONDS + os.fstat(file.fileno()).st_size / _BYTES_PER_SECOND
        bounds = Bounds(limit + _MARGIN, seconds)
        arguments = (path.name, limit, allow_nonfinite)
        tensors, paths = tensors_apart(
            judged, file, *arguments, bounds=bounds, refused=refused, cancelled=cancelled
        )
    return OwnFeatures(tensors["features"], tensors["logits"], tensors.get("labels"), paths, _head(tensors))


def judged(
    file: BinaryIO, name: str, limit: int, allow_nonfinite: bool
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Return a file's arrays as OwnFeatures keeps them, and its paths; what the worker process does.

    Raises:
        FeaturesFileError: as load.
    """
    try:
        arrays = _read(file, name, limit)
    except (BadFileError, OSError) as error:
        reason = str(error).rstrip(".")
        raise FeaturesFileError(f"{name} cannot be read: {reason}.") from error
    return _assembled(name, arrays, allow_nonfinite)


def _read(file: BinaryIO, name: str, limit: int) -> _Arrays:
    start = file.read(9)
    size = os.fstat(file.fileno()).st_size
    if start[:4] == b"PK\x03\x04":
        headers = npz_headers(file)
        _check_headers(name, size, headers, limit)
        arrays = read_npz(file, [each for each in _EXPECTED if each in headers])
        return {each: _from_npz(array) for each, array in arrays.items()}
    if start[8:9] == b"{":
        headers = safetensors_headers(file)
        _check_headers(name, size, headers, limit)
        tensors = read_safetensors(file, [each for each in _EXPECTED if each in headers])
        rows = headers["features"].shape[0]
        return {
            each: _lines(name, tensor, rows) if each == "paths" else tensor
            for each, tensor in tensors.items()
        }
    raise FeaturesFileError(
        f"{name} is neither a safetensors nor an npz file. Save its arrays with numpy.savez or "
        "safetensors.numpy.save_file; pickled files are not read, because they can run code."
    )


def _check_headers(file_name: str, file_size: int, headers: Mapping[str, ArrayHeader], limit: int) -> None:
    wanted = {name: header for name, header in headers.items() if name in _EXPECTED}
    for name, header in wanted.items():
        _check_header(file_name, name, header)
    if "features" not in wanted or not {"logits", "head_weight"} & set(wanted):
        raise FeaturesFileError(
            f"{file_name} holds {_listed(headers)}; expected features of shape (images, features), and "
            "logits of shape (images, classes) or head_weight of shape (classes, features)."
        )
    if "paths" in wanted:
        _check_paths(file_name, wanted["paths"], wanted["features"].shape[0])
    _check_needs(file_name, file_size, wanted, limit)


def _check_needs(file_name: str, file_size: int, headers: Mapping[str, ArrayHeader], limit: int) -> None:
    """Refuse what would take too much memory or time, also where the arrays are small but the rows many."""
    rows, classes = headers["features"].shape[0], _classes(headers)
    for count, most, what in ((rows, _MOST_ROWS, "images"), (classes, _MOST_CLASSES, "classes")):
        if count > most:
            raise FeaturesFileError(f"{file_name} has {count:,} {what}; at most {most:,} are read.")
    size = sum(_bytes_in_memory(header) for header in headers.values())
    size += rows * _ROW_BYTES + classes * _CLASS_BYTES
    if "logits" not in headers:
        size += 4 * rows * classes
    if size > limit:
        raise FeaturesFileError(f"{file_name} needs {size:,} bytes in memory; at most {limit:,} are read.")
    if size > _RATIO_FREE and size > _RATIO_LIMIT * file_size:
        raise FeaturesFileError(
            f"{file_name} needs {size:,} bytes in memory, over {_RATIO_LIMIT} times its own size. "
            "Save it with numpy.savez, which does not compress."
        )


def _bytes_in_memory(header: ArrayHeader) -> int:
    """Return what an array takes with the copies that are made of it until it is float32, int64 or text."""
    kind, count = _type(header.dtype), math.prod(header.shape)
    size = header.size * (2 if header.fortran or header.dtype[0] == ">" else 1)
    if kind in ("U", "S"):
        return 3 * header.size
    if kind == "U8" and len(header.shape) == 1:
        return 10 * count  # labels as int64 too; or text, twice as bytes, twice with up to four for each
    if kind in _TYPES["floating"]:
        return size + (0 if kind in ("F32", "f4") else 4 * count)
    return size + (0 if kind in ("I64", "i8") else 8 * count)


def _classes(headers: Mapping[str, ArrayHeader]) -> int:
    return headers["logits"].shape[1] if "logits" in headers else headers["head_weight"].shape[0]


def _listed(headers: Mapping[str, ArrayHeader]) -> str:
    shown = [f"{brief(name)} {header.shape}" for name, header in islice(headers.items(), _SHOWN_ARRAYS)]
    more = f" and {len(headers) - _SHOWN_ARRAYS} more" if len(headers) > _SHOWN_ARRAYS else ""
    return ", ".join(shown) + more or "nothing"


def _check_paths(file_name: str, paths: ArrayHeader, rows: int) -> None:
    """Refuse names that no system would take: each becomes a text of its own, several times its size."""
    text = _type(paths.dtype)
    each = paths.size // max(1, paths.shape[0] if text in ("U", "S") else rows)
    most = _LONGEST_PATH * (4 if text == "U" else 1)
    if each > most:
        raise FeaturesFileError(
            f"{file_name}: paths {paths.shape} of type {paths.dtype} has {each:,} bytes for each of {rows:,} "
            f"images, expected at most {most:,}."
        )


def _check_header(file_name: str, name: str, header: ArrayHeader) -> None:
    kind, dimensions, shape = _EXPECTED[name]
    if _type(header.dtype) not in _TYPES[kind]:
        hint = " Objects are never read: they can run code." if header.dtype == "|O" else ""
        raise FeaturesFileError(
            f"{file_name}: {name} {header.shape} has type {header.dtype}, expected {kind} values.{hint}"
        )
    if len(header.shape) != dimensions:
        raise FeaturesFileError(f"{file_name}: {name} has shape {header.shape}, expected {shape}.")


def _type(dtype: str) -> str:
    """Return a safetensors name as it is, a NumPy descriptor without byte order, text without its length."""
    if dtype[0] not in "<>|=":
        return dtype
    return dtype[1] if dtype[1] in "US" else dtype[1:]


def _from_npz(array: NDArray[Any]) -> Tensor | list[str]:
    if array.dtype.kind in "US":
        return _texts(array)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=False))


def _texts(array: NDArray[Any]) -> list[str]:
    """Return an array's texts, what is no character replaced: NumPy lets numbers beyond Unicode through."""
    codec = "utf-8" if array.dtype.kind == "S" else f"utf-32-{'be' if array.dtype.str[0] == '>' else 'le'}"
    width, data = array.dtype.itemsize, array.tobytes()
    cuts = range(0, width * len(array), width) if width else []
    texts = [data[start : start + width].decode(codec, "replace").rstrip("\0") for start in cuts]
    return texts or [""] * len(array)


def _lines(file_name: str, values: Tensor, rows: int) -> list[str]:
    """Return the lines of UTF-8 text, counted first: a list of empty ones takes eight times the room."""
    text = bytes(values.numpy()).decode("utf-8", "replace").removesuffix("\n")
    if (count := text.count("\n") + 1) != rows:
        raise FeaturesFileError(
            f"{file_name}: paths has {count:,} lines, expected one for each of {rows:,} images."
        )
    return text.split("\n")


def _assembled(
    file_name: str, arrays: _Arrays, allow_nonfinite: bool
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    values = {name: array for name, array in arrays.items() if isinstance(array, Tensor)}
    floats = {name: value.float() for name, value in values.items() if name != "labels"}
    paths = arrays.get("paths")
    _check_shapes(file_name, {name: tuple(value.shape) for name, value in values.items()}, paths)
    for name, value in floats.items():
        if not allow_nonfinite or name.startswith("head"):
            _check_finite(file_name, name, value)
    head = _head(floats)
    with torch.inference_mode(False), torch.no_grad():
        logits = floats["logits"] if "logits" in floats or head is None else head(floats["features"])
    if not allow_nonfinite:
        _check_finite(file_name, "logits" if "logits" in floats else "logits of the head", logits)
    labels = values["labels"].long() if "labels" in values else None
    if labels is not None:
        _check_labels(file_name, labels, logits.shape[1])
    found = {name: value for name, value in floats.items() if name in _EXPECTED and name != "paths"}
    found |= {"logits": logits} | ({} if labels is None else {"labels": labels})
    return found, tuple(paths) if paths is not None else None


def _check_shapes(
    file_name: str, shapes: dict[str, tuple[int, ...]], paths: Tensor | list[str] | None
) -> None:
    """Compare every array's sizes with those of features and of what gives the logits."""
    count, width = shapes["features"]
    classes = shapes["logits"][1] if "logits" in shapes else shapes["head_weight"][0]
    if paths is not None:
        shapes = {**shapes, "paths": (len(paths),)}
    expected = {
        "logits": (count, classes),
        "head_weight": (classes, width),
        "head_bias": (classes,),
        "labels": (count,),
        "paths": (count,),
    }
    for name, shape in expected.items():
        if shapes.get(name, shape) != shape:
            raise FeaturesFileError(
                f"{file_name}: {name} has shape {shapes[name]}, expected {shape} beside features of shape "
                f"{shapes['features']} and {classes} classes."
            )
    if min(count, width, classes) < 1:
        raise FeaturesFileError(
            f"{file_name}: features has shape {shapes['features']} and there are {classes} classes, "
            "expected at least one of each."
        )
    if "head_bias" in shapes and "head_weight" not in shapes:
        raise FeaturesFileError(f"{file_name}: head_bias {shapes['head_bias']} is there without head_weight.")


def _check_finite(file_name: str, name: str, values: Tensor) -> None:
    rows = _nonfinite_rows(values.reshape(len(values), -1))
    if rows:
        first = ", ".join(map(str, rows[:_SHOWN_ROWS])) + (", …" if len(rows) > _SHOWN_ROWS else "")
        raise FeaturesFileError(
            f"{file_name}: {name} {tuple(values.shape)} has NaN or infinite values in {len(rows)} rows "
            f"(row {first}), expected finite float32 numbers. Leave these rows out."
        )


def _nonfinite_rows(values: Tensor) -> list[int]:
    step = max(1, _FINITE_BLOCK // max(1, values.shape[1]))
    blocks = (values[start : start + step] for start in range(0, len(values), step))
    finite = [block.isfinite().all(dim=1) for block in blocks]
    return (~torch.cat(finite)).nonzero().flatten().tolist()


def _check_labels(file_name: str, labels: Tensor, classes: int) -> None:
    wrong = ((labels < -1) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise FeaturesFileError(
            f"{file_name}: labels {tuple(labels.shape)} has {len(wrong)} values out of range, the first is "
            f"{int(labels[row])} in row {row}; expected 0 to {classes - 1}, or -1 where unknown."
        )


def _head(floats: Mapping[str, Tensor]) -> nn.Linear | None:
    if "head_weight" not in floats:
        return None
    return linear(floats["head_weight"], floats.get("head_bias"))


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().data).hexdigest()
