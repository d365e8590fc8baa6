"""One run, from datasets to results: features, bank, neighbours, baselines. Read this file first.

Features of every dataset are extracted once and kept; the bank is drawn from the bank dataset; each query
dataset is searched once, with the largest k, so that every smaller k is exact and free.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from nnguide_core import cautions, metrics
from nnguide_core.bank import FeatureBank
from nnguide_core.baselines import BASELINES, KNN_NEIGHBOURS, Reference, baseline_scores, knn_of_few
from nnguide_core.detector import NNGuide
from nnguide_core.devices import choose_device, exact_device
from nnguide_core.errors import NNGuideWarning, RequiresFittingException
from nnguide_core.evaluation.question import DEFAULT_THRESHOLD, Part, Question
from nnguide_core.records import Dataset, Features, ImageRef, Role, Run, Threshold
from nnguide_core.scoring import Neighbors, flagged
from nnguide_core.settings import DEFAULT_K

__all__ = [
    "DEFAULT_THRESHOLD",
    "MOST_NEIGHBOURS",
    "NNGUIDE",
    "BankCounts",
    "Evaluation",
    "Judged",
    "Part",
    "Question",
    "evaluate",
    "neighbors",
    "rows_with_features",
    "search_on",
    "with_baselines",
]

NNGUIDE = "NNGuide"
MOST_NEIGHBOURS = 100  # kept per query: OpenOOD's k, ten times the paper's

OnStep = Callable[[str], None]  # is told in words what is being done; raises CancelledError to stop


@dataclass(frozen=True)
class Judged:
    """One query dataset against the bank."""

    dataset: Dataset
    features: Features
    neighbors: Neighbors  # with the largest k
    baselines: Mapping[str, Tensor]  # detector -> (Q,) float32, higher = more OOD

    @cached_property
    def images(self) -> tuple[ImageRef, ...]:
        """The images that have features, one per row."""
        return tuple(self.dataset.images[row] for row in rows_with_features(self.dataset, self.features))

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """The row of each image id, the first where several images have the same bytes."""
        return {image: row for row, image in reversed(list(enumerate(self.features.ids)))}

    def flagged(self, k: int, threshold: float) -> Tensor:
        """Return NNGuide's decisions, (Q,) bool; False where there is no score.

        Raises:
            ValueError: the threshold is NaN.
        """
        return flagged(self.neighbors.score_at(k), threshold)

    def scores(self, detector: str, k: int) -> Tensor:
        """Return a detector's scores, (Q,) float32, higher = more OOD; k matters to NNGuide alone."""
        return self.neighbors.score_at(k) if detector == NNGUIDE else self.baselines[detector]

    @cached_property
    def predicted(self) -> Tensor:
        """The class that the model decides for, (Q,) int64."""
        return self.features.logits.argmax(dim=1)

    @cached_property
    def correct(self) -> Tensor:
        """Whether that is the image's label, (Q,) bool; False where the label is unknown."""
        return self.predicted == self.features.labels


@dataclass(frozen=True)
class BankCounts:
    """What became of the images that were given for the bank."""

    given: int  # images with features
    left_out: int  # of these, those whose label a user gave as unknown
    drawn: int  # what the bank holds
    unlabelled: int  # of these, those of a class that the model does not know


