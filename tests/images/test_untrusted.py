import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nnguide_core.errors import ImageError
from nnguide_core.images import (
    Header,
    ImageLimits,
    check_header,
    decode,
    image_id,
    look,
    thumbnail,
    untrusted,
)
from tests import corpus, reference
from tests.trial_errands import decode_image
from tests.trials import attempt

EXACT = {"lossless": True, "exact": True}  # WebP that keeps every pixel, also where it is transparent


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data):
    return np.asarray(decode(data)).astype(int)


def bits_apart(one, other):
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("kind", ["odd_images", "truncations", "flips", "lies", "bombs", "strangers"])
def test_every_image_of_the_corpus_is_read_or_refused_for_the_expected_reason(kind):
    cases = [(case.name, case.data, case.expected) for case in getattr(corpus, kind)()]
    trials = list(attempt(decode_image, cases))
    assert [trial for trial in trials if trial.is_bad] == []
    assert len(trials) >= 10


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_lossless_kinds_give_the_pixels_back_exactly(array):
    image = Image.fromarray(array)
    for kind, options in (
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True, "exact": True}),
    ):
        assert np.array_equal(pixels(saved(image, kind, **options)), array), kind


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4))))
def test_alpha_is_blended_over_white(array):
    expected = reference.over_white(array)
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", EXACT)):
        assert np.abs(pixels(saved(Image.fromarray(array), kind, **options)) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "P", "YCbCr"])
def test_other_8_bit_modes_are_what_pillow_makes_of_them(mode):
    kind = "JPEG" if mode == "YCbCr" else "PNG"
    data = saved(corpus.picture(mode), kind)
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_cmyk_is_converted_by_its_four_inks():
    inks = [[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255], [100, 50, 25, 80]]
    row = np.array([inks], np.uint8)
    expected = reference.cmyk_to_rgb(row)
    assert np.abs(pixels(saved(Image.fromarray(row, "CMYK"), "TIFF")) - expected).max() <= 1
    wide = Image.fromarray(row.repeat(16, axis=0).repeat(16, axis=1), "CMYK")
    assert np.abs(pixels(saved(wide, "JPEG", quality=100))[8, 8::16] - expected[0]).max() <= 4


def test_the_transparent_entries_of_a_palette_become_white():
    image = corpus.picture("P")
    clear = 3
    data = saved(image, "PNG", transparency=bytes([255] * clear + [0]))
    expected = np.asarray(image.convert("RGB")).copy()
    expected[np.asarray(image) == clear] = 255
    assert np.array_equal(pixels(data), expected)
    assert np.array_equal(pixels(saved(image, "GIF", transparency=clear)), expected)


@pytest.mark.parametrize(("mode", "clear"), [("L", 100), ("RGB", (250, 20, 60))])
def test_a_transparent_colour_becomes_white(mode, clear):
    array = np.full((4, 4), 100, np.uint8) if mode == "L" else np.tile(np.uint8([250, 20, 60]), (4, 4, 1))
    array[0] = 7
    found = pixels(saved(Image.fromarray(array), "PNG", transparency=clear))
    assert (found[0] == 7).all()
    assert (found[1:] == 255).all()


def test_16_bit_grey_keeps_its_mean_instead_of_saturating():
    ramp = np.linspace(0, 65_535, 500).round().astype(np.uint16)[None].repeat(20, 0)
    assert abs(pixels(saved(Image.fromarray(ramp), "PNG")).mean() - 127.5) < 0.5


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_channels_of_a_png_are_scaled(channels):
    data = corpus.sixteen_bit_png({1: 0, 2: 4, 3: 2, 4: 6}[channels], channels)
    expected = np.linspace(0, 255, 24)
    if channels in (2, 4):  # the last channel is alpha, the same ramp
        expected = 255 + (expected - 255) * np.linspace(0, 1, 24)
    assert np.abs(pixels(data)[5, :, 0] - expected).max() <= 2


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3)])
def test_a_transparent_colour_of_16_bits_becomes_white(kind, channels):
    assert (pixels(corpus.sixteen_bit_png(kind, channels, key=b"\0\0" * channels))[:, 0] == 255).all()
    assert (pixels(corpus.sixteen_bit_png(kind, channels))[:, 0] == 0).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied_once(kind, orientation):
    image = Image.fromarray(np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((16, 16))).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(saved(image.convert("RGB"), kind, exif=exif.tobytes()))
    expected = reference.upright(np.asarray(image).astype(int), orientation)
    assert found.shape[:2] == expected.shape
    assert np.abs(found[..., 0] - expected)[8::16, 8::16].max() <= 6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(kind):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (pixels(data) == [255, 0, 0]).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"II*\0" + b"\xff" * 40, b"neither II nor MM", b"II*\0\x08\0\0\0\1"])
