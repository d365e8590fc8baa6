"""Arrays in files from anyone, read in a worker process: sizes are checked before anything is allocated.

Sources: the safetensors format (https://huggingface.co/docs/safetensors), the .npy format
(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
"""

import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nnguide_core.apart import Bounds, read_apart
from nnguide_core.archives.directory import find_directory
from nnguide_core.errors import ArchiveError, NNGuideError, StoreError
from nnguide_core.names import brief
from nnguide_core.progress import Cancelled
from nnguide_core.settings import workspace_home

__all__ = [
    "ZIP_DAMAGE",
    "ArrayHeader",
    "BadFileError",
    "check_zip",
    "npz_headers",
    "read_npz",
    "read_safetensors",
    "safetensors_headers",
    "tensors_apart",
]

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


_Described = list[
    tuple[str, torch.dtype, tuple[int, ...]]
]  # name, type and shape, in the order of their bytes


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """One array: what its file says of it."""

    dtype: str  # a safetensors name such as "F32", or a NumPy descriptor such as "<f4"
    shape: tuple[int, ...]
    size: int  # bytes once in memory
    fortran: bool = False  # column by column, which costs a copy


def tensors_apart(
    function: Callable[..., tuple[Mapping[str, Tensor], Any]],
    file: BinaryIO,
    *arguments: Any,
    bounds: Bounds,
    refused: Callable[[str], NNGuideError],
    cancelled: Cancelled | None = None,
) -> tuple[dict[str, Tensor], Any]:
    """Return what function(file, *arguments) gives in a worker process: dense tensors, and something small.

    The tensors come back through an unnamed temporary file, which only the worker process writes.

    Raises:
        NNGuideError, CancelledError, WorkersError, RuntimeError: as apart.read_apart.
        StoreError: the disk is full.
    """
    home = workspace_home()
    with tempfile.TemporaryFile(dir=home if home.is_dir() else None) as between:
        described, rest = read_apart(
            _hand_over,
            file,
            function,
            between.fileno(),
            arguments,
            bounds=bounds,
            refused=refused,
            cancelled=cancelled,
            shared=[between.fileno()],
        )
        between.seek(0)
        return {name: _taken(between, dtype, shape) for name, dtype, shape in described}, rest


def safetensors_headers(file: BinaryIO) -> dict[str, ArrayHeader]:
    """Return what a safetensors file holds, by name; its tensors neither overlap nor leave anything out.

    Raises:
        BadFileError: the header is damaged, too long, or does not fit the file.
    """
    with _safetensors(file) as tensors:
        parts = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        return {
            name: _safetensors_header(name, part.get_dtype(), part.get_shape())
            for name, part in parts.items()
        }


def read_safetensors(file: BinaryIO, names: Iterable[str]) -> dict[str, Tensor]:
    """Read tensors whose headers were checked, into memory of their own."""
    with _safetensors(file) as tensors:
        return {name: tensors.get_tensor(name) for name in names}


def check_zip(file: BinaryIO, most: int) -> None:
    """Check how much a zip lists before the standard library takes memory for each of its members.

    Raises:
        BadFileError: more than most members, or no directory.
    """
    try:
        directory = find_directory(file)
    except ArchiveError as error:
        raise BadFileError(brief(str(error), 200).rstrip(".")) from error
    if directory.stated > most or directory.size > most * _MEMBER_BYTES:
        raise BadFileError(
            f"it lists {directory.stated:,} members in {directory.size:,} bytes, too many; "
            f"at most {most:,} are read"
        )


def npz_headers(file: BinaryIO) -> dict[str, ArrayHeader]:
    """Return what an npz file holds, by name without ".npy"; the zip's own sizes agree with the arrays'.

    Raises:
        BadFileError: no zip, a member that is no array, two of one name, or sizes that disagree.
    """
    check_zip(file, _MOST_MEMBERS)
    try:
        with zipfile.ZipFile(file) as archive:
            headers = {_npz_name(info): _npz_header(archive, info) for info in archive.infolist()}
            count = len(archive.infolist())
    except BadFileError:
        raise
    except ZIP_DAMAGE as error:
        raise BadFileError(f"its zip is damaged: {brief(str(error), 200)}") from error
    if len(headers) != count:
        raise BadFileError("it holds two arrays of one name")
    return headers


def read_npz(file: BinaryIO, names: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read arrays of an npz file whose headers were checked; the zip's checksums are compared."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {name: _read_member(archive, f"{name}.npy") for name in names}
    except ZIP_DAMAGE as error:
        raise BadFileError(f"its arrays are damaged: {brief(str(error), 200)}") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    with archive.open(name) as member:
        array: np.ndarray[Any, Any] = npy.read_array(member, allow_pickle=False)
        member.read(1)  # at a member's end the zip's checksum is compared
    return array


@contextmanager
def _safetensors(file: BinaryIO) -> Iterator[Any]:
    try:
        # Not mapped: a mapped file that shrinks would end the process.
        with safe_open(f"/dev/fd/{file.fileno()}", framework="pt", backend="pread") as tensors:
            yield tensors
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BadFileError):
            raise
        raise BadFileError(f"its header or data are damaged: {brief(str(error), 200)}") from error


def _safetensors_header(name: str, dtype: str, sides: list[int]) -> ArrayHeader:
    if dtype not in _DTYPES:
        raise BadFileError(f"its tensor {brief(name)!r} has type {dtype}, which is not read here")
    try:
        shape = _checked_shape(sides)
    except ValueError as error:
        raise BadFileError(f"its entry for {brief(name)!r} is no tensor: {brief(str(error), 200)}") from error
    return ArrayHeader(dtype, shape, math.prod(shape) * _DTYPES[dtype].itemsize)


def _hand_over(
    file: BinaryIO, function: Any, handle: int, arguments: tuple[Any, ...]
) -> tuple[_Described, Any]:
    """Call a function in a worker process, and write its tensors where the caller finds them."""
    tensors, rest = function(file, *arguments)
    try:
        with os.fdopen(handle, "wb") as between:
            for tensor in tensors.values():
                between.write(_bytes(tensor.detach().contiguous()))
    except OSError as error:
        raise StoreError(f"There is no room on the disk to read it: {error.strerror}.") from error
    return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()], rest


def _taken(between: BinaryIO, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    data = _bytes(tensor)
    if between.readinto(data) != len(data):  # type: ignore[attr-defined]
        raise StoreError("What a worker process wrote became shorter while it was read.")
    return tensor


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


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
