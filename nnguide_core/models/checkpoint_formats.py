"""A checkpoint's format, told by its contents, and what it holds, read in a worker process.

Supported: safetensors, and files of torch.save. torch's weights-only unpickler builds tensors and plain
containers; whatever else a pickle names becomes a Placeholder, which accepts anything and does nothing.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import PickleError
from struct import error as StructError  # noqa: N812 - what it is
from typing import IO, Any, BinaryIO

import torch
from torch import _weights_only_unpickler as weights_only
from torch.serialization import safe_globals

from nnguide_core.array_files import (
    ZIP_DAMAGE,
    BadFileError,
    check_zip,
    read_safetensors,
    safetensors_headers,
)
from nnguide_core.errors import CheckpointError
from nnguide_core.memory_errors import is_out_of_memory
from nnguide_core.names import brief

__all__ = ["SIZE_LIMIT", "Placeholder", "read"]

SIZE_LIMIT = 8 * 2**30  # bytes; the largest classifier of torchvision takes 2.6

_MOST_MEMBERS = 50_000  # of the zip that torch.save writes, one for each tensor
_PICKLE_LIMIT = 8 * 2**20  # bytes of a pickle without its tensors; 50,000 tensors
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before version 1.6
_OLD_TORCH_PICKLES = 5  # magic number, version, system, object, the keys of its storages
# What torch's reader raises for damaged files, as fuzzing shows: it trusts the order of what it finds.
_DAMAGE = (
    RuntimeError,
    ValueError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RecursionError,
    PickleError,
    StructError,
)
_SAVE = 'torch.save({}.state_dict(), "weights.pth")'
_STARTS = {
    b"\x80": "a pickle (of joblib, scikit-learn or another program)",
    b"x\x01": "a compressed file of joblib",
    b"x\x9c": "a compressed file of joblib",
    b"x\xda": "a compressed file of joblib",
    b"x^": "a compressed file of joblib",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x89HDF": "an HDF5 file (of Keras or another program)",
    b"\x93NUMPY": "a NumPy array",
    b"\x08": "an ONNX or TensorFlow file",
}


class Placeholder:
    """What stands for every object, class or function that is not read."""

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        """Take any arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None  # the attributes that the object had

    def __setstate__(self, state: Any) -> None:
        """Keep what is given, whatever the object would have done with it."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take what a dict of another class holds."""


def read(file: BinaryIO, name: str, limit: int = SIZE_LIMIT) -> tuple[Any, list[str]]:
    """Return what a checkpoint holds, and the names in it that became placeholders; nothing of it runs.

    Args:
        file: safetensors, or of torch.save; told apart by content, whatever the name.
        name: of the file, for errors.
        limit: bytes that the file may have, checked before it is read.

    Raises:
        CheckpointError: the file is of a kind that can run code, or is no checkpoint, damaged or too large;
            says how to convert it.
    """
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise CheckpointError(f"The checkpoint {name} has {size:,} bytes; at most {limit:,} are read.")
    start = file.read(32)
    file.seek(0)
    if start[8:9] == b"{":
        return _read_safetensors(file, name), []
    if start.startswith(b"PK\x03\x04"):
        return _read_torch(file, name, _names_in_zip(file, name))
    if start.startswith(_OLD_TORCH):
        return _read_torch(file, name, _names(file, name, _OLD_TORCH_PICKLES))
    kind = next((kind for known, kind in _STARTS.items() if start.startswith(known)), "no known format")
    raise CheckpointError(
        f"The checkpoint {name} is {kind}, neither safetensors nor a file of torch.save. {_convert('model')}"
    )


def _read_safetensors(file: BinaryIO, name: str) -> dict[str, Any]:
    try:
        return dict(read_safetensors(file, safetensors_headers(file)))
    except (BadFileError, OSError) as error:
        raise CheckpointError(f"The checkpoint {name} cannot be read: {_why(error)}.") from error


