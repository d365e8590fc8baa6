"""A fitted detector as one safetensors file with a JSON description; nothing in it can run code."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnguide_core.bank import FeatureBank
from nnguide_core.errors import StoreError
from nnguide_core.files import load_tensors, save_tensors
from nnguide_core.logs import refusals_noted
from nnguide_core.networks import linear
from nnguide_core.records import current_versions
from nnguide_core.settings import BankSettings

__all__ = ["FORMAT", "SavedDetector", "read", "write"]

FORMAT = 1  # raised when an older program could misread the file

_KIND = "nnguide detector"


@dataclass(frozen=True, eq=False)
class SavedDetector:
    """What a detector file holds."""

    bank: FeatureBank
    k: int
    head: nn.Linear | None
    provenance: Mapping[str, Any]  # JSON-able: what the bank came from, in the words of who saved it


def write(path: Path, saved: SavedDetector) -> None:
    """Write a detector file; the older file there, if any, is replaced at once or not at all.

    Raises:
        ValueError: the provenance is not JSON-able.
        OSError: the disk is full or not writable.
    """
    bank = saved.bank
    tensors = {name: getattr(bank, name) for name in ("rows", "energies", "labels", "positions")}
    tensors["ids"] = torch.frombuffer(bytearray(json.dumps(bank.ids).encode()), dtype=torch.uint8)
    if saved.head is not None:
        tensors |= {f"head.{name}": value for name, value in saved.head.state_dict().items()}
    about = {
        "kind": _KIND,
        "format": FORMAT,
        "k": saved.k,
        "settings": asdict(bank.settings),
        "react_threshold": bank.react_threshold,
        "provenance": dict(saved.provenance),
        "versions": current_versions(),
    }
    try:
        json.dumps(about)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The provenance can hold only what JSON can: {error}.") from error
    save_tensors(path, tensors, about)


@refusals_noted("detector file")
def read(path: Path) -> SavedDetector:
    """Read a detector file, onto the CPU.

    Raises:
        StoreError: the file is damaged, foreign or of a newer version.
        OSError: there is no such file, or it cannot be read.
    """
    tensors, about = load_tensors(path)
    if about.get("kind") != _KIND:
        raise StoreError(f"{path.name} is no detector file: choose a file that NNGuide.save() wrote.")
    if about.get("format") != FORMAT:
        raise StoreError(
            f"{path.name} has format {about.get('format')!r} and this program reads format {FORMAT}: "
            "it was written by a newer version. Update the program, or fit and save again."
        )
    try:
        saved = SavedDetector(_bank(tensors, about), about["k"], _head(tensors), dict(about["provenance"]))
        _check(saved)
    except KeyError as error:
        raise StoreError(f"{path.name} is no usable detector: it lacks {error}.") from error
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path.name} is no usable detector: {error}") from error
    return saved


def _bank(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> FeatureBank:
    return FeatureBank(
        rows=tensors["rows"],
        energies=tensors["energies"],
        labels=tensors["labels"],
        ids=tuple(json.loads(tensors["ids"].numpy().tobytes())),
        positions=tensors["positions"],
        settings=BankSettings(**about["settings"]),
        react_threshold=about["react_threshold"],
    )


def _head(tensors: Mapping[str, Tensor]) -> nn.Linear | None:
    weight, bias = tensors.get("head.weight"), tensors.get("head.bias")
    if weight is None:
        return None
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"its head has {weight.dtype} weights of shape {tuple(weight.shape)}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"its head has weights for {len(weight)} classes and a bias of {tuple(bias.shape)}.")
    return linear(weight, bias)


def _check(saved: SavedDetector) -> None:
    bank, size = saved.bank, saved.bank.size
    if bank.rows.ndim != 2:
        raise ValueError(f"its bank has the shape {tuple(bank.rows.shape)}.")
    shapes = {
        "rows": (bank.rows, (size, bank.width), torch.float32),
        "energies": (bank.energies, (size,), torch.float32),
        "labels": (bank.labels, (size,), torch.int64),
        "positions": (bank.positions, (size,), torch.int64),
    }
    for name, (tensor, shape, dtype) in shapes.items():
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} {shape}.")
    if len(bank.ids) != size or not all(isinstance(image, str) for image in bank.ids):
        raise ValueError(f"it has {len(bank.ids)} ids for {size} bank images.")
    if not (bank.rows.isfinite().all() and bank.energies.isfinite().all()):
        raise ValueError("its bank has NaN or infinity.")
    if type(saved.k) is not int or not 1 <= saved.k <= size:
        raise ValueError(f"k is {saved.k!r} and the bank has {size} images.")
    if saved.head is not None and saved.head.in_features != bank.width:
        raise ValueError(f"its head takes {saved.head.in_features} features and its bank has {bank.width}.")
    threshold, percentile = bank.react_threshold, bank.settings.react_percentile
    if (threshold is None) != (percentile is None) or not math.isfinite(threshold or 0.0):
        raise ValueError(f"its ReAct threshold is {threshold!r} at the percentile {percentile!r}.")
