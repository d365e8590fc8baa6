"""Pixels of every mode to 8-bit RGB: what Pillow's convert clips or ignores is scaled and blended here."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile

from nnguide_core.errors import ImageError

__all__ = ["to_rgb", "transparent_colour"]

_WHITE = 65_535  # of 16-bit grey
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_WHITE_IS_ZERO = 0
_UNSIGNED = 1

Transparent = (
    bytes | int | tuple[int, ...] | None
)  # a palette's alphas, or the grey level or colour that is clear


def transparent_colour(image: Image.Image) -> Transparent:
    """Return which colour a file calls transparent; ask before the pixels are loaded.

    PNG states it in the file's depth. Pillow reads 16-bit colours as 8-bit ones but leaves this number.
    """
    key: Transparent = image.info.get("transparency")
    tiles = getattr(image, "tile", [])
    if isinstance(key, tuple) and tiles and str(tiles[0].args).endswith(";16B"):
        return tuple(part >> 8 for part in key)
    return key


def to_rgb(image: Image.Image, transparent: Transparent = None) -> Image.Image:
    """Return a loaded image in RGB, what is transparent blended over white.

    Unsigned 16-bit grey is divided by 257, 12-bit grey by 16.06. No header says what white is among signed
    and 32-bit numbers: they are shares of the smallest range that holds all of the image, 0 to 1 (floats
    only), 255, 65,535 or 2**32 - 1.

    Raises:
        ImageError: numbers that are negative, not finite or beyond the largest range.
    """
    if image.mode in _SIXTEEN_BIT:
        image = _from_sixteen_bit(image, transparent)
    elif image.mode in ("I", "F"):
        image = _from_numbers(image)
    elif transparent is not None:
        image.info["transparency"] = transparent
    return _over_white(image) if image.has_transparency_data else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    with_alpha = image.convert("LA") if image.mode == "La" else image
    if with_alpha.mode not in ("LA", "RGBA"):
        with_alpha = with_alpha.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(with_alpha, (0, 0), with_alpha)
    return white


def _from_sixteen_bit(image: Image.Image, transparent: Transparent) -> Image.Image:
    white = 2 ** _tag(image, BITSPERSAMPLE, (16,))[0] - 1
    table = np.round(np.arange(_WHITE + 1) * (255 / white)).clip(0, 255).astype(np.uint8)
    if _tag(image, PHOTOMETRIC_INTERPRETATION, None) == _WHITE_IS_ZERO:
        table = 255 - table
    if isinstance(transparent, int) and 0 <= transparent <= _WHITE:
        table[transparent] = 255
    return Image.fromarray(table[np.asarray(image)])


def _from_numbers(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "I" and _tag(image, SAMPLEFORMAT, (1,))[0] == _UNSIGNED:
        values = values.view(np.uint32)
    scale = np.float64(255 / _white_of(values))
    scaled = np.empty(values.shape, np.uint8)
    # Row by row: a whole image of float64 would take eight times the room of the result.
    for row, numbers in zip(scaled, values, strict=True):
        row[:] = np.round(numbers * scale)
    inverted = _tag(image, PHOTOMETRIC_INTERPRETATION, None) == _WHITE_IS_ZERO
    return Image.fromarray(255 - scaled if inverted else scaled)


def _white_of(values: npt.NDArray[Any]) -> int:
    lowest, highest = float(values.min()), float(values.max())
    for white in (1, 255, _WHITE) if values.dtype.kind == "f" else (255, _WHITE, 2**32 - 1):
        # A NaN fails every comparison.
        if lowest >= 0 and highest <= white:
            return white
    found = f"its values run from {lowest:g} to {highest:g}"
    raise ImageError(f"No brightness: {found}, not from 0 to a known white.")


def _tag(image: Image.Image, tag: int, default: Any) -> Any:
    """Return what a TIFF says under a tag; the default for other kinds."""
    return image.tag_v2.get(tag, default) if isinstance(image, TiffImageFile) else default
