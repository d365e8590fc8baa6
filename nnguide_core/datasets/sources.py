"""Folders, zips, lists and uploads to datasets of checked images; every file that is not read has its reason.

Found = read + skipped, always. What counts as found is every file, of whatever kind, except hidden ones and
what systems leave behind (folders.is_litter); in a zip, an unsafe name counts even where it is hidden. The
class of an image is its folder on the first level; images that lie deeper belong to the same class, those in
no folder to none.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nnguide_core.archives import found_in
from nnguide_core.datasets.listings import below
from nnguide_core.datasets.scanning import Watch, check_bytes, check_places
from nnguide_core.errors import DatasetError, ImageError
from nnguide_core.files import write_atomic
from nnguide_core.images import image_id, reading
from nnguide_core.logs import note_refusals, refusals_noted
from nnguide_core.paths.allowed import still_allowed
from nnguide_core.paths.folders import Found, is_litter, walk
from nnguide_core.paths.listings import Listed, read_listing
from nnguide_core.paths.regular_files import open_regular
from nnguide_core.progress import Cancelled, OnProgress
from nnguide_core.records import Dataset, ImageRef, Role, Skipped, fingerprint
from nnguide_core.workers import Failure, Workers

__all__ = [
    "from_files",
    "from_uploads",
    "labels_for",
    "open_dataset",
    "read_bytes",
    "scan_folder",
    "scan_zip",
    "split",
    "store_upload",
]

_LISTS = (".txt", ".csv")


def open_dataset(
    path: Path | str,
    name: str | None = None,
    role: Role = Role.OOD,
    *,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
    workers: Workers | None = None,
    typed: bool = False,
) -> Dataset:
    """Read a folder, a zip, or a list of images (.txt, .csv), whichever path is.

    Args:
        path: taken as it is, unless typed.
        name: of the dataset; by default the path's own.
        role: what the images are for.
        progress: told about ten times a second.
        cancelled: asked before every image; True stops the scan.
        workers: a pool to use; by default one of the scan's own.
        typed: whether someone typed the path into a page and allowed_path gave it: it is checked again, and
            no link that was put there since is followed.

    Raises:
        DatasetError: nothing there, or none of the three.
        ForbiddenPathError: a typed path that is no longer allowed.
        ArchiveError: a zip that is refused as a whole.
        CancelledError: cancelled returned True.
    """
    watch = Watch(progress, cancelled, workers)
    path = Path(path)
    name = name or path.stem or str(path)
    with refusals_noted(f"dataset {path}"):
        # What is checked here is what is opened later: no path is resolved a second time.
        real = still_allowed(path) if typed else _real(path)
        if _is_folder(real):
            return _scan_folder(real, name, role, watch)
        if path.suffix.lower() in _LISTS:
            listed = read_listing(path, within=real if typed else None, cancelled=cancelled)
            return _scan_listed(real.parent if typed else _real(path.parent), listed, name, role, watch)
        if _starts_like_a_zip(real):
            return _scan_zip(real, name, role, watch)
        raise DatasetError(f"{path} is no folder, zip or list (.txt, .csv) of images.")


def scan_folder(
    root: Path,
    name: str,
    role: Role,
    *,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
    workers: Workers | None = None,
) -> Dataset:
    """Read every image below a folder.

    Raises:
        DatasetError: no folder, or one that cannot be listed.
        CancelledError: cancelled returned True.
    """
    return _scan_folder(_real(root), name, role, Watch(progress, cancelled, workers))


def scan_zip(
    path: Path,
    name: str,
    role: Role,
    *,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
    workers: Workers | None = None,
) -> Dataset:
    """Read every image in a zip, in memory; one folder that wraps all the rest is left out of the paths.

    Raises:
        ArchiveError: refused as a whole.
        CancelledError: cancelled returned True.
    """
    return _scan_zip(_real(path), name, role, Watch(progress, cancelled, workers))


def from_files(
    paths: Path | Sequence[Path],
    name: str,
    role: Role,
    *,
    labels: Sequence[str | None] | None = None,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
    workers: Workers | None = None,
) -> Dataset:
    """Read the images of a list (.txt with a path per line, .csv with path and label), or of given paths.

    A list names files in its own folder, relative to it or in full; what lies elsewhere is skipped.

    Args:
        paths: the list file, or the images themselves.
        name: of the dataset.
        role: what the images are for.
        labels: the class of each given path; a list file brings its own.
        progress: told about ten times a second.
        cancelled: asked before every image; True stops the scan.
        workers: a pool to use; by default one of the scan's own.

    Raises:
        DatasetError: the list cannot be read, or no path was given.
        CancelledError: cancelled returned True.
    """
    watch = Watch(progress, cancelled, workers)
    if isinstance(paths, Path):
        return _scan_listed(_real(paths.parent), read_listing(paths, cancelled=cancelled), name, role, watch)
    if not paths:
        raise DatasetError(f"No files were given for {name}.")
    root = Path(os.path.commonpath([path.parent.resolve() for path in paths]))
    known = labels if labels is not None else [None] * len(paths)
    listed = [Listed(str(path.absolute()), label) for path, label in zip(paths, known, strict=True)]
    return _scan_listed(root, listed, name, role, watch)


def from_uploads(
    files: Iterable[tuple[str, bytes]],
    folder: Path,
    name: str,
    role: Role,
    *,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
    workers: Workers | None = None,
) -> Dataset:
    """Check uploaded images and keep the readable ones in a folder, each under the hash of its content.

    Args:
        files: the path that the client gave, only ever shown, and the bytes; taken as they are needed.
        folder: where they are kept; what is there already stays.
        name: of the dataset.
        role: what the images are for.
        progress: told about ten times a second.
        cancelled: asked before every image; True stops the scan.
        workers: a pool to use; by default one of the scan's own.

    Raises:
        CancelledError: cancelled returned True.
        OSError: the folder cannot be written, or the disk is full.
    """
    waiting: deque[tuple[str, bytes]] = deque()
    images, skipped = [], []
    for result in check_bytes(_noted(files, waiting), Watch(progress, cancelled, workers)):
        path, data = waiting.popleft()
        if isinstance(result, Failure):
            skipped.append(Skipped(path, result.reason))
        else:
            location = store_upload(data, folder).relative_to(folder).as_posix()
            images.append(ImageRef(result.id, name, path, None, location, result.look))
    note_refusals(name, ((each.path, each.reason) for each in skipped))
    return _unwrapped(Dataset(name, role, folder.resolve(), tuple(images), tuple(skipped)))


def store_upload(data: bytes, folder: Path) -> Path:
    """Keep uploaded bytes under the hash of their content, whole or not at all, and return where."""
    content = image_id(data)
    path = folder / content[:2] / content
    if not path.is_file() or path.stat().st_size != len(data):
        write_atomic(path, data)
    return path


def read_bytes(dataset: Dataset, image: ImageRef) -> bytes:
    """Return an image's bytes as they were when the dataset was read.

    Raises:
        ImageError: gone, not readable any more, or changed since.
    """
    data = reading.read(dataset.root, image.location)
    if image_id(data) != image.id:
        raise ImageError("Changed: its content is not what it was when the dataset was read; read it again.")
    return data


def split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Divide an ID dataset into a bank and held-out queries, class by class.

    Which side an image falls on depends on the seed and the contents of its class, not on names or order;
    copies of an image stay together. A class of two different images or more has one on each side at least.

    Args:
        dataset: read images, with or without classes.
        share: of each class that goes to the bank, in (0, 1).
        seed: another seed draws other images.

    Returns:
        The bank, which also keeps the list of skipped files, and the ID queries.
    """
    if not 0 < share < 1:
        raise ValueError(f"The bank's share must be between 0 and 1, got {share}.")
    bank = _drawn(dataset.images, share, seed)
    inside = [image for image in dataset.images if image.id in bank]
    outside = [image for image in dataset.images if image.id not in bank]
    return (
        _part(dataset, f"{dataset.name} bank", Role.BANK, inside, dataset.skipped),
        _part(dataset, f"{dataset.name} ID", Role.ID, outside, ()),
    )


