"""Odd, malformed and hostile zips, made by code, each with what reading it must give."""

import io
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests import corpus

__all__ = ["RawEntry", "ZipCase", "damage", "image_bytes", "raw_zip", "two_records", "zips"]

UTF8, ENCRYPTED = 0x800, 0x1
FULL = 2**32 - 1  # "see the 64-bit field"


@dataclass(frozen=True)
class RawEntry:
    """One entry, each of whose fields may lie; None means the truth."""

    name: bytes
    data: bytes = b""
    method: int = zipfile.ZIP_DEFLATED
    flags: int = 0
    checksum: int | None = None
    packed: int | None = None
    unpacked: int | None = None
    mode: int = 0
    offset: int | None = None
    extra: bytes = b""


@dataclass(frozen=True)
class ZipCase:
    """A zip, and what reading it must give."""

    name: str
    make: Callable[[Path], object]
    refused: str | None = None  # regular expression for the reason that the whole zip is refused
    kept: Sequence[str] = ()  # paths of the images that are read
    reasons: dict[str, str] = field(default_factory=dict)  # path -> regular expression, of those skipped


def image_bytes(seed: int = 0) -> bytes:
    """Return a small PNG, another one for each seed."""
    buffer = io.BytesIO()
    corpus.picture(size=(16 + seed, 16)).save(buffer, "PNG")
    return buffer.getvalue()


def zips() -> Iterator[ZipCase]:
    """Yield every zip case."""
    yield from odd_zips()
    yield from hostile_entries()
    yield from damaged_zips()
    yield from bomb_zips()


def odd_zips() -> Iterator[ZipCase]:
    """Yield zips that are read in full."""
    image = image_bytes()
    two = [RawEntry(b"cat/1.png", image), RawEntry(b"dog/2.png", image_bytes(1))]
    yield _raw("plain", two, kept=["cat/1.png", "dog/2.png"])
    wrapped = [replace(entry, name=b"all/" + entry.name) for entry in two]
    yield _raw("wrapped", [RawEntry(b"all/"), *wrapped], kept=["cat/1.png", "dog/2.png"])
    yield _raw("stored", [RawEntry(b"1.png", image, method=zipfile.ZIP_STORED)], kept=["1.png"])
    windows = [RawEntry(b"cat\\1.png", image), RawEntry(b"2.png", image)]
    yield _raw("backslashes", windows, kept=["2.png", "cat/1.png"])
    litter = [RawEntry(name, b"x") for name in (b"__MACOSX/._1.png", b".git/x", b"Thumbs.db")]
    yield _raw("litter", [RawEntry(b"1.png", image), *litter], kept=["1.png"])
    long = "é" * 123 + "x.png"
    names = ["\u202egnp.exe", "猫/猫.png", "<b>.png", "=1+1.png", "a\nb\t.png", long]
    raw = [RawEntry(name.encode(), image, flags=UTF8) for name in names]
    yield _raw("names", raw, kept=sorted(names))
    yield _raw("code-page-437", [RawEntry(b"\x81ber.png", image)], kept=["über.png"])
    yield _raw("utf-8-without-its-flag", [RawEntry("über.png".encode(), image)], kept=["über.png"])
    yield _raw("false-utf-8", [RawEntry(b"\xff\xfe.png", image, flags=UTF8)], kept=["\\xff\\xfe.png"])
    plain = raw_zip([RawEntry(b"1.png", image)])
    yield ZipCase(
        "with-a-comment", lambda path: path.write_bytes(plain[:-2] + b"\x05\0hello"), kept=["1.png"]
    )
    yield ZipCase(
        "behind-a-program", lambda path: path.write_bytes(b"#!/bin/sh\n" * 9 + plain), kept=["1.png"]
    )
    yield ZipCase("empty", lambda path: path.write_bytes(raw_zip([])))
    yield ZipCase("streamed", lambda path: path.write_bytes(_streamed(image)), kept=["1.png"])
    longest = "x" * 4_092 + ".png"
    yield _raw("4,096-byte-name", [RawEntry(longest.encode(), image)], kept=[longest])
    deep = "/".join("d" * 2_000) + ".png"
    yield _raw("2,000-folders-deep", [RawEntry(deep.encode(), image), two[0]], kept=["cat/1.png", deep])
    yield ZipCase("64-bit", lambda path: path.write_bytes(_wide(image)), kept=["1.png"])


