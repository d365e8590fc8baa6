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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

__all__ = ["SPRUNG", "CheckpointCase", "checkpoints", "damaged", "network", "write_many_members"]

OK, EITHER = "ok", ""
SPRUNG = "sprung"  # what code in a checkpoint would make beside it
STORED = zipfile.ZIP_STORED


@dataclass(frozen=True)
class CheckpointCase:
    """A file, and what loading it must give: OK, EITHER or a regular expression for the reason."""

    name: str
    make: Callable[[Path], object]
    expected: str


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
    yield from pickle_lies()
    yield from bombs()


def good() -> Iterator[CheckpointCase]:
    """Yield what is loaded."""
    state = _state()
    yield _bytes("safetensors", safetensors_bytes(state), OK)
    yield _bytes("torch", _saved(state), OK)
    yield _bytes("torch-before-1.6", _saved(state, old=True), OK)
    yield _bytes("in-a-trainers-wrapping", _saved({"state_dict": state, "epoch": 3, "best": [0.5, None]}), OK)
    yield _bytes("with-a-prefix", _saved({f"module.{name}": value for name, value in state.items()}), OK)
    yield _bytes(
        "parameters", _saved({name: nn.Parameter(value, False) for name, value in state.items()}), OK
    )
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    yield _bytes("half", safetensors_bytes(half), OK)