@dataclass(frozen=True)
class Evaluation:
    """The answer to a question, for every k up to the largest: all that pages, exports and the CLI show."""

    question: Question
    detector: NNGuide  # fitted
    queries: tuple[Judged, ...]  # ID before OOD
    without: Mapping[str, str]  # baseline -> why it could not be fitted
    notes: Mapping[str, str] = field(default_factory=dict)  # baseline -> how its setting departs

    @property
    def bank(self) -> FeatureBank:
        """The bank that guided."""
        return _bank_of(self.detector)

    @property
    def bank_counts(self) -> BankCounts:
        """How many images the bank was given and how many it holds."""
        given = len(self.question.bank.features)
        return BankCounts(given, _left_out(self.question), self.bank.size, self.bank.unlabelled)

    @cached_property
    def cautions(self) -> tuple[str, ...]:
        """What to know before NNGuide's numbers are believed: of the bank, then of each query dataset."""
        counts = self.bank_counts
        said = cautions.of_bank(self.bank) + cautions.of_left_out(counts.left_out, counts.given)
        for judged in self.queries:
            found = cautions.of_queries(judged.neighbors, self.bank)
            said += [f"{judged.dataset.name}: {sentence}" for sentence in found]
        return tuple(said)

    @cached_property
    def baseline_cautions(self) -> tuple[str, ...]:
        """The same for the baselines that were compared with."""
        said = list(self.notes.values())
        for judged in self.queries:
            said += [f"{judged.dataset.name}: {sentence}" for sentence in _of_baselines(self.bank, judged)]
        return tuple(said)

    @property
    def id(self) -> tuple[Judged, ...]:
        """The held-out ID datasets."""
        return tuple(judged for judged in self.queries if judged.dataset.role is Role.ID)

    @property
    def ood(self) -> tuple[Judged, ...]:
        """The OOD datasets."""
        return tuple(judged for judged in self.queries if judged.dataset.role is Role.OOD)

    @property
    def k_max(self) -> int:
        """The largest k that can be shown without another search."""
        return min((judged.neighbors.k for judged in self.queries), default=self.bank.size)

    @property
    def detectors(self) -> tuple[str, ...]:
        """NNGuide, then the baselines that could be fitted; every dataset has a score of each, or NaN."""
        return (NNGUIDE, *(self.queries[0].baselines if self.queries else ()))

    def id_scores(self, detector: str, k: int) -> Tensor:
        """Return the scores of all ID queries, (Q,) float32, NaN left out."""
        return _pooled(self.id, detector, k)

    def ood_scores(self, detector: str, k: int) -> Tensor:
        """Return the scores of all OOD queries, (Q,) float32, NaN left out."""
        return _pooled(self.ood, detector, k)

    def threshold(self, rule: Threshold, k: int, detector: str = NNGUIDE) -> float:
        """Return the score from which a query is flagged.

        Raises:
            UndefinedMetricError: the rule needs ID (or OOD) queries and there are none.
        """
        if rule.kind == "value":
            return rule.level
        if rule.kind == "id_kept":
            return metrics.threshold_id_kept(self.id_scores(detector, k), rule.level)
        return metrics.threshold_ood_caught(self.ood_scores(detector, k), rule.level)

    @cached_property
    def default_rule(self) -> Threshold:
        """At least 95 % of ID kept; where no ID query has a score, at least 95 % of OOD caught."""
        if any(judged.neighbors.finite.any() for judged in self.id):
            return DEFAULT_THRESHOLD
        return Threshold("ood_caught", DEFAULT_THRESHOLD.level)

    def run(self, k: int, rule: Threshold | None = None) -> Run:
        """Return what a number at this k and threshold (by the default rule if not given) came from."""
        return self.question.run(k, rule or self.default_rule)


