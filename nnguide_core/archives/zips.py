"""Zip files from anyone: which members may be read, and reading them, with nothing ever unpacked to disk.

A member is found again by where it lies, so its name is never more than a text to show, and two members of
one name cannot be mistaken for each other.
"""

import math
import os
import stat
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nnguide_core.archives.directory import LOCAL_HEADER, LONGEST_NAME, Entry, find_directory, read_entries
from nnguide_core.errors import ArchiveError, ImageError
from nnguide_core.paths.regular_files import open_regular

__all__ = [
    "LIMITS",
    "Archive",
    "ArchiveLimits",
    "Member",
    "inspect",
    "inspect_open",
    "open_zip",
    "read_member",
]


@dataclass(frozen=True)
class ArchiveLimits:
    """What a zip may cost."""

    entries: int = 200_000
    unpacked: int = 20_000_000_000  # bytes, all that could be unpacked together
    ratio: int = 100  # bytes unpacked per byte of the zip
    member: int = 64_000_000  # bytes, one member unpacked


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a zip that may be read."""

    path: str  # as the zip names it, "/" between parts; a text to show, never to open
    location: str  # where it lies, for read_member


@dataclass(frozen=True)
class Archive:
    """What a zip holds, folders not counted."""

    members: tuple[Member, ...]  # in the order of the zip's directory
    refused: tuple[tuple[str, str], ...]  # path and reason of each that may not be read
    unsafe: frozenset[str]  # paths of those that were refused for their names


LIMITS = ArchiveLimits()

_STORED, _DEFLATED = 0, 8
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
_TIGHTEST = 1_032  # bytes that one deflated byte can become: 258 for each two bits
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags: encrypted, strongly encrypted, header masked


def inspect(path: Path, limits: ArchiveLimits = LIMITS) -> Archive:
    """Read the directory of a zip at a resolved path and say which members may be read, unpacking none.

    Raises:
        ArchiveError: no zip, damaged in its directory, spread over several files, or over a limit as a whole.
    """
    with open_zip(path) as file:
        return inspect_open(file, limits)


def inspect_open(file: BinaryIO, limits: ArchiveLimits = LIMITS) -> Archive:
    """Do the same for an open zip."""
    directory = find_directory(file)
    entries = read_entries(file, directory, limits.entries)
    size = file.seek(0, os.SEEK_END)
    files = [entry for entry in entries if not entry.name.endswith("/")]
    _check_whole([entry for entry in files if not _costs_nothing(entry, directory.start)], size, limits)
    reasons = _refusals(files, directory.start, limits)
    return Archive(
        tuple(Member(entry.name, _location(entry)) for entry in files if id(entry) not in reasons),
        tuple((entry.name, reasons[id(entry)]) for entry in files if id(entry) in reasons),
        frozenset(entry.name for entry in files if _bad_name(entry.raw_name)),
    )


def open_zip(path: Path) -> BinaryIO:
    """Open a zip at a resolved path.

    Raises:
        ArchiveError: no regular file, not there, or not readable.
    """
    try:
        return open_regular(path, within=path)  # no link that was put there since
    except ImageError as error:
        raise ArchiveError(str(error)) from error


def read_member(path: Path, location: str, most: int = LIMITS.member) -> bytes:
    """Return the bytes of a member of a zip at a resolved path, unpacked to no more than it declares.

    Raises:
        ImageError: larger than most bytes, damaged, or not what the zip's directory said.
        ArchiveError: the zip cannot be opened.
    """
    offset, packed, unpacked, checksum = _parse(location)
    if max(packed, unpacked) > most:
        raise ImageError(f"Too large: {max(packed, unpacked):,} bytes; at most {most:,} are read.")
    try:
        with open_zip(path) as file:
            method, data = _read_packed(file, offset, packed)
    except OSError as error:
        raise ImageError(f"Not readable: {error.strerror}.") from error
    if method == _DEFLATED:
        data = _inflate(data, unpacked)
    if len(data) != unpacked:
        raise ImageError(f"Lying entry: it does not unpack to the {unpacked:,} bytes that it declares.")
    if zlib.crc32(data) != checksum:
        raise ImageError("Damaged entry: it does not match its checksum.")
    return data


def _costs_nothing(entry: Entry, directory_start: int) -> bool:
    """Return whether an entry is refused for itself, whatever size it claims; one too large still counts."""
    return bool(_bad_kind(entry) or _lie(entry, directory_start))


def _check_whole(files: Iterable[Entry], size: int, limits: ArchiveLimits) -> None:
    unpacked = sum(entry.unpacked for entry in files)
    if unpacked > limits.unpacked:
        most = f"{limits.unpacked / 1e9:,.0f} GB"
        found = f"{math.ceil(unpacked / 1e8) / 10:,.1f} GB"  # rounded up: never the limit itself
        raise ArchiveError(f"Too large: it unpacks to {found}; at most {most} are read.")
    if unpacked > limits.ratio * size:
        raise ArchiveError(
            f"Packed too tightly: it unpacks to {math.ceil(unpacked / size):,} times its size; "
            f"at most {limits.ratio} times are read."
        )


def _refusals(files: Sequence[Entry], directory_start: int, limits: ArchiveLimits) -> dict[int, str]:
    """Return the reason of every refused entry by its identity: two entries may be equal."""
    reasons = _overlaps(files)
    names: set[str] = set()
    for entry in files:
        reason = _bad_name(entry.raw_name) or _bad_kind(entry) or _bad_place(entry, directory_start, limits)
        if reason is None and entry.name in names:
            reason = "Same name: an earlier entry of the zip has it too."
        if reason is not None:
            reasons[id(entry)] = reason
        names.add(entry.name)
    return reasons


def _bad_name(name: bytes) -> str | None:
    parts = name.replace(b"\\", b"/").split(b"/")
    if not name or b"\0" in name:
        return "Bad name: it is empty or holds a zero byte."
    if len(name) > LONGEST_NAME:
        return f"Bad name: it has {len(name):,} bytes; at most {LONGEST_NAME:,} are read."
    if b".." in parts:
        return 'Unsafe path: it holds "..".'
    if parts[0] == b"" or parts[0].endswith(b":"):
        return "Unsafe path: it is absolute."
    return None


def _bad_kind(entry: Entry) -> str | None:
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFLNK:
        return "Not a file: this is a link."
    if kind not in (0, stat.S_IFREG):
        return "Not a file: this is a device, a pipe or a folder."
    if entry.flags & _ENCRYPTED:
        return "Encrypted: unpack it with its password first."
    if entry.method not in (_STORED, _DEFLATED):
        method = _METHODS.get(entry.method, f"method {entry.method}")
        return f"Packed by {method}: only stored and deflated entries are read."
    return None


def _bad_place(entry: Entry, directory_start: int, limits: ArchiveLimits) -> str | None:
    if max(entry.packed, entry.unpacked) > limits.member:
        size = max(entry.packed, entry.unpacked)
        return f"Too large: {size:,} bytes; at most {limits.member:,} are read."
    if entry.end > directory_start:
        return "Lying entry: it ends outside the zip."
    return _lie(entry, directory_start) or ("Empty: the file has no bytes." if not entry.unpacked else None)


def _lie(entry: Entry, directory_start: int) -> str | None:
    """Return which size cannot be true, as far as the directory tells."""
    if entry.packed > directory_start:
        return "Lying entry: it ends outside the zip."
    most = entry.packed if entry.method == _STORED else _TIGHTEST * entry.packed
    if entry.unpacked > most or (entry.method == _STORED and entry.unpacked < most):
        return f"Lying entry: it does not unpack to the {entry.unpacked:,} bytes that it declares."
    return None


def _overlaps(files: Iterable[Entry]) -> dict[int, str]:
    """Refuse all entries that share bytes: one packed block that counts many times is a bomb."""
    reasons: dict[int, str] = {}
    longest: Entry | None = None  # of those seen, the one that ends last
    for entry in sorted(files, key=lambda each: (each.offset, each.end)):
        if longest is not None and entry.offset < longest.end:
            reason = "Overlapping entry: it shares its bytes with another."
            reasons[id(entry)] = reasons[id(longest)] = reason
        if longest is None or entry.end > longest.end:
            longest = entry
    return reasons


def _location(entry: Entry) -> str:
    return f"{entry.offset}+{entry.packed}+{entry.unpacked}+{entry.checksum}"


def _parse(location: str) -> tuple[int, int, int, int]:
    numbers = location.split("+")
    if len(numbers) != 4 or not all(number.isdecimal() and number.isascii() for number in numbers):
        raise ImageError(f"Not in a zip: {location!r} is no place in one.")
    offset, packed, unpacked, checksum = map(int, numbers)
    return offset, packed, unpacked, checksum


def _read_packed(file: BinaryIO, offset: int, packed: int) -> tuple[int, bytes]:
    """Return the compression method that stands before a member's data, and the data as they lie there."""
    header = b""
    if offset <= file.seek(0, os.SEEK_END):
        file.seek(offset)
        header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise ImageError("Lying entry: there is nothing where the zip's directory says.")
    _, _, _, method, *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
    if method not in (_STORED, _DEFLATED):
        raise ImageError("Lying entry: it is packed in another way than the zip's directory says.")
    file.seek(name_length + extra_length, os.SEEK_CUR)
    return method, file.read(packed)


def _inflate(data: bytes, unpacked: int) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than declared shows a lie, and max_length 0 would mean no limit.
        return unpacker.decompress(data, unpacked + 1)
    except zlib.error as error:
        raise ImageError(f"Damaged entry: {error}.") from error
