"""Odd, damaged and hostile features files, made by code, each with what reading it must give."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from safetensors.numpy import save as safetensors_bytes

from tests.checkpoint_corpus import write_many_members

__all__ = ["FeaturesCase", "arrays", "damaged", "features_files", "npz_bytes"]

OK, EITHER = "ok", ""
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class FeaturesCase:
    """A file, and what reading it must give: OK, EITHER or a regular expression for the reason."""

    name: str
    make: Callable[[Path], object]
    expected: str


def features_files() -> Iterator[FeaturesCase]:
    """Yield every case but those of damaged()."""
    yield from good()
    yield from unfit()
    yield from code()
    yield from npz_lies()
    yield from safetensors_lies()
    yield from bombs()
    yield from strangers()


def arrays() -> dict[str, Any]:
    """Return arrays that fit together: 6 images, 4 features, 3 classes."""
    generator = np.random.default_rng(0)
    return {
        "features": generator.normal(size=(6, 4)).astype(np.float32),
        "logits": generator.normal(size=(6, 3)).astype(np.float32),
        "labels": np.array([0, 1, 2, -1, 0, 1]),
        "paths": np.array([f"cat/{number}.png" for number in range(6)]),
    }


def good() -> Iterator[FeaturesCase]:
    """Yield what is read."""
    plain = arrays()
    yield _bytes("npz", npz_bytes(plain), OK)
    yield _bytes("npz-compressed", npz_bytes(plain, np.savez_compressed), OK)
    yield _bytes("safetensors", _safe(plain), OK)
    for dtype in ("f2", ">f4", "f8", ">f8"):
        yield _bytes(f"npz-{dtype}", npz_bytes(plain | {"features": plain["features"].astype(dtype)}), OK)
    for dtype in ("i1", ">i2", "i4", "u1", ">u4"):
        labels = np.abs(plain["labels"]).astype(dtype)
        yield _bytes(f"npz-labels-{dtype}", npz_bytes(plain | {"labels": labels}), OK)
    yield _bytes("npz-fortran", npz_bytes(plain | {"features": np.asfortranarray(plain["features"])}), OK)
    yield _bytes("npz-bytes-as-paths", npz_bytes(plain | {"paths": plain["paths"].astype("S")}), OK)
    hostile = np.array(["../../etc/passwd", "/etc/passwd", "a\nb", "<b>", "\u202eexe", "=1+1"])
    yield _bytes("npz-hostile-paths", npz_bytes(plain | {"paths": hostile}), OK)
    beyond = np.array([[0x10FFFF + 1, 65], [2**32 - 1, 66], [0xD800, 67]] * 2, np.uint32).view("U2")[:, 0]
    yield _bytes("npz-paths-beyond-unicode", npz_bytes(plain | {"paths": beyond}), OK)
    swapped = plain["paths"].astype(plain["paths"].dtype.newbyteorder(">"))
    yield _bytes("npz-paths-big-endian", npz_bytes(plain | {"paths": swapped}), OK)
    yield _bytes("npz-paths-empty", npz_bytes(plain | {"paths": np.array([""] * 6)}), OK)
    yield _bytes("one-image", npz_bytes({name: values[:1] for name, values in plain.items()}), OK)
    same = np.ones((6, 4), np.float32)
    yield _bytes("all-the-same", npz_bytes(plain | {"features": same, "logits": same[:, :3]}), OK)
    yield _bytes("zeros", npz_bytes(plain | {"features": same * 0}), OK)
    head = {"features": plain["features"], "head_weight": np.ones((3, 4), np.float32)}
    yield _bytes("head-alone", npz_bytes(head), OK)
    yield _bytes("tiny-numbers", npz_bytes(plain | {"features": np.full((6, 4), 1e-45, np.float32)}), OK)


def unfit() -> Iterator[FeaturesCase]:
    """Yield arrays of other shapes, types and values, in both formats."""
    f = np.float32
    changes: dict[str, tuple[Arrays, str]] = {
        "3-dimensional": ({"features": np.zeros((6, 4, 1), f)}, r"features has shape \(6, 4, 1\)"),
        "0-dimensional": ({"features": np.zeros((), f)}, r"features has shape \((1,)?\)"),
        "32-dimensional": ({"features": np.zeros((1,) * 32, f)}, "features has shape"),
        "integers": ({"features": np.zeros((6, 4), int)}, "features .* expected floating values"),
        "booleans": ({"features": np.zeros((6, 4), bool)}, "features .* expected floating values"),
        "fewer-logits": ({"logits": np.zeros((5, 3), f)}, r"logits has shape \(5, 3\), expected \(6, 3\)"),
        "no-classes": ({"logits": np.zeros((6, 0), f)}, "there are 0 classes"),
        "no-features": ({"features": np.zeros((6, 0), f)}, r"features has shape \(6, 0\)"),
        "no-images": (
            {"features": np.zeros((0, 4), f), "logits": np.zeros((0, 3), f)},
            "labels has shape|0 images",
        ),
        "nan": ({"features": np.full((6, 4), np.nan, f)}, "features .* has NaN or infinite values in 6 rows"),
        "infinite": ({"logits": np.full((6, 3), -np.inf, f)}, "logits .* NaN or infinite"),
        "too-large-for-float32": ({"logits": np.full((6, 3), 1e300)}, "logits .* NaN or infinite"),
        "head-of-nan": ({"head_weight": np.full((3, 4), np.nan, f)}, "head_weight .* NaN or infinite"),
        "huge-numbers": (
            {"logits": np.empty(0, f), "head_weight": np.full((3, 4), 3e38, f)},
            "logits has shape",
        ),
        "label-too-high": (
            {"labels": np.array([0, 1, 2, 3, 0, 0])},
            "labels .* out of range, the first is 3",
        ),
        "label-too-low": ({"labels": np.array([0, 1, 2, -2, 0, 0])}, "the first is -2 in row 3"),
        "label-2**62": ({"labels": np.full(6, 2**62)}, "labels .* 6 values out of range"),
        "float-labels": ({"labels": np.zeros(6, f)}, "labels .* expected integer values"),
        "fewer-labels": ({"labels": np.zeros(5, np.int64)}, r"labels has shape \(5,\), expected \(6,\)"),
        "other-head": ({"head_weight": np.zeros((3, 5), f)}, "head_weight has shape"),
        "bias-alone": ({"head_bias": np.zeros(3, f)}, "head_bias .* without head_weight"),
    }
    for name, (change, expected) in changes.items():
        yield _bytes(f"npz-{name}", npz_bytes(arrays() | change), expected)
        yield _bytes(f"safetensors-{name}", _safe(arrays() | change), expected)
    overflow = {"features": np.full((6, 4), 3e38, f), "head_weight": np.ones((3, 4), f)}
    yield _bytes("npz-head-that-overflows", npz_bytes(overflow), "logits of the head .* NaN or infinite")
    others = {"complex": complex, "unsigned": "u8", "long double": "g", "dates": "M8[s]", "spans": "m8[s]"}
    for name, dtype in others.items():
        yield _bytes(f"npz-{name}", npz_bytes(arrays() | {"features": np.zeros((6, 4), dtype)}), "floating")
    table = np.zeros((6, 4), [("a", "f4"), ("b", "f4")])
    yield _bytes("npz-table", npz_bytes(arrays() | {"features": table}), "features .* expected floating")
    for name in ("features", "logits"):
        less = {key: values for key, values in arrays().items() if key != name}
        yield _bytes(f"npz-without-{name}", npz_bytes(less), "expected features of shape")
    many = {f"array{number}": np.zeros(1) for number in range(900)}
    yield _bytes("npz-900-others", npz_bytes(many), "and 890 more; expected features")
    yield _bytes("npz-1,100-members", npz_bytes({f"a{n}": np.zeros(1) for n in range(1100)}), "too many")
    yield _bytes("npz-long-name", npz_bytes({"x" * 60_000: np.zeros(1)}), "too many|holds x+…")
    lines = np.frombuffer(b"\n" * 9, np.uint8)
    yield _bytes(
        "safetensors-more-paths",
        _safe(arrays() | {"paths": lines}),
        "paths has 9 lines, expected one for each of 6",
    )


def code() -> Iterator[FeaturesCase]:
    """Yield what would run code if it were unpickled; the code makes a folder "sprung" in the current one."""
    trap = np.array([_Trap()] * 6, dtype=object)
    for name in ("features", "logits", "labels", "paths"):
        yield _bytes(f"npz-objects-as-{name}", npz_bytes(arrays() | {name: trap}), "can run code|floating")
    yield _bytes("pickle", pickle.dumps({"features": _Trap()}), "neither a safetensors nor an npz")
    body = _npy_header("<f4", (6, 4)) + pickle.dumps(_Trap())
    yield _bytes("npz-pickle-behind-a-header", _zipped({"features.npy": body}), "unpacks to|damaged")
    evil = b"\x93NUMPY\1\0" + struct.pack("<H", 60) + b"__import__('os').mkdir('sprung')".ljust(59) + b"\n"
    yield _bytes("npz-code-as-header", _zipped({"features.npy": evil}), "no array that is read here")


def npz_lies() -> Iterator[FeaturesCase]:
    """Yield npz files whose headers, names or members do not tell the truth."""
    plain = npz_bytes(arrays())
    whole = _members(plain)
    data = arrays()["features"].tobytes()
    shapes = {"10**12": (10**6, 10**6), "negative": (-6, -4), "2**80": (2**40, 2**40), "nothing": (0, 2**62)}
    for name, shape in shapes.items():
        changed = whole | {"features.npy": _npy_header("<f4", shape) + data}
        yield _bytes(f"npz-shape-{name}", _zipped(changed), "unpacks to|no array|too large")
    headers = {
        "empty": b"",
        "cut": whole["features.npy"][:20],
        "no-magic": b"hello" + whole["features.npy"],
        "version-9": b"\x93NUMPY\x09\0" + whole["features.npy"][8:],
        "version-3": b"\x93NUMPY\3\0" + whole["features.npy"][8:],
        "longer-than-file": b"\x93NUMPY\2\0" + struct.pack("<L", 2**31) + b"{",
        "deep": _npy_text("(" * 3000),
        "deep-whole": _npy_text("(" * 90 + ")" * 90),
        "no-shape": _npy_text("{'descr': '<f4', 'fortran_order': False}"),
        "fraction": _npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': (6.0, 4)}"),
        "text-as-shape": _npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': 'ab'}"),
        "no-such-type": _npy_text("{'descr': 'what', 'fortran_order': False, 'shape': (6, 4)}"),
        "endless-type": _npy_text("{'descr': '<U999999999', 'fortran_order': False, 'shape': (6, 4)}"),
        "huge-number": _npy_text("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}"),
        "zero-byte": _npy_text("{'descr': '<f4\0', 'fortran_order': False, 'shape': (6, 4)}"),
        "nested-type": _npy_text(
            "{'descr': [('a', '<f4', (9999, 9999))], 'fortran_order': False, 'shape': ()}"
        ),
        "type-of-nothing": _npy_text("{'descr': '<U0', 'fortran_order': False, 'shape': (6, 4)}"),
    }
    for name, body in headers.items():
        expected = "no array that is read here|unpacks to|expected floating"
        yield _bytes(f"npz-header-{name}", _zipped(whole | {"features.npy": body}), expected)
    short = {"features": _npy_header("<f4", (10**6, 10**6)) + data, **whole}
    yield _bytes("npz-two-spellings", _zipped(short), 'no name that ends with ".npy"')
    yield _bytes("npz-twice", _twice(whole), "two arrays of one name")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield _bytes(f"npz-method-{method}", _zipped(whole, method), "packed in another way")
    flagged = bytearray(plain)
    for info in _infos(plain):
        flagged[plain.index(b"PK\1\2", info.header_offset) + 8] |= 1
    yield _bytes("npz-encrypted", bytes(flagged), "is encrypted|damaged")
    yield _bytes("npz-folder", _zipped(whole | {"features/": b""}), "no name that ends")
    yield _bytes("npz-other-files", _zipped(whole | {"../../evil.py": b"x"}), "no name that ends")


def safetensors_lies() -> Iterator[FeaturesCase]:
    """Yield safetensors headers that do not tell the truth."""
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    headers: dict[str, object] = {
        "beyond-the-end": {"features": entry | {"data_offsets": [0, 2**40], "shape": [2**19, 2**19]}},
        "fractions": {"features": entry | {"data_offsets": [0.0, 16.0]}},
        "overlapping": {"features": entry, "logits": entry},
        "huge-shape-of-nothing": {"features": entry | {"shape": [0, 2**62], "data_offsets": [0, 0]}},
        "type-is-a-list": {"features": entry | {"dtype": []}},
        "entry-is-a-list": {"features": ["F32", [2], [0, 8]]},
        "1000-dimensions": {"features": entry | {"shape": [1] * 1000, "data_offsets": [0, 4]}},
        "nothing": {},
        "metadata-only": {"__metadata__": {"a": "b"}},
    }
    for name, header in headers.items():
        encoded = json.dumps(header).encode()
        data = b"" if name in ("nothing", "metadata-only") else bytes(16)
        yield _bytes(
            f"safetensors-{name}", _raw_safetensors(encoded, data), "cannot be read|holds nothing|neither"
        )
    deep = b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    yield _bytes("safetensors-deep", _raw_safetensors(deep), "cannot be read")
    for length in (2**63, 2**64 - 1, 17 * 2**20, 0):
        yield _bytes(
            f"safetensors-header-of-{length}", struct.pack("<Q", length) + b"{" * 50, "cannot be read"
        )


def bombs() -> Iterator[FeaturesCase]:
    """Yield small files that would take much time or memory."""
    zeros = {"features": np.zeros((20_000, 4_000), np.float32), "logits": np.zeros((20_000, 2), np.float32)}
    yield _bytes("bomb-320-megabytes", npz_bytes(zeros, np.savez_compressed), "over 100 times its own size")
    for millions, expected in (
        (1, "over 100 times its own size"),
        (16, "16,000,000 images; at most 1,500,000"),
    ):
        narrow = np.ones((millions * 10**6, 1), np.float16)
        rows = npz_bytes({"features": narrow, "logits": narrow}, np.savez_compressed)
        yield _bytes(f"bomb-{millions}-million-rows", rows, expected)
    many = np.ones((1_000_000, 2), np.float16)
    yield _bytes("a-million-rows", npz_bytes({"features": many, "logits": many}), OK)
    broad = {"features": np.ones((1, 1), np.float16), "logits": np.zeros((1, 30_000_000), np.float16)}
    yield _bytes("bomb-30-million-classes", npz_bytes(broad, np.savez_compressed), "30,000,000 classes")
    head = npz_bytes({"features": many, "head_weight": many}, np.savez_compressed)
    yield _bytes("bomb-head", head, "bytes in memory; at most")
    wide = arrays() | {"paths": np.full(6, "x" * 3_000_000)}
    yield _bytes(
        "bomb-long-paths", npz_bytes(wide, np.savez_compressed), "paths .* bytes for each of 6 images"
    )
    wide = arrays() | {"paths": np.full(6, b"x" * 2_000_000)}
    yield _bytes("bomb-long-bytes", npz_bytes(wide), "paths .* bytes for each of 6 images")
    lines = np.full(40_000_000, 10, np.uint8)
    yield _bytes("bomb-newlines", _safe(arrays() | {"paths": lines}), "paths .* bytes for each of 6 images")
    yield FeaturesCase("bomb-300,000-members", write_many_members, "too many")
    names = {f"n{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(200_000)}
    header = json.dumps(names).encode()
    yield _bytes("bomb-200,000-tensors", _raw_safetensors(header, b""), "and 199990 more; expected features")
    yield FeaturesCase("bomb-sparse", _sparse, "1,000,000,000 images; at most")
    yield FeaturesCase("bomb-sparse-wide", lambda path: _sparse(path, 10**6), "bytes in memory; at most")


def strangers() -> Iterator[FeaturesCase]:
    """Yield files of other kinds, and what is no file."""
    npy_file = io.BytesIO()
    np.save(npy_file, arrays()["features"])
    others = {
        "empty": b"",
        "zeros": bytes(1000),
        "npy": npy_file.getvalue(),
        "csv": b"a,b\n1,2\n",
        "pickle": pickle.dumps([1, 2]),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(50),
        "matlab": b"MATLAB 5.0 MAT-file" + bytes(200),
    }
    for name, data in others.items():
        yield _bytes(f"stranger-{name}", data, "neither a safetensors nor an npz file")
    yield _bytes("stranger-zip", _zipped({"a.txt": b"hello"}), "no name that ends")
    yield _bytes("stranger-empty-zip", _zipped({}), "neither|holds nothing|damaged")
    yield FeaturesCase("stranger-fifo", os.mkfifo, "is not a readable file")
    yield FeaturesCase("stranger-folder", Path.mkdir, "is not a readable file")
    yield FeaturesCase("stranger-device", lambda path: path.symlink_to("/dev/zero"), "not a readable file")
    yield FeaturesCase("stranger-nowhere", lambda path: path.symlink_to("missing"), "not a readable file")


def damaged(per_file: int, seed: int = 0) -> Iterator[FeaturesCase]:
    """Yield good files cut anywhere and with bytes changed anywhere, mostly where they are described."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    files = {
        "npz": npz_bytes(arrays()),
        "npz-compressed": npz_bytes(arrays(), np.savez_compressed),
        "safetensors": _safe(arrays()),
    }
    for kind, data in files.items():
        for turn in range(per_file):
            changed = bytearray(data)
            for _ in range(generator.choice((1, 1, 2, 5))):
                place = generator.random()
                changed[int(len(data) * (place if turn % 2 else place**2))] = generator.randrange(256)
            yield _bytes(f"{kind}-flipped-{turn}", bytes(changed), EITHER)
            cut = generator.randrange(len(data))
            yield _bytes(f"{kind}-cut-at-{cut}", data[:cut], "cannot be read|neither")
    members = {
        info.filename: zipfile.ZipFile(io.BytesIO(files["npz"])).read(info) for info in _infos(files["npz"])
    }
    for turn in range(per_file * 2):
        name = generator.choice(sorted(members))
        changed = bytearray(members[name])
        for _ in range(generator.choice((1, 1, 2, 3))):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        yield _bytes(f"npy-flipped-{turn}", _zipped(members | {name: bytes(changed)}), EITHER)


