"""Odd, damaged and hostile checkpoints, made by code, each with what loading it must give."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from tests import pickle_corpus
from tests.pickle_corpus import EITHER, OK, CheckpointCase, bytes_case, pickle_case, zip_bytes

__all__ = ["SPRUNG", "checkpoints", "damaged", "network", "write_many_members"]

SPRUNG = "sprung"  # what code in a checkpoint would make beside it


def network() -> nn.Module:
    """Return the network that every checkpoint is meant for, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        return nn.Sequential(*layers).eval()


def checkpoints() -> Iterator[CheckpointCase]:
    """Yield every case but those of damaged()."""
    yield from good()
    yield from unfit()
    yield from code()
    yield from programs()
    yield from strangers()
    yield from safetensors_lies()
    yield from pickle_corpus.pickles()
    yield from bombs()


def good() -> Iterator[CheckpointCase]:
    """Yield what is loaded."""
    state = _state()
    yield bytes_case("safetensors", safetensors_bytes(state), OK)
    yield bytes_case("torch", _saved(state), OK)
    yield bytes_case("torch-before-1.6", _saved(state, old=True), OK)
    yield bytes_case(
        "in-a-trainers-wrapping", _saved({"state_dict": state, "epoch": 3, "best": [0.5, None]}), OK
    )
    yield bytes_case("with-a-prefix", _saved({f"module.{name}": value for name, value in state.items()}), OK)
    yield bytes_case(
        "parameters", _saved({name: nn.Parameter(value, False) for name, value in state.items()}), OK
    )
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    yield bytes_case("half", safetensors_bytes(half), OK)


def unfit() -> Iterator[CheckpointCase]:
    """Yield tensors that are not those of the network."""
    state = _state()
    changes: dict[str, tuple[dict[str, Tensor], str]] = {
        "other-shape": ({"4.weight": torch.zeros(8, 4)}, "has other shapes in 4.weight"),
        "huge-by-strides": ({"4.weight": torch.zeros(1).expand(2**20, 2**20)}, "larger than the data"),
        "scalar": ({"0.weight": torch.tensor(1.0)}, "has other shapes in"),
        "nan": ({"0.bias": torch.full((4,), torch.nan)}, "NaN or infinite values in 0.bias"),
        "infinite": ({"0.bias": torch.full((4,), torch.inf)}, "NaN or infinite values in 0.bias"),
        "integers": ({"0.bias": torch.zeros(4, dtype=torch.int64)}, "other than dense floating"),
        "complex": ({"0.bias": torch.zeros(4, dtype=torch.complex64)}, "other than dense floating"),
        "more-names": ({f"layer{n}": torch.zeros(1) for n in range(3_000)}, "and 2,997 more|and 2997 more"),
        "long-name": ({"x" * 100_000: torch.zeros(1)}, "has unknown x+…"),
        "odd-names": ({"a\n<b>\x1b[31m\u202e": torch.zeros(1)}, r"has unknown a\\x0a<b>\\x1b\[31m\\u202e"),
    }  # fmt: skip
    for name, (change, expected) in changes.items():
        yield bytes_case(f"unfit-{name}", _saved(state | change), expected)
    sparse = state | {"4.weight": torch.eye(3, 4).to_sparse()}
    yield bytes_case("unfit-sparse", _saved(sparse), "tensors that are not dense")
    long = safetensors_bytes(state | {"x" * 100_000: torch.zeros(1)})
    yield bytes_case("unfit-long-name-safetensors", long, "has unknown x+…")
    yield bytes_case("unfit-half-there", _saved({"0.weight": state["0.weight"]}), "it lacks 0.bias")
    yield bytes_case("unfit-nothing", _saved({}), "holds no tensors by name but nothing")
    yield bytes_case("unfit-a-list", _saved([1, 2]), "holds a list")
    yield bytes_case(
        "unfit-numbers-as-names", _saved({1: torch.zeros(1), None: torch.zeros(1)}), "does not fit"
    )
    yield bytes_case("unfit-quantised", _saved({"a": torch.zeros(4, dtype=torch.float8_e4m3fn)}), EITHER)


