"""Untrusted bytes to checked stills, and to what a network takes; worker processes import it, so no torch."""

from nnguide_core.images.untrusted import (
    LIMITS,
    Header,
    ImageLimits,
    check_header,
    decode,
    image_id,
    look,
    thumbnail,
)

__all__ = ["LIMITS", "Header", "ImageLimits", "check_header", "decode", "image_id", "look", "thumbnail"]
