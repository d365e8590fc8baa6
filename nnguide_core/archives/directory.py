"""The directory at the end of a zip file, read leniently in its names and strictly in its sizes.

The standard library gives up a whole archive for one name that is not the UTF-8 it claims to be, and reads
every entry of a directory before anyone can count them.

Source: PKWARE, .ZIP File Format Specification, version 6.3.10, sections 4.3 to 4.5.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from nnguide_core.errors import ArchiveError

__all__ = ["LOCAL_HEADER", "LONGEST_NAME", "Directory", "Entry", "find_directory", "read_entries"]

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
LONGEST_NAME = 4_096  # bytes, Linux's own limit; of a longer one only the beginning is decoded

_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LONGEST_COMMENT = 65_535  # bytes
_MOST_BYTES = 64_000_000  # of a directory: 200,000 entries with names of 250 bytes stay below
_SHOWN_BYTES = 100  # of a name that is too long
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # "see the 64-bit field"
_UTF8 = 0x800  # flag: the name is UTF-8
_ESCAPES = {chr(0xDC00 + byte): f"\\x{byte:02x}" for byte in range(0x80, 0x100)}  # of bytes that are no UTF-8
_UNIX = 3  # the system whose file modes an entry carries
_WIDE_FIELDS = 1  # extra field: 64-bit sizes and offset


@dataclass(frozen=True)
class Directory:
    """Where a zip's directory lies, in bytes from the start of the file."""

    start: int
    size: int
    shift: int  # what stands in front of the zip proper: added to every offset
    stated: int  # how many entries it says it has


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the directory."""

    name: str  # as shown: bytes that are no text are written as escapes
    raw_name: bytes  # "/" between parts
    flags: int
    method: int  # of compression
    checksum: int  # CRC-32 of what it unpacks to
    packed: int  # bytes
    unpacked: int  # bytes
    mode: int  # Unix file mode, 0 where the entry carries none
    offset: int  # of its local header, in bytes from the start of the file
    end: int  # the first byte after it, at the earliest


def find_directory(file: BinaryIO) -> Directory:
    """Find the directory from the end of the file.

    Raises:
        ArchiveError: not there, spread over several files, not where the end record says, over 64 MB, or
            described by two records that disagree: other programs would read the other one.
    """
    size = file.seek(0, os.SEEK_END)
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(tail_start)
    tail = file.read()
    place = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    if place < 0:
        raise ArchiveError("No zip: it has no directory at its end, so it is truncated or something else.")
    _, disk, first_disk, _, stated, length, offset, _ = _END.unpack_from(tail, place)
    end = tail_start + place
    if disk not in (0, _FULL_16) or first_disk not in (0, _FULL_16):
        raise ArchiveError("Split zip: it is spread over several files; join them into one.")
    end, stated, length, offset = _wide_end(file, end, (stated, length, offset))
    start = end - length
    if start < 0 or offset > start:
        raise ArchiveError("Damaged zip: its directory is not where its end record says.")
    if length > _MOST_BYTES:
        raise ArchiveError(
            f"Too large: its directory has {length:,} bytes; at most {_MOST_BYTES:,} are read. Split the zip."
        )
    return Directory(start, length, start - offset, stated)


def read_entries(file: BinaryIO, directory: Directory, most: int) -> list[Entry]:
    """Read the entries, folders included, in the directory's order.

    Raises:
        ArchiveError: more than most entries, cut short, or another number than stated.
    """
    if directory.stated > most:
        raise _too_many(directory.stated, most)
    file.seek(directory.start)
    entries = []
    for entry in _entries(file.read(directory.size), directory.shift):
        entries.append(entry)
        if len(entries) > most:
            raise _too_many(len(entries), most)
    # Some programs write only the count's last 16 bits.
    if (len(entries) - directory.stated) % (_FULL_16 + 1):
        found = f"{len(entries):,} entries where it says {directory.stated:,}"
        raise ArchiveError(f"Damaged zip: its directory lists {found}.")
    return entries


def _too_many(count: int, most: int) -> ArchiveError:
    return ArchiveError(f"Too many entries: {count:,} or more; at most {most:,} are read. Split the zip.")


def _wide_end(file: BinaryIO, end: int, narrow: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return end, count, size and offset from the 64-bit end record, or the narrow ones if there is none."""
    if end < _LOCATOR_64.size:
        return end, *narrow
    file.seek(end - _LOCATOR_64.size)
    signature, _, wide_end, disks = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
    if signature != b"PK\6\7":
        return end, *narrow
    start = end - _LOCATOR_64.size - _END_64.size
    file.seek(max(0, start))
    record = file.read(_END_64.size)
    # Some programs look where the locator says, others right before it.
    if wide_end != start or not record.startswith(b"PK\6\6") or disks > 1:
        raise ArchiveError("Damaged zip: its 64-bit end record is missing.")
    *_, stated, length, offset = wide = _END_64.unpack(record)
    full = (_FULL_16, _FULL_32, _FULL_32)
    for few, many, most in zip(narrow, wide[-3:], full, strict=True):
        if few not in (many, most):
            raise ArchiveError(f"Damaged zip: one of its two end records says {few:,}, the other {many:,}.")
    return wide_end, stated, length, offset