def damage(count: int, seed: int = 0) -> Iterator[ZipCase]:
    """Yield a good zip cut anywhere and with bytes changed anywhere, mostly in its directory."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    plain = raw_zip([RawEntry(b"cat/1.png", image_bytes()), RawEntry(b"2.png", image_bytes(1), method=0)])
    start = plain.index(b"PK\1\2")
    for turn in range(count):
        changed = bytearray(plain)
        for _ in range(generator.choice((1, 1, 2, 5))):
            changed[generator.randrange(start if turn % 2 else 0, len(plain))] = generator.randrange(256)
        yield _bytes(f"flipped-{turn}", bytes(changed), "")
        yield _bytes(f"cut-and-flipped-{turn}", bytes(changed[: generator.randrange(len(plain))]), "")


def hostile_entries() -> Iterator[ZipCase]:
    """Yield zips with one good image and one entry that must be refused."""
    image, other = image_bytes(), image_bytes(2)
    bad = {
        "parent": (RawEntry(b"../../etc/cron.d/x.png", image), r'^Unsafe path: .*"\.\."'),
        "parent-inside": (RawEntry(b"a/../../x.png", image), "^Unsafe path: "),
        "parent-windows": (RawEntry(b"..\\..\\x.png", image), "^Unsafe path: "),
        "absolute": (RawEntry(b"/etc/passwd", image), "^Unsafe path: .*absolute"),
        "drive": (RawEntry(b"C:\\x.png", image), "^Unsafe path: .*absolute"),
        "network": (RawEntry(b"\\\\host\\share\\x.png", image), "^Unsafe path: .*absolute"),
        "zero-byte": (RawEntry(b"x.png\0.txt", image), "^Bad name: "),
        "no-name": (RawEntry(b"", image), "^Bad name: "),
        "link": (RawEntry(b"l.png", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "^Not a file: .*link"),
        "device": (RawEntry(b"d.png", b"", mode=stat.S_IFCHR | 0o666), "^Not a file: .*device"),
        "pipe": (RawEntry(b"p.png", b"", mode=stat.S_IFIFO | 0o666), "^Not a file: "),
        "encrypted": (RawEntry(b"e.png", image, flags=ENCRYPTED), "^Encrypted: "),
        "bzip2": (RawEntry(b"b.png", image, method=zipfile.ZIP_BZIP2), "^Packed by bzip2: "),
        "lzma": (RawEntry(b"b.png", image, method=zipfile.ZIP_LZMA), "^Packed by LZMA: "),
        "unknown-method": (RawEntry(b"b.png", image, method=77), "^Packed by method 77: "),
        "bad-checksum": (RawEntry(b"c.png", image, checksum=1), "^Damaged entry: .*checksum"),
        "says-less": (RawEntry(b"s.png", image, unpacked=len(image) - 5), "^Lying entry: "),
        "says-more": (RawEntry(b"s.png", image, unpacked=len(image) + 5), "^Lying entry: "),
        "stored-says-more": (RawEntry(b"s.png", image, method=0, unpacked=len(image) + 5), "^Lying entry: "),
        "beyond-the-end": (RawEntry(b"n.png", image, offset=2**31), "^Lying entry: it ends outside"),
        "hidden-parent": (RawEntry(b".x/../../e.png", image), '^Unsafe path: .*"'),
        "hidden-absolute": (RawEntry(b"/etc/.ssh/x.png", image), "^Unsafe path: .*absolute"),
        "says-4-gigabytes": (RawEntry(b"g.png", image, unpacked=2**32 - 2), "^(Too large|Lying entry): "),
        "says-2**63": (RawEntry(b"g.png", image, unpacked=FULL, extra=_wide_sizes(2**63)), "^(Too|Lying) "),
        "says-all-2**63": (
            RawEntry(b"g.png", image, unpacked=FULL, packed=FULL, extra=_wide_sizes(2**63, 2**63)),
            "^(Too|Lying) ",
        ),
        "encrypted-says-2**63": (
            RawEntry(b"g.png", image, flags=ENCRYPTED, unpacked=FULL, extra=_wide_sizes(2**63)),
            "^Encrypted: ",
        ),
        "too-large": (RawEntry(b"t.png", image, unpacked=64_000_001, packed=700_000), "^(Too large|Lying)"),
        "not-deflated": (RawEntry(b"d.png", b"\xff" * 50, method=-8), "^(Damaged|Lying) entry: "),
        "same-name": (RawEntry(b"good.png", other), "^Same name: "),
        "archive": (RawEntry(b"inner.zip", raw_zip([RawEntry(b"1.png", image)])), "^No image: .*ZIP archive"),
        "no-image": (RawEntry(b"n.png", b"hello"), "^No image: "),
        "empty": (RawEntry(b"n.png", b""), "^Empty: "),
    }  # fmt: skip
    for name, (entry, reason) in bad.items():
        shown = entry.name.decode().replace("\\", "/") if b"/" not in entry.name else entry.name.decode()
        good = RawEntry(b"good.png", image_bytes(3))
        yield _raw(f"entry-{name}", [good, entry], kept=["good.png"], reasons={shown: reason})
    for size in (4_097, 65_535):
        long = RawEntry(b"\xff" * size, image, flags=UTF8)
        reason = f"^Bad name: it has {size:,} bytes; at most 4,096"
        reasons = {"\ufffd" * 100 + "…": reason}
        yield _raw(f"{size:,}-byte-name", [good, long], kept=["good.png"], reasons=reasons)


def damaged_zips() -> Iterator[ZipCase]:
    """Yield files that are refused as a whole."""
    plain = raw_zip([RawEntry(b"1.png", image_bytes()), RawEntry(b"2.png", image_bytes(1))])
    for cut in (1, 10, len(plain) // 2, len(plain) - 30, len(plain) - 1):
        yield _bytes(f"cut-at-{cut}", plain[:cut], "^No zip: ")
    yield _bytes("end-record-cut-short", b"PK\5\6" + bytes(10), "^No zip: ")
    end = plain.rindex(b"PK\5\6")
    yield _bytes("no-zip", b"hello" * 100, "^No zip: ")
    yield _bytes("nothing", b"", "^No zip: ")
    yield _bytes("last-of-several-files", _with(plain, end + 4, "<HH", 1, 0), "^Split zip: ")
    yield _bytes("directory-in-another-file", _with(plain, end + 4, "<HH", 0, 1), "^Split zip: ")
    yield _bytes("directory-elsewhere", _with(plain, end + 16, "<L", 2**30), "^Damaged zip: ")
    yield _bytes("directory-longer", _with(plain, end + 12, "<L", 2**30), "^Damaged zip: ")
    yield _bytes(
        "wrong-count", _with(plain, end + 8, "<HH", 9, 9), "^Damaged zip: .*2 entries where it says 9"
    )
    fake = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 2**30, 0, 0)
    in_comment = plain[:-2] + struct.pack("<H", len(fake)) + fake
    yield _bytes("end-record-in-the-comment", in_comment, "^Damaged zip: ")
    start = plain.index(b"PK\1\2")
    yield _bytes("overwritten", _with(plain, start, "<L", 0), "^Damaged zip: .*overwritten")
    yield _bytes("name-beyond-the-end", _with(plain, start + 28, "<H", 60_000), "^Damaged zip: ")
    yield _bytes("64-bit-record-missing", _with(plain, end + 16, "<L", 2**32 - 1), "^Damaged zip: ")
    yield ZipCase("folder", lambda path: path.mkdir(), refused="^Not a file: .*folder")


def bomb_zips() -> Iterator[ZipCase]:
    """Yield zips that would unpack to far too much."""
    zeros = RawEntry(b"zeros.bmp", bytes(20_000_000))
    yield _raw("packed-1000-to-1", [zeros], refused="^Packed too tightly: .* 100 times")
    yield _raw("overlapping", _overlapping(400), refused="^Packed too tightly: ")
    few, good = _overlapping(3), RawEntry(b"good.png", image_bytes(3))
    reasons = {entry.name.decode(): "^Overlapping entry: " for entry in few}
    yield _raw("three-overlapping", [*few, good], kept=["good.png"], reasons=reasons)
    inside = RawEntry(b"inside.png", packed=9, unpacked=9, offset=40)
    reasons = {"good.png": "^Overlapping entry: ", "inside.png": "^Overlapping entry: "}
    yield _raw("one-inside-another", [good, inside], reasons=reasons)
    disagree = "one of its two end records says 1, the other 1,500"
    yield ZipCase("two-records", lambda path: path.write_bytes(two_records(1_500)), disagree)
    yield ZipCase("200,001-entries", lambda path: path.write_bytes(_many(200_001)), "^Too many entries: ")
    claims = [RawEntry(b"%d.png" % n, bytes(5_000_000), method=-8, unpacked=2**32 - 2) for n in range(5)]
    yield _raw("claims-21-gigabytes", claims, refused="^Too large: .* 21.5 GB; at most 20 GB")
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1_000, 1_000, 64_000_001, 0, 0)
    huge = "64-megabytes-of-names"
    reason = "^Too large: its directory has 64,000,001 bytes; at most"
    yield ZipCase(huge, lambda path: path.write_bytes(bytes(64_000_001) + end), reason)


def raw_zip(entries: Sequence[RawEntry]) -> bytes:
    """Return a zip of entries as they are, lies included."""
    body, directory = b"", b""
    for entry in entries:
        packed = _deflate(entry.data) if entry.method == zipfile.ZIP_DEFLATED else entry.data
        method = abs(entry.method)
        checksum = zlib.crc32(entry.data) if entry.checksum is None else entry.checksum
        sizes = (
            len(packed) if entry.packed is None else entry.packed,
            len(entry.data) if entry.unpacked is None else entry.unpacked,
        )
        common = (entry.flags, method, 0, 0, checksum, *sizes, len(entry.name))
        offset = len(body) if entry.offset is None else entry.offset
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 3 << 8, 20, *common, len(entry.extra), 0, 0, 0,
                                 entry.mode << 16, offset) + entry.name + entry.extra  # fmt: skip
        if entry.offset is None:
            body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, *common, 0) + entry.name + packed
    count = len(entries)
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, count % 65_536, count % 65_536, len(directory), len(body), 0
    )
    return body + directory + end


def _raw(
    name: str,
    entries: Sequence[RawEntry],
    refused: str | None = None,
    kept: Sequence[str] = (),
    reasons: dict[str, str] | None = None,
) -> ZipCase:
    return ZipCase(name, lambda path: path.write_bytes(raw_zip(entries)), refused, kept, reasons or {})


def _bytes(name: str, data: bytes, refused: str | None = None, kept: Sequence[str] = ()) -> ZipCase:
    return ZipCase(name, lambda path: path.write_bytes(data), refused, kept)


def _with(data: bytes, place: int, layout: str, *numbers: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, place, *numbers)
    return bytes(changed)


def _wide_sizes(*sizes: int) -> bytes:
    """Return the extra field with 64-bit sizes."""
    return struct.pack(f"<HH{len(sizes)}Q", 1, 8 * len(sizes), *sizes)


def _deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _overlapping(count: int) -> list[RawEntry]:
    """Return entries that all point at the first one's bytes."""
    data = image_bytes(4) + bytes(20_000)
    packed = len(_deflate(data))
    first = RawEntry(b"0.png", data)
    truth = {"packed": packed, "unpacked": len(data), "checksum": zlib.crc32(data), "offset": 0}
    return [first, *(RawEntry(b"%d.png" % n, **truth) for n in range(1, count))]


