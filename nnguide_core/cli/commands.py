"""What each command does: from parsed options to a detector file, a table of images or a table of metrics."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nnguide_core.cli.console import Console, console
from nnguide_core.cli.inputs import (
    check_size,
    dataset_names,
    evaluated_datasets,
    opened,
    settings_of,
    spec_of,
)
from nnguide_core.cli.outputs import computed_on, tell_metrics, tell_report
from nnguide_core.cli.runs import clean, list_runs
from nnguide_core.datasets import split
from nnguide_core.detector import NNGuide
from nnguide_core.devices import choose_device, exact_device
from nnguide_core.errors import BankMismatchError, DatasetError
from nnguide_core.evaluation import Judged, Part, Question, evaluate, neighbors
from nnguide_core.evaluation.judging import search_on
from nnguide_core.evaluation.plans import check_not_empty, unique_name
from nnguide_core.evaluation.provenance import (
    bank_dataset,
    checked,
    save_detector,
    spec_from_json,
)
from nnguide_core.evaluation.questions import ask, ask_demo, extract_parts
from nnguide_core.evaluation.tables import judged_table, write_table
from nnguide_core.models import Classifier, load_model
from nnguide_core.records import Dataset, Role, Threshold
from nnguide_core.store import Workspace

__all__ = ["COMMANDS"]

_DEMO_BASELINES = ("Energy", "MSP", "KNN")


def _fit(options: Namespace) -> int:
    """Write a detector file; return how many files were skipped."""
    settings = settings_of(options)
    with console(options) as told:
        classifier = load_model(spec_of(options), options.device)
        bank, held_out = _split(options, told)
        tell_report(told, (bank, held_out), classifier.class_names)
        question = ask(classifier, (bank, held_out), settings, workspace=Workspace(), progress=told.progress)
        _tell_failed(told, question.parts)
        answered = evaluate(question, k=options.k, baselines=(), device=options.device)
        threshold = save_detector(answered, options.out, options.k, Threshold("id_kept", options.keep))
        told.say(
            f"Wrote {options.out}: {answered.bank.size:,} of {len(bank.images):,} bank images, "
            f"k = {options.k}, threshold {threshold:.4f} (keeps at least {100 * options.keep:g} % of "
            f"{len(held_out.images):,} held-out ID images).{computed_on(question.device)}",
            detector=str(options.out),
            bank=answered.bank.size,
            bank_images=len(bank.images),
            held_out=len(held_out.images),
            k=options.k,
            threshold=threshold,
            device=question.device,
        )
    return told.skipped


def _score(options: Namespace) -> int:
    """Write a table of judged images; return how many files were skipped."""
    with console(options) as told:
        detector = search_on(NNGuide.load(options.detector), exact_device(choose_device(options.device)))
        about = checked(detector.provenance, options.detector.name)
        bank = bank_dataset(about, detector)
        k = detector.k if options.k is None else options.k
        check_size(k, len(bank.images), replace(detector.settings, fraction=1.0))
        classifier = _classifier_of(options, about)
        (name,) = dataset_names([options.images])
        dataset = opened(options.images, unique_name(name, [bank.name]), Role.OOD, told)
        tell_report(told, (bank, dataset), classifier.class_names)
        parts = extract_parts(classifier, [dataset], workspace=Workspace(), progress=told.progress)
        _tell_failed(told, parts)
        judged = Judged(dataset, parts[0].features, neighbors(detector, parts[0], k), {})
        threshold = float(about["threshold"]) if options.threshold is None else options.threshold
        paths = [image.path for image in bank.images]
        table = judged_table([judged], classifier.class_names, paths, k, threshold)
        write_table(table.drop_columns(["role", "decision", "verdict", "note"]), options.out)
        _tell_flagged(options, told, judged, len(bank.images), k, threshold)
    return told.skipped


def _evaluate(options: Namespace) -> int:
    """Print a table of metrics; return how many files were skipped."""
    settings = settings_of(options)
    with console(options) as told:
        classifier = load_model(spec_of(options), options.device)
        datasets = evaluated_datasets(options, told)
        tell_report(told, datasets, classifier.class_names)
        workspace = Workspace()
        question = ask(classifier, datasets, settings, workspace=workspace, progress=told.progress)
        _tell_failed(told, question.parts)
        answered = evaluate(question, k=options.k, device=options.device)
        workspace.save_run(answered.run(options.k))
        tell_metrics(told, answered, options.k)
    return told.skipped


def _demo(options: Namespace) -> int:
    """Print the demo's table of metrics."""
    with console(options) as told:
        workspace = Workspace()
        question = ask_demo(workspace, settings_of(options))
        tell_report(told, [part.dataset for part in question.parts], question.class_names)
        if options.recompute:
            question = replace(question, parts=_recomputed(question, workspace, options.device, told))
        answered = evaluate(question, k=options.k, baselines=_DEMO_BASELINES, device=options.device)
        tell_metrics(told, answered, options.k)
    return told.skipped


def _split(options: Namespace, told: Console) -> tuple[Dataset, Dataset]:
    """Return the bank and the held-out images of a folder, after making sure that both can do their work."""
    (name,) = dataset_names([options.id])
    everything = opened(options.id, name, Role.BANK, told)
    check_not_empty(everything)
    bank, held_out = split(everything, 1.0 - options.held_out, options.seed)
    check_size(options.k, len(bank.images), settings_of(options))
    if not held_out.images:
        raise DatasetError(
            f"{name} has too few images ({len(everything.images)}) to keep any out of the bank, and without "
            "them there is no threshold. Give more images."
        )
    return bank, held_out


def _classifier_of(options: Namespace, about: Mapping[str, Any]) -> Classifier:
    """Return the model that a detector file was fitted with."""
    classifier = load_model(spec_from_json(about["spec"], options.checkpoint), options.device)
    if classifier.fingerprint != about["model"]:
        raise BankMismatchError(
            f"{options.detector.name} was fitted with another {classifier.name} than was loaded now: "
            "the weights, the preprocessing or the precision have changed. Fit it again."
        )
    return classifier


def _recomputed(
    question: Question, workspace: Workspace, device: str | None, told: Console
) -> tuple[Part, ...]:
    from nnguide_core.demo import demo_spec

    datasets = [part.dataset for part in question.parts]
    classifier = load_model(demo_spec(), device)
    return extract_parts(classifier, datasets, workspace=workspace, progress=told.progress, anew=True)


def _tell_failed(told: Console, parts: tuple[Part, ...]) -> None:
    """Name the images that could be checked and then not be computed."""
    for part in parts:
        told.skip(part.dataset.name, part.features.skipped)


def _tell_flagged(
    options: Namespace, told: Console, judged: Judged, bank: int, k: int, threshold: float
) -> None:
    flagged = int(judged.flagged(k, threshold).sum())
    images, scored = len(judged.features), int(judged.neighbors.finite.sum())
    told.say(
        f"Wrote {options.out}: {flagged:,} of {images:,} images flagged as OOD "
        f"(score ≥ {threshold:.4f}, k = {k})."
        + (f" {images - scored:,} have no score." if scored < images else "")
        + computed_on(judged.features.device),
        table=str(options.out),
        images=images,
        without_score=images - scored,
        flagged=flagged,
        threshold=threshold,
        k=k,
        bank=bank,
        device=judged.features.device,
    )


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "fit": _fit,
    "score": _score,
    "evaluate": _evaluate,
    "demo": _demo,
    "runs": list_runs,
    "clean": clean,
}
