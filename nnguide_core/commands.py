"""What each command does: from parsed options to a detector file, a table of images or a table of metrics."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nnguide_core.comparison import MetricsRow, metrics_table
from nnguide_core.datasets import open_dataset, split
from nnguide_core.detector import NNGuide
from nnguide_core.errors import BankMismatchError, ModelError
from nnguide_core.evaluation import Evaluation, Judged, Part, Question, evaluate, neighbors
from nnguide_core.intervals import Interval
from nnguide_core.models import ModelSpec, load_model
from nnguide_core.names import visible
from nnguide_core.progress import OnProgress, Progress
from nnguide_core.provenance import bank_dataset, checked, save_detector, spec_from_json
from nnguide_core.questions import ask, ask_demo, extract_parts
from nnguide_core.records import Dataset, Features, Role, Threshold
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from nnguide_core.tables import image_table, write_table

__all__ = ["COMMANDS"]

_DEMO_BASELINES = ("Energy", "MSP", "KNN")
_NAMED_AT_MOST = 20  # skipped files


def _fit(options: Namespace) -> int:
    """Write a detector file; return how many files were skipped."""
    classifier = load_model(_spec(options))
    everything = open_dataset(options.id, role=Role.BANK)
    bank, held_out = split(everything, 1.0 - options.held_out, options.seed)
    with _progress_bar(options) as progress:
        question = ask(
            classifier, (bank, held_out), _settings(options), workspace=Workspace(), progress=progress
        )
    answered = evaluate(question, k=options.k, baselines=())
    rule = Threshold("id_kept", options.keep)
    threshold = save_detector(answered, options.out, options.k, rule)
    _say(
        options,
        {"detector": str(options.out), "bank": answered.bank.size, "k": options.k, "threshold": threshold},
        f"Wrote {options.out}: {answered.bank.size:,} bank images, k = {options.k}, "
        f"threshold {threshold:.4f} (keeps at least {100 * options.keep:g} % of "
        f"{len(held_out.images):,} held-out ID images).",
    )
    return _report_skipped([everything], [part.features for part in question.parts])


def _score(options: Namespace) -> int:
    """Write a table of judged images; return how many files were skipped."""
    detector = NNGuide.load(options.detector)
    about = checked(detector.provenance, options.detector.name)
    classifier = load_model(spec_from_json(about["spec"], options.checkpoint))
    if classifier.fingerprint != about["model"]:
        raise BankMismatchError(
            f"{options.detector.name} was fitted with another {classifier.name} than was loaded now: "
            "the weights or the preprocessing have changed. Fit it again."
        )
    dataset = open_dataset(options.images, role=Role.OOD)
    with _progress_bar(options) as progress:
        (part,) = extract_parts(classifier, [dataset], workspace=Workspace(), progress=progress)
    k = detector.k if options.k is None else options.k
    threshold = float(about["threshold"]) if options.threshold is None else options.threshold
    found = neighbors(detector, part, k)
    judged = Judged(dataset, part.features, found, {})
    question = Question(
        classifier.fingerprint,
        classifier.name,
        classifier.class_names,
        None,
        (Part(bank_dataset(about, detector), part.features), part),
        detector.settings,
    )
    table = image_table(Evaluation(question, detector, (judged,), {}), k, threshold)
    write_table(table.drop_columns(["role", "decision", "verdict", "note"]), options.out)
    flagged = int(judged.flagged(k, threshold).sum())
    _say(
        options,
        {"table": str(options.out), "images": len(part.features), "flagged": flagged, "threshold": threshold},
        f"Wrote {options.out}: {flagged:,} of {len(part.features):,} images flagged as OOD "
        f"(score ≥ {threshold:.4f}, k = {k}).",
    )
    return _report_skipped([dataset], [part.features])


def _evaluate(options: Namespace) -> int:
    """Print a table of metrics; return how many files were skipped."""
    classifier = load_model(_spec(options))
    datasets = [open_dataset(options.bank, role=Role.BANK)]
    datasets += [open_dataset(path, role=Role.ID) for path in options.id]
    datasets += [open_dataset(path, role=Role.OOD) for path in options.ood]
    workspace = Workspace()
    with _progress_bar(options) as progress:
        question = ask(classifier, datasets, _settings(options), workspace=workspace, progress=progress)
    answered = evaluate(question, k=options.k)
    workspace.save_run(answered.run(options.k))
    _print_metrics(options, answered)
    return _report_skipped(datasets, [part.features for part in question.parts])


def _demo(options: Namespace) -> int:
    """Print the demo's table of metrics."""
    workspace = Workspace()
    question = ask_demo(workspace, _settings(options))
    if options.recompute:
        from nnguide_core.demo import demo_spec

        with _progress_bar(options) as progress:
            datasets = [part.dataset for part in question.parts]
            parts = extract_parts(
                load_model(demo_spec(), "cpu"), datasets, workspace=workspace, progress=progress, anew=True
            )
        question = replace(question, parts=parts)
    _print_metrics(options, evaluate(question, k=options.k, baselines=_DEMO_BASELINES))
    return 0


