"""Own features files as a question: one file per dataset, in the bank's and the queries' roles.

An image is shown where the path that its file names lies under an allowed root; elsewhere a placeholder.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nnguide_core.errors import FeaturesFileError, ImageError
from nnguide_core.evaluation import Part, Question
from nnguide_core.features_files import OwnFeatures, load
from nnguide_core.images import LIMITS, image_id
from nnguide_core.names import visible
from nnguide_core.progress import Cancelled, OnProgress, Progress
from nnguide_core.reading import location_of
from nnguide_core.records import Dataset, ImageRef, Role, fingerprint
from nnguide_core.regular_files import read_regular
from nnguide_core.settings import BankSettings, data_roots

__all__ = ["OwnFile", "own_question"]

_NAME = "own features"
_REPORT_EVERY = 50  # images
_NOWHERE = Path(os.devnull)  # the root of a dataset none of whose images can be shown


class OwnFile:
    """A features file in its role.

    Args:
        path: safetensors or npz; relative paths of images in it are taken from its folder.
        name: of the dataset.
        role: what the rows are for.
    """

    def __init__(self, path: Path, name: str, role: Role) -> None:
        self.path, self.name, self.role = path, name, role


def own_question(
    files: Sequence[OwnFile],
    settings: BankSettings | None = None,
    class_names: Sequence[str] | None = None,
    *,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
) -> Question:
    """Return the question that some features files ask, one of them in the role of the bank.

    Args:
        files: one bank, any number of ID and OOD files, of equal widths.
        settings: how the bank is drawn.
        class_names: C names by class index; the indices themselves if not given.
        progress: told while images are looked for.
        cancelled: asked between files.

    Raises:
        FeaturesFileError: a file is unusable, or does not fit the others.
        CancelledError: stopped on request.
    """
    read = [load(each.path) for each in files]
    names = _class_names(read, class_names)
    heads = [own.head for own in read if own.head is not None]
    _check_fit(files, read)
    digests = [own.as_features().dataset for own in read]
    model = fingerprint(_NAME, *names, *digests)
    parts = tuple(
        _part(each, own, names, model, progress, cancelled) for each, own in zip(files, read, strict=True)
    )
    return Question(model, _NAME, names, heads[0] if heads else None, parts, settings or BankSettings())


def _part(
    file: OwnFile,
    own: OwnFeatures,
    names: Sequence[str],
    model: str,
    progress: OnProgress | None,
    cancelled: Cancelled | None,
) -> Part:
    features = own.as_features()
    paths = own.paths or tuple(f"row {row}" for row in range(len(own)))
    labels = [names[label] if label >= 0 else None for label in features.labels.tolist()]
    root, found = _located(file, own.paths or (), progress, cancelled)
    images = tuple(
        ImageRef(found[row][0] if row in found else features.ids[row], file.name, path, label, location)
        for row, (path, label) in enumerate(zip(paths, labels, strict=True))
        for location in [found[row][1] if row in found else ""]
    )
    dataset = Dataset(file.name, file.role, root, images)
    made = replace(features, ids=dataset.ids, model=model, dataset=dataset.fingerprint)
    return Part(dataset, made)


def _located(
    file: OwnFile, paths: Sequence[str], progress: OnProgress | None, cancelled: Cancelled | None
) -> tuple[Path, dict[int, tuple[str, str]]]:
    """Return the allowed root that holds most of the images, and id and location of each that it holds."""
    resolved = [_resolved(file.path.parent, path) for path in paths]
    counts = {
        root: sum(each is not None and each.is_relative_to(root) for each in resolved)
        for root in data_roots()
    }
    root = max(counts, key=lambda each: counts[each], default=_NOWHERE)
    if not counts.get(root):
        return _NOWHERE, {}
    found = {}
    for row, path in enumerate(resolved):
        if cancelled is not None and cancelled():
            break
        if progress is not None and row % _REPORT_EVERY == 0:
            progress(Progress(row, len(resolved), 0.0, step=f"Looking for the images of {file.name}"))
        if path is not None and path.is_relative_to(root) and (content := _content(root, path)) is not None:
            found[row] = (content, location_of(path.relative_to(root).as_posix()))
    return root, found


def _resolved(folder: Path, path: str) -> Path | None:
    try:
        return (folder / path).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
        return None


def _content(root: Path, path: Path) -> str | None:
    """Return the id of the image's bytes; None where it cannot be read."""
    try:
        return image_id(read_regular(path, LIMITS.bytes, within=root))
    except ImageError:
        return None


def _class_names(read: Sequence[OwnFeatures], given: Sequence[str] | None) -> tuple[str, ...]:
    count = read[0].logits.shape[1] if read else 0
    if given is None:
        return tuple(str(index) for index in range(count))
    if len(given) != count:
        raise FeaturesFileError(f"The files have {count} classes, but {len(given)} class names were given.")
    return tuple(given)


def _check_fit(files: Sequence[OwnFile], read: Sequence[OwnFeatures]) -> None:
    """Compare every file with the first: width, classes, head."""
    if not read:
        raise FeaturesFileError("No features file was given.")
    first = read[0]
    for file, own in zip(files, read, strict=True):
        given = (own.features.shape[1], own.logits.shape[1])
        wanted = (first.features.shape[1], first.logits.shape[1])
        if given != wanted:
            raise FeaturesFileError(
                f"{visible(file.name)} has {given[0]} features and {given[1]} classes, but "
                f"{visible(files[0].name)} has {wanted[0]} and {wanted[1]}: use files of one model."
            )
    heads = [(file, own.head) for file, own in zip(files, read, strict=True) if own.head is not None]
    for file, head in heads[1:]:
        if not torch.equal(head.weight, heads[0][1].weight):
            raise FeaturesFileError(
                f"{visible(file.name)} and {visible(heads[0][0].name)} have different head_weight arrays: "
                "use files of one model."
            )
