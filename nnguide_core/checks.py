"""What to know before a plan is computed: the datasets' report, the model, what it sees, and how long."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnguide_core.dataset_report import DatasetReport, report
from nnguide_core.errors import ModelError
from nnguide_core.features import extract
from nnguide_core.jobs import JobContext
from nnguide_core.models import Classifier, load_model
from nnguide_core.plans import Plan, prepared
from nnguide_core.previews import previews
from nnguide_core.progress import Progress
from nnguide_core.records import Dataset, ImageRef, Role, Skipped
from nnguide_core.store import Workspace

__all__ = ["Check", "ModelCard", "check", "unknown_labels"]

_SEEN = 4  # images whose preprocessing is shown
_MEASURED, _BATCH = 24, 8  # images that are timed, in batches of
_MOST_SKIPPED = 1000  # files that are named


@dataclass(frozen=True)
class ModelCard:
    """A model that was loaded once, as a page shows it."""

    facts: Mapping[str, Any]  # models.Classifier.describe
    class_names: tuple[str, ...]
    seen: tuple[tuple[str, bytes], ...]  # path, and a PNG of what the network sees
    rate: float | None  # images per second; None where there were too few to measure


@dataclass(frozen=True)
class Check:
    """All that is known of a plan before it is computed."""

    report: DatasetReport
    skipped: tuple[tuple[str, Skipped], ...]  # dataset and file, the first thousand
    model: ModelCard | None
    problem: str  # why there is no model, in a sentence; else ""
    unknown: Mapping[str, tuple[str, ...]]  # dataset -> its class names that the model does not know
    to_compute: int  # images without features so far

    @property
    def seconds(self) -> float | None:
        """How long computing will take, as far as that can be told."""
        rate = self.model.rate if self.model is not None else None
        return self.to_compute / rate if rate else None


def check(workspace: Workspace, plan: Plan, context: JobContext) -> Check:
    """Look at a plan's datasets and model without computing anything from them.

    Raises:
        NNGuideError: a dataset is unusable. A model that cannot be loaded is part of the answer.
        CancelledError: stopped on request.
    """
    datasets = prepared(workspace, plan)
    context.progress(Progress(0, 0, 0.0, step="Looking for copies and near-duplicates"))
    found = report(datasets)
    context.check()
    context.progress(Progress(0, 0, 0.0, step="Loading the model and timing it"))
    skipped = [(dataset.name, each) for dataset in datasets for each in dataset.skipped][:_MOST_SKIPPED]
    total = sum(len(each.images) for each in datasets)
    try:
        classifier = load_model(plan.spec)
    except ModelError as error:
        return Check(found, tuple(skipped), None, str(error), {}, total)
    card = ModelCard(
        classifier.describe(),
        classifier.class_names,
        previews(datasets[0], classifier.preprocess, _spread(datasets[0].images, _SEEN)),
        _rate(datasets[0], classifier, context),
    )
    known = sum(len(each.images) for each in datasets if _has_features(workspace, classifier, each))
    unknown = unknown_labels(datasets, classifier.class_names)
    return Check(found, tuple(skipped), card, "", unknown, total - known)


def unknown_labels(datasets: Sequence[Dataset], class_names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return which classes of the bank and the ID datasets a model does not know, by dataset."""
    known = set(class_names)
    missing = {
        dataset.name: tuple(name for name in dataset.class_counts if name not in known)
        for dataset in datasets
        if dataset.role is not Role.OOD
    }
    return {name: labels for name, labels in missing.items() if labels}


def _spread(images: Sequence[ImageRef], count: int) -> list[ImageRef]:
    """Return some images, evenly spread."""
    return [images[place * len(images) // count] for place in range(min(count, len(images)))]


def _rate(dataset: Dataset, classifier: Classifier, context: JobContext) -> float | None:
    """Time a few images; the first batch is left out, because it waits for the workers to start."""
    few = replace(dataset, images=tuple(_spread(dataset.images, _MEASURED)))
    times: list[tuple[int, float]] = []
    extract(
        few,
        classifier,
        batch_size=_BATCH,
        progress=lambda step: times.append((step.done, time.monotonic())),
        cancelled=context.cancelled,
    )
    if len(times) < 2:
        return None
    (first, began), (last, ended) = times[0], times[-1]
    return (last - first) / max(ended - began, 1e-6)


def _has_features(workspace: Workspace, classifier: Classifier, dataset: Dataset) -> bool:
    return workspace.load_features(classifier.fingerprint, dataset.fingerprint) is not None
