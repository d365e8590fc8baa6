"""What to know before a plan is computed: the datasets' report, the model, what it sees, and how long."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from nnguide_core.datasets.report import DatasetReport, report
from nnguide_core.devices import choose_device, exact_device
from nnguide_core.errors import DeviceError, ModelError
from nnguide_core.evaluation.plans import Plan, prepared
from nnguide_core.features import extract
from nnguide_core.images.previews import previews
from nnguide_core.jobs import JobContext
from nnguide_core.models import Classifier, load_model
from nnguide_core.names import listed
from nnguide_core.progress import Progress
from nnguide_core.records import Dataset, ImageRef, Role, Skipped
from nnguide_core.store import Workspace

__all__ = [
    "NO_IMAGE",
    "Check",
    "ClassCaution",
    "ModelCard",
    "check",
    "class_cautions",
]

NO_IMAGE = "No image"  # the kind of reason of a skipped file that is none, such as notes.txt
_SEEN = 4  # images whose preprocessing is shown
_MEASURED, _BATCH = 24, 8  # images that are timed, in batches of
_MOST_SKIPPED = 1000  # files that are named
_TRIED_BANK, _TRIED_QUERIES = 4096, 256  # rows of noise that are compared to time the search


@dataclass(frozen=True)
class ModelCard:
    """A model that was loaded once, as a page shows it."""

    facts: Mapping[str, Any]  # models.Classifier.describe
    class_names: tuple[str, ...]
    seen: tuple[tuple[str, bytes], ...]  # path, and a PNG of what the network sees
    rate: float | None  # images per second; None where there were too few to measure
    loading: float = 0.0  # seconds that loading it took
    starting: float = 0.0  # seconds until a dataset's first features were there


@dataclass(frozen=True)
class ClassCaution:
    """What to know of a dataset with classes that the model does not know."""

    dataset: str
    role: Role
    text: str  # a sentence or two, the dataset's name first
    none_known: bool  # of its classes: most likely the model is the wrong one, or has no class names


@dataclass(frozen=True)
class Check:
    """All that is known of a plan before it is computed."""

    report: DatasetReport
    skipped: tuple[tuple[str, Skipped], ...]  # dataset and file, the first thousand
    model: ModelCard | None
    problem: str  # why there is no model, in a sentence; else ""
    to_compute: int  # images without features so far
    sets_to_compute: int = 0  # datasets that they are in
    search: float = 0.0  # seconds that comparing the queries with the bank will take
    class_cautions: tuple[ClassCaution, ...] = ()

    @property
    def feature_seconds(self) -> float | None:
        """How long computing the features will take, as far as that can be told."""
        if self.model is None or not self.model.rate:
            return None
        return self.sets_to_compute * self.model.starting + self.to_compute / self.model.rate

    @property
    def seconds(self) -> float | None:
        """How long loading the model, computing features and searching will take; baselines not counted."""
        features = self.feature_seconds
        return None if features is None or self.model is None else self.model.loading + features + self.search


def check(workspace: Workspace, plan: Plan, context: JobContext) -> Check:
    """Look at a plan's datasets and model without computing anything from them.

    Raises:
        NNGuideError: a dataset is unusable. A model that cannot be loaded is part of the answer.
        CancelledError: stopped on request.
    """
    datasets = prepared(workspace, plan)
    _say(context, "Looking for copies and near-duplicates")
    found = report(datasets, progress=context.progress, cancelled=context.cancelled)
    skipped = tuple((dataset.name, each) for dataset in datasets for each in dataset.skipped)[:_MOST_SKIPPED]
    _say(context, "Loading the model")
    began = time.monotonic()
    try:
        classifier = load_model(plan.spec, plan.device, cancelled=context.cancelled)
    except (ModelError, DeviceError) as error:
        total = sum(len(each.images) for each in datasets)
        return Check(found, skipped, None, str(error), total)
    card = _card(datasets[0], classifier, time.monotonic() - began, context)
    model = classifier.fingerprint
    left = [len(each.images) for each in datasets if not workspace.has_features(model, each.fingerprint)]
    return Check(
        found,
        skipped,
        card,
        "",
        to_compute=sum(left),
        sets_to_compute=len(left),
        search=_search_seconds(datasets, classifier.width, exact_device(choose_device(plan.device))),
        class_cautions=tuple(class_cautions(datasets, classifier.class_names)),
    )


def class_cautions(datasets: Sequence[Dataset], class_names: Sequence[str]) -> list[ClassCaution]:
    """Return what to know of each bank and ID dataset that has classes which a model does not know."""
    known = set(class_names)
    judged = [each for each in datasets if each.role is not Role.OOD]
    unknown = [tuple(name for name in each.class_counts if name not in known) for each in judged]
    return [_class_caution(dataset, names) for dataset, names in zip(judged, unknown, strict=True) if names]


def _class_caution(dataset: Dataset, names: tuple[str, ...]) -> ClassCaution:
    is_bank, total = dataset.role is Role.BANK, len(dataset.class_counts)
    none_known = len(names) == total
    if none_known:
        what = f"the model knows none of its {total:,} classes ({listed(names)})."
        why = "Is this the right model, or are its class names missing?"
        effect = (
            "All its images guide nevertheless."
            if is_bank
            else "None of its images counts as classified rightly or wrongly."
        )
        return ClassCaution(dataset.name, dataset.role, f"{dataset.name}: {what} {why} {effect}", True)
    what = f"the model does not know {len(names):,} of its {total:,} classes ({listed(names)})."
    effect = (
        "Their images guide like any other."
        if is_bank
        else "Their images count as classified neither rightly nor wrongly."
    )
    return ClassCaution(dataset.name, dataset.role, f"{dataset.name}: {what} {effect}", False)


def _say(context: JobContext, step: str) -> None:
    """Stop here if someone asked for it, or say what comes next."""
    context.check()
    context.progress(Progress(0, 0, 0.0, step=step))


def _card(dataset: Dataset, classifier: Classifier, loading: float, context: JobContext) -> ModelCard:
    _say(context, "Looking at what the network sees")
    seen = previews(
        dataset, classifier.preprocess, _spread(dataset.images, _SEEN), cancelled=context.cancelled
    )
    _say(context, "Timing the model")
    rate, starting = _rate(dataset, classifier, context)
    return ModelCard(classifier.describe(), classifier.class_names, seen, rate, loading, starting)


def _spread(images: Sequence[ImageRef], count: int) -> list[ImageRef]:
    """Return some images, evenly spread."""
    return [images[place * len(images) // count] for place in range(min(count, len(images)))]


def _rate(dataset: Dataset, classifier: Classifier, context: JobContext) -> tuple[float | None, float]:
    """Time a few images: return images per second, and the seconds until the first batch was there.

    The rate leaves the first batch out, because it waits for the workers to start.
    """
    few = replace(dataset, images=tuple(_spread(dataset.images, _MEASURED)))
    times: list[tuple[int, float]] = []
    start = time.monotonic()
    extract(
        few,
        classifier,
        batch_size=_BATCH,
        progress=lambda step: times.append((step.done, time.monotonic())),
        cancelled=context.cancelled,
    )
    if not times:
        return None, 0.0
    (first, began), (last, ended) = times[0], times[-1]
    return (last - first) / max(ended - began, 1e-6) if len(times) > 1 else None, began - start


def _search_seconds(datasets: Sequence[Dataset], width: int, device: torch.device) -> float:
    """Compare some noise as wide as the features, and return how long all queries will take by that."""
    bank = sum(len(each.images) for each in datasets if each.role is Role.BANK)
    queries = sum(len(each.images) for each in datasets if each.role is not Role.BANK)
    rows = torch.ones(_TRIED_BANK, width, device=device)
    noise = torch.ones(_TRIED_QUERIES, width, device=device)
    began = 0.0
    for _ in range(2):  # the first time also counts what a device must load
        began = time.monotonic()
        torch.topk(noise @ rows.T, 100).values.cpu()  # a GPU has not finished before its answer is there
    return (time.monotonic() - began) * (bank / _TRIED_BANK) * (queries / _TRIED_QUERIES)
