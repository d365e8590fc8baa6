"""What kind of file a checkpoint is, told by its contents, and its tensors if reading it can run no code.

Read: safetensors, and what torch.save made of tensors in plain containers (weights_only). Every class or
function that a pickle names is compared with a short list, and every step of it with what tensors need,
before anything is unpickled.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import PickleError
from typing import IO, Any

import torch

from nnguide_core.array_files import (
    ZIP_DAMAGE,
    BadFileError,
    check_zip,
    is_regular,
    read_safetensors,
    safetensors_headers,
)
from nnguide_core.errors import CheckpointError
from nnguide_core.models.state_pickles import PICKLE_LIMIT, check_old, check_one
from nnguide_core.names import brief

__all__ = ["SIZE_LIMIT", "read"]

SIZE_LIMIT = 8 * 2**30  # bytes; the largest classifier of torchvision takes 2.6

_MOST_MEMBERS = 50_000  # of the zip that torch.save writes, one for each tensor
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before version 1.6
_OLD_TORCH_PICKLES = 5  # state_pickles.check_old knows what each holds
_ALLOWED = {
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
}
_ALLOWED_KINDS = (torch.dtype,)
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
    MemoryError,
    PickleError,
    struct.error,
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


def read(path: Path, limit: int = SIZE_LIMIT) -> dict[str, Any]:
    """Return what a checkpoint holds: tensors by name, or containers of them.

    Args:
        path: a safetensors file or one of torch.save; told apart by content, whatever the name.
        limit: bytes that the file may have, checked before it is read.

    Raises:
        CheckpointError: the file is of a kind that can run code, or is no checkpoint, damaged or too large;
            says how to convert it.
    """
    if not is_regular(path):
        raise CheckpointError(f"The checkpoint {path.name} is no file that can be read.")
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"The checkpoint {path.name} has {size:,} bytes; at most {limit:,} are read.")
    with path.open("rb") as file:
        start = file.read(32)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith(b"PK\x03\x04"):
        _check_zip(path, limit)
        return _read_torch(path)
    if start.startswith(_OLD_TORCH):
        with path.open("rb") as file:
            pickles = file.read(PICKLE_LIMIT)
        _check_pickles(path.name, pickles, size, _OLD_TORCH_PICKLES)
        return _read_torch(path)
    kind = next((kind for known, kind in _STARTS.items() if start.startswith(known)), "no known format")
    raise CheckpointError(
        f"The checkpoint {path.name} is {kind}, neither safetensors nor a file of torch.save. "
        f"{_convert('model')}"
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(read_safetensors(path, safetensors_headers(path)))
    except (BadFileError, OSError) as error:
        raise CheckpointError(f"The checkpoint {path.name} cannot be read: {_why(error)}.") from error


def _check_zip(path: Path, limit: int) -> None:
    """Refuse every zip but one of torch.save, whole and not compressed."""
    try:
        check_zip(path, _MOST_MEMBERS)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            names = [info.filename for info in archive.infolist()]
            _check_kind(path.name, members, names)
            _check_names(names)
            unpacked, size = sum(info.file_size for info in archive.infolist()), path.stat().st_size
            # What is not compressed takes no more room outside the file, unless members overlap.
            if unpacked > min(limit, size) or members["data.pkl"].file_size > PICKLE_LIMIT:
                raise CheckpointError(f"The checkpoint {path.name} unpacks to {unpacked:,} bytes: too large.")
            content = archive.read(members["data.pkl"])
            _check_pickles(path.name, content, size)
            _check_seen_alike(path, set(members), content)
            damaged = archive.testzip()
    except (BadFileError, *ZIP_DAMAGE) as error:
        raise CheckpointError(f"The checkpoint {path.name} is a damaged zip: {_why(error)}.") from error
    if damaged is not None:
        name = brief(damaged)
        raise CheckpointError(f"The checkpoint {path.name} is damaged: the checksum of {name!r} is wrong.")


def _check_kind(file_name: str, members: dict[str, zipfile.ZipInfo], names: list[str]) -> None:
    kind, how = "", _convert("model")
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        kind, how = "a TorchScript program", _convert("torch.jit.load(path)")
    elif "archive_format" in members or any(name.startswith("models/") for name in members):
        kind, how = "an exported program (.pt2)", _convert("torch.export.load(path)")
    elif ".data/extern_modules" in members:
        kind, how = "a torch package", _convert("model")
    elif any(name.endswith(".npy") for name in names):
        kind, how = "an npz file of NumPy arrays", "Own features are opened as a features file instead."
    elif "data.pkl" not in members:
        kind = "a zip that torch.save did not write"
    elif any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        kind, how = "a file of torch.save that was compressed again", "Unzip it and save it with torch.save."
    if kind:
        raise CheckpointError(f"The checkpoint {file_name} is {kind}, which is not loaded. {how}")


def _check_names(names: list[str]) -> None:
    """Refuse members that torch, which ignores case, could take for one another."""
    folders = {name.partition("/")[0] for name in names}
    if len(folders) > 1:
        raise BadFileError(f"its members lie in {len(folders)} folders, expected one")
    if len({name.casefold() for name in names}) < len(names):
        raise BadFileError("two of its members have one name, but for upper and lower case")


def _check_seen_alike(path: Path, names: set[str], content: bytes) -> None:
    """Compare with torch's own reader, which may find another directory in a file that has two."""
    with path.open("rb") as file:
        reader = torch._C.PyTorchFileReader(file)
        if set(reader.get_all_records()) != names or reader.get_record("data.pkl") != content:
            raise BadFileError("it has two directories that disagree")


