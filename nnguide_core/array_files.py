"""Arrays in files of foreign origin: what their headers say is checked before anything is allocated.

Sources: the safetensors format (https://huggingface.co/docs/safetensors), the .npy format
(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
"""

import json
import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

__all__ = [
    "ArrayHeader",
    "BadFileError",
    "is_regular",
    "npz_headers",
    "read_npz",
    "read_safetensors",
    "safetensors_headers",
]

_SAFETENSORS_HEADER_LIMIT = 16 * 2**20  # bytes; 100,000 tensors
_NPY_HEADER_LIMIT = 10_000  # characters, NumPy's own default
_MOST_DIMENSIONS = 32
_MOST_ELEMENTS = 2**48
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


class BadFileError(ValueError):
    """A file that is damaged, lies about its sizes or holds what is not read here; the reason in words."""


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """One array: what its file says of it."""

    dtype: str  # a safetensors name such as "F32", or a NumPy descriptor such as "<f4"
    shape: tuple[int, ...]
    size: int  # bytes once in memory
    offset: int = 0  # of its first byte in a safetensors file


def is_regular(path: Path) -> bool:
    """Return whether path is a plain file: a pipe or a device would hang its reader."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def safetensors_headers(path: Path) -> dict[str, ArrayHeader]:
    """Return what a safetensors file holds, by name; every array fits into the file.

    Raises:
        BadFileError: the header is damaged, too long, or does not fit the file.
    """
    with path.open("rb") as file:
        entries, start, size = _safetensors_entries(file)
    headers = {}
    for name, entry in entries.items():
        try:
            headers[name] = _safetensors_header(entry, start, size)
        except (ValueError, KeyError, TypeError) as error:
            raise BadFileError(f"its entry for {name!r} does not describe a tensor: {error}") from error
    described = sum(header.size for header in headers.values())
    if described != size:
        raise BadFileError(f"it holds {size:,} bytes of data where its header says {described:,}")
    return headers


def read_safetensors(path: Path, headers: Mapping[str, ArrayHeader]) -> dict[str, Tensor]:
    """Read tensors into memory of their own: a mapped file that shrinks would end the process.

    Args:
        path: the file that headers describe.
        headers: those of safetensors_headers that are wanted, by name.
    """
    tensors = {}
    with path.open("rb", buffering=0) as file:
        for name, header in headers.items():
            tensor = torch.empty(header.shape, dtype=_DTYPES[header.dtype])
            file.seek(header.offset)
            view = tensor.reshape(-1).view(torch.uint8).numpy().data
            if _read_into(file, view) != header.size:
                raise BadFileError(f"it became shorter while {name!r} was read")
            tensors[name] = tensor
    return tensors


def npz_headers(path: Path) -> dict[str, ArrayHeader]:
    """Return what an npz file holds, by name without ".npy"; the zip's own sizes agree with the arrays'.

    Raises:
        BadFileError: no zip, a member that is no array, or sizes that disagree.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _npz_header(archive, info) for info in archive.infolist()
            }
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise BadFileError(f"its zip is damaged: {error}") from error


def read_npz(path: Path, names: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read arrays of an npz file whose headers were checked; the zip's checksums are compared."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read_member(archive, f"{name}.npy") for name in names}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BadFileError(f"its arrays are damaged: {error}") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    with archive.open(name) as member:
        array: np.ndarray[Any, Any] = npy.read_array(member, allow_pickle=False)
        member.read(1)  # at a member's end the zip's checksum is compared
    return array


def _read_into(file: FileIO, view: memoryview) -> int:
    """Fill view from the file and return how much came; one read gives 2 GB at most."""
    got = 0
    while got < len(view) and (count := file.readinto(view[got:])):
        got += count
    return got


def _safetensors_entries(file: BinaryIO) -> tuple[dict[str, Any], int, int]:
    """Return the header's entries, where the data starts, and its bytes."""
    total = file.seek(0, 2)
    file.seek(0)
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_SAFETENSORS_HEADER_LIMIT, total - 8):
            raise BadFileError(f"its header of {length:,} bytes is longer than the file or than the limit")
        entries = json.loads(file.read(length))
    except (ValueError, RecursionError, struct.error) as error:
        raise BadFileError(f"its header is not readable: {error}") from error
    if not isinstance(entries, dict):
        raise BadFileError("its header is no table of tensors")
    entries.pop("__metadata__", None)
    return entries, 8 + length, total - 8 - length


def _safetensors_header(entry: dict[str, Any], data_start: int, data_size: int) -> ArrayHeader:
    shape = _checked_shape(entry["shape"])
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"type {entry['dtype']!r} is not read here")
    size = math.prod(shape) * _DTYPES[entry["dtype"]].itemsize
    start, end = entry["data_offsets"]
    if end - start != size or not 0 <= start <= end <= data_size:
        raise ValueError(f"shape {shape} of type {entry['dtype']} does not fit the bytes {start} to {end}")
    return ArrayHeader(entry["dtype"], shape, size, data_start + start)


def _npz_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    if info.flag_bits & 0x1:
        raise BadFileError(f"its member {info.filename!r} is encrypted")
    with archive.open(info) as member:
        try:
            version = npy.read_magic(member)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, _, dtype = read(member, max_header_size=_NPY_HEADER_LIMIT)
            header = ArrayHeader(dtype.str, _checked_shape(shape), math.prod(shape) * dtype.itemsize)
        except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            raise BadFileError(
                f"its member {info.filename!r} is no array that is read here: {error}"
            ) from error
        if not dtype.hasobject and member.tell() + header.size != info.file_size:
            raise BadFileError(
                f"its member {info.filename!r} unpacks to {info.file_size:,} bytes where its array of shape "
                f"{header.shape} needs {header.size:,}"
            )
    return header


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if len(shape) > _MOST_DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{shape!r} is no shape")
    # A zero among the sides would let the others be anything.
    if math.prod(side or 1 for side in shape) > _MOST_ELEMENTS:
        raise ValueError(f"a shape of {shape} is too large")
    return tuple(shape)
