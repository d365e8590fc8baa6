"""Other detectors on the same features and logits, to show beside NNGuide: pytorch-ood's, as they are.

Every score is higher for more out-of-distribution inputs. Where a bank is too small for a detector's usual
setting, the setting gives way and a note says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from nnguide_core.bank import FeatureBank
from nnguide_core.networks import Network, plain_linear
from nnguide_core.scoring import unit_features

if TYPE_CHECKING:
    from pytorch_ood.detector import KNN

__all__ = ["BASELINES", "KNN_NEIGHBOURS", "Baseline", "Reference", "baseline_scores", "knn_of_few"]

KNN_NEIGHBOURS = 50  # pytorch-ood's default, the KNN paper's CIFAR-10 setting
LARGEST_RESIDUAL = 0.01  # of covariance times its inverse; beyond, distances are rounding errors
SMALLEST_REMAINDER = 1e-4  # of features outside ViM's principal space or a class mean; below, it is rounding
LARGEST_DEVIATION = 0.05  # of logits from the head's, in shares of their size; reduced precision gives 0.01

# Features (Q, D), logits (Q, C) and each query's own rows of the reference (Q, E), -1 for none -> scores (Q,)
Scorer = Callable[[Tensor, Tensor, Tensor], Tensor]
Need = Literal["features", "labels", "head"]


class _NotPossibleError(Exception):
    """Why a baseline cannot be computed here, as a sentence."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What queries are compared with: the images of NNGuide's bank, their features unscaled."""

    features: Tensor  # (N, D)
    labels: Tensor | None = None  # (N,) class indices
    logits: Tensor | None = None  # (N, C), to check that the head gives them
    head_weight: Tensor | None = None  # (C, D)
    head_bias: Tensor | None = None  # (C,)

    @classmethod
    def of(
        cls, bank: FeatureBank, features: Tensor, logits: Tensor | None = None, head: Network | None = None
    ) -> "Reference":
        """Return the reference of a bank and the training features (and logits) it was drawn from.

        The head counts only if it is a plain nn.Linear; labels only if the bank has them.
        """
        rows = bank.positions.to(features.device)
        linear = plain_linear(head)
        return cls(
            features=features[rows],
            labels=None if (bank.labels < 0).any() else bank.labels,
            logits=None if logits is None else logits[rows.to(logits.device)],
            head_weight=None if linear is None else linear.weight,
            head_bias=None if linear is None else linear.bias,
        )

    @cached_property
    def notes(self) -> dict[str, str]:
        """How fitted baselines depart from their usual settings, a sentence by name."""
        return {}

    @cached_property
    def _scorers(self) -> dict[str, Scorer | str]:
        """Fitted baselines by name, or why one cannot be fitted; filled when first asked for."""
        return {}


@dataclass(frozen=True)
class Baseline:
    """A detector to compare with, and what a reference must have for it."""

    name: str
    needs: tuple[Need, ...]
    fit: Callable[[Reference], Scorer]
    keeps_own: bool = False  # whether a query that is an image of the reference is compared with itself too