def _spec(options: Namespace) -> ModelSpec:
    if options.model == "demo":
        from nnguide_core.demo import demo_spec

        return replace(demo_spec(), precision=options.precision)
    source, _, name = options.model.rpartition(":")
    names = _class_names(options.classes)
    if options.checkpoint is not None:
        return ModelSpec(
            "checkpoint",
            name,
            options.weights,
            options.checkpoint,
            names,
            options.class_count,
            options.feature_layer,
            precision=options.precision,
        )
    if source not in ("", "timm", "torchvision"):
        raise ModelError(f"A model is a torchvision name, timm:NAME or demo, got {options.model!r}.")
    return ModelSpec(
        "timm" if source == "timm" else "torchvision",
        name,
        options.weights or "DEFAULT",
        class_names=names,
        class_count=options.class_count,
        feature_layer=options.feature_layer,
        precision=options.precision,
    )


def _settings(options: Namespace) -> BankSettings:
    return BankSettings(
        options.fraction,
        options.seed,
        options.balanced,
        options.react,
        options.scoring,
        options.energy_offset,
    )


def _class_names(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line)


@contextmanager
def _progress_bar(options: Namespace) -> Iterator[OnProgress | None]:
    """Show a bar on the terminal; the first report sets its length."""
    if options.quiet:
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=" images", file=sys.stderr, disable=None, dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.total
            bar.set_description(progress.step, refresh=False)
            bar.update(progress.done - bar.n)

        yield show


def _say(options: Namespace, facts: Mapping[str, Any], sentence: str) -> None:
    sys.stdout.write((json.dumps(facts) if options.json else sentence) + "\n")


def _report_skipped(datasets: Sequence[Dataset], failed: Sequence[Features] = ()) -> int:
    """Name the files that were skipped on standard error; return how many there are."""
    skipped = [(dataset.name, each) for dataset in datasets for each in dataset.skipped]
    skipped += [("", each) for features in failed for each in features.skipped]
    for name, each in skipped[:_NAMED_AT_MOST]:
        sys.stderr.write(f"skipped {visible(name)}/{visible(each.path)}: {each.reason}\n")
    if len(skipped) > _NAMED_AT_MOST:
        sys.stderr.write(f"… and {len(skipped) - _NAMED_AT_MOST:,} more files skipped.\n")
    return len(skipped)


def _print_metrics(options: Namespace, evaluation: Evaluation) -> None:
    rows = metrics_table(evaluation, options.k)
    if options.json:
        run = json.loads(evaluation.run(options.k).to_json())
        facts = {"run": run, "metrics": [asdict(row) for row in rows], "without": dict(evaluation.without)}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    sys.stdout.write(_metrics_text(rows, options.k))
    for name, reason in evaluation.without.items():
        sys.stdout.write(f"{name} is not shown: {reason}\n")


def _metrics_text(rows: Sequence[MetricsRow], k: int) -> str:
    """Return the metrics as lines for a terminal, one block per OOD dataset."""
    lines = [
        f"k = {k}. OOD is the positive class; higher score = more OOD. Flagged when score >= threshold.",
        "",
    ]
    for name in dict.fromkeys(row.dataset for row in rows):
        block = [row for row in rows if row.dataset == name]
        lines.append(
            f"{visible(name)}: {block[0].ood_count:,} OOD images against {block[0].id_count:,} ID images"
        )
        lines.append(
            f"  {'':<12}{'AUROC':>8}  {'95 % interval':<16}{'OOD passed when':>17}{'ID flagged when':>17}"
        )
        lines.append(f"  {'':<12}{'':>8}  {'(DeLong)':<16}{'95 % of ID kept':>17}{'95 % OOD caught':>17}")
        lines += [_metrics_line(row) for row in block]
        lines.append("")
    return "\n".join(lines)


def _metrics_line(row: MetricsRow) -> str:
    between = f"{row.auroc.low:.4f} to {row.auroc.high:.4f}" if row.auroc else "not defined"
    return (
        f"  {row.detector:<12}{_rate(row.auroc):>8}  {between:<16}"
        f"{_percent(row.ood_passed_at_95_id_kept):>17}{_percent(row.id_flagged_at_95_ood_caught):>17}"
    )


def _rate(value: Interval | None) -> str:
    return "not def." if value is None else f"{value.estimate:.4f}"


def _percent(value: Interval | None) -> str:
    return "not defined" if value is None else f"{100 * value.estimate:.1f} %"


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "fit": _fit,
    "score": _score,
    "evaluate": _evaluate,
    "demo": _demo,
}
