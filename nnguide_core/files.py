"""Files that are never half-written and never silently wrong: temp file, fsync, rename, checksum.

Tensors are kept in the safetensors format (https://huggingface.co/docs/safetensors, "Format"), written and
read here so that large tensors are streamed, the file that is judged is the one that is used, and sizes are
known before memory is taken. What describes the tensors is one JSON object in the header, beside a SHA-256 of
every tensor's bytes; a seal over the header covers names, types, shapes and description.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import secrets
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nnguide_core.errors import StoreError

__all__ = [
    "FILE_LIMIT",
    "load_tensors",
    "open_atomic",
    "read_header",
    "remove_parts",
    "save_tensors",
    "write_atomic",
]

FILE_LIMIT = 64 * 2**30  # bytes; five times the features of ImageNet's training set at 2,048 wide

_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format's own limit
_PART_PREFIX = ".nnguide-"
_PART_AGE = 60.0  # seconds; a younger temporary file may not have been locked by its writer yet
_MOST_DIMENSIONS = 32
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a file's data, and as what."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # bytes after the header
    size: int  # bytes


@contextlib.contextmanager
def open_atomic(path: Path, *, private: bool = False, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that takes path's place when the block ends without an error.

    A reader sees the old file or the new one, never a part. An error in the block, a full disk among them,
    leaves the old file and no temporary one.

    Args:
        path: where the file goes; missing folders are made.
        private: readable by this user only; otherwise as the umask says.
        durable: wait until the file is on the disk. Otherwise it outlives a killed program at once, but a
            power cut may leave none or a damaged one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_PART_PREFIX}{secrets.token_hex(8)}.part"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            _claim(file)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write data so that a reader sees the old file or the new one, never a part; OSError leaves the old."""
    with open_atomic(path, private=private) as file:
        file.write(data)


def remove_parts(folder: Path) -> int:
    """Remove the temporary files directly in a folder whose writers were killed; return how many."""
    parts = [part for part in folder.glob(f"{_PART_PREFIX}*.part") if _is_abandoned(part)]
    for part in parts:
        part.unlink(missing_ok=True)
    return len(parts)


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    *,
    private: bool = False,
    durable: bool = True,
) -> None:
    """Write tensors and a JSON-able description as one safetensors file, atomically.

    Args:
        path: where the file goes.
        tensors: dense tensors of any shape; floating (16 bits or more), signed integer, uint8 or bool.
        about: the description; "sha256" is taken by the checksums.
        private: readable by this user only; otherwise as the umask says.
        durable: as open_atomic.

    Raises:
        ValueError: a tensor or description that the format cannot hold.
        OSError: the disk is full or not writable; the old file, if any, is untouched.
    """
    if "sha256" in about:
        raise ValueError('The description may not have a key "sha256": the checksums are kept under it.')
    ready = {name: _plain(name, tensor) for name, tensor in _by_alignment(tensors)}
    header = _sealed_header(ready, about)
    with open_atomic(path, private=private, durable=durable) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for tensor in ready.values():
            file.write(_bytes(tensor))