def baseline_scores(
    reference: Reference,
    features: Tensor,
    logits: Tensor,
    names: Sequence[str] | None = None,
    own: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the scores of each baseline that can be fitted, and for the others why not.

    A baseline is fitted once for each reference: which ones there are does not depend on the queries. Work
    happens on the CPU.

    Args:
        reference: what queries are compared with.
        features: of the queries, (Q, D), as the model gave them.
        logits: of the queries, (Q, C).
        names: which baselines; all if not given.
        own: the rows of the reference that are the query itself, (Q, E) int64 padded with -1. KNN leaves them
            out; what ViM and Mahalanobis were fitted to cannot be changed for one query.

    Returns:
        Scores (Q,) float32 by name, higher = more OOD, NaN for a query that has none: with NaN or infinity in
        its features or logits, or too large for float32; and sentences by name.

    Raises:
        ValueError: a name is no baseline's.
    """
    if unknown := [name for name in names or () if name not in BASELINES]:
        raise ValueError(f"There is no baseline {unknown[0]!r}. Known: {', '.join(BASELINES)}.")
    features, logits = _plain(features), _plain(logits)
    own = torch.empty(len(features), 0, dtype=torch.int64) if own is None else own.cpu()
    defined = features.isfinite().all(dim=1) & logits.isfinite().all(dim=1)
    scores: dict[str, Tensor] = {}
    missing: dict[str, str] = {}
    for name in BASELINES if names is None else names:
        try:
            scorer = _scorer(BASELINES[name], reference)
        except _NotPossibleError as reason:
            missing[name] = str(reason)
        else:
            scores[name] = _scored(scorer, features, logits, own, defined)
    return scores, missing


def _scorer(baseline: Baseline, reference: Reference) -> Scorer:
    if baseline.name not in reference._scorers:
        try:
            _check_needs(baseline, reference)
            reference._scorers[baseline.name] = baseline.fit(reference)
        except _NotPossibleError as reason:
            reference._scorers[baseline.name] = str(reason)
        except LinAlgError as error:
            reference._scorers[baseline.name] = f"{baseline.name} has no solution on these features: {error}"
    fitted = reference._scorers[baseline.name]
    if isinstance(fitted, str):
        raise _NotPossibleError(fitted)
    return fitted


def _check_needs(baseline: Baseline, reference: Reference) -> None:
    has: dict[Need, bool] = {
        "features": len(reference.features) > 0,
        "labels": reference.labels is not None,
        "head": reference.head_weight is not None,
    }
    words: dict[Need, str] = {
        "features": "bank images",
        "labels": "the class of every bank image",
        "head": "the weights of a linear head",
    }
    if lacking := [words[need] for need in baseline.needs if not has[need]]:
        raise _NotPossibleError(f"{baseline.name} needs {' and '.join(lacking)}.")


def _scored(scorer: Scorer, features: Tensor, logits: Tensor, own: Tensor, defined: Tensor) -> Tensor:
    """Return the scores of the queries that are numbers throughout, NaN for the others."""
    scores = torch.full((len(features),), torch.nan)
    if defined.any():
        scores[defined] = scorer(features[defined], logits[defined], own[defined]).float()
    return scores.where(scores.isfinite(), torch.nan)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().float()


def _energy(_: Reference) -> Scorer:
    from pytorch_ood.detector import EnergyBased

    return lambda _, logits, __: EnergyBased.score(logits)


def _msp(_: Reference) -> Scorer:
    from pytorch_ood.detector import MaxSoftmax

    return lambda _, logits, __: MaxSoftmax.score(logits)


def _max_logit(_: Reference) -> Scorer:
    from pytorch_ood.detector import MaxLogit

    return lambda _, logits, __: MaxLogit.score(logits)


def _knn(reference: Reference) -> Scorer:
    from pytorch_ood.detector import KNN

    features = _of_finite_norm(_plain(reference.features))
    detector = KNN(None, k=min(KNN_NEIGHBOURS, len(features)))
    if len(features) < KNN_NEIGHBOURS:
        reference.notes["KNN"] = knn_of_few(len(features))
    detector.fit_features(features, torch.zeros(len(features), dtype=torch.int64))

    def scored(queries: Tensor, _: Tensor, own: Tensor) -> Tensor:
        queries = _of_finite_norm(queries)
        scores: Tensor = detector.predict_features(queries)
        inside = (own >= 0).any(dim=1)
        if inside.any():
            scores[inside] = _distance_without_own(detector, queries[inside], own[inside])
        return scores

    return scored


def _of_finite_norm(features: Tensor) -> Tensor:
    """Return the features, (Q, D), with those whose norm overflows float32 scaled to length 1."""
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return torch.where(norms.isfinite(), features, unit_features(features))


def _distance_without_own(detector: "KNN", queries: Tensor, own: Tensor) -> Tensor:
    """Return the score of a KNN fitted without each query's own rows, (Q,); NaN where no row is left."""
    size = detector.knn.n_samples_fit_
    units = detector._prepare(queries).numpy()
    wide = min(KNN_NEIGHBOURS + own.shape[1], size)
    distances, rows = map(torch.from_numpy, detector.knn.kneighbors(units, n_neighbors=wide))
    others = ~(rows[:, :, None] == own[:, None, :]).any(dim=2)
    remaining = size - torch.tensor([len(set(each) - {-1}) for each in own.tolist()])
    wanted = remaining.clamp(max=KNN_NEIGHBOURS)
    place = (others.cumsum(dim=1) == wanted[:, None]).int().argmax(dim=1, keepdim=True)
    return distances.gather(1, place)[:, 0].where(wanted > 0, torch.nan)


def knn_of_few(images: int) -> str:
    """Return what to say of KNN where it has fewer bank images to compare with than it looks for."""
    return (
        f"KNN looks for the {KNN_NEIGHBOURS}th nearest bank image, but there are only {images}: its score is "
        "the distance to the farthest one."
    )


def _vim(reference: Reference) -> Scorer:
    from pytorch_ood.detector import ViM

    features, weight, bias = _linear(reference)
    usual = _principal_dimensions(features.shape[1])
    # More would leave the bank almost no residual, by which ViM scales that of a query.
    kept = max(1, min(usual, len(features) * 2 // 3))
    detector = ViM(None, d=kept, w=weight, b=bias)
    detector.fit_features(features, torch.zeros(len(features), dtype=torch.int64))
    centred = features - detector.u
    residual = (centred @ detector.principal_subspace).norm(dim=1).mean()
    if not residual > SMALLEST_REMAINDER * centred.norm(dim=1).mean():
        raise _NotPossibleError(
            f"ViM needs more, or more varied, bank images: {kept} principal dimensions leave nothing "
            f"of the features of {len(features)} images."
        )
    if kept < usual:
        reference.notes["ViM"] = (
            f"ViM keeps {kept:,} principal dimensions instead of {usual:,}, since the bank has only "
            f"{len(features):,} images."
        )
    return lambda queries, _, __: detector.predict_features(queries)


def _mahalanobis(reference: Reference) -> Scorer:
    from pytorch_ood.detector import Mahalanobis

    features = _plain(reference.features)
    # The distance has no unit, but the small ridge that pytorch-ood adds to the covariance has one.
    unit = features.double().square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    scaled = (features / unit).float()
    # pytorch-ood wants every class from 0 on to occur; which number a class has does not matter.
    labels = torch.unique(cast(Tensor, reference.labels).cpu(), return_inverse=True)[1]
    detector = Mahalanobis(None).fit_features(scaled, labels)
    centred = scaled - detector.mu[labels]
    if not centred.norm() > SMALLEST_REMAINDER * scaled.norm():
        raise _NotPossibleError("Mahalanobis needs bank images that differ within a class.")
    off = (detector.cov @ detector.precision - torch.eye(len(detector.cov))).abs().max()
    if len(features) - len(detector.mu) < features.shape[1] or not off < LARGEST_RESIDUAL:
        detector.precision = _shrunk_precision(centred)
        reference.notes["Mahalanobis"] = (
            f"Mahalanobis uses a shrunk covariance (Ledoit–Wolf): {len(features):,} bank images are too few "
            f"for that of {features.shape[1]:,} features."
        )
    return lambda queries, _, __: detector.predict_features((queries / unit).float())


def _shrunk_precision(centred: Tensor) -> Tensor:
    """Return the inverse of the shrunk scatter, (D, D) float32, of features (N, D) less their class means."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(centred.double().numpy(), assume_centered=True)
    precision: Tensor = torch.linalg.inv(torch.from_numpy(covariance) * len(centred))
    return precision.float()


def _linear(reference: Reference) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, weight and bias, having checked that they give the logits that are known."""
    features, weight = _plain(reference.features), _plain(cast(Tensor, reference.head_weight))
    bias = torch.zeros(len(weight)) if reference.head_bias is None else _plain(reference.head_bias)
    if weight.shape[1] != features.shape[1]:
        raise _NotPossibleError(f"ViM needs a head for {features.shape[1]} features, not {weight.shape[1]}.")
    if reference.logits is not None:
        logits = _plain(reference.logits)
        if (features @ weight.T + bias - logits).abs().mean() > LARGEST_DEVIATION * logits.abs().mean():
            raise _NotPossibleError("ViM needs logits that the linear head gives for these features.")
    return features, weight, bias


def _principal_dimensions(width: int) -> int:
    """Return the ViM authors' choice for wide features, and pytorch-ood's half for narrow ones."""
    if width <= 512:
        return width // 2
    return 1000 if width >= 2048 else 512


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        baseline.name: baseline
        for baseline in (
            Baseline("Energy", (), _energy),
            Baseline("MSP", (), _msp),
            Baseline("MaxLogit", (), _max_logit),
            Baseline("KNN", ("features",), _knn),
            Baseline("ViM", ("features", "head"), _vim, keeps_own=True),
            Baseline("Mahalanobis", ("features", "labels"), _mahalanobis, keeps_own=True),
        )
    }
)
