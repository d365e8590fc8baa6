"""From options to what a command works on: model, bank settings, datasets with names of their own."""

import math
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nnguide_core.cli.console import Console
from nnguide_core.datasets import open_dataset
from nnguide_core.errors import DatasetError, ModelError
from nnguide_core.evaluation.plans import check_not_empty, unique_name
from nnguide_core.models import ModelSpec
from nnguide_core.names import visible
from nnguide_core.progress import OnProgress, Progress
from nnguide_core.records import Dataset, Role
from nnguide_core.settings import BankSettings

__all__ = ["check_size", "dataset_names", "evaluated_datasets", "opened", "settings_of", "spec_of"]


def spec_of(options: Namespace) -> ModelSpec:
    """Return which model the options name.

    Raises:
        ModelError: there is no such source of models, or the class names cannot be read.
    """
    if options.model == "demo":
        from nnguide_core.demo import demo_spec

        return replace(demo_spec(), precision=options.precision)
    source, _, architecture = options.model.rpartition(":")
    if source not in ("", "timm", "torchvision"):
        raise ModelError(f"A model is a torchvision name, timm:NAME or demo, got {options.model!r}.")
    own = options.checkpoint is not None
    return ModelSpec(
        "checkpoint" if own else "timm" if source == "timm" else "torchvision",
        architecture,
        options.weights if own else options.weights or "DEFAULT",
        options.checkpoint,
        _class_names(options.classes),
        options.class_count,
        options.feature_layer,
        precision=options.precision,
    )


def settings_of(options: Namespace) -> BankSettings:
    """Return how the options want the bank drawn and scored."""
    return BankSettings(
        options.fraction,
        options.seed,
        options.balanced,
        options.react,
        options.scoring,
        options.energy_offset,
    )


def evaluated_datasets(options: Namespace, told: Console) -> list[Dataset]:
    """Return the bank, the ID and the OOD datasets of an evaluation, each with another name.

    Raises:
        NNGuideError: a path is unusable, or the bank, all given ID or all given OOD datasets have no image
            that can be read.
        ValueError: the bank is too small for k.
    """
    asked = [(options.bank, Role.BANK), *((path, Role.ID) for path in options.id)]
    asked += [(path, Role.OOD) for path in options.ood]
    names = dataset_names([path for path, _ in asked])
    datasets: list[Dataset] = []
    for (path, role), name in zip(asked, names, strict=True):
        dataset = opened(path, name, role, told)
        if role is Role.BANK:
            check_not_empty(dataset)
            check_size(options.k, len(dataset.images), settings_of(options))
        elif not dataset.images:
            told.caution(f"{name} has no image that can be read ({dataset.found:,} files found).")
        datasets.append(dataset)
    _check_sides(datasets)
    return datasets


def opened(path: Path, name: str, role: Role, told: Console) -> Dataset:
    """Return a dataset from a path, with a bar while its images are checked, and name its skipped files."""
    dataset = open_dataset(path, name, role, progress=_of_dataset(told.progress, name))
    told.skip(name, dataset.skipped)
    return dataset


def dataset_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path, no two equal: its own, else with its ending, or the folders it is in.

    >>> dataset_names([Path("a/test"), Path("b/test"), Path("a/new"), Path("a/new")])
    ['a/test', 'b/test', 'new', 'new 2']
    """
    own = [_own_name(path) for path in paths]
    names: list[str] = []
    for path, name in zip(paths, own, strict=True):
        rivals = [other for other, same in zip(paths, own, strict=True) if same == name]
        names.append(unique_name(_telling_apart(rivals)(path), names))
    return names


def check_size(k: int, images: int, settings: BankSettings) -> None:
    """Refuse a k that a bank drawn from so many images cannot serve, before any feature is computed.

    Raises:
        ValueError: with both numbers.
    """
    drawn = math.floor(settings.fraction * images + 1e-9)  # as the bank draws
    if k > drawn:
        of = f" (the fraction {settings.fraction:g} of {images:,})" if settings.fraction < 1.0 else ""
        raise ValueError(
            f"The bank needs at least k = {k} ID images, but has {drawn:,}{of}. Lower k or give more images."
        )


def _class_names(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ModelError(
            f"The class names in {visible(str(path))} cannot be read: it is no UTF-8 text. "
            "Give a text file with one class name per line."
        ) from error
    return tuple(line for line in lines if line)


def _check_sides(datasets: Iterable[Dataset]) -> None:
    for role, side in ((Role.ID, "ID"), (Role.OOD, "OOD")):
        empty = [each for each in datasets if each.role is role]
        if empty and not any(each.images for each in empty):
            reasons = [
                f"{each.name}/{each.skipped[0].path}: {each.skipped[0].reason}"
                for each in empty
                if each.skipped
            ]
            raise DatasetError(
                f"There is no {side} image that can be read, so nothing can be measured"
                f"{' (' + '; '.join(reasons) + ')' if reasons else ''}."
            )


def _of_dataset(progress: OnProgress | None, name: str) -> OnProgress | None:
    if progress is None:
        return None

    def show(step: Progress) -> None:
        progress(replace(step, step=f"Checking the images of {visible(name)}"))

    return show


def _own_name(path: Path) -> str:
    path = path if path.name not in ("", "..") else path.resolve()
    return (path.name if path.is_dir() else path.stem) or str(path)


def _telling_apart(rivals: Sequence[Path]) -> Callable[[Path], str]:
    """Return what names these paths differently, the shortest first; their own names where nothing does."""
    deepest = max(len(path.absolute().parts) for path in rivals)
    ways = [_own_name, lambda path: path.name, *(_last_parts(count) for count in range(2, deepest))]
    return next((way for way in ways if max(Counter(map(way, rivals)).values()) == 1), _own_name)


def _last_parts(count: int) -> Callable[[Path], str]:
    return lambda path: "/".join(path.absolute().parts[-count:])
