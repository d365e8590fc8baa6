import io

import numpy as np
import pytest
from PIL import Image

from nnguide_core.errors import ImageError
from nnguide_core.images import decode
from tests import corpus


def read(image_or_data):
    if isinstance(image_or_data, bytes):
        return np.asarray(decode(image_or_data))[..., 0]
    buffer = io.BytesIO()
    image_or_data.save(buffer, "TIFF")
    return read(buffer.getvalue())


RAMP = np.arange(0, 65_536, 1_040).reshape(8, 8)[:, :8]  # 0 to 65,520


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_16_bit_grey_is_divided_by_257_in_both_byte_orders(byte_order):
    found = read(Image.fromarray(RAMP.astype(f"{byte_order}u2")))
    assert np.array_equal(found, np.round(RAMP / 257))


def test_12_bit_grey_uses_the_whole_range():
    values = np.arange(64) * 65
    packed = b"".join(
        bytes((one >> 4, (one & 15) << 4 | two >> 8, two & 255))
        for one, two in values.reshape(-1, 2).tolist()
    )
    assert np.array_equal(read(corpus.tiff(8, 8, packed, bits=12)).ravel(), np.round(values / 4095 * 255))


def test_grey_whose_zero_is_white_is_inverted():
    data = bytearray(corpus.tiff(8, 8, RAMP.astype("<u2").tobytes(), bits=16))
    photometric = data.index((262).to_bytes(2, "little") + b"\3\0") + 8
    upright = read(bytes(data))
    data[photometric] = 0
    assert np.array_equal(read(bytes(data)), 255 - upright)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.float32([[0, 0.25], [0.5, 1]]), 1),
        (np.float32([[0, 64], [128, 255]]), 255),
        (np.float32([[0, 256], [30_000, 65_535]]), 65_535),
        (np.int32([[0, 64], [128, 255]]), 255),
        (np.int32([[0, 256], [30_000, 65_535]]), 65_535),
        (np.int32([[0, 70_000], [2**30, 2**31 - 1]]), 2**32 - 1),
        (np.float32([[0, 0], [0, 0]]), 1),
    ],
)
def test_32_bit_numbers_are_shares_of_the_smallest_range_that_holds_them(values, white):
    assert np.array_equal(read(Image.fromarray(values)), np.round(values / white * 255.0))


def test_unsigned_32_bit_numbers_above_two_billion_are_bright_and_not_negative():
    values = np.array([[0, 2**31], [2**32 - 1, 2**20]], "<u4")
    data = corpus.tiff(2, 2, values.tobytes(), bits=32)
    assert read(data).tolist() == [[0, 128], [255, 0]]


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, -np.inf, 65_536.0])
def test_numbers_that_are_no_brightness_are_refused_with_their_range(value):
    with pytest.raises(ImageError, match=r"^No brightness: its values run from .* to "):
        read(Image.fromarray(np.float32([[0, value]])))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_clear_pixel_is_white_and_a_solid_one_keeps_its_colour(mode):
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), (9, 0) if mode == "LA" else (9, 9, 9, 0))
    image.putpixel((1, 0), (9, 255) if mode == "LA" else (9, 9, 9, 255))
    assert read(image).tolist() == [[255, 9]]


def test_lab_is_converted_by_its_colour_space():
    lab = Image.frombytes("LAB", (3, 1), bytes((0, 0, 0, 255, 0, 0, 138, 81, 70)))
    buffer = io.BytesIO()
    lab.save(buffer, "TIFF")
    black, white, red = np.asarray(decode(buffer.getvalue()))[0].tolist()
    assert max(black) < 5
    assert min(white) > 250
    assert red[0] > 240
    assert max(red[1:]) < 40