def test_broken_metadata_does_not_cost_the_picture(exif):
    data = saved(corpus.picture(), "JPEG", exif=b"Exif\0\0" + exif)
    assert np.array_equal(pixels(data), pixels(saved(corpus.picture(), "JPEG")))


def test_broken_metadata_in_the_text_of_a_png_does_not_cost_the_picture():
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n4\nno hexadecimal")
    data = saved(corpus.picture(), "PNG", pnginfo=text)
    assert np.array_equal(pixels(data), np.asarray(corpus.picture()))


def test_limits_are_checked_on_the_header_before_any_pixel():
    data = saved(Image.new("L", (300, 200)), "PNG")
    assert check_header(data) == Header("PNG", 300, 200)
    for limits, reason in (
        (ImageLimits(pixels=59_999), "^Too large: 300 x 200 pixels; at most 59,999 in all are read.$"),
        (ImageLimits(side=299), "^Too large: 300 x 200 pixels; sides of at most 299 are read.$"),
        (ImageLimits(bytes=20), f"^Too large: {len(data)} bytes; at most 20 are read.$"),
    ):
        with pytest.raises(ImageError, match=reason):
            check_header(data, limits)
    with pytest.raises(ImageError, match=r"^Too large: 200 x 300"):
        check_header(saved(Image.new("L", (200, 300)), "PNG"), ImageLimits(side=299))
    assert decode(data, ImageLimits(pixels=60_000, side=300, bytes=len(data))).size == (300, 200)
    with pytest.raises(ImageError, match="Too large: 300 x 200"):
        decode(data[:60], ImageLimits(side=299))


def test_a_reason_shows_nothing_that_could_hide_or_break_a_line():
    with pytest.raises(ImageError) as caught:
        decode(b"\0\0\0\x18ftyp\x1b[2\n" + bytes(16))
    assert str(caught.value).isprintable()


def test_the_id_is_the_sha256_of_the_bytes():
    assert image_id(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_a_picture_saved_again_smaller_looks_nearly_the_same_and_another_does_not():
    generator = np.random.default_rng(0)
    coarse = [Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)) for _ in range(12)]
    scenes = [image.resize((280, 240), Image.Resampling.BICUBIC) for image in coarse]
    looks = [look(scene) for scene in scenes]
    again = [look(decode(saved(scene.resize((140, 120)), "JPEG", quality=60))) for scene in scenes]
    assert max(map(bits_apart, looks, again)) <= 6
    assert min(bits_apart(one, other) for one in looks for other in looks if one != other) >= 25
    assert all(len(each) == 32 for each in looks)


def test_the_look_compares_each_cell_with_its_right_and_lower_neighbour():
    falling = Image.fromarray(np.arange(0, 243, 27, dtype=np.uint8)[None, ::-1].repeat(9, 0))
    assert look(falling.convert("RGB")) == "0" * 32
    assert look(falling.transpose(Image.Transpose.ROTATE_180).convert("RGB")) == "f" * 16 + "0" * 16
    assert look(falling.transpose(Image.Transpose.ROTATE_90).convert("RGB")) == "0" * 16 + "f" * 16


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_thumbnail_is_a_webp_that_fits_and_shows_the_same(kind):
    small = Image.open(io.BytesIO(thumbnail(saved(corpus.picture(size=(900, 600)), kind), 96)))
    assert (small.format, small.size) == ("WEBP", (96, 64))
    difference = np.asarray(small).astype(int) - np.asarray(corpus.picture(size=(900, 600)).resize((96, 64)))
    assert np.abs(difference).mean() < 6


def test_a_thumbnail_never_enlarges():
    assert Image.open(io.BytesIO(thumbnail(saved(corpus.picture(), "PNG"), 96))).size == (24, 20)


@pytest.mark.parametrize("error", [KeyError(72), IndexError(), ValueError("...")])
def test_a_reason_that_says_nothing_is_replaced_by_one_in_words(monkeypatch, error):
    def broken(_):
        raise error

    kinds = [(kind, matches, broken) for kind, matches, _ in untrusted._KINDS]
    monkeypatch.setattr(untrusted, "_KINDS", kinds)
    with pytest.raises(
        ImageError, match=r"^Damaged PNG: a part of it is missing, or not what its header says\.$"
    ):
        untrusted.decode(b"\x89PNG\r\n\x1a\n" + bytes(20))