def code() -> Iterator[CheckpointCase]:
    """Yield what would run code if it were unpickled; the code makes a folder SPRUNG in the current one."""
    state = _state()
    traps = {
        "mkdir": _Trap(os.mkdir, (SPRUNG,)),
        "system": _Trap(os.system, (f"mkdir {SPRUNG}",)),
        "eval": _Trap(eval, (f"__import__('os').mkdir('{SPRUNG}')",)),
        "exec": _Trap(exec, (f"import os; os.mkdir('{SPRUNG}')",)),
        "torch-load": _Trap(torch.load, ("/dev/zero",)),
        "getattr": _Trap(getattr, ("text", "upper")),
    }
    for name, trap in traps.items():
        for old in (False, True):
            content = _saved({"state_dict": state, "hook": trap}, old=old)
            expected = "what is never loaded: .*mkdir|system" if name in ("mkdir", "system") else OK
            yield bytes_case(f"code-{name}{'-old' * old}", content, expected)
        yield bytes_case(f"code-{name}-pickle", pickle.dumps({"a": trap}, protocol=4), "is a pickle")
    yield bytes_case("code-whole-network", _saved(network()), OK)
    allowed_first = b"\x80\x02ccollections\nOrderedDict\n)R(S'x'\ncos\nmkdir\n(S'sprung'\ntRu."
    yield pickle_case("code-behind-an-allowed-class", allowed_first, "what is never loaded")
    inst = b"(S'sprung'\nios\nmkdir\n."
    yield pickle_case("code-inst", inst, "what is never loaded")
    joined = b"\x80\x04\x8c\x02os\x94\x8c\x05mkdir\x94\x93\x94\x8c\x06sprung\x94\x85\x94R\x94."
    yield pickle_case("code-name-put-together", joined, "what is never loaded")
    yield pickle_case("code-extension", b"\x80\x02\x82\x01.", "what is never loaded")
    dotted = b"\x80\x04ctorch\nserialization.os.mkdir\n(S'sprung'\ntR."
    yield pickle_case("code-dotted", dotted, "what is never loaded")
    storage = b"\x80\x02ctorch\nserialization.os.Storage\n(S'sprung'\ntR."
    yield pickle_case("code-disguised-as-storage", storage, "what is never loaded")
    second = pickle.dumps({}, protocol=2) + b"cos\nmkdir\n(S'sprung'\ntR."
    yield pickle_case("code-behind-the-end", second, "holds no tensors|damaged")


