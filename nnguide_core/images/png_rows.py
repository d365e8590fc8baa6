"""Whether a PNG holds all its rows: Pillow leaves the missing ones black and says nothing.

Source: Portable Network Graphics specification, third edition, sections 5.3 (chunks) and 8.1 (interlacing).
"""

import struct
import zlib
from collections.abc import Iterator

__all__ = ["check_rows"]

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BLOCK = 1 << 20  # bytes unpacked at a time


def check_rows(data: bytes) -> None:
    """Return if the pixel data of a PNG unpacks to all the rows that its header promises.

    Raises:
        ValueError: rows are missing, with both counts in bytes.
        zlib.error: the pixel data is damaged.
    """
    expected = _expected_bytes(*struct.unpack_from(">IIBBxxB", data, 16))
    found = 0
    unpacker = zlib.decompressobj()
    for chunk in _pixel_chunks(data):
        while chunk and found < expected:
            found += len(unpacker.decompress(chunk, _BLOCK))
            chunk = unpacker.unconsumed_tail
    if found < expected:
        raise ValueError(f"its pixels end after {found:,} of {expected:,} bytes")


def _expected_bytes(width: int, height: int, depth: int, colour: int, interlaced: int) -> int:
    """Return the size of all rows, each with its filter byte, before compression."""
    total = 0
    for left, top, across, down in _ADAM7 if interlaced else _WHOLE:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * depth * _CHANNELS[colour] + 7) // 8)
    return total


def _pixel_chunks(data: bytes) -> Iterator[bytes]:
    place = 8
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name == b"IDAT":
            yield data[place + 8 : place + 8 + length]
        place += 12 + length
