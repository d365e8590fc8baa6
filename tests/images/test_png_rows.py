import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nnguide_core.errors import ImageError
from nnguide_core.images import decode
from nnguide_core.images.png_rows import check_rows
from tests import reference


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(columns, rows, depth, colour, interlaced, *, missing=0, parts=1):
    """Return a PNG of random pixels with some bytes missing at the end of its last row."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    generator = np.random.default_rng(columns * rows)
    raw = b""
    for row in reference.png_rows(columns, rows, interlaced):
        raw += b"\0" + generator.bytes((len(row) * depth * channels + 7) // 8)
    packed = zlib.compress(raw[: len(raw) - missing])
    size = -(-len(packed) // parts)
    pixels = b"".join(chunk(b"IDAT", packed[place : place + size]) for place in range(0, len(packed), size))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    header = struct.pack(">IIBBBBB", columns, rows, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
kinds = st.sampled_from([(depth, colour) for colour, depths in DEPTHS.items() for depth in depths])


@given(st.integers(1, 20), st.integers(1, 20), kinds, st.booleans(), st.integers(1, 3))
def test_a_whole_png_passes_and_one_byte_less_is_noticed(columns, rows, kind, interlaced, parts):
    check_rows(png(columns, rows, *kind, interlaced, parts=parts))
    with pytest.raises(ValueError, match="its pixels end after"):
        check_rows(png(columns, rows, *kind, interlaced, missing=1, parts=parts))


def test_an_interlaced_png_is_read_like_pillow_reads_it():
    data = png(13, 11, 8, 2, True)
    assert np.array_equal(np.asarray(decode(data)), np.asarray(Image.open(io.BytesIO(data))))


def test_missing_rows_are_refused_although_pillow_leaves_them_black():
    buffer = io.BytesIO()
    Image.new("L", (10, 10), 200).save(buffer, "PNG")
    data = buffer.getvalue()
    claims_more = data[:8] + chunk(b"IHDR", struct.pack(">II", 10, 90) + data[24:29]) + data[33:]
    assert Image.open(io.BytesIO(claims_more)).getpixel((9, 89)) == 0
    with pytest.raises(ImageError, match=r"^Damaged PNG: its pixels end after 110 of 990 bytes\.$"):
        decode(claims_more)
