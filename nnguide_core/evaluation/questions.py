"""Questions between sessions: asked of images, kept in the workspace, opened again by a link or a restart."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from nnguide_core.datasets import labels_for
from nnguide_core.errors import StoreError
from nnguide_core.evaluation.judging import Part, Question, rows_with_features
from nnguide_core.networks import linear
from nnguide_core.progress import Cancelled, OnProgress, Progress
from nnguide_core.records import Dataset, Features, Run, RunDataset, fingerprint
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace

if TYPE_CHECKING:
    from nnguide_core.models import Classifier

__all__ = ["ask", "ask_demo", "extract_parts", "keep", "open_question"]

_HEADS = "heads"  # what the workspace calls the last layers of networks that questions were asked of


def ask(
    classifier: "Classifier",
    datasets: Sequence[Dataset],
    settings: BankSettings | None = None,
    *,
    workspace: Workspace,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
) -> Question:
    """Return the question of how well a classifier's features tell these datasets apart, and keep it.

    Args:
        classifier: gives features and logits.
        datasets: one bank, any number of ID and OOD datasets.
        settings: how the bank is drawn; the paper's scoring and every image if not given.
        workspace: features that it has are not computed again.
        progress: told after every batch, over the images of all datasets.
        cancelled: asked after every batch.

    Raises:
        NNGuideError: a dataset or the model is unusable.
        CancelledError: stopped on request; finished batches are kept for the next time.
    """
    for dataset in datasets:  # first, since finished batches of unknown datasets are cleaned up
        workspace.save_dataset(dataset)
    parts = extract_parts(classifier, datasets, workspace=workspace, progress=progress, cancelled=cancelled)
    question = Question(
        classifier.fingerprint,
        classifier.name,
        classifier.class_names,
        _on_cpu(classifier.head),
        parts,
        settings or BankSettings(),
        # "auto" can mean another precision on the machine that opens it.
        {**classifier.spec.to_json(), "precision": classifier.precision},
    )
    keep(workspace, question)
    return question


def ask_demo(workspace: Workspace, settings: BankSettings | None = None) -> Question:
    """Return the shipped demo's question, with the features that it ships."""
    from nnguide_core.demo import demo_datasets, demo_features, demo_head, demo_sets, demo_spec
    from nnguide_core.models.demo_network import CLASS_NAMES

    features = demo_features()
    known = {
        each.name: workspace.dataset(features[each.name].dataset, name=each.name, role=each.role)
        for each in demo_sets()
    }
    # A workspace may remember the demo of another installation, whose folder can be gone.
    here = {each.name: each.path for each in demo_sets()}
    remembered = {name: each for name, each in known.items() if each is not None and each.root == here[name]}
    datasets = remembered if len(remembered) == len(here) else demo_datasets()
    parts = tuple(Part(dataset, features[name]) for name, dataset in datasets.items())
    model = parts[0].features.model
    settings, spec = settings or BankSettings(), demo_spec().to_json()
    question = Question(model, "demo", CLASS_NAMES, demo_head(), parts, settings, spec)
    keep(workspace, question)
    return question


def extract_parts(
    classifier: "Classifier",
    datasets: Sequence[Dataset],
    *,
    workspace: Workspace,
    progress: OnProgress | None = None,
    cancelled: Cancelled | None = None,
    anew: bool = False,
) -> tuple[Part, ...]:
    """Return every dataset with its features, taken from the workspace where they are known, unless anew."""
    known = [
        None if anew else workspace.load_features(classifier.fingerprint, each.fingerprint)
        for each in datasets
    ]
    total = sum(len(each.images) for each in datasets)
    done = sum(len(each.images) for each, found in zip(datasets, known, strict=True) if found is not None)
    overall = _Overall(progress, total, resumed=done)
    parts = []
    for dataset, found in zip(datasets, known, strict=True):
        features = _extract(classifier, dataset, workspace, overall, cancelled) if found is None else found
        parts.append(Part(dataset, _labelled(features, dataset, classifier.class_names)))
    return tuple(parts)


