"""Hostile pickles as torch.save would wrap them, each with what loading it must give."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "EITHER",
    "OK",
    "CheckpointCase",
    "bytes_case",
    "endless",
    "laughing",
    "pickle_case",
    "pickles",
    "zip_bytes",
]

OK, EITHER = "ok", ""


@dataclass(frozen=True)
class CheckpointCase:
    """A file, and what loading it must give: OK, EITHER or a regular expression for the reason."""

    name: str
    make: Callable[[Path], object]
    expected: str


def pickles() -> Iterator[CheckpointCase]:
    """Yield every case."""
    yield from pickle_lies()
    yield from bombs()
    yield from doubles()


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
        yield pickle_case(f"pickle-{name}", body, "damaged, or holds", storage=bytes(16))
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
        yield pickle_case(
            f"pickle-{name}", b"\x80\x02}X\x01\0\0\0a" + body + b"s.", expected, storage=bytes(16)
        )
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
        yield pickle_case(f"pickle-{name}", body, "damaged|holds|Too large")


def bombs() -> Iterator[CheckpointCase]:
    """Yield small pickles that would take much time or memory."""
    for millions in (4, 16):
        opcodes = b"\x80\x02" + b"N0" * (millions * 2**19 - 4) + b"}."
        yield pickle_case(f"bomb-{millions}-million-opcodes", opcodes, "too large|damaged")
    deep = b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."
    yield pickle_case("bomb-deep-lists", deep, "damaged|holds a list|too large")
    laughs = b"\x80\x02]q\0" + b"".join(b"](" + b"h%c" % n * 9 + b"eq%c" % (n + 1) for n in range(30)) + b"."
    yield pickle_case("bomb-billion-laughs", laughs, "holds a list|damaged")
    itself = b"\x80\x02}q\0X\x0a\0\0\0state_dicth\0s."
    yield pickle_case("bomb-holds-itself", itself, "holds no tensors")
    bodies = {
        "deep-tuples": b"}X\1\0\0\0a)" + b"\x85" * 1_000_000 + b"s.",
        "grows-from-inside": b"}]q\0](h\0h\0eh\0h\0a.",
        "lists-filled-later": _lists_filled_later(40),
        "claims-2**40-bytes": b"}X\1\0\0\0a" + _storage(b"\x8a\6\0\0\0\0\0\1") + b"s.",
        "one-memory-in-two-ways": b"}(X\1\0\0\0a"
        + _storage(b"K\1")
        + b"X\1\0\0\0b"
        + _storage(b"K\2")
        + b"u.",
        "a-set": b"\x8f.",
        "new-object": b"ccollections\nOrderedDict\n)\x81.",
    }
    for name, body in bodies.items():
        yield pickle_case(f"bomb-{name}", b"\x80\2" + body, "holds|claims|damaged", bytes(16))


def endless() -> Iterator[CheckpointCase]:
    """Yield pickles that would keep their reader for long, some for years: only a worker's limits end it."""
    tuples = laughing(60)
    bodies = {
        "key": b"}" + tuples + b"K\1s.",
        "key-of-an-ordered-dict": b"ccollections\nOrderedDict\n]](" + tuples + b"K\1ea\x85R.",
        "key-of-memory": b"}X\1\0\0\0a" + _storage(b"K\4", tuples) + b"s.",
        "sizes-again-and-again": b"}q\0("
        + b"K\1" * 200_000
        + b"tq\1"
        + b"ctorch\nSize\nh\1\x85R" * 490_000
        + b".",
        "storage-of-lists": b"}X\1\0\0\0actorch.storage\nTypedStorage\n" + _laughing_lists(30) + b"\x85Rs.",
        "size-of-lists": b"}X\1\0\0\0actorch\nSize\n" + _laughing_lists(30) + b"\x85Rs.",
    }
    for name, body in bodies.items():
        # Either limit may be hit first, depending on the machine: every size that is read stays in memory.
        limit = "Too (slow|large)" if name == "sizes-again-and-again" else "^Too slow"
        yield pickle_case(f"endless-{name}", b"\x80\2" + body, limit, bytes(16))


