"""Questions without a model or files: random features around class centres, for tests of what comes after."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nnguide_core.evaluation import Part, Question
from nnguide_core.records import Dataset, Features, ImageRef, Role, fingerprint
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from nnguide_core.store.workspace import StoredDataset, _dataset_key

CLASSES = ("cat", "dog", "owl")
WIDTH = 16
MODEL = fingerprint("model of the tests")


def make_question(
    *,
    bank: int = 90,
    id_sizes: tuple[int, ...] = (60,),
    ood_sizes: tuple[int, ...] = (40, 20),
    settings: BankSettings | None = None,
    seed: int = 0,
) -> Question:
    """Return a question whose ID features lie around class centres and whose OOD features lie anywhere."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(CLASSES), WIDTH, generator=generator).relu() * 2
    head = nn.Linear(WIDTH, len(CLASSES))
    head.load_state_dict({"weight": centres.clone(), "bias": torch.zeros(len(CLASSES))})
    head.requires_grad_(False)
    parts = [_part("bank", Role.BANK, _around(centres, bank, generator), head)]
    for place, size in enumerate(id_sizes):
        parts.append(_part(f"ID {place}", Role.ID, _around(centres, size, generator), head))
    for place, size in enumerate(ood_sizes):
        parts.append(_part(f"OOD {place}", Role.OOD, _anywhere(size, generator), head))
    return Question(MODEL, "synthetic", CLASSES, head, tuple(parts), settings or BankSettings())


def changed(question: Question, name: str, **values: Tensor) -> Question:
    """Return the question with other features, logits or labels for one dataset."""
    parts = [
        Part(part.dataset, replace(part.features, **values)) if part.dataset.name == name else part
        for part in question.parts
    ]
    return replace(question, parts=tuple(parts))


def lose_dataset(workspace: Workspace, stored: StoredDataset) -> None:
    """Let a dataset's images be lost, as when its file is deleted: the workspace then forgets it."""
    workspace.remove("datasets", _dataset_key(stored.fingerprint, stored.name, stored.role))
    assert workspace.dataset(stored.fingerprint, name=stored.name, role=stored.role) is None


def _around(centres: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(size) % len(CLASSES)
    noise = torch.randn(size, WIDTH, generator=generator) * 0.6
    return (centres[labels] + noise).relu(), labels


def _anywhere(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, WIDTH, generator=generator).relu() * 1.5, torch.full((size,), -1)


def _part(name: str, role: Role, drawn: tuple[Tensor, Tensor], head: nn.Linear) -> Part:
    features, labels = drawn
    ids = [fingerprint(name, str(row)) for row in range(len(features))]
    names = [CLASSES[label] if label >= 0 else None for label in labels.tolist()]
    images = tuple(
        ImageRef(image, name, f"{label or 'any'}/{row}.png", label, f"{label or 'any'}/{row}.png")
        for row, (image, label) in enumerate(zip(ids, names, strict=True))
    )
    dataset = Dataset(name, role, Path("/nowhere"), images)
    made = Features(features, head(features), dataset.ids, labels, MODEL, dataset.fingerprint)
    return Part(dataset, made)
