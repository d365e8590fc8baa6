"""What to compute, as chosen on a page: model, datasets in their roles, bank settings; and the work itself.

A plan goes through JSON, so that a job that a restart interrupted can be started again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nnguide_core.datasets import open_dataset, split
from nnguide_core.errors import DatasetError, StoreError
from nnguide_core.evaluation.judging import Evaluation, Question, evaluate
from nnguide_core.evaluation.questions import ask
from nnguide_core.jobs import JobContext
from nnguide_core.models import ModelSpec, load_model
from nnguide_core.names import visible
from nnguide_core.progress import Progress
from nnguide_core.records import Dataset, Role, fingerprint
from nnguide_core.settings import DEFAULT_K, BankSettings
from nnguide_core.store import Workspace

__all__ = ["Chosen", "Plan", "answer", "compute", "guessed_role", "prepared", "scan", "unique_name"]

OnAnswer = Callable[[Evaluation], None]  # is handed what was computed

_BANK_WORDS = ("bank", "train")
_ID_WORDS = ("test", "val", "valid", "validation", "id", "in")


@dataclass(frozen=True)
class Chosen:
    """A dataset that the workspace holds, with the name and role that it is to have."""

    fingerprint: str
    known_name: str  # under which the workspace holds it
    known_role: Role
    name: str
    role: Role
    images: int
    classes: int
    skipped: int  # files that were found and not read

    @classmethod
    def of(cls, dataset: Dataset) -> "Chosen":
        """Return a saved dataset as chosen under its own name and role."""
        counts = (len(dataset.images), len(dataset.class_counts), len(dataset.skipped))
        return cls(dataset.fingerprint, dataset.name, dataset.role, dataset.name, dataset.role, *counts)


@dataclass(frozen=True)
class Plan:
    """All that decides what is computed."""

    spec: ModelSpec
    datasets: tuple[Chosen, ...]
    settings: BankSettings = field(default_factory=BankSettings)
    bank_share: float = 0.5  # of each class of an ID dataset that is split, in (0, 1)
    device: str | None = None  # to compute on; chosen where it is computed if not given

    @property
    def key(self) -> str:
        """Fingerprint of the plan: the same wishes are one job."""
        return fingerprint("plan", repr(sorted(self.to_json().items())))

    def to_json(self) -> dict[str, Any]:
        """Return what from_json reads, ready for JSON."""
        return {
            "spec": self.spec.to_json(),
            "datasets": [asdict(each) for each in self.datasets],
            "settings": asdict(self.settings),
            "bank_share": self.bank_share,
            "device": self.device,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Plan":
        """Read what to_json wrote.

        Raises:
            StoreError: it is no plan, or one of another version.
        """
        try:
            spec = ModelSpec.from_json(content["spec"])
            datasets = tuple(_chosen_from(each) for each in content["datasets"])
            settings = BankSettings.from_json(content["settings"])
            return cls(spec, datasets, settings, float(content["bank_share"]), content.get("device"))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError("What this job was to do cannot be read any more: start it anew.") from error


def scan(
    workspace: Workspace, path: Path, name: str, role: Role, context: JobContext, *, typed: bool = False
) -> Chosen:
    """Read a folder, zip or list and keep it in the workspace; a typed path is checked again before.

    Raises:
        ForbiddenPathError: a typed path that is no longer allowed.
        DatasetError: it is none of them, or has no readable image; ArchiveError: a zip that is refused.
        CancelledError: stopped on request.
    """
    dataset = open_dataset(
        path, name, role, progress=context.progress, cancelled=context.cancelled, typed=typed
    )
    check_not_empty(dataset)
    workspace.save_dataset(dataset)
    return Chosen.of(dataset)


def check_not_empty(dataset: Dataset) -> None:
    """Refuse a dataset without a readable image.

    Raises:
        DatasetError: with the number of files that were found, and why the first was not read.
    """
    if dataset.images:
        return
    first = f" {visible(dataset.skipped[0].path)}: {dataset.skipped[0].reason}" if dataset.skipped else ""
    raise DatasetError(
        f"{visible(dataset.name)} has no image that can be read ({dataset.found:,} files found).{first}"
    )


def prepared(workspace: Workspace, plan: Plan) -> tuple[Dataset, ...]:
    """Return the plan's datasets, bank first, under their names; an ID dataset is split where no bank is.

    Raises:
        DatasetError: nothing can fill the bank, or names are missing or equal.
        StoreError: the workspace no longer holds one of them.
    """
    _check_names(plan.datasets)
    datasets = [_loaded(workspace, each) for each in plan.datasets]
    if not any(each.role is Role.BANK for each in datasets):
        datasets = _with_split_bank(datasets, plan)
    banks = sum(each.role is Role.BANK for each in datasets)
    if banks != 1:
        raise DatasetError(f"{banks} datasets have the role bank: give it to one of them.")
    order = list(Role)
    return tuple(sorted(datasets, key=lambda each: order.index(each.role)))


def compute(
    workspace: Workspace, plan: Plan, context: JobContext, on_answer: OnAnswer = lambda _: None
) -> str:
    """Answer the plan's question, keep the run, and return the question's fingerprint.

    Args:
        workspace: holds the plan's datasets.
        plan: what to compute.
        context: of the job that does it.
        on_answer: handed the evaluation, so that whoever shows it need not compute it again.

    Raises:
        NNGuideError: a dataset, the model or a setting is unusable, in a sentence.
        CancelledError: stopped on request; finished batches are kept.
    """
    datasets = prepared(workspace, plan)
    context.check()
    context.progress(Progress(0, 0, 0.0, step="Loading the model"))
    classifier = load_model(plan.spec, plan.device, cancelled=context.cancelled)
    context.check()
    question = ask(
        classifier,
        datasets,
        plan.settings,
        workspace=workspace,
        progress=context.progress,
        cancelled=context.cancelled,
    )
    return answer(workspace, question, context, on_answer, device=plan.device)


def answer(
    workspace: Workspace,
    question: Question,
    context: JobContext,
    on_answer: OnAnswer = lambda _: None,
    *,
    device: str | None = None,
) -> str:
    """Judge the queries once, so that what cannot work is said now; keep the run, return its question.

    Raises:
        DatasetError: the bank cannot guide these queries with these settings.
    """

    def on_step(step: str) -> None:
        context.check()
        context.progress(Progress(0, 0, 0.0, step=step))

    try:
        answered: Evaluation = evaluate(question, k=1, on_step=on_step, device=device)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    run = answered.run(min(DEFAULT_K, answered.k_max))
    on_answer(answered)
    workspace.save_run(run)
    return run.question


def guessed_role(name: str, taken: Sequence[Role]) -> Role:
    """Return the role that a dataset's name suggests, given the roles of those chosen before.

    >>> guessed_role("train", []), guessed_role("my-test", []), guessed_role("street", [Role.ID])
    (<Role.BANK: 'bank'>, <Role.ID: 'id'>, <Role.OOD: 'ood'>)
    """
    words = "".join(each if each.isalnum() else " " for each in name.casefold()).split()
    if "ood" in words or {Role.BANK, Role.ID} <= set(taken):
        return Role.OOD
    if Role.BANK not in taken and any(word.startswith(_BANK_WORDS) for word in words):
        return Role.BANK
    return Role.ID if Role.ID not in taken and (not taken or set(words) & set(_ID_WORDS)) else Role.OOD


def unique_name(name: str, taken: Sequence[str]) -> str:
    """Return the name, with a number behind it where it is taken.

    >>> unique_name("cats", ["cats", "cats 2"])
    'cats 3'
    """
    numbered = [name, *(f"{name} {number}" for number in range(2, len(taken) + 2))]
    return next(each for each in numbered if each not in taken)


def _chosen_from(content: Mapping[str, Any]) -> Chosen:
    roles = {each: Role(content[each]) for each in ("known_role", "role")}
    return Chosen(**{**content, **roles})


def _check_names(datasets: Sequence[Chosen]) -> None:
    names = [each.name.strip() for each in datasets]
    if not all(names):
        raise DatasetError("A dataset has no name: give it one.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(f"Two datasets are called {visible(twice[0])}: give one of them another name.")


def _loaded(workspace: Workspace, chosen: Chosen) -> Dataset:
    dataset = workspace.dataset(chosen.fingerprint, name=chosen.known_name, role=chosen.known_role)
    if dataset is None:
        raise StoreError(f"The images of {visible(chosen.name)} are no longer kept: add them again.")
    images = dataset.images
    if chosen.name != dataset.name:
        images = tuple(replace(image, dataset=chosen.name) for image in images)
    return replace(dataset, name=chosen.name, role=chosen.role, images=images)


def _with_split_bank(datasets: Sequence[Dataset], plan: Plan) -> list[Dataset]:
    sources = [each for each in datasets if each.role is Role.ID]
    if len(sources) != 1:
        raise DatasetError(
            f"There is no bank, and {len(sources)} ID datasets: choose a dataset for the bank, or one ID "
            "dataset that is split into a bank and queries."
        )
    if not 0 < plan.bank_share < 1:
        raise DatasetError(f"The bank's share must lie between 0 and 1, got {plan.bank_share}.")
    parts = split(sources[0], plan.bank_share, plan.settings.seed)
    return [*parts, *(each for each in datasets if each is not sources[0])]