def programs() -> Iterator[CheckpointCase]:
    """Yield the other files that torch and its friends write."""
    yield CheckpointCase("torchscript", _script, "is a TorchScript program.*torch.jit.load")
    yield CheckpointCase("exported-program", _export, "is an exported program .*torch.export.load")
    yield CheckpointCase("torch-package", _package, "is a torch package")
    try:
        import joblib
    except ImportError as error:
        raise RuntimeError("joblib comes with scikit-learn and is needed here") from error
    for compress in (0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
        name = f"joblib-{compress if isinstance(compress, int) else compress[0]}"

        def make(path: Path, compress: object = compress) -> None:
            joblib.dump({"a": np.zeros(9), "b": _Trap(os.mkdir, (SPRUNG,))}, path, compress=compress)

        yield CheckpointCase(name, make, "neither safetensors nor a file of torch.save")


def strangers() -> Iterator[CheckpointCase]:
    """Yield files of other kinds, and what is no file."""
    others = {
        "empty": b"",
        "one-byte": b"\x80",
        "zeros": bytes(1000),
        "text": b"weights, surely",
        "gzip": gzip.compress(_saved(_state())),
        "bzip2": bz2.compress(_saved(_state())),
        "xz": lzma.compress(_saved(_state())),
        "zlib": zlib.compress(_saved(_state())),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(50),
        "npy": b"\x93NUMPY\1\0" + bytes(50),
        "onnx": b"\x08\x07\x12\x07pytorch" + bytes(50),
        "html": b"<!DOCTYPE html><title>404</title>",
        "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }
    for name, data in others.items():
        yield bytes_case(f"stranger-{name}", data, "neither safetensors nor a file of torch.save")
    yield bytes_case("stranger-npz", _npz(), "an npz file of NumPy arrays")
    yield bytes_case(
        "stranger-zip", zip_bytes({"model/readme.txt": b"hello"}), "a zip that torch.save did not write"
    )
    yield bytes_case("stranger-empty-zip", zip_bytes({}), "neither safetensors")
    yield bytes_case(
        "stranger-zip-without-folder", zip_bytes({"data.pkl": b"\x80\x02}."}), "torch.save did not write"
    )
    yield CheckpointCase("stranger-fifo", os.mkfifo, "is not a readable file")
    yield CheckpointCase("stranger-folder", Path.mkdir, "is not a readable file")
    yield CheckpointCase("stranger-device", lambda path: path.symlink_to("/dev/zero"), "not a readable file")
    yield CheckpointCase("stranger-nowhere", lambda path: path.symlink_to("missing"), "not a readable file")
    yield CheckpointCase("stranger-9-gigabytes", _sparse, "bytes; at most .* are read")


def safetensors_lies() -> Iterator[CheckpointCase]:
    """Yield safetensors headers that do not tell the truth."""
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    headers: dict[str, object] = {
        "beyond-the-end": {"a": entry | {"data_offsets": [0, 2**40], "shape": [2**38]}},
        "huge-shape-of-nothing": {"a": entry | {"shape": [0, 2**62], "data_offsets": [0, 0]}},
        "negative": {"a": entry | {"shape": [-2, -2]}},
        "negative-offsets": {"a": entry | {"data_offsets": [-16, 0]}},
        "backwards": {"a": entry | {"data_offsets": [16, 0]}},
        "fractions": {"a": entry | {"shape": [2.0, 2.0]}},
        "offsets-of-fractions": {"a": entry | {"data_offsets": [0.0, 16.0]}},
        "overlapping": {"a": entry, "b": entry},
        "hole": {"a": entry | {"data_offsets": [0, 8], "shape": [2]}},
        "entry-is-a-number": {"a": 1},
        "entry-is-a-list": {"a": ["F32", [2], [0, 8]]},
        "other-type": {"a": entry | {"dtype": "F8_E5M2"}},
        "type-is-a-list": {"a": entry | {"dtype": []}},
        "1000-dimensions": {"a": entry | {"shape": [1] * 1000, "data_offsets": [0, 4]}},
        "shape-is-a-text": {"a": entry | {"shape": "22"}},
        "shape-is-a-number": {"a": entry | {"shape": 4}},
        "three-offsets": {"a": entry | {"data_offsets": [0, 8, 16]}},
        "huge-number": {"a": entry | {"shape": [10**400]}},
        "metadata-only": {"__metadata__": {"a": "b"}},
    }
    for name, header in headers.items():
        yield bytes_case(
            f"header-{name}", _safetensors(json.dumps(header).encode()), "cannot be read|no tensors"
        )
    raw = {
        "deep": b"{" + b"[" * 100_000,
        "deep-whole": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        "endless-number": b'{"a": ' + b"9" * 100_000 + b"}",
        "not-utf-8": b'{"\xff": 1}',
        "nan": b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, Infinity]}}',
        "twice": b'{"a": 1, "a": 2}',
        "surrogates": b'{"\\ud800": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
        "empty-name": b'{"": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
    }
    for name, header_bytes in raw.items():
        expected = "does not fit|cannot be read" if name in ("surrogates", "empty-name") else "cannot be read"
        yield bytes_case(f"header-{name}", _safetensors(header_bytes), expected)
    for length in (2**63, 2**64 - 1, 2**32, 17 * 2**20, 0):
        data = struct.pack("<Q", length) + b"{" + bytes(50)
        yield bytes_case(f"header-of-{length}-bytes", data, "cannot be read")


