"""Detector files that know what they belong to: the model, the threshold and the bank images' paths."""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nnguide_core.detector import NNGuide
from nnguide_core.errors import ModelError, StoreError
from nnguide_core.evaluation.judging import Evaluation
from nnguide_core.models import ModelSpec
from nnguide_core.records import Dataset, ImageRef, Role, Threshold

__all__ = ["bank_dataset", "checked", "save_detector", "spec_as_json", "spec_from_json"]

_KIND = "nnguide detector 1"
_NEEDED: Mapping[str, Any] = {
    "spec": dict,
    "model": str,
    "threshold": (int, float),
    "bank": str,
    "bank_paths": list,
}


def save_detector(evaluation: Evaluation, path: Path, k: int, rule: Threshold) -> float:
    """Write the detector of an evaluation with its threshold at this k; return the threshold.

    Raises:
        UndefinedMetricError: the rule has no queries to find the threshold from.
        OSError: the file cannot be written.
    """
    threshold = evaluation.threshold(rule, k)
    detector = copy.copy(evaluation.detector)  # others share the evaluation
    detector.k = k
    detector.save(path, _provenance(evaluation, k, rule, threshold))
    return threshold


def checked(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a detector's provenance after making sure that it says what judging images takes.

    Raises:
        StoreError: it was written by something else, without its model, or is damaged.
    """
    if about.get("kind") != _KIND or about.get("spec") is None:
        raise StoreError(
            f"{name} does not say which model and threshold it belongs to: write it with fit, or on the "
            "export page of a run whose model is known."
        )
    if damaged := [key for key, kind in _NEEDED.items() if not isinstance(about.get(key), kind)]:
        raise StoreError(f"{name} is damaged where it should give its {', '.join(damaged)}: write it again.")
    return about


def spec_as_json(spec: ModelSpec) -> dict[str, Any]:
    """Return a model's specification as JSON gives it back; a checkpoint is found from any folder."""
    about = vars(spec) | {"class_names": None if spec.class_names is None else list(spec.class_names)}
    return {
        name: str(value.absolute()) if isinstance(value, Path) else value for name, value in about.items()
    }


def spec_from_json(about: Mapping[str, Any], checkpoint: Path | None = None) -> ModelSpec:
    """Return the model's specification; a checkpoint that has moved since can be named anew.

    Raises:
        ModelError: its checkpoint is not there.
        StoreError: it is no specification, or one of another version.
    """
    names, old = about.get("class_names"), about.get("checkpoint")
    try:
        if about.get("source") == "demo":
            return _demo_spec(about)
        found = checkpoint or (None if old is None else Path(old))
        made = {"checkpoint": found, "class_names": None if names is None else tuple(names)}
        spec = ModelSpec(**{**about, **made})
    except (TypeError, ValueError) as error:
        raise StoreError(f"The model that it belongs to cannot be read: {error}") from error
    if found is not None and not found.exists():
        raise ModelError(f"The checkpoint {found} is not there any more: name it with --checkpoint.")
    return spec


def bank_dataset(about: Mapping[str, Any], detector: NNGuide) -> Dataset:
    """Return the bank's dataset as far as the detector file knows it: ids and paths.

    Raises:
        StoreError: the file has another number of paths than of bank images.
    """
    ids = detector.bank.ids if detector.bank is not None else ()
    if len(ids) != len(about["bank_paths"]):
        raise StoreError(
            f"The detector file has {len(about['bank_paths'])} paths for {len(ids)} bank images: "
            "it is damaged. Write it again."
        )
    images = (
        ImageRef(image, about["bank"], path, None, path)
        for image, path in zip(ids, about["bank_paths"], strict=True)
    )
    return Dataset(about["bank"], Role.BANK, Path(), tuple(images))


def _demo_spec(about: Mapping[str, Any]) -> ModelSpec:
    """Return the shipped model's specification here, wherever it was installed when this was written."""
    from nnguide_core.demo import demo_spec

    return replace(demo_spec(), precision=about.get("precision", "float32"))


def _provenance(evaluation: Evaluation, k: int, rule: Threshold, threshold: float) -> dict[str, Any]:
    question = evaluation.question
    bank = question.bank.dataset
    paths = {image.id: image.path for image in bank.images}
    return {
        "kind": _KIND,
        "model": question.model,
        "spec": question.spec,
        "class_names": list(question.class_names),
        "threshold": threshold,
        "threshold_rule": asdict(rule),
        "bank": bank.name,
        "bank_paths": [paths[image] for image in evaluation.bank.ids],
        "run": json.loads(evaluation.run(k, rule).to_json()),
    }
