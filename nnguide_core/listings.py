"""Lists of images: a text file with one path per line, or a CSV with the columns path and label."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnguide_core.errors import DatasetError, ImageError
from nnguide_core.folders import Found, written
from nnguide_core.reading import location_of
from nnguide_core.regular_files import read_regular

__all__ = ["Listed", "below", "read_listing"]

_MOST_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list."""

    path: str  # as written there
    label: str | None


def read_listing(path: Path) -> list[Listed]:
    """Read a list of images; a first line with the column "path" makes it a CSV.

    Raises:
        DatasetError: not readable, not UTF-8, no proper CSV, or longer than 256 MB.
    """
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
    except ImageError as error:
        raise DatasetError(f"The list {path.name} cannot be read. {error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"The list {path.name} is not UTF-8 text: byte {error.start:,} is no text."
        ) from error
    first, _, _ = text.partition("\n")
    if "path" in [column.strip() for column in first.split(",")]:
        return list(_rows(path.name, text))
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [Listed(line, None) for line in lines if line.strip()]


def below(root: Path, listed: Sequence[Listed]) -> list[tuple[Found, str | None]]:
    """Return each listed image as found below a resolved folder, with its label, sorted by path.

    What is listed twice or does not lie in the folder gets its reason.
    """
    seen: set[str] = set()
    result = []
    for line in sorted(listed, key=lambda each: each.path):
        full = root / line.path
        # Links on the way are followed, the last part is not: it is what the list names.
        relative = os.path.relpath(full.parent.resolve() / full.name, root)
        found = Found(written(relative), location_of(relative))
        if relative == ".." or relative.startswith("../"):
            found = Found(written(line.path), "", "Outside: it does not lie in the folder of the list.")
        elif relative in seen:
            found = Found(found.path, found.location, "Listed twice: an earlier line names it too.")
        seen.add(relative)
        result.append((found, line.label))
    return result


def _rows(name: str, text: str) -> Iterator[Listed]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        for row in reader:
            if row.get("path"):
                yield Listed(row["path"], row.get("label") or None)
    except csv.Error as error:
        raise DatasetError(
            f"The list {name} is no proper CSV: after line {reader.line_num}, {error}."
        ) from error
