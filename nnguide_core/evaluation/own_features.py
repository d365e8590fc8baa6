"""Own features files as a question: one file per dataset, in the bank's and the queries' roles.

An image is shown where the path that its file names lies under an allowed root; elsewhere a placeholder.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nnguide_core.datasets.scanning import Watch, check_places
from nnguide_core.errors import CancelledError, FeaturesFileError
from nnguide_core.evaluation.judging import Part, Question
from nnguide_core.features.files import OwnFeatures, load
from nnguide_core.images.reading import Checked
from nnguide_core.names import visible
from nnguide_core.paths.allowed import still_allowed
from nnguide_core.paths.boundaries import readable_roots
from nnguide_core.paths.folders import Found
from nnguide_core.paths.locations import location_of
from nnguide_core.paths.places import Place, Places
from nnguide_core.progress import Cancelled, OnProgress
from nnguide_core.records import Dataset, ImageRef, Role, fingerprint
from nnguide_core.settings import BankSettings

__all__ = ["OwnFile", "own_question"]

_NAME = "own features"
_LOOKS = 1_000  # for images, between two questions whether to stop
_NOWHERE = Path(os.devnull)  # the root of a dataset none of whose images can be shown


class OwnFile:
    """A features file in its role.

    Args:
        path: safetensors or npz; relative paths of images in it are taken from its folder.
        name: of the dataset.
        role: what the rows are for.
        typed: whether allowed_path gave the path, which is then checked again before the file is read.
    """

    def __init__(self, path: Path, name: str, role: Role, *, typed: bool = False) -> None:
        self.path, self.name, self.role, self.typed = path, name, role, typed


@dataclass(frozen=True, slots=True)
class _Located:
    """What is known of a row's image, and where it lies."""

    id: str
    look: str
    location: str


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
        cancelled: asked while images are looked for and checked.

    Raises:
        FeaturesFileError: a file is unusable, or does not fit the others.
        ForbiddenPathError: a typed path is no longer allowed.
        CancelledError: stopped on request.
    """
    read = [
        load(each.path, within=still_allowed(each.path) if each.typed else None, cancelled=cancelled)
        for each in files
    ]
    names = _class_names(read, class_names)
    heads = [own.head for own in read if own.head is not None]
    _check_fit(files, read)
    digests = [own.as_features().dataset for own in read]
    model = fingerprint(_NAME, *names, *digests)
    watch = Watch(progress, cancelled)
    parts = tuple(_part(each, own, names, model, watch) for each, own in zip(files, read, strict=True))
    return Question(model, _NAME, names, heads[0] if heads else None, parts, settings or BankSettings())


def _part(
    file: OwnFile,
    own: OwnFeatures,
    names: Sequence[str],
    model: str,
    watch: Watch,
) -> Part:
    features = own.as_features()
    paths = own.paths or tuple(f"row {row}" for row in range(len(own)))
    labels = [names[label] if label >= 0 else None for label in features.labels.tolist()]
    root, found = _located(file.path.parent, own.paths or (), watch)
    images = tuple(
        ImageRef(features.ids[row], file.name, path, label, "")
        if (image := found.get(row)) is None
        else ImageRef(image.id, file.name, path, label, image.location, image.look)
        for row, (path, label) in enumerate(zip(paths, labels, strict=True))
    )
    dataset = Dataset(file.name, file.role, root, images)
    made = replace(features, ids=dataset.ids, model=model, dataset=dataset.fingerprint)
    return Part(dataset, made)


def _located(folder: Path, paths: Sequence[str], watch: Watch) -> tuple[Path, dict[int, _Located]]:
    """Return the allowed root that holds most of the files named, and what is known of each image in it.

    A row whose file is no readable image is a row without one: not even the hash of other files is told.
    """
    places = _places(folder, paths, watch)
    counts = Counter(place.root for place in places.values())
    root = max(counts, key=lambda each: counts[each], default=None)
    if root is None:
        return _NOWHERE, {}
    locations = {row: location_of(place.path) for row, place in places.items() if place.root == root}
    unique = sorted(set(locations.values()))
    results = check_places(root, [Found(each, each) for each in unique], watch)
    checked = dict(zip(unique, results, strict=True))
    return root, {
        row: _Located(image.id, image.look, location)
        for row, location in locations.items()
        if isinstance(image := checked[location], Checked)
    }


def _places(folder: Path, paths: Sequence[str], watch: Watch) -> dict[int, Place]:
    """Return where each row's file lies, if it may be read and something is there."""
    finder, found = Places(folder, readable_roots()), {}
    for row, path in enumerate(paths):
        if watch.cancelled is not None and row % _LOOKS == 0 and watch.cancelled():
            raise CancelledError(f"Stopped after looking for {row:,} of {len(paths):,} images.")
        try:
            place = finder.find(path)
        except ValueError:  # no file can have such a name
            continue
        # What may not be read is not looked at.
        if place.root is not None and os.path.lexists(place.root / place.path):
            found[row] = place
    return found


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
