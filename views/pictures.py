"""Pictures inside a page's own text, so that showing them asks nobody for anything."""

import base64

__all__ = ["as_address"]


def as_address(picture: bytes | None) -> str | None:
    """Return a thumbnail as a data: address; None where there is none.

    >>> as_address(b"RIFF")
    'data:image/webp;base64,UklGRg=='
    """
    return None if picture is None else f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
