"""The shipped demo: small real photos in five sets, a small trained classifier, and its features of them.

Where everything comes from is in DATA_CARD.md; scripts/build_demo.py makes it again from the sources.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from nnguide_core.files import load_tensors
from nnguide_core.networks import linear
from nnguide_core.records import Dataset, Features, ImageRef, Role

if TYPE_CHECKING:
    from nnguide_core.models import ModelSpec

__all__ = [
    "FEATURES",
    "IMAGES",
    "DemoSet",
    "demo_datasets",
    "demo_features",
    "demo_head",
    "demo_sets",
    "demo_spec",
]

_FOLDER = Path(__file__).resolve().parent  # a dataset's folder must not be a symbolic link
FEATURES = _FOLDER / "features.safetensors"
IMAGES = _FOLDER / "images.json"  # the look of every image by its path, rows as in FEATURES


@dataclass(frozen=True)
class DemoSet:
    """One of the demo's sets of photos: a zip of PNG files, in class folders where there are classes."""

    name: str
    role: Role
    path: Path
    about: str  # one sentence that a page can show


def demo_sets() -> tuple[DemoSet, ...]:
    """Return the shipped sets: the bank first, then the ID queries, then OOD queries from hard to easy."""
    return (
        DemoSet(
            "bank", Role.BANK, _FOLDER / "bank.zip",
            "CIFAR-10 training photos of the eight known classes, on which the classifier was trained.",
        ),
        DemoSet(
            "ID test", Role.ID, _FOLDER / "id_test.zip",
            "CIFAR-10 test photos of the eight known classes, which the classifier has not seen.",
        ),
        DemoSet(
            "deer and truck", Role.OOD, _FOLDER / "near_ood.zip",
            "CIFAR-10 test photos of two classes that the classifier never saw and that resemble known ones.",
        ),
        DemoSet(
            "Fashion-MNIST", Role.OOD, _FOLDER / "far_ood.zip",
            "Grey pictures of clothes, which resemble no known class.",
        ),
        DemoSet(
            "noise", Role.OOD, _FOLDER / "noise.zip",
            "Uniform random pixels, 32×32: no photo at all.",
        ),
    )  # fmt: skip


def demo_spec() -> ModelSpec:
    """Return what models.load_model needs to load the shipped classifier."""
    from nnguide_core.models import ModelSpec

    return ModelSpec("demo", "DemoResNet", "DEFAULT")


def demo_head() -> nn.Linear:
    """Return the shipped classifier's last layer, features (N, D) -> logits (N, C), on the CPU."""
    from safetensors import safe_open

    from nnguide_core.models.demo_network import WEIGHTS

    with safe_open(WEIGHTS, framework="pt") as weights:
        weight, bias = weights.get_tensor("head.weight"), weights.get_tensor("head.bias")
    return linear(weight.float(), bias.float())


def demo_datasets() -> dict[str, Dataset]:
    """Return the shipped sets as datasets, by name, in the order of demo_sets.

    What reading every image once has found is shipped too, so that the demo opens without reading them again.
    """
    looks, features = json.loads(IMAGES.read_text()), demo_features()
    return {each.name: _listed(each, features[each.name].ids, looks[each.name]) for each in demo_sets()}


def demo_features() -> dict[str, Features]:
    """Return the shipped classifier's features of every set, by name, rows in the order of its dataset.

    Raises:
        StoreError: the shipped file is damaged.
    """
    tensors, about = load_tensors(FEATURES)
    return {
        name: Features(
            features=tensors[f"{name}.features"],
            logits=tensors[f"{name}.logits"],
            ids=tuple(bytes(row).hex() for row in tensors[f"{name}.ids"].numpy()),
            labels=tensors[f"{name}.labels"],
            model=about["model"],
            dataset=about["datasets"][name],
        )
        for name in (part.name for part in demo_sets())
    }


def _listed(part: DemoSet, ids: Sequence[str], looks: Mapping[str, str]) -> Dataset:
    """Return a set as a dataset, given the id of every image, and its look by its path."""
    from nnguide_core.archives import inspect

    locations = {member.path: member.location for member in inspect(part.path).members}
    images = tuple(
        ImageRef(content, part.name, path, path.rpartition("/")[0] or None, locations[path], look)
        for content, (path, look) in zip(ids, looks.items(), strict=True)
    )
    return Dataset(part.name, part.role, part.path, images)