def _entries(data: bytes, shift: int) -> Iterator[Entry]:
    place = 0
    while place < len(data):
        if len(data) - place < _ENTRY.size or data[place : place + 4] != b"PK\1\2":
            raise ArchiveError("Damaged zip: its directory is cut short or overwritten.")
        fields = _ENTRY.unpack_from(data, place)
        name_length, extra_length, comment_length = fields[10:13]
        name_start = place + _ENTRY.size
        extra_start = name_start + name_length
        place = extra_start + extra_length + comment_length
        yield _entry(
            fields, data[name_start:extra_start], data[extra_start : extra_start + extra_length], shift
        )


def _entry(fields: tuple[int, ...], raw_name: bytes, extra: bytes, shift: int) -> Entry:
    _, made_by, _, flags, method, _, _, checksum, packed, unpacked, *_, attributes, offset = fields
    unpacked, packed, offset = _widened((unpacked, packed, offset), extra)
    if b"/" not in raw_name:
        raw_name = raw_name.replace(b"\\", b"/")  # written on Windows
    return Entry(
        name=_text(raw_name, flags),
        raw_name=raw_name,
        flags=flags,
        method=method,
        checksum=checksum,
        packed=packed,
        unpacked=unpacked,
        mode=attributes >> 16 if made_by >> 8 == _UNIX else 0,
        offset=offset + shift,
        end=offset + shift + LOCAL_HEADER.size + len(raw_name) + packed,
    )


def _text(raw_name: bytes, flags: int) -> str:
    """Decode a name: UTF-8 where it says so or could be, else the code page of the first zips."""
    if len(raw_name) > LONGEST_NAME:
        return f"{raw_name[:_SHOWN_BYTES].decode('utf-8', 'replace')}…"
    try:
        return raw_name.decode("utf-8")
    except UnicodeDecodeError:
        if not flags & _UTF8:
            return raw_name.decode("cp437")
    # As "backslashreplace" does, whose time grows with the square of the length.
    text = raw_name.decode("utf-8", "surrogateescape")
    return "".join([_ESCAPES.get(character, character) for character in text])


def _widened(numbers: tuple[int, ...], extra: bytes) -> list[int]:
    """Replace each number that is full by the next one of the 64-bit extra field, if it is there."""
    wide = _extra_field(extra, _WIDE_FIELDS)
    result = []
    for number in numbers:
        if number == _FULL_32 and len(wide) >= 8:
            number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        result.append(number)
    return result


def _extra_field(extra: bytes, wanted: int) -> bytes:
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == wanted:
            return extra[place + 4 : place + 4 + length]
        place += 4 + length
    return b""
