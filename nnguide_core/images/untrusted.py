"""Untrusted bytes to RGB images: type by content, limits before decoding, and one way to look at every kind.

Pillow decodes, never torchvision, whose decoder segfaults on malformed PNGs. The plugins are called directly:
Image.open would hide their reasons and print a warning for each large file.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from nnguide_core.errors import ImageError
from nnguide_core.images.pixels import to_rgb, transparent_colour
from nnguide_core.images.png_rows import check_rows
from nnguide_core.images.tiff_values import check_values
from nnguide_core.names import visible

__all__ = ["LIMITS", "Header", "ImageLimits", "check_header", "decode", "image_id", "look", "thumbnail"]


@dataclass(frozen=True)
class ImageLimits:
    """What an image may cost."""

    pixels: int = 64_000_000
    side: int = 20_000  # pixels
    bytes: int = 64_000_000  # of the file


@dataclass(frozen=True)
class Header:
    """What an image's header says, before the orientation that its metadata may ask for."""

    kind: str  # "JPEG", "PNG", "WebP", "BMP", "GIF" or "TIFF"
    width: int  # pixels
    height: int


LIMITS = ImageLimits()

_KINDS: tuple[tuple[str, Callable[[bytes], bool], type[ImageFile]], ...] = (
    ("JPEG", lambda start: start.startswith(b"\xff\xd8\xff"), JpegImageFile),
    ("PNG", lambda start: start.startswith(b"\x89PNG\r\n\x1a\n"), PngImageFile),
    ("WebP", lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", WebPImageFile),
    ("GIF", lambda start: start.startswith((b"GIF87a", b"GIF89a")), GifImageFile),
    ("TIFF", lambda start: start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")), TiffImageFile),
    ("BMP", lambda start: start.startswith(b"BM"), BmpImageFile),
)
_READ = "JPEG, PNG, WebP, BMP, GIF and TIFF images are read"
_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive (archives inside archives or folders are not opened)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\x01\0", "an icon"),
    (b"\0\0\0\x0cjP", "a JPEG 2000 image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL", "a JPEG XL image"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", "a program"),
)
# What Pillow's six plugins raise for damaged files, as its source and fuzzing show.
_DAMAGE = (
    OSError,  # truncated data, and what the C decoders refuse
    SyntaxError,  # a header, chunk or tag that breaks the format
    ValueError,  # impossible sizes, tiles outside the image, text chunks that unpack to megabytes
    EOFError,  # no first frame
    struct.error,  # a number cut in two
    IndexError,  # a table cut short
    KeyError,  # a tag or mode that does not exist
    TypeError,  # a tag of another type
    OverflowError,  # an offset beyond the largest file
    ZeroDivisionError,  # a resolution of n/0
    AttributeError,  # a part that a damaged header left out
    AssertionError,  # Pillow's own checks
    zlib.error,  # packed pixels that do not unpack
    UserWarning,  # odd metadata, in programs that turn warnings into errors
)
# EXIF orientation -> what brings the image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_LONGEST_EXIF = 1_000_000  # bytes; Pillow makes objects of every number in it


def image_id(data: bytes) -> str:
    """Return the image's stable id: the SHA-256 of its bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def check_header(data: bytes, limits: ImageLimits = LIMITS) -> Header:
    """Return what the header says, without decoding.

    Raises:
        ImageError: not one of the six kinds, damaged, or over a limit.
    """
    return _open(data, limits)[0]


def decode(data: bytes, limits: ImageLimits = LIMITS) -> Image.Image:
    """Return the first frame as an upright RGB image, transparency over white.

    Palettes, CMYK, YCbCr and Lab are converted; numbers of more than 8 bits are scaled.

    Raises:
        ImageError: not one of the six kinds, damaged, truncated, or over a limit. The reason reads
            "<what it is>: <details>", so that reasons can be counted by what stands before the colon.
    """
    # No name here holds the loaded file: its pixels and decoder are freed before the turned copy is made.
    return _turned(*_flat(*_open(data, limits), data))


def thumbnail(data: bytes, side: int) -> bytes:
    """Return the image within side x side pixels, as WebP.

    Raises:
        ImageError: as decode does.
    """
    header, image = _open(data, LIMITS)
    if image.mode == "RGB":
        image.draft("RGB", (2 * side, 2 * side))  # JPEG alone: decodes at 1/2, 1/4 or 1/8
    small, turn = _flat(header, image, data)
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    _turned(small, turn).save(buffer, "WEBP", quality=85, method=2)
    return buffer.getvalue()


def look(image: Image.Image) -> str:
    """Return 32 hex digits that stay nearly the same when an image is scaled or compressed again.

    A difference hash: is each pixel of a 9 x 9 grey miniature brighter than its neighbour, to the right
    (64 bits) and below (64 bits). How many bits differ is the distance of two looks.
    """
    grey = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX))
    right = grey[:8, 1:] > grey[:8, :8]
    below = grey[1:, :8] > grey[:8, :8]
    return np.packbits(np.stack([right, below])).tobytes().hex()


def _open(data: bytes, limits: ImageLimits) -> tuple[Header, ImageFile]:
    if len(data) > limits.bytes:
        raise ImageError(f"Too large: {len(data):,} bytes; at most {limits.bytes:,} are read.")
    kind, plugin = _sniff(data)
    image = None
    try:
        if kind == "TIFF":
            check_values(data)
        image = plugin(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageError(f"Too large: more than the {limits.pixels:,} pixels that are read.") from error
    except _DAMAGE as error:
        raise _damaged(kind, error) from error
    except MemoryError:
        pass  # raised below, where nothing holds the memory any more
    if image is None:
        raise _too_hungry(kind)
    header = Header(kind, *image.size)
    _check_size(header, limits)
    return header, image


def _sniff(data: bytes) -> tuple[str, type[ImageFile]]:
    start = data[:16]
    for kind, matches, plugin in _KINDS:
        if matches(start):
            return kind, plugin
    if not data:
        raise ImageError("Empty: the file has no bytes.")
    raise ImageError(f"No image: it begins like {_describe(data)}. {_READ}.")


def _describe(data: bytes) -> str:
    start = data[:32]
    for magic, name in _OTHERS:
        if start.startswith(magic):
            return name
    if start[4:8] == b"ftyp":
        brand = visible(start[8:12].decode("latin-1"))
        return f"an HEIF, AVIF or video file ({brand})"
    if not start.strip(b"\0"):
        return "zeros"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:512]):
        return "text"
    return f"nothing known ({start[:8].hex(' ')})"


def _check_size(header: Header, limits: ImageLimits) -> None:
    size = f"{header.width:,} x {header.height:,} pixels"
    if max(header.width, header.height) > limits.side:
        raise ImageError(f"Too large: {size}; sides of at most {limits.side:,} are read.")
    if header.width * header.height > limits.pixels:
        raise ImageError(f"Too large: {size}; at most {limits.pixels:,} in all are read.")


def _flat(header: Header, image: ImageFile, data: bytes) -> tuple[Image.Image, Image.Transpose | None]:
    """Return the pixels in RGB, and the turn that brings them upright."""
    try:
        key = transparent_colour(image)
        image.load()
        if isinstance(image, PngImageFile):
            check_rows(data)
        return to_rgb(image, key), _UPRIGHT.get(_orientation(image))
    except Image.DecompressionBombError as error:
        raise ImageError("Too large: the frame is larger than what is read.") from error
    except _DAMAGE as error:
        raise _damaged(header.kind, error) from error
    except MemoryError:
        pass  # raised below, where nothing holds the memory any more
    raise _too_hungry(header.kind)


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none that can be read."""
    if len(image.info.get("exif", b"")) > _LONGEST_EXIF:
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1  # metadata may be broken while the picture is not
    return orientation if isinstance(orientation, int) else 1


def _damaged(kind: str, error: BaseException) -> ImageError:
    details = visible(str(error))[:200].rstrip(".")
    if not any(character.isalpha() for character in details):  # a bare number says nothing
        details = "a part of it is missing, or not what its header says"
    return ImageError(f"Damaged {kind}: {details}.")


def _too_hungry(kind: str) -> ImageError:
    return ImageError(f"Too large: this {kind} needs more memory than a worker may use.")
