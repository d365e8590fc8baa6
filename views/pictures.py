"""Pictures inside a page's own text, so that showing them asks nobody for anything."""

import base64

__all__ = ["as_address", "boxed"]

_SIDE = 96  # units of the drawing; it is shown at any size


def as_address(picture: bytes | None) -> str | None:
    """Return a thumbnail as a data: address; None where there is none.

    >>> as_address(b"RIFF")
    'data:image/webp;base64,UklGRg=='
    """
    return None if picture is None else f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def boxed(picture: bytes | None) -> str:
    """Return a square SVG that holds a thumbnail of any shape whole and centred; empty if there is none."""
    address = as_address(picture)
    inside = f'<image width="{_SIDE}" height="{_SIDE}" href="{address}"/>' if address else ""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIDE} {_SIDE}">{inside}</svg>'