def _names_in_zip(file: BinaryIO, name: str) -> set[str]:
    """Return what the pickle in a zip of torch.save names, once the zip is known to be whole."""
    try:
        check_zip(file, _MOST_MEMBERS)
        with zipfile.ZipFile(file) as archive:
            _check_kind(name, archive.namelist())
            pickle = _only_pickle(archive)
            if pickle.file_size > _PICKLE_LIMIT:
                raise CheckpointError(
                    f"The checkpoint {name} is too large: its pickle has {pickle.file_size:,} bytes; "
                    f"at most {_PICKLE_LIMIT:,} are read."
                )
            damaged = archive.testzip()
            names = _names(io.BytesIO(archive.read(pickle)), name, 1)
    except (BadFileError, *ZIP_DAMAGE) as error:
        raise CheckpointError(f"The checkpoint {name} is a damaged zip: {_why(error)}.") from error
    if damaged is not None:
        raise CheckpointError(
            f"The checkpoint {name} is damaged: the checksum of {brief(damaged)!r} is wrong."
        )
    return names


def _only_pickle(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    found = [each for each in archive.infolist() if each.filename.lower().endswith("data.pkl")]
    if len(found) != 1:
        raise BadFileError(f"it holds {len(found)} pickles, expected one")
    return found[0]


def _check_kind(file_name: str, names: list[str]) -> None:
    members, kind, how = {name.partition("/")[2] for name in names}, "", _convert("model")
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        kind, how = "a TorchScript program", _convert("torch.jit.load(path)")
    elif "archive_format" in members or any(name.startswith("models/") for name in members):
        kind, how = "an exported program (.pt2)", _convert("torch.export.load(path)")
    elif ".data/extern_modules" in members:
        kind = "a torch package"
    elif any(name.endswith(".npy") for name in names):
        kind, how = "an npz file of NumPy arrays", "Own features are opened as a features file instead."
    elif "data.pkl" not in members:
        kind = "a zip that torch.save did not write"
    if kind:
        raise CheckpointError(f"The checkpoint {file_name} is {kind}, which is not loaded. {how}")


def _names(file: IO[bytes], name: str, count: int) -> set[str]:
    """Return the classes and functions that the next pickles of a file name, without running them."""
    try:
        return {each for _ in range(count) for each in weights_only.get_globals_in_pkl(file)}
    except _DAMAGE as error:
        raise _not_loaded(name, error) from error


def _read_torch(file: BinaryIO, name: str, names: set[str]) -> tuple[Any, list[str]]:
    file.seek(0)
    unknown = sorted(each for each in names if each not in weights_only._get_allowed_globals())
    if blocked := [each for each in unknown if each.partition(".")[0] in weights_only._blocklisted_modules]:
        raise _not_loaded(name, ValueError(", ".join(blocked)))
    known = {"collections.defaultdict": _no_items_by_key, "collections.deque": _no_items}
    stand_ins: list[Any] = [(known.get(each, Placeholder), each) for each in unknown]
    try:
        with safe_globals(stand_ins), _placeholders_as_dicts():
            return torch.load(file, map_location="cpu", weights_only=True), unknown
    except _DAMAGE as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        raise _not_loaded(name, error) from error


def _no_items_by_key(*_: Any) -> dict[Any, Any]:
    return {}


def _no_items(*_: Any) -> list[Any]:
    return []


@contextmanager
def _placeholders_as_dicts() -> Iterator[None]:
    """Let torch's reader fill placeholders by key, as it fills dicts; nothing public lets it."""
    reader = weights_only.Unpickler
    check = reader._check_set_item_target

    def lenient(self: Any, opcode: str) -> None:
        if type(self.stack[-1]) is not Placeholder:
            check(self, opcode)

    reader._check_set_item_target = lenient  # type: ignore[method-assign]
    try:
        yield
    finally:
        reader._check_set_item_target = check  # type: ignore[method-assign]


def _not_loaded(name: str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {name} is damaged, or holds what is never loaded: {_why(error)}. {_convert('model')}"
    )


def _why(error: BaseException) -> str:
    # torch wraps what its reader says in advice to load the file without any protection.
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    return brief(reason, 200).rstrip(".") or type(error).__name__


def _convert(model: str) -> str:
    return f"Where you trust it, load it and save only its weights: {_SAVE.format(model)}"