def doubles() -> Iterator[CheckpointCase]:
    """Yield zips in which one reader may find another pickle than the other does."""
    bodies = {
        "good": b"\x80\2}X\1\0\0\0aX\x21\0\0\0" + b"b" * 33 + b"s.",
        "bad": b"\x80\2}X\1\0\0\0ac_codecs\nencode\nX\1\0\0\0bX\6\0\0\0latin1\x86Rs.",
    }
    for first, second in (("good", "bad"), ("bad", "good")):
        one, other = bodies[first], bodies[second]
        twice = zip_bytes({"m/data.pkl": one, "m/data.pkX": other}).replace(b"data.pkX", b"data.pkl")
        yield bytes_case(f"double-{first}-first", twice, "holds 2 pickles")
        cases = zip_bytes({"m/DATA.PKL": one, "m/data.pkl": other, "m/version": b"3"})
        yield bytes_case(f"double-upper-{first}-first", cases, "holds 2 pickles")
        folders = zip_bytes({"m/data.pkl": one, "n/data.pkl": other, "m/version": b"3"})
        yield bytes_case(f"double-folder-{first}-first", folders, "holds 2 pickles")
    joined = zip_bytes({"m/data.pkl": bodies["bad"]}) + zip_bytes({"m/data.pkl": bodies["good"]})
    yield bytes_case("double-directory", joined, "a damaged zip|holds")
    hidden = _two_directories(bodies["good"], bodies["bad"])
    yield bytes_case("double-directory-zip64", hidden, "a damaged zip")


def laughing(levels: int) -> bytes:
    """Return opcodes of a tuple that holds another twice, and so on; its hash takes 2 ** levels."""
    return b"K\0" + b"".join(b"q%ch%c\x86" % (100 + n, 100 + n) for n in range(levels))


def _laughing_lists(levels: int) -> bytes:
    return b"]q\0" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(levels))


def _storage(count: bytes, key: bytes = b"X\1\0\0\x000") -> bytes:
    return b"(X\7\0\0\0storagectorch\nFloatStorage\n" + key + b"X\3\0\0\0cpu" + count + b"tQ"


def _lists_filled_later(levels: int) -> bytes:
    """Nest lists while they are empty, the outermost first, so that none has any weight when it is put in."""
    steps = b"".join(b"h%c(]q%ch%ce" % (n, n + 1, n + 1) for n in range(levels))
    return b"}X\1\0\0\0a]q\0s" + steps + b"."


def _pairs_again(count: int) -> bytes:
    pairs = b"](" + b"](K\1K\2e" * 20_000 + b"eq\1"
    return b"}" + pairs + b"ccollections\nOrderedDict\nq\2" + b"h\2h\1\x85R" * count + b"."


def _two_directories(near: bytes, far: bytes) -> bytes:
    """Return a zip whose last record is preceded by one directory and names the place of another."""
    entries = {"m/data.pkl": near, "m/data.pkX": far}
    whole = zip_bytes({**entries, "m/version": b"3"}).replace(b"data.pkX", b"data.pkl")
    start = whole.index(b"PK\1\2")
    listed = whole[start : whole.rindex(b"PK\5\6")].split(b"PK\1\2")[1:]
    one, other, version = (b"PK\1\2" + each for each in listed)
    content = whole[:start]
    places = []
    for directory in (other + version, one + version):
        places.append(len(content) + len(directory))
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, len(directory), len(content))
        content += directory + record
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, places[0], 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65_535, 65_535, 2**32 - 1, 2**32 - 1, 0)
    return content + locator + last


def bytes_case(name: str, data: bytes, expected: str) -> CheckpointCase:
    """Return a file of these bytes."""
    return CheckpointCase(name, lambda path: path.write_bytes(data), expected)


def pickle_case(name: str, body: bytes, expected: str, storage: bytes = b"") -> CheckpointCase:
    """Return a file of torch.save whose pickle is the body."""
    members = {"data.pkl": body, "byteorder": b"little", "data/0": storage, "version": b"3\n"}
    return bytes_case(name, zip_bytes({f"archive/{name}": data for name, data in members.items()}), expected)


def zip_bytes(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()
