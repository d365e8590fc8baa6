"""The records that everything else stands on: images, datasets, features, runs and verdicts."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from nnguide_core.errors import StoreError
from nnguide_core.settings import VERSION, BankSettings

__all__ = [
    "Dataset",
    "Features",
    "ImageRef",
    "JobRecord",
    "JobState",
    "Role",
    "Run",
    "RunDataset",
    "Skipped",
    "Threshold",
    "ThresholdKind",
    "Verdict",
    "current_versions",
    "fingerprint",
    "texts_in",
]

ThresholdKind = Literal["id_kept", "ood_caught", "value"]

_RUN_FORMAT = 2  # raised when an older program would misread a run; this one reads those before, too
_COMPUTING_PACKAGES = ("torch", "torchvision", "numpy", "pillow")  # those that can move a score


class Role(StrEnum):
    """What a dataset is for: filling the bank, held-out ID queries, or OOD queries."""

    BANK = "bank"
    ID = "id"
    OOD = "ood"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One checked image: what it is called, what it holds and where its bytes lie."""

    id: str  # SHA-256 of the file's bytes, 64 hex digits
    dataset: str  # name of the dataset
    path: str  # as the user knows it, relative to the dataset, "/" between parts
    label: str | None  # class name, or None where the dataset has no classes
    location: str  # where the bytes are, relative to the dataset's root; reading.py reads it
    look: str | None = None  # 32 hex digits that differ in few bits for near-duplicates; images.look


@dataclass(frozen=True, slots=True)
class Skipped:
    """One file that was found and not read, with the reason in words."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Images in one role. Found = read + skipped, always."""

    name: str
    role: Role
    root: Path  # a folder, or a zip file whose members are the images
    images: tuple[ImageRef, ...]
    skipped: tuple[Skipped, ...] = field(default=())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of ids and labels in order: the same contents give the same fingerprint anywhere."""
        return fingerprint(*(f"{image.id}:{image.label or ''}" for image in self.images))

    @property
    def found(self) -> int:
        """How many files were found: those read and those skipped."""
        return len(self.images) + len(self.skipped)

    @cached_property
    def class_counts(self) -> dict[str, int]:
        """Images per class, classes in alphabetical order; empty where there are no classes."""
        counts: dict[str, int] = {}
        for image in self.images:
            if image.label is not None:
                counts[image.label] = counts.get(image.label, 0) + 1
        return dict(sorted(counts.items()))

    @property
    def ids(self) -> tuple[str, ...]:
        """The images' ids, in the dataset's order."""
        return tuple(image.id for image in self.images)


@dataclass(frozen=True)
class Features:
    """What a model makes of a dataset: one row per image, in the dataset's order."""

    features: Tensor  # (N, D) float32
    logits: Tensor  # (N, C) float32
    ids: tuple[str, ...]  # N image ids
    labels: Tensor  # (N,) int64, the model's class index, -1 where unknown
    model: str  # the model's fingerprint
    dataset: str  # the dataset's fingerprint
    skipped: tuple[Skipped, ...] = field(default=())  # images that failed after the dataset was scanned
    device: str = ""  # what computed them, in words; "" where that is not known

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Verdict:
    """What a person decided about an image. Append-only: undo is one more row."""

    image: str  # the image's id
    decision: str  # one of settings.VERDICTS, or "" which takes back what was said before
    note: str
    when: datetime  # with a time zone
    run: str = ""  # id of the run that was looked at


@dataclass(frozen=True)
class Threshold:
    """How the threshold is found: by a share of ID kept, by a share of OOD caught, or as a score."""

    kind: ThresholdKind
    level: float  # the share in (0, 1], or for "value" the score itself

    def __post_init__(self) -> None:
        if self.kind not in get_args(ThresholdKind):
            raise ValueError(
                f"The threshold rule must be one of {get_args(ThresholdKind)}, got {self.kind!r}."
            )
        if not math.isfinite(self.level):
            raise ValueError(f"The threshold must be a finite number, got {self.level}.")
        if self.kind != "value" and not 0.0 < self.level <= 1.0:
            raise ValueError(f"The share that sets the threshold must be in (0, 1], got {self.level}.")


@dataclass(frozen=True)
class RunDataset:
    """What a run remembers of one of its datasets."""

    fingerprint: str
    name: str
    role: Role
    size: int  # images

    @classmethod
    def of(cls, dataset: Dataset) -> "RunDataset":
        """Return what a run remembers of this dataset."""
        return cls(dataset.fingerprint, dataset.name, dataset.role, len(dataset.images))


