"""Relative paths as text, whatever bytes their names are of: what a dataset keeps of where an image lies."""

import os

__all__ = ["location_of", "path_at"]

_RAW = "/"  # starts a location that is hexadecimal: a name whose bytes are no text


def location_of(path: str) -> str:
    """Return a relative path as a location: itself, or its bytes in hexadecimal where they are no UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return _RAW + os.fsencode(path).hex()
    return path


def path_at(location: str) -> str:
    """Return the relative path that location_of was given."""
    return os.fsdecode(bytes.fromhex(location[1:])) if location.startswith(_RAW) else location