def bombs() -> Iterator[CheckpointCase]:
    """Yield small files that would take much time or memory."""
    yield bytes_case(
        "bomb-compressed", _recompressed(torch.zeros(64 * 2**20)), "does not fit|never loaded|Too large"
    )
    yield CheckpointCase(
        "bomb-300,000-members", write_many_members, "too many|too large|damaged|did not write"
    )
    yield CheckpointCase("bomb-old-huge-storage", _old_with_huge_storage, "damaged|Too large")
    names = json.dumps(
        {f"n{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(200_000)}
    )
    data = _safetensors(names.encode(), b"")
    yield bytes_case("bomb-200,000-tensors", data, "does not fit|cannot be read")
    long = safetensors_bytes({"module." * 500_000: torch.zeros(1)})
    yield bytes_case("bomb-name-of-prefixes", long, "has unknown module.*…")


def damaged(per_file: int, seed: int = 0) -> Iterator[CheckpointCase]:
    """Yield good checkpoints cut anywhere, and with bytes changed anywhere, mostly near the start."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    state = _state()
    files = {
        "safetensors": safetensors_bytes(state),
        "torch": _saved(state),
        "old": _saved(state, old=True),
        "wrapped": _saved({"state_dict": state, "args": {"lr": 0.1, "names": ["a", ("b", 3)]}}),
    }
    for kind, data in files.items():
        for turn in range(per_file):
            changed = bytearray(data)
            for _ in range(generator.choice((1, 1, 2, 5))):
                changed[int(len(data) * generator.random() ** 2)] = generator.randrange(256)
            yield bytes_case(f"{kind}-flipped-{turn}", bytes(changed), EITHER)
            cut = generator.randrange(len(data))
            yield bytes_case(f"{kind}-cut-at-{cut}", data[:cut], "damaged|cannot be read|is (an|no|a )")
    with zipfile.ZipFile(io.BytesIO(files["wrapped"])) as archive:
        body, storage = archive.read("archive/data.pkl"), archive.read("archive/data/0")
    for turn in range(per_file * 4):
        changed = bytearray(body)
        for _ in range(generator.choice((1, 1, 2, 3))):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        yield pickle_case(f"pickle-flipped-{turn}", bytes(changed), EITHER, storage=storage)


class _Trap:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def _state() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network().state_dict().items()}


def _saved(content: object, old: bool = False) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def _safetensors(header: bytes, data: bytes = bytes(16)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network(), torch.zeros(1, 3, 8, 8)), path)


def _export(path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(torch.export.export(network(), (torch.zeros(1, 3, 8, 8),)), file)


def _package(path: Path) -> None:
    with torch.package.PackageExporter(path) as package:
        package.extern("**")
        package.save_pickle("model", "model.pkl", network())


def _recompressed(values: Tensor) -> bytes:
    with zipfile.ZipFile(io.BytesIO(_saved({"a": values}))) as source:
        return zip_bytes(
            {info.filename: source.read(info) for info in source.infolist()}, zipfile.ZIP_DEFLATED
        )


def write_many_members(path: Path) -> None:
    """Write a zip whose directory lists one member 300,000 times."""
    entry = (
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0) + b"a/data/00"
    )
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 9, 0) + b"a/data/00"
    count, directory = 300_000, entry * 300_000
    start = len(local)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(directory), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65_535, 65_535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(local + directory + record + locator + last)


def _old_with_huge_storage(path: Path) -> None:
    """Write a file of before torch 1.6 whose one storage claims 2 ** 33 numbers."""
    data = _saved({"a": torch.zeros(4)}, old=True)
    numbers = b"\x8a\x05\0\0\0\0\x02"
    path.write_bytes(data.replace(b"K\x04Nt", numbers + b"Nt").replace(b"K\x04\x85", numbers + b"\x85"))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(9_000_000_000)
