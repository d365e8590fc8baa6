"""What to know of datasets before any number is computed from them: counts, skipped files, copies, leaks."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnguide_core.datasets.resemblance import Resemblance, find_alike
from nnguide_core.names import visible
from nnguide_core.progress import Cancelled, OnProgress
from nnguide_core.records import Dataset, ImageRef, Role

__all__ = ["Copies", "DatasetReport", "DatasetSummary", "in_words", "kind_of", "report"]

_NAMED = 3  # images that a sentence names


@dataclass(frozen=True)
class DatasetSummary:
    """One dataset in numbers. Found = read + skipped."""

    name: str
    role: Role
    found: int
    read: int
    class_counts: dict[str, int]  # classes in alphabetical order; empty where there are none
    skipped: dict[str, int]  # how many files were skipped for each kind of reason, the most frequent first


@dataclass(frozen=True)
class Copies:
    """Images with the same content, byte for byte."""

    id: str
    images: tuple[ImageRef, ...]  # two or more


@dataclass(frozen=True)
class DatasetReport:
    """What some datasets hold, and what would make a result look better than it is."""

    datasets: tuple[DatasetSummary, ...]
    copies_within: tuple[Copies, ...]  # inside one dataset
    copies_between: tuple[Copies, ...]  # in two datasets or more
    leaks: tuple[Copies, ...]  # of those between, the ones in the bank and among the queries
    conflicts: tuple[Copies, ...]  # copies among ID images that carry different class names
    resemblances: tuple[Resemblance, ...]  # queries that look like a bank image without being a copy of one
    shared_classes: dict[str, tuple[str, ...]]  # OOD dataset -> its names that are also names of ID classes

    @property
    def copies_of_queries(self) -> tuple[Copies, ...]:
        """The copies between query datasets that are no leaks."""
        leaks = {each.id for each in self.leaks}
        return tuple(each for each in self.copies_between if each.id not in leaks)


def report(
    datasets: Sequence[Dataset],
    *,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
) -> DatasetReport:
    """Compare datasets with themselves and each other, without reading any image again.

    Args:
        datasets: with different names.
        progress: told while near-duplicates are looked for.
        cancelled: asked while near-duplicates are looked for.

    Raises:
        ValueError: two datasets have the same name.
        CancelledError: stopped on request.
    """
    roles = {dataset.name: dataset.role for dataset in datasets}
    if len(roles) < len(datasets):
        raise ValueError(f"Datasets need different names, got {[dataset.name for dataset in datasets]}.")
    copies = _copies(datasets)
    between = tuple(each for each in copies if len({image.dataset for image in each.images}) > 1)
    bank = [image for dataset in datasets if dataset.role is Role.BANK for image in dataset.images]
    queries = [image for dataset in datasets if dataset.role is not Role.BANK for image in dataset.images]
    return DatasetReport(
        datasets=tuple(_summary(dataset) for dataset in datasets),
        copies_within=tuple(each for each in copies if _repeats(image.dataset for image in each.images)),
        copies_between=between,
        leaks=tuple(each for each in between if _leaks(roles[image.dataset] for image in each.images)),
        conflicts=tuple(each for each in copies if _conflict(each, roles)),
        resemblances=find_alike(bank, queries, progress=progress, cancelled=cancelled),
        shared_classes=_shared_classes(datasets),
    )


def in_words(found: DatasetReport) -> list[str]:
    """Return a sentence for each kind of thing that would make a result look better or worse than it is."""
    alike = [
        f"{_place(each.query)} like {_place(each.bank)}, {each.difference} of 128 bits apart"
        for each in found.resemblances
    ]
    findings = (
        (
            "Both in the bank and among the queries, byte for byte",
            _pairs(found.leaks),
            "Such queries look more typical than new images would: take them out of one of the two.",
        ),
        (
            "Queries that look like a bank image without being a copy of one",
            alike,
            "Where they show the same scene, the result looks better than it is.",
        ),
        ("In more than one query dataset, byte for byte", _pairs(found.copies_of_queries), ""),
        ("More than once in one dataset, byte for byte", _pairs(found.copies_within), "Each counts."),
        ("ID images with copies under another class name", _pairs(found.conflicts), ""),
    )
    sentences = [f"{what}: {_counted(images)}. {why}".rstrip() for what, images, why in findings if images]
    return sentences + [
        f"{visible(dataset)}: {', '.join(map(visible, names))} is also the name of an ID class. "
        "Are these images really OOD?"
        for dataset, names in found.shared_classes.items()
    ]


def kind_of(reason: str) -> str:
    """Return what a skipped file's reason has in common with others: what stands before its colon."""
    return reason.partition(":")[0].rstrip(".")


def _pairs(copies: Iterable[Copies]) -> list[str]:
    return [" = ".join(map(_place, each.images)) for each in copies]


def _place(image: ImageRef) -> str:
    return visible(f"{image.dataset}/{image.path}")


def _counted(images: Sequence[str]) -> str:
    more = f"; and {len(images) - _NAMED:,} more" if len(images) > _NAMED else ""
    return f"{len(images):,} ({'; '.join(images[:_NAMED])}{more})"


def _summary(dataset: Dataset) -> DatasetSummary:
    kinds = Counter(kind_of(skipped.reason) for skipped in dataset.skipped)
    return DatasetSummary(
        dataset.name,
        dataset.role,
        dataset.found,
        len(dataset.images),
        dataset.class_counts,
        dict(kinds.most_common()),
    )


def _copies(datasets: Iterable[Dataset]) -> list[Copies]:
    contents: dict[str, list[ImageRef]] = {}
    for dataset in datasets:
        for image in dataset.images:
            contents.setdefault(image.id, []).append(image)
    return [Copies(content, tuple(images)) for content, images in contents.items() if len(images) > 1]


def _repeats(names: Iterable[str]) -> bool:
    return max(Counter(names).values()) > 1


def _leaks(roles: Iterable[Role]) -> bool:
    found = set(roles)
    return Role.BANK in found and len(found) > 1


def _conflict(copies: Copies, roles: dict[str, Role]) -> bool:
    known = {image.label for image in copies.images if roles[image.dataset] is not Role.OOD}
    return len(known - {None}) > 1


def _shared_classes(datasets: Iterable[Dataset]) -> dict[str, tuple[str, ...]]:
    """Compare names without regard to upper and lower case; an OOD dataset's own name counts too."""
    datasets = list(datasets)
    known = {
        name.casefold()
        for dataset in datasets
        if dataset.role is not Role.OOD
        for name in dataset.class_counts
    }
    shared = {
        dataset.name: tuple(
            name for name in dict.fromkeys([dataset.name, *dataset.class_counts]) if name.casefold() in known
        )
        for dataset in datasets
        if dataset.role is Role.OOD
    }
    return {dataset: names for dataset, names in shared.items() if names}