def _check_pickles(file_name: str, content: bytes, most: int, count: int = 1) -> None:
    """Refuse pickles that do what no state dict needs, or whose tensors claim more than most bytes."""
    file = io.BytesIO(content)
    try:
        found = {name for _ in range(count) for name in _globals(file) if not _is_allowed(name)}
        _check_globals(file_name, sorted(found))
        file.seek(0)
        claimed = check_one(file) if count == 1 else check_old(file)
    except (ValueError, LookupError, MemoryError) as error:
        raise CheckpointError(
            f"The checkpoint {file_name} is damaged, or holds more than tensors in plain containers: "
            f"{_why(error)}. {_convert('model')}"
        ) from error
    if claimed > most:
        raise CheckpointError(
            f"The checkpoint {file_name} is damaged: its tensors claim {claimed:,} bytes of {most:,}."
        )


def _globals(file: IO[bytes]) -> Iterator[str]:
    """Name every class and function that the next pickle in file refers to, without running it."""
    for opcode, argument, position in pickletools.genops(file):
        if position is not None and position > PICKLE_LIMIT:
            raise ValueError(f"its pickle has more than {PICKLE_LIMIT:,} bytes")
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield "a name that is put together while it is loaded"


def _check_globals(file_name: str, found: list[str]) -> None:
    if found:
        shown = ", ".join(map(brief, found[:3])) + (", …" if len(found) > 3 else "")
        raise CheckpointError(
            f"The checkpoint {file_name} holds more than tensors ({shown}); loading that could run code. "
            f"{_convert('model')}"
        )


def _is_allowed(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if name in _ALLOWED or (module == "torch" and attribute.endswith("Storage")):
        return True
    return module == "torch" and isinstance(getattr(torch, attribute, None), _ALLOWED_KINDS)


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise CheckpointError(
            f"The checkpoint {path.name} is damaged, or holds more than tensors. {_convert('model')}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"The checkpoint {path.name} holds a {type(content).__name__}, expected tensors by name. "
            f"{_convert('model')}"
        )
    return dict(dict.items(content))  # a pickle can put another "items" into an ordered dict


def _why(error: BaseException) -> str:
    return brief(str(error), 300).rstrip(".") or type(error).__name__


def _convert(model: str) -> str:
    return f"Where you trust it, load it and save only its weights: {_SAVE.format(model)}"