def keep(workspace: Workspace, question: Question) -> None:
    """Remember all that open_question needs; what is in the workspace already is written once."""
    for part in question.parts:
        workspace.save_dataset(part.dataset)
        if not workspace.has_features(question.model, part.dataset.fingerprint):
            workspace.save_features(replace(part.features, dataset=part.dataset.fingerprint))
    head = question.head
    tensors = {} if head is None else dict(head.named_parameters())
    about = {
        "name": question.model_name,
        "class_names": list(question.class_names),
        "spec": None if question.spec is None else dict(question.spec),
    }
    workspace.save(_HEADS, _head_key(question.run(1)), tensors, about, needs=[question.model])


def open_question(workspace: Workspace, run: Run) -> Question:
    """Return the question that a run answered.

    Raises:
        StoreError: some of it is gone from the workspace; the message says what.
    """
    saved = workspace.load(_HEADS, _head_key(run))
    if saved is None:
        raise StoreError(
            f"The workspace no longer knows the model {run.model_name}: open its datasets and compute again."
        )
    tensors, about = saved
    names, spec = tuple(map(str, about["class_names"])), about.get("spec")
    parts = tuple(_part(workspace, run.model, kept) for kept in (run.bank, *run.queries))
    if spec is not None:  # features of one's own keep the labels that their files gave
        parts = tuple(Part(each.dataset, _labelled(each.features, each.dataset, names)) for each in parts)
    head = _linear(tensors)
    return Question(run.model, run.model_name, names, head, parts, run.settings, spec, run.classes)


class _Overall:
    """Progress over all datasets, from the progress within one after the other."""

    def __init__(self, progress: OnProgress | None, total: int, resumed: int) -> None:
        self._progress = progress
        self._total = total
        self._before = Progress(resumed, total, 0.0, resumed)  # all that was finished before this dataset
        self._latest = self._before

    def within(self, step: Progress, name: str) -> None:
        """Tell how far all datasets are, given how far this one is."""
        before = self._before
        self._latest = Progress(
            done=before.done + step.done,
            total=self._total,
            seconds=before.seconds + step.seconds,
            resumed=before.resumed + step.resumed,
            step=f"Computing features of {name}",
        )
        if self._progress is not None:
            self._progress(self._latest)

    def next(self, images: int) -> None:
        """Count a dataset of so many images as finished; one that told nothing was finished before."""
        was_told = self._latest is not self._before
        resumed = self._latest.resumed + (0 if was_told else images)
        self._before = replace(self._latest, done=self._before.done + images, resumed=resumed)
        self._latest = self._before


def _extract(
    classifier: "Classifier",
    dataset: Dataset,
    workspace: Workspace,
    overall: _Overall,
    cancelled: Cancelled | None,
) -> Features:
    from nnguide_core.features import extract

    names = (classifier.fingerprint, dataset.fingerprint)
    features = extract(
        dataset,
        classifier,
        progress=lambda step: overall.within(step, dataset.name),
        cancelled=cancelled,
        shards=workspace.shards_folder(*names),
    )
    overall.next(len(dataset.images))
    workspace.save_features(features)
    workspace.remove_shards(*names)
    return features


def _labelled(features: Features, dataset: Dataset, class_names: Sequence[str]) -> Features:
    """Return the features with the labels of this dataset under these class names."""
    return replace(features, labels=labels_for(dataset, class_names)[rows_with_features(dataset, features)])


def _part(workspace: Workspace, model: str, kept: RunDataset) -> Part:
    dataset = workspace.dataset(kept.fingerprint, name=kept.name, role=kept.role)
    features = workspace.load_features(model, kept.fingerprint)
    if dataset is None or features is None:
        raise StoreError(
            f"The workspace no longer holds {'the images' if dataset is None else 'the features'} of "
            f"{kept.name}: open it on the data page and compute again."
        )
    return Part(dataset, features)


def _linear(tensors: Mapping[str, torch.Tensor]) -> torch.nn.Linear | None:
    """Return the head whose tensors these are, None where only the logits were known."""
    return linear(tensors["weight"], tensors.get("bias")) if "weight" in tensors else None


def _head_key(run: Run) -> str:
    """Return the key of a run's head and class names; one network may go with several lists of names."""
    return fingerprint("head", run.model, run.classes) if run.classes else run.model


def _on_cpu(head: torch.nn.Linear | None) -> torch.nn.Linear | None:
    """Return the head itself where it is on the CPU, else a copy there: the network needs its own."""
    if head is None or head.weight.device.type == "cpu":
        return head
    return copy.deepcopy(head).cpu()
