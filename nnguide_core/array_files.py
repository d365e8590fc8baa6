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
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from nnguide_core.archives.directory import find_directory
from nnguide_core.errors import ArchiveError
from nnguide_core.names import brief

__all__ = [
    "ZIP_DAMAGE",
    "ArrayHeader",
    "BadFileError",
    "check_zip",
    "is_regular",
    "npz_headers",
    "read_npz",
    "read_safetensors",
    "safetensors_headers",
]

_SAFETENSORS_HEADER_LIMIT = 16 * 2**20  # bytes; 100,000 tensors
_NPY_HEADER_LIMIT = 10_000  # characters, NumPy's own default
_MOST_MEMBERS = 1_000  # of an npz file
_MEMBER_BYTES = 320  # of a zip's directory for each member, on average
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
# What the standard library raises for damaged zips.
ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    RuntimeError,  # encrypted members, and NotImplementedError for other ways to pack
    ValueError,  # names that are not what they claim, among others
    LookupError,
    EOFError,
    OSError,
    OverflowError,
    MemoryError,
)
# What NumPy raises for damaged headers: it parses them as Python.
_NPY_DAMAGE = (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)


class BadFileError(ValueError):
    """A file that is damaged, lies about its sizes or holds what is not read here; the reason in words."""


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """One array: what its file says of it."""

    dtype: str  # a safetensors name such as "F32", or a NumPy descriptor such as "<f4"
    shape: tuple[int, ...]
    size: int  # bytes once in memory
    offset: int = 0  # of its first byte in a safetensors file
    fortran: bool = False  # column by column, which costs a copy


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
            raise BadFileError(
                f"its entry for {brief(name)!r} does not describe a tensor: {brief(str(error), 200)}"
            ) from error
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


def check_zip(path: Path, most: int) -> None:
    """Check how much a zip lists before the standard library takes memory for each of its members.

    Raises:
        BadFileError: more than most members, or no directory.
    """
    try:
        with path.open("rb") as file:
            directory = find_directory(file)
    except ArchiveError as error:
        raise BadFileError(brief(str(error), 200).rstrip(".")) from error
    if directory.stated > most or directory.size > most * _MEMBER_BYTES:
        raise BadFileError(
            f"it lists {directory.stated:,} members in {directory.size:,} bytes, too many; "
            f"at most {most:,} are read"
        )


def npz_headers(path: Path) -> dict[str, ArrayHeader]:
    """Return what an npz file holds, by name without ".npy"; the zip's own sizes agree with the arrays'.

    Raises:
        BadFileError: no zip, a member that is no array, two of one name, or sizes that disagree.
    """
    check_zip(path, _MOST_MEMBERS)
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {_npz_name(info): _npz_header(archive, info) for info in archive.infolist()}
            count = len(archive.infolist())
    except BadFileError:
        raise
    except ZIP_DAMAGE as error:
        raise BadFileError(f"its zip is damaged: {brief(str(error), 200)}") from error
    if len(headers) != count:
        raise BadFileError("it holds two arrays of one name")
    return headers


def read_npz(path: Path, names: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read arrays of an npz file whose headers were checked; the zip's checksums are compared."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read_member(archive, f"{name}.npy") for name in names}
    except ZIP_DAMAGE as error:
        raise BadFileError(f"its arrays are damaged: {brief(str(error), 200)}") from error


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
        raise BadFileError(f"its header is not readable: {brief(str(error), 200)}") from error
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
    if not type(start) is type(end) is int:
        raise ValueError(f"{start!r} and {end!r} are no places")
    if end - start != size or not 0 <= start <= end <= data_size:
        raise ValueError(f"shape {shape} of type {entry['dtype']} does not fit the bytes {start} to {end}")
    return ArrayHeader(entry["dtype"], shape, size, data_start + start)


def _npz_name(info: zipfile.ZipInfo) -> str:
    name = info.filename.removesuffix(".npy")
    if name == info.filename:
        # numpy.savez never leaves it out, and two spellings of one name could be taken for each other.
        raise BadFileError(f'its member {brief(name)!r} has no name that ends with ".npy"')
    return name


def _npz_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    name = brief(info.filename)
    if info.flag_bits & 0x1:
        raise BadFileError(f"its member {name!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadFileError(f"its member {name!r} is packed in another way than numpy.savez packs")
    with archive.open(info) as member:
        try:
            version = npy.read_magic(member)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran, dtype = read(member, max_header_size=_NPY_HEADER_LIMIT)
        except _NPY_DAMAGE as error:
            raise BadFileError(f"its member {name!r} is no array that is read here") from error
        try:
            size = math.prod(_checked_shape(shape)) * dtype.itemsize
            header = ArrayHeader(dtype.str, tuple(shape), size, fortran=fortran)
        except ValueError as error:
            raise BadFileError(f"its member {name!r} is no array: {brief(str(error), 200)}") from error
        if not dtype.hasobject and member.tell() + header.size != info.file_size:
            raise BadFileError(
                f"its member {name!r} unpacks to {info.file_size:,} bytes where its array of shape "
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
