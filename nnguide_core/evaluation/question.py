"""What an evaluation is asked: one model's features of a bank and of queries, and the bank's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from nnguide_core.errors import DatasetError
from nnguide_core.records import Dataset, Features, Role, Run, RunDataset, Threshold, fingerprint
from nnguide_core.settings import BankSettings

__all__ = ["DEFAULT_THRESHOLD", "Part", "Question"]

DEFAULT_THRESHOLD = Threshold("id_kept", 0.95)


@dataclass(frozen=True)
class Part:
    """A dataset and what the model makes of it; rows are fewer than images where some failed."""

    dataset: Dataset
    features: Features


@dataclass(frozen=True)
class Question:
    """What is asked: how well one model's features and one bank tell the ID parts from the OOD parts."""

    model: str  # the model's fingerprint
    model_name: str
    class_names: tuple[str, ...]  # C names, by the model's class index
    head: torch.nn.Linear | None  # on the CPU, features (N, D) -> logits (N, C); None: only logits are known
    parts: tuple[Part, ...]  # on the CPU: one bank, any number of ID and OOD datasets
    settings: BankSettings = field(default_factory=BankSettings)
    spec: Mapping[str, Any] | None = None  # how to load the model again, JSON-able; None for features alone
    kept_classes: str | None = None  # Run.classes of the run that was opened, "" in old ones; None: not kept

    @property
    def bank(self) -> Part:
        """The one part that fills the bank.

        Raises:
            DatasetError: there is none, or more than one.
        """
        banks = [part for part in self.parts if part.dataset.role is Role.BANK]
        if len(banks) != 1:
            raise DatasetError(
                f"Exactly one dataset must have the role bank, but {len(banks)} have it: change the roles."
            )
        return banks[0]

    @property
    def queries(self) -> tuple[Part, ...]:
        """The parts that are judged, ID before OOD."""
        return tuple(part for role in (Role.ID, Role.OOD) for part in self.parts if part.dataset.role is role)

    def run(self, k: int, rule: Threshold = DEFAULT_THRESHOLD) -> Run:
        """Return what a number at this k and threshold comes from."""
        return Run(
            model=self.model,
            model_name=self.model_name,
            bank=RunDataset.of(self.bank.dataset),
            queries=tuple(RunDataset.of(part.dataset) for part in self.queries),
            settings=self.settings,
            k=k,
            threshold=rule,
            classes=self.classes,
            device=self.device,
        )

    @property
    def classes(self) -> str:
        """What a run says of the class names; a run that was opened keeps what it said, and so its name."""
        if self.kept_classes is None:
            return fingerprint("classes", *self.class_names)
        return self.kept_classes

    @property
    def device(self) -> str:
        """What computed the features, in words: several where they came from several; "" if not known."""
        return ", ".join(dict.fromkeys(part.features.device for part in self.parts if part.features.device))