def evaluate(
    question: Question,
    *,
    k: int = DEFAULT_K,
    baselines: Sequence[str] | None = None,
    on_step: OnStep = lambda _: None,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Fit the bank and judge every query dataset. All of the answer is on the CPU.

    Args:
        question: model, parts and bank settings.
        k: the fewest neighbours that must be there; up to 100 are kept where the bank has them.
        baselines: names from baselines.BASELINES; all if not given.
        on_step: told in words what is being done; may raise CancelledError.
        device: where neighbours are searched, as choose_device takes it; the CPU for a Mac's GPU.

    Raises:
        DeviceError: there is no such device here.
        DatasetError: not exactly one bank.
        ValueError: the bank is smaller than k, or holds NaN.
        BankMismatchError: queries of another width.

    Warns:
        NNGuideWarning: once for each of the answer's cautions.
    """
    on_step("Building the bank")
    detector = _fitted(question, k, exact_device(choose_device(device)))
    judged = []
    for part in question.queries:
        on_step(f"Searching the neighbours of {part.dataset.name}")
        found = neighbors(detector, part, max(k, MOST_NEIGHBOURS), fewest=k)
        judged.append(Judged(part.dataset, part.features, found, {}))
    answered = with_baselines(Evaluation(question, detector, tuple(judged), {}), baselines, on_step=on_step)
    for sentence in (*answered.cautions, *answered.baseline_cautions):
        warnings.warn(sentence, NNGuideWarning, stacklevel=2)
    return answered


def with_baselines(
    evaluation: Evaluation, names: Sequence[str] | None = None, *, on_step: OnStep = lambda _: None
) -> Evaluation:
    """Return an evaluation with these baselines' scores added (default: all); nothing is searched again."""
    question, bank = evaluation.question, evaluation.bank
    reference = Reference.of(
        bank, question.bank.features.features, question.bank.features.logits, question.head
    )
    judged: list[Judged] = []
    without: dict[str, str] = {}
    for each in evaluation.queries:
        on_step(f"Scoring {each.dataset.name} with the baselines")
        scores, missing = baseline_scores(
            reference,
            each.features.features,
            each.features.logits,
            names,
            bank.own_rows(each.features.ids),
        )
        without |= missing
        judged.append(replace(each, baselines=scores))
    return replace(evaluation, queries=tuple(judged), without=without, notes=dict(reference.notes))


def rows_with_features(dataset: Dataset, features: Features) -> list[int]:
    """Return the dataset's rows that have features, ascending: an image may fail after the scan."""
    failed = {skipped.path for skipped in features.skipped}
    return [row for row, image in enumerate(dataset.images) if image.path not in failed]


def neighbors(detector: NNGuide, part: Part, k: int, *, fewest: int | None = None) -> Neighbors:
    """Return the neighbours of a dataset's images; one that is itself in the bank does not meet its own row.

    Args:
        detector: fitted.
        part: what is judged.
        k: neighbours to keep.
        fewest: k may come down to this where the bank has no more; not at all if not given.

    Raises:
        ValueError: the bank has fewer images left for some query.
        BankMismatchError: the features have another width than the bank.
    """
    bank = _bank_of(detector)
    own = bank.own_rows(part.features.ids)
    available = bank.size - int((own >= 0).sum(dim=1).max()) if own.numel() else bank.size
    return detector.neighbors_features(
        part.features.features,
        k=k if fewest is None else max(fewest, min(k, available)),
        logits=part.features.logits,
        exclude=own if own.numel() else None,
    )


def search_on(detector: NNGuide, device: torch.device) -> NNGuide:
    """Let a fitted detector search its bank on a device, wherever the bank lies."""
    detector.bank = replace(_bank_of(detector), search_device=device)
    return detector


def _fitted(question: Question, k: int, device: torch.device) -> NNGuide:
    bank = question.bank
    known = bool((bank.features.labels >= 0).any())
    detector = NNGuide(None, question.head, k, **asdict(question.settings))
    detector.warns = False
    detector.fit_features(
        bank.features.features,
        bank.features.labels if known else None,
        logits=bank.features.logits,
        ids=bank.features.ids,
        keep_unknown=not _left_out(question),
    )
    return search_on(detector, device)


def _left_out(question: Question) -> int:
    """Return how many bank images have a label that a user gave as unknown, in features of their own.

    A folder's name that the model does not know is no such label, nor are labels of which none is known.
    """
    labels = question.bank.features.labels
    given = question.spec is None and bool((labels >= 0).any())
    return int((labels < 0).sum()) if given else 0


def _of_baselines(bank: FeatureBank, judged: Judged) -> list[str]:
    own = bank.own_rows(judged.features.ids)
    fitted = [name for name in judged.baselines if BASELINES[name].keeps_own]
    said = cautions.of_baselines(own, fitted)
    for name, scores in judged.baselines.items():
        unscored = int((judged.neighbors.finite & scores.isnan()).sum())
        said += cautions.of_unscored(unscored, len(scores), name)
    if "KNN" in judged.baselines and own.numel() and bank.size >= KNN_NEIGHBOURS:
        others = bank.size - int((own >= 0).sum(dim=1).max())
        said += [knn_of_few(others)] if others < KNN_NEIGHBOURS else []
    return said


def _bank_of(detector: NNGuide) -> FeatureBank:
    if detector.bank is None:
        raise RequiresFittingException
    return detector.bank


def _pooled(parts: Sequence[Judged], detector: str, k: int) -> Tensor:
    scores = torch.cat([torch.empty(0), *(part.scores(detector, k) for part in parts)])
    return scores[scores.isfinite()]