def labels_for(dataset: Dataset, class_names: Sequence[str] | None) -> Tensor:
    """Return each image's index in class_names, -1 where its label is not among them, (N,) int64."""
    places = {name: place for place, name in enumerate(class_names or ())}
    return torch.tensor([places.get(image.label or "", -1) for image in dataset.images], dtype=torch.int64)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _scan_folder(root: Path, name: str, role: Role, watch: Watch) -> Dataset:
    try:
        found = walk(root)
    except OSError as error:
        raise DatasetError(f"The folder {root} cannot be listed: {error.strerror}.") from error
    return _scan(root, name, role, [(each, _class_of(each.path)) for each in found], watch)


def _scan_zip(path: Path, name: str, role: Role, watch: Watch) -> Dataset:
    found = found_in(path, watch.cancelled)
    wrapper = _wrapper([each.path for each in found if each.reason is None])
    found = [Found(each.path.removeprefix(wrapper), each.location, each.reason) for each in found]
    found.sort(key=lambda each: each.path)
    return _scan(path, name, role, [(each, _class_of(each.path)) for each in found], watch)


def _scan_listed(root: Path, listed: Sequence[Listed], name: str, role: Role, watch: Watch) -> Dataset:
    return _scan(root, name, role, below(root, listed, watch.cancelled), watch)


