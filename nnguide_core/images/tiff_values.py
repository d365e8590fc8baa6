"""Whether a TIFF's first directory is of a size that a picture can need: Pillow makes objects of its numbers.

Source: TIFF, revision 6.0, section 2 (image file directories); BigTIFF, with 8-byte counts and offsets.
"""

import struct
from collections.abc import Iterator

__all__ = ["check_values"]

MOST_VALUES = 1_000_000  # of one tag; 64 million pixels in tiles of 16 x 16 have 250,000

_BYTES = (1, 2, 6, 7)  # types that stay bytes: profiles and previews may be long
_BIG = (b"II+\0", b"MM\0+")


def check_values(data: bytes) -> None:
    """Return if no tag of the first directory claims more numbers than a picture can need.

    Raises:
        ValueError: one does, with its number and its count.
        struct.error: the directory is cut short.
    """
    for tag, kind, count in _entries(data):
        if kind not in _BYTES and count > MOST_VALUES:
            raise ValueError(f"its tag {tag} holds {count:,} numbers; at most {MOST_VALUES:,} are read")


def _entries(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield tag, type and count of each entry."""
    order, is_big = "<" if data.startswith(b"II") else ">", data.startswith(_BIG)
    (place,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}H", data, place)
    place += 8 if is_big else 2
    for _ in range(entries):
        yield struct.unpack_from(f"{order}HHQ" if is_big else f"{order}HHI", data, place)
        place += 20 if is_big else 12
