"""Lists of images, read in a worker process: one path per line, or a CSV with the columns path and label."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nnguide_core.apart import Bounds, read_apart
from nnguide_core.errors import DatasetError, ImageError
from nnguide_core.paths.regular_files import open_regular
from nnguide_core.progress import Cancelled

__all__ = ["Listed", "read_listing"]

_MOST_BYTES = 128_000_000
_MOST_LINES = 2_000_000  # ImageNet has 1.3 million images
_BOUNDS = Bounds(memory=2 * 2**30, seconds=60.0)  # 2 million lines of 64 bytes take 3 s and 700 MB

_Rows = list[tuple[str, str | None]]  # path as written there, and label


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list."""

    path: str  # as written there
    label: str | None


def read_listing(
    path: Path, *, within: Path | None = None, cancelled: Cancelled | None = None
) -> list[Listed]:
    """Read a list of images, sorted by path; a first line with the column "path" makes it a CSV.

    Args:
        path: of the list.
        within: as regular_files.open_regular.
        cancelled: asked now and then; True stops the reading.

    Raises:
        DatasetError: not readable, not UTF-8, not a valid CSV, or longer than 128 MB or 2 million lines.
        CancelledError: cancelled returned True.
    """

    def refused(reason: str) -> DatasetError:
        return DatasetError(f"The list {path.name} cannot be read. {reason}")

    try:
        with open_regular(path, within=within) as file:
            rows = read_apart(_read, file, path.name, bounds=_BOUNDS, refused=refused, cancelled=cancelled)
    except ImageError as error:
        raise refused(str(error)) from error
    return [Listed(*row) for row in rows]


def _read(file: BinaryIO, name: str) -> _Rows:
    try:
        data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"The list {name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"The list {name} is not UTF-8 text: byte {error.start:,} is no text.") from error
    if len(data) > _MOST_BYTES:
        raise DatasetError(f"The list {name} has over {_MOST_BYTES:,} bytes, the most that are read.")
    if (count := text.count("\n")) > _MOST_LINES:
        raise DatasetError(
            f"The list {name} has {count:,} lines; at most {_MOST_LINES:,} are read. Split it."
        )
    columns = _columns(text.partition("\n")[0])
    if "path" in columns:
        rows = list(_rows(name, text, columns))
    else:
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        rows = [(line, None) for line in lines if line.strip()]
    return sorted(rows, key=lambda row: row[0])


def _columns(line: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([line], skipinitialspace=True), [])]
    except csv.Error:  # a path too long for a CSV
        return []


def _rows(name: str, text: str, columns: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    path, label = columns.index("path"), columns.index("label") if "label" in columns else len(columns)
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    read = 1  # lines
    try:
        next(reader)
        for row in reader:
            read = reader.line_num
            if len(row) > path and row[path]:
                yield row[path], row[label] or None if len(row) > label else None
    except csv.Error as error:
        raise DatasetError(f"The list {name} is not a valid CSV: after line {read}, {error}.") from error