def unfit() -> Iterator[CheckpointCase]:
    """Yield tensors that are not those of the network."""
    state = _state()
    changes: dict[str, tuple[dict[str, Tensor], str]] = {
        "other-shape": ({"4.weight": torch.zeros(8, 4)}, "has other shapes in 4.weight"),
        "huge-by-strides": ({"4.weight": torch.zeros(1).expand(2**20, 2**20)}, "has other shapes in"),
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
        yield _bytes(f"unfit-{name}", _saved(state | change), expected)
    sparse = state | {"4.weight": torch.eye(3, 4).to_sparse()}
    yield _bytes("unfit-sparse", _saved(sparse), "more than tensors|other than dense floating")
    yield _bytes("unfit-half-there", _saved({"0.weight": state["0.weight"]}), "it lacks 0.bias")
    yield _bytes("unfit-nothing", _saved({}), "holds no tensors by name but nothing")
    yield _bytes("unfit-a-list", _saved([1, 2]), "holds a list")
    yield _bytes("unfit-numbers-as-names", _saved({1: torch.zeros(1), None: torch.zeros(1)}), "does not fit")
    yield _bytes("unfit-quantised", _saved({"a": torch.zeros(4, dtype=torch.float8_e4m3fn)}), EITHER)


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
            yield _bytes(f"code-{name}{'-old' * old}", content, "more than tensors .*could run code")
        yield _bytes(f"code-{name}-pickle", pickle.dumps({"a": trap}, protocol=4), "is a pickle")
    yield _bytes("code-whole-network", _saved(network()), "more than tensors")
    allowed_first = b"\x80\x02ccollections\nOrderedDict\n)R(S'x'\ncos\nmkdir\n(S'sprung'\ntRu."
    yield _pickle("code-behind-an-allowed-class", allowed_first, r"more than tensors \(os.mkdir\)")
    inst = b"(S'sprung'\nios\nmkdir\n."
    yield _pickle("code-inst", inst, r"more than tensors \(os.mkdir\)")
    joined = b"\x80\x04\x8c\x02os\x94\x8c\x05mkdir\x94\x93\x94\x8c\x06sprung\x94\x85\x94R\x94."
    yield _pickle("code-name-put-together", joined, "more than tensors .a.name.that.is.put.together")
    yield _pickle("code-extension", b"\x80\x02\x82\x01.", "more than tensors .a.name.that.is.put.together")
    dotted = b"\x80\x04ctorch\nserialization.os.mkdir\n(S'sprung'\ntR."
    yield _pickle("code-dotted", dotted, r"more than tensors \(torch.serialization.os.mkdir\)")
    storage = b"\x80\x02ctorch\nserialization.os.Storage\n(S'sprung'\ntR."
    yield _pickle("code-disguised-as-storage", storage, "more than tensors|damaged")
    second = pickle.dumps({}, protocol=2) + b"cos\nmkdir\n(S'sprung'\ntR."
    yield _pickle("code-behind-the-end", second, "holds no tensors|damaged")


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
        yield _bytes(f"stranger-{name}", data, "neither safetensors nor a file of torch.save")
    yield _bytes("stranger-npz", _npz(), "an npz file of NumPy arrays")
    yield _bytes("stranger-zip", _zip({"model/readme.txt": b"hello"}), "a zip that torch.save did not write")
    yield _bytes("stranger-empty-zip", _zip({}), "neither safetensors")
    yield _bytes("stranger-zip-without-folder", _zip({"data.pkl": b"\x80\x02}."}), "torch.save did not write")
    yield CheckpointCase("stranger-fifo", os.mkfifo, "is no file that can be read")
    yield CheckpointCase("stranger-folder", Path.mkdir, "is no file that can be read")
    yield CheckpointCase("stranger-device", lambda path: path.symlink_to("/dev/zero"), "is no file")
    yield CheckpointCase("stranger-nowhere", lambda path: path.symlink_to("missing"), "is no file")
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
        yield _bytes(f"header-{name}", _safetensors(json.dumps(header).encode()), "cannot be read|no tensors")
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
        yield _bytes(f"header-{name}", _safetensors(header_bytes), expected)
    for length in (2**63, 2**64 - 1, 2**32, 17 * 2**20, 0):
        data = struct.pack("<Q", length) + b"{" + bytes(50)
        yield _bytes(f"header-of-{length}-bytes", data, "cannot be read")


def pickle_lies() -> Iterator[CheckpointCase]:
    """Yield pickles that name only what is allowed, with other contents than torch.save writes."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    persistent = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ\x04\0\0\0tQ"
    tails = {
        "size-beyond": b"K\0J\0\0\0\x7f\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
        "offset-beyond": b"J\0\0\0\x7fK\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
        "offset-negative": b"J\xff\xff\xff\xffK\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
        "stride-negative": b"K\0K\x04\x85J\xff\xff\xff\xff\x85\x89ccollections\nOrderedDict\n)RtR",
        "size-negative": b"K\0J\xff\xff\xff\xff\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
        "size-a-text": b"K\0X\x01\0\0\0a\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
        "too-few": b"K\0tR",
        "size-2**70": b"K\0\x8a\x09\0\0\0\0\0\0\0\0\x40\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
    }
    for name, tail in tails.items():
        body = b"\x80\x02}X\x01\0\0\0a" + rebuild + b"(" + persistent + tail + b"s."
        yield _pickle(f"pickle-{name}", body, "damaged, or holds more", storage=bytes(16))
    ids = {
        "id-a-number": b"K\x01Q",
        "id-a-text": b"X\x01\0\0\0aQ",
        "id-empty": b")Q",
        "id-of-other-kind": b"(X\x05\0\0\0otherctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ",
        "id-size-beyond": persistent.replace(b"J\x04\0\0\0", b"J\0\0\0\x7f"),
        "id-size-negative": persistent.replace(b"J\x04\0\0\0", b"J\xff\xff\xff\xff"),
        "id-no-record": persistent.replace(b"\x000X", b"\x009X"),
        "id-record-above": persistent.replace(b"X\x01\0\0\x000X", b"X\x09\0\0\0../../0/0X"),
        "id-on-cuda": persistent.replace(b"X\x03\0\0\0cpu", b"X\x04\0\0\0cuda"),
        "id-on-meta": persistent.replace(b"X\x03\0\0\0cpu", b"X\x04\0\0\0meta"),
        "id-on-nothing": persistent.replace(b"X\x03\0\0\0cpu", b"X\x03\0\0\0xyz"),
    }
    for name, body in ids.items():
        expected = EITHER if name.startswith("id-on") else "damaged|holds no tensors"
        yield _pickle(f"pickle-{name}", b"\x80\x02}X\x01\0\0\0a" + body + b"s.", expected, storage=bytes(16))
    bodies = {
        "empty": b"",
        "only-stop": b".",
        "no-stop": b"\x80\x02}",
        "stack-underflow": b"\x80\x02R.",
        "mark-missing": b"\x80\x02tR.",
        "memo-missing": b"\x80\x02h\x07.",
        "newer-protocol": b"\x80\x63}.",
        "text-beyond-the-end": b"\x80\x02X\xff\xff\xff\x7fa.",
        "text-of-2**60-bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a.",
        "number-of-2-gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f\1.",
        "text-not-utf-8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
        "not-ascii-module": b"\x80\x02c\xff\xfe\nx\n.",
        "no-such-opcode": b"\x80\x02\xfe.",
        "list-as-key": b"\x80\x02}]K\1s.",
        "reduce-a-number": b"\x80\x02K\1K\2R.",
        "build-on-a-number": b"\x80\x02K\1}b.",
        "build-on-an-ordered-dict": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\1sb.",
        "new-device-of-nothing": b"\x80\x02ctorch\ndevice\n)R.",
        "device-of-other-kind": b"\x80\x02ctorch\ndevice\nX\x03\0\0\0xyz\x85R.",
        "size-of-texts": b"\x80\x02ctorch\nSize\nX\x01\0\0\0a\x85\x85R.",
        "parameter-of-a-number": b"\x80\x02ctorch.nn.parameter\nParameter\nK\1\x85R.",
        "storage-of-2**40-bytes": b"\x80\x02ctorch.storage\nUntypedStorage\n\x8a\x06\0\0\0\0\0\1\x85R.",
        "typed-storage": b"\x80\x02ctorch\nFloatStorage\n\x8a\x06\0\0\0\0\0\1\x85R.",
        "no-such-storage": b"\x80\x02ctorch\nNoSuchStorage\n)R.",
        "tensor-by-class": b"\x80\x02ctorch._utils\n_rebuild_parameter\n(K\1\x89NtR.",
    }
    for name, body in bodies.items():
        yield _pickle(f"pickle-{name}", body, "damaged|holds|refused|more than tensors")


def bombs() -> Iterator[CheckpointCase]:
    """Yield small files that would take much time or memory."""
    yield _bytes("bomb-compressed", _recompressed(torch.zeros(64 * 2**20)), "was compressed again")
    for millions in (4, 16):
        opcodes = b"\x80\x02" + b"N0" * (millions * 2**19 - 4) + b"}."
        yield _pickle(f"bomb-{millions}-million-opcodes", opcodes, "too large|damaged")
    deep = b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."
    yield _pickle("bomb-deep-lists", deep, "damaged|holds a list|too large")
    laughs = b"\x80\x02]q\0" + b"".join(b"](" + b"h%c" % n * 9 + b"eq%c" % (n + 1) for n in range(30)) + b"."
    yield _pickle("bomb-billion-laughs", laughs, "holds a list|damaged")
    itself = b"\x80\x02}q\0X\x0a\0\0\0state_dicth\0s."
    yield _pickle("bomb-holds-itself", itself, "holds no tensors")
    yield CheckpointCase(
        "bomb-300,000-members", write_many_members, "too many|too large|damaged|did not write"
    )
    yield CheckpointCase("bomb-old-huge-storage", _old_with_huge_storage, "damaged")
    names = json.dumps(
        {f"n{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(200_000)}
    )
    data = _safetensors(names.encode(), b"")
    yield _bytes("bomb-200,000-tensors", data, "does not fit|cannot be read")
    long = safetensors_bytes({"module." * 500_000: torch.zeros(1)})
    yield _bytes("bomb-name-of-prefixes", long, "has unknown module.*…")


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
            yield _bytes(f"{kind}-flipped-{turn}", bytes(changed), EITHER)
            cut = generator.randrange(len(data))
            yield _bytes(f"{kind}-cut-at-{cut}", data[:cut], "damaged|cannot be read|is (an|no|a )")
    with zipfile.ZipFile(io.BytesIO(files["wrapped"])) as archive:
        body, storage = archive.read("archive/data.pkl"), archive.read("archive/data/0")
    for turn in range(per_file * 4):
        changed = bytearray(body)
        for _ in range(generator.choice((1, 1, 2, 3))):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        yield _pickle(f"pickle-flipped-{turn}", bytes(changed), EITHER, storage=storage)


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


def _bytes(name: str, data: bytes, expected: str) -> CheckpointCase:
    return CheckpointCase(name, lambda path: path.write_bytes(data), expected)


def _pickle(name: str, body: bytes, expected: str, storage: bytes = b"") -> CheckpointCase:
    """Return a file of torch.save whose pickle is the body."""
    members = {"data.pkl": body, "byteorder": b"little", "data/0": storage, "version": b"3\n"}
    return _bytes(name, _zip({f"archive/{name}": data for name, data in members.items()}), expected)


def _zip(members: dict[str, bytes], method: int = STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
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
        return _zip({info.filename: source.read(info) for info in source.infolist()}, zipfile.ZIP_DEFLATED)


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