def _many(count: int) -> bytes:
    entry = raw_zip([RawEntry(b"x", b"")])
    start, end = entry.index(b"PK\1\2"), entry.rindex(b"PK\5\6")
    directory = entry[start:end] * count
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(directory), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65_535, 65_535, 2**32 - 1, 2**32 - 1, 0)
    return entry[:start] + directory + record + locator + last


def two_records(count: int, name: bytes = b"x") -> bytes:
    """Return a zip of empty entries whose 64-bit end record lists all of them, and whose last one says 1."""
    one = raw_zip([RawEntry(name, b"", method=zipfile.ZIP_STORED)])
    start, end = one.index(b"PK\1\2"), one.rindex(b"PK\5\6")
    directory = one[start:end] * count
    place = start + len(directory)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)
    size, offset = end - start, place + len(record) + len(locator) - (end - start)
    return (
        one[:start]
        + directory
        + record
        + locator
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, offset, 0)
    )


def _streamed(image: bytes) -> bytes:
    """Return a zip as it is written to a pipe: sizes and checksums behind the data."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.png", image)
    return pipe.getvalue()


def _wide(image: bytes) -> bytes:
    """Return a zip with 64-bit sizes, as the standard library writes them when told to."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, file.open("1.png", "w", force_zip64=True) as entry:
        entry.write(image)
    return buffer.getvalue()