@dataclass(frozen=True)
class Run:
    """What a number came from: model, bank, queries, settings, k, threshold rule and versions."""

    model: str  # the model's fingerprint
    model_name: str
    bank: RunDataset
    queries: tuple[RunDataset, ...]
    settings: BankSettings
    k: int
    threshold: Threshold
    classes: str = ""  # fingerprint of the class names, on which labels depend; "" in runs of before
    versions: Mapping[str, str] = field(default_factory=lambda: current_versions(), hash=False)
    created: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)
    device: str = field(default="", compare=False)  # what computed the features, in words; "" if not known

    @cached_property
    def question(self) -> str:
        """Fingerprint of what stays while k and threshold move: model, classes, bank, queries, settings."""
        settings = json.dumps(dict(map(_as_at_first, asdict(self.settings).items())))
        queries = (f"{query.role}:{query.fingerprint}" for query in self.queries)
        classes = [f"classes:{self.classes}"] if self.classes else []
        return fingerprint("question", self.model, self.bank.fingerprint, settings, *queries, *classes)

    @cached_property
    def id(self) -> str:
        """Fingerprint of all that can move a number: the question, k, the threshold rule and versions."""
        rule = f"{self.threshold.kind}:{_plain(self.threshold.level)!r}"
        versions = json.dumps(dict(self.versions), sort_keys=True)
        return fingerprint("run", self.question, str(self.k), rule, versions)

    def to_json(self) -> str:
        """Return the run as one JSON object that from_json reads, its id included."""
        content = {**asdict(self), "versions": dict(self.versions), "created": self.created.isoformat()}
        return json.dumps({"format": _RUN_FORMAT, "id": self.id, **content}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Run":
        """Read what to_json wrote.

        Raises:
            StoreError: the text is no run, or its id does not belong to its contents.
        """
        try:
            content = json.loads(text)
            if content.pop("format") > _RUN_FORMAT:
                raise StoreError(
                    "This run was written by a newer version of the program: update the program."
                )
            claimed = content.pop("id")
            run = _run_from(content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"This is no record of a run, or it is damaged: {error}") from error
        if run.id != claimed:
            raise StoreError("This record of a run was changed after it was written: its id does not fit.")
        return run


class JobState(StrEnum):
    """Where a background job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # the program ended before the job did

    @property
    def is_finished(self) -> bool:
        """Whether the job needs nothing more; one that was interrupted can be started again."""
        return self not in (JobState.WAITING, JobState.RUNNING, JobState.INTERRUPTED)


@dataclass(frozen=True)
class JobRecord:
    """What is remembered of a job, also when the program that ran it is gone."""

    key: str  # what is computed; one job at a time has it
    title: str  # in words
    state: JobState
    about: Mapping[str, Any]  # JSON-able; what is needed to start the job again
    error: str  # a sentence where the job failed, else ""
    started: datetime
    finished: datetime | None

    @property
    def texts(self) -> frozenset[str]:
        """Every text in about: among them the paths and fingerprints of what the job needs."""
        return texts_in(self.about)


def texts_in(content: Any) -> frozenset[str]:
    """Return every text among the values of something JSON-able, however deep."""
    found: set[str] = set()
    left: list[Any] = [content]
    while left:
        match left.pop():
            case str(text):
                found.add(text)
            case Mapping() as mapping:
                left += mapping.values()
            case list() | tuple() as values:
                left += values
    return frozenset(found)


def current_versions() -> dict[str, str]:
    """Return the versions of this program and of the installed packages that can move a score."""
    return {"nnguide_core": VERSION} | {name: _version(name) for name in _COMPUTING_PACKAGES}


def fingerprint(*parts: str) -> str:
    """Return the SHA-256 of the parts, each delimited, as 64 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _run_from(content: dict[str, Any]) -> Run:
    content["bank"] = _run_dataset_from(content["bank"])
    content["queries"] = tuple(_run_dataset_from(query) for query in content["queries"])
    content["settings"] = BankSettings.from_json(content["settings"])
    content["threshold"] = Threshold(**content["threshold"])
    content["created"] = datetime.fromisoformat(content["created"])
    return Run(**content)


def _run_dataset_from(content: dict[str, Any]) -> RunDataset:
    return RunDataset(**{**content, "role": Role(content["role"])})


def _as_at_first(setting: tuple[str, object]) -> tuple[str, object]:
    """Return a setting as the first version wrote it, so that its runs keep their fingerprints."""
    name, value = setting
    if name == "draw":
        return "balanced", {"random": False, "stratified": True}.get(str(value), value)
    return name, _plain(value)


def _plain(value: object) -> object:
    # 1 and 1.0 are equal settings and must give equal fingerprints.
    return int(value) if isinstance(value, float) and value.is_integer() else value


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