def load_tensors(path: Path, *, limit: int = FILE_LIMIT) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what save_tensors wrote: the tensors, and the description without the checksums.

    Args:
        path: a regular file.
        limit: bytes; a larger file is refused before anything is read.

    Raises:
        StoreError: the file is truncated, was changed, is too large, or was written by something else.
        OSError: there is no such file, or it cannot be read.
    """
    with _open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise StoreError(f"{path.name} has {size:,} bytes; at most {limit:,} are read.")
        header, about = _read_sealed(file, path.name)
        checksums = about.pop("sha256")
        data = file.tell()
        tensors = {}
        for name, place in _checked_layout(header, size - data, path.name):
            file.seek(data + place.start)
            tensors[name] = _read_tensor(file, place, path.name)
    for name, tensor in tensors.items():
        if checksums.get(name) != hashlib.sha256(_bytes(tensor)).hexdigest():
            raise StoreError(
                f"{path.name} does not match its checksum: it was damaged or changed after saving."
            )
    return tensors, about


def read_header(path: Path) -> dict[str, Any]:
    """Return only the description that save_tensors stored, checksums included, without reading tensors.

    Raises:
        StoreError: the header is damaged, or the file was written by something else.
        OSError: there is no such file, or it cannot be read.
    """
    with _open_regular(path) as file:
        return _read_sealed(file, path.name)[1]


def _by_alignment(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    # Widest types first keeps every tensor aligned for readers that map the file.
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def _plain(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in _DTYPE_NAMES or tensor.layout != torch.strided:
        raise ValueError(
            f'The tensor "{name}" is {tensor.layout} {tensor.dtype}, which these files do not hold.'
        )
    return tensor.detach().cpu().contiguous()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _sealed_header(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    checksums = {name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in tensors.items()}
    description = json.dumps({**about, "sha256": checksums}, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {"nnguide": description}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        dtype, shape = _DTYPE_NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    if "__metadata__" in tensors:
        raise ValueError('A tensor may not be called "__metadata__": the format keeps that name.')
    header["__metadata__"]["seal"] = _seal(header)
    encoded = json.dumps(header).encode("ascii")
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > _HEADER_LIMIT:
        raise ValueError(f"The description takes {len(encoded):,} bytes; the format holds {_HEADER_LIMIT:,}.")
    return encoded


def _seal(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode("ascii")).hexdigest()


def _open_regular(path: Path) -> BufferedReader:
    # Without O_NONBLOCK, opening a pipe would wait for its writer for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StoreError(f"{path.name} is no regular file.")
    return os.fdopen(handle, "rb")


def _read_sealed(file: BinaryIO, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_HEADER_LIMIT, os.fstat(file.fileno()).st_size - 8):
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
        metadata = header["__metadata__"]
        seal = metadata.pop("seal")
        about = json.loads(metadata["nnguide"])
        genuine = seal == _seal(header) and isinstance(about["sha256"], dict)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise StoreError(f"{name} was not written by this program, or is damaged.") from error
    if not genuine:
        raise StoreError(f"{name} does not match its seal: it was damaged or changed after saving.")
    del header["__metadata__"]
    return header, about


def _checked_layout(header: Mapping[str, Any], size: int, file_name: str) -> list[tuple[str, _Place]]:
    try:
        places = [(name, _place(entry)) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file_name} describes a tensor that these files do not hold.") from error
    in_order = sorted((place.start, place.start + place.size) for _, place in places)
    starts, ends = [start for start, _ in in_order] + [size], [0] + [end for _, end in in_order]
    if starts != ends:
        raise StoreError(f"{file_name} is truncated, or its tensors are not where its header says.")
    return places


def _place(entry: Mapping[str, Any]) -> _Place:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError("a size that is no whole number")
    size = math.prod(shape) * dtype.itemsize
    # A zero among the sizes would let the others be anything.
    if end - start != size or len(shape) > _MOST_DIMENSIONS or max(shape, default=0) > FILE_LIMIT:
        raise ValueError("sizes that do not fit the bytes")
    return _Place(dtype, shape, start, size)


def _read_tensor(file: BufferedReader, place: _Place, file_name: str) -> Tensor:
    tensor = torch.empty(place.shape, dtype=place.dtype)
    if file.readinto(_bytes(tensor)) != place.size:
        raise StoreError(f"{file_name} became shorter while it was read.")
    return tensor


def _claim(file: BinaryIO) -> None:
    # Says to remove_parts that the writer lives; a file system without locks only loses that clean-up.
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_abandoned(part: Path) -> bool:
    try:
        with part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return time.time() - part.stat().st_mtime > _PART_AGE
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    # The new file is in its place already; some file systems refuse to sync folders.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