def _scan(
    root: Path, name: str, role: Role, found: Sequence[tuple[Found, str | None]], watch: Watch
) -> Dataset:
    images, skipped = [], []
    results = check_places(root, [each for each, _ in found], watch)
    for (each, label), result in zip(found, results, strict=True):
        if isinstance(result, Failure):
            skipped.append(Skipped(each.path, result.reason))
        else:
            images.append(ImageRef(result.id, name, each.path, label, each.location, result.look))
    note_refusals(name, ((each.path, each.reason) for each in skipped))
    return Dataset(name, role, root, tuple(images), tuple(skipped))


def _class_of(path: str) -> str | None:
    first, separator, _ = path.partition("/")
    return first if separator else None


def _wrapper(paths: Sequence[str]) -> str:
    """Return the folder, with its slash, in which all paths lie; an empty text if there is none."""
    first = {_class_of(path) for path in paths}
    return f"{first.pop()}/" if len(first) == 1 and None not in first else ""


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # of a folder above it, or of a disk that is gone
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error


def _starts_like_a_zip(path: Path) -> bool:
    try:
        with open_regular(path, within=path) as file:
            return path.suffix.lower() == ".zip" or file.read(2) == b"PK"
    except ImageError as error:
        raise DatasetError(f"{path} cannot be read. {error}") from error


def _noted(files: Iterable[tuple[str, bytes]], waiting: deque[tuple[str, bytes]]) -> Iterator[bytes]:
    """Pass on the bytes of what counts as found, and note what waits for its check."""
    for given, data in files:
        path = given.encode("utf-8", "backslashreplace").decode("utf-8")
        plain = "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", ".", ".."))
        if not is_litter(plain):
            waiting.append((plain, data))
            yield data


def _unwrapped(dataset: Dataset) -> Dataset:
    """Leave the folder that wraps all images out of the paths, name the classes, and sort."""
    wrapper = _wrapper([image.path for image in dataset.images])
    paths = [image.path.removeprefix(wrapper) for image in dataset.images]
    images = [
        replace(image, path=path, label=_class_of(path))
        for image, path in zip(dataset.images, paths, strict=True)
    ]
    skipped = [replace(each, path=each.path.removeprefix(wrapper)) for each in dataset.skipped]
    return replace(
        dataset,
        images=tuple(sorted(images, key=lambda each: each.path)),
        skipped=tuple(sorted(skipped, key=lambda each: each.path)),
    )


def _drawn(images: Sequence[ImageRef], share: float, seed: int) -> set[str]:
    """Return the ids of a share of every class, drawn by a hash of seed and content."""
    classes: dict[str | None, list[str]] = {}
    labels = {image.id: image.label for image in sorted(images, key=lambda each: each.label or "")}
    for content in sorted(labels, key=lambda content: fingerprint(str(seed), content)):
        classes.setdefault(labels[content], []).append(content)
    return {
        content for contents in classes.values() for content in contents[: _bank_count(len(contents), share)]
    }


def _bank_count(available: int, share: float) -> int:
    return min(max(round(share * available), 1), max(available - 1, 1))


def _part(
    dataset: Dataset, name: str, role: Role, images: Iterable[ImageRef], skipped: tuple[Skipped, ...]
) -> Dataset:
    return Dataset(name, role, dataset.root, tuple(replace(image, dataset=name) for image in images), skipped)