def npz_bytes(content: Arrays, save: Callable[..., None] = np.savez) -> bytes:
    """Return arrays as an npz file."""
    file = io.BytesIO()
    save(file, **content)
    return file.getvalue()


class _Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("sprung",)


def _safe(content: Arrays) -> bytes:
    """Return arrays as a safetensors file, paths as lines."""
    plain = {
        name: np.ascontiguousarray(values) for name, values in content.items() if values.dtype.kind != "U"
    }
    if (paths := content.get("paths")) is not None and paths.dtype.kind == "U":
        plain["paths"] = np.frombuffer("\n".join(paths).encode(), np.uint8)
    return bytes(safetensors_bytes(plain))


def _bytes(name: str, data: bytes, expected: str) -> FeaturesCase:
    return FeaturesCase(name, lambda path: path.write_bytes(data), expected)


def _infos(data: bytes) -> list[zipfile.ZipInfo]:
    return zipfile.ZipFile(io.BytesIO(data)).infolist()


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def _zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _twice(members: Mapping[str, bytes]) -> bytes:
    """Return a zip that holds one of its members twice, the second time as another array."""
    other = _npy_header("<f4", (6, 4)) + bytes(96)
    return _zipped(members | {"featurez.npy": other}).replace(b"featurez.npy", b"features.npy")


def _npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _npy_text(text: str) -> bytes:
    padded = text.encode("latin-1") + b" \n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(padded)) + padded + bytes(96)


def _raw_safetensors(header: bytes, data: bytes = bytes(16)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _sparse(path: Path, rows: int = 10**9) -> None:
    width = 10**10 // rows
    header = json.dumps(
        {
            "features": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * 10**10]},
            "logits": {
                "dtype": "F32",
                "shape": [rows, 10**9 // rows],
                "data_offsets": [4 * 10**10, 44 * 10**9],
            },
        }
    ).encode()
    with path.open("wb") as file:
        file.write(_raw_safetensors(header, b""))
        file.truncate(8 + len(header) + 44 * 10**9)
