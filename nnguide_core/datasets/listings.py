"""Lists of images: a text file with one path per line, or a CSV with the columns path and label."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnguide_core.errors import CancelledError, DatasetError, ImageError
from nnguide_core.paths.folders import Found, written
from nnguide_core.paths.locations import location_of
from nnguide_core.paths.places import Places
from nnguide_core.paths.regular_files import read_regular
from nnguide_core.progress import Cancelled

__all__ = ["Listed", "below", "read_listing"]

_MOST_BYTES = 128_000_000
_MOST_LINES = 2_000_000  # ImageNet has 1.3 million images
_LOOKS = 1_000  # at lines, between two questions whether to stop


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list."""

    path: str  # as written there
    label: str | None


def read_listing(path: Path, *, within: Path | None = None) -> list[Listed]:
    """Read a list of images; a first line with the column "path" makes it a CSV.

    Args:
        path: of the list.
        within: as regular_files.open_regular.

    Raises:
        DatasetError: not readable, not UTF-8, no proper CSV, or longer than 128 MB or 2 million lines.
    """
    try:
        text = read_regular(path, _MOST_BYTES, within=within).decode("utf-8-sig")
    except ImageError as error:
        raise DatasetError(f"The list {path.name} cannot be read. {error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"The list {path.name} is not UTF-8 text: byte {error.start:,} is no text."
        ) from error
    if (count := text.count("\n")) > _MOST_LINES:
        raise DatasetError(
            f"The list {path.name} has {count:,} lines; at most {_MOST_LINES:,} are read. Split it."
        )
    columns = _columns(text.partition("\n")[0])
    if "path" in columns:
        return list(_rows(path.name, text, columns))
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [Listed(line, None) for line in lines if line.strip()]


def below(
    root: Path, listed: Sequence[Listed], cancelled: Cancelled | None = None
) -> list[tuple[Found, str | None]]:
    """Return each listed image as found below a resolved folder, with its label, sorted by path.

    What is listed twice, does not lie in the folder, or can be no path gets its reason.

    Raises:
        CancelledError: cancelled, asked now and then, returned True.
    """
    places, seen = Places(root, (root,)), set[str]()
    result = []
    for row, line in enumerate(sorted(listed, key=lambda each: each.path)):
        if cancelled is not None and row % _LOOKS == 0 and cancelled():
            raise CancelledError(f"Stopped after looking at {row:,} of {len(listed):,} lines.")
        found = _found(places, line.path)
        if found.reason is None and found.location in seen:
            found = Found(found.path, found.location, "Listed twice: an earlier line names it too.")
        seen.add(found.location)
        result.append((found, line.label))
    return result


def _found(places: Places, path: str) -> Found:
    try:
        place = places.find(path)
    except ValueError as error:
        return Found(written(path), "", str(error))
    if place.root is None:
        return Found(written(path), "", "Outside: it does not lie in the folder of the list.")
    return Found(written(place.path), location_of(place.path))


def _columns(line: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([line], skipinitialspace=True), [])]
    except csv.Error:  # a path too long for a CSV
        return []


def _rows(name: str, text: str, columns: Sequence[str]) -> Iterator[Listed]:
    path, label = columns.index("path"), columns.index("label") if "label" in columns else len(columns)
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    read = 1  # lines
    try:
        next(reader)
        for row in reader:
            read = reader.line_num
            if len(row) > path and row[path]:
                yield Listed(row[path], row[label] or None if len(row) > label else None)
    except csv.Error as error:
        raise DatasetError(f"The list {name} is no proper CSV: after line {read}, {error}.") from error
