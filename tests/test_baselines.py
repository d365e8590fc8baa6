"""The baselines: pytorch-ood's own scores, and a sentence where there can be none."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from nnguide_core.bank import build_bank
from nnguide_core.baselines import BASELINES, Reference, baseline_scores
from nnguide_core.settings import BankSettings

WIDTH, CLASSES = 16, 4


def features(count: int, seed: int = 0, width: int = WIDTH) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).relu()


def linear(width: int = WIDTH) -> nn.Linear:
    head = nn.Linear(width, CLASSES).requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    head.weight.copy_(torch.randn(CLASSES, width, generator=generator))
    head.bias.copy_(torch.randn(CLASSES, generator=generator))
    return head


def whole_reference(count: int = 200, width: int = WIDTH) -> Reference:
    z, head = features(count, width=width), linear(width)
    return Reference(z, torch.arange(count) % CLASSES, head(z), head.weight, head.bias)


def test_every_baseline_has_the_scores_of_pytorch_ood() -> None:
    from pytorch_ood.detector import KNN, EnergyBased, Mahalanobis, MaxLogit, MaxSoftmax, ViM

    reference, queries = whole_reference(), features(30, seed=1)
    logits = linear()(queries)
    scores, missing = baseline_scores(reference, queries, logits)
    z, labels = reference.features, reference.labels
    theirs = {
        "Energy": EnergyBased(None).predict_logits(logits),
        "MSP": MaxSoftmax(None).predict_logits(logits),
        "MaxLogit": MaxLogit(None).predict_logits(logits),
        "KNN": KNN(None, k=50).fit_features(z, labels).predict_features(queries),
        "ViM": ViM(None, 8, linear().weight, linear().bias).fit_features(z, labels).predict_features(queries),
        "Mahalanobis": Mahalanobis(None).fit_features(z, labels).predict_features(queries),
    }
    assert not missing
    assert list(scores) == list(theirs) == list(BASELINES)
    for name, expected in theirs.items():
        assert scores[name].dtype == torch.float32
        torch.testing.assert_close(scores[name], expected.float())


def test_every_baseline_is_higher_for_what_is_further_from_the_bank() -> None:
    reference = whole_reference()
    far = 20 * torch.eye(WIDTH)[:4] - 30
    head = nn.Linear(WIDTH, CLASSES).requires_grad_(False)
    near_scores, _ = baseline_scores(
        reference, reference.features[:40], linear()(reference.features[:40]) + 50
    )
    far_scores, _ = baseline_scores(reference, far, head(0 * far) - 50)
    for name in ("Energy", "MSP", "MaxLogit", "KNN", "ViM", "Mahalanobis"):
        assert far_scores[name].min() > near_scores[name].median(), name


def test_only_the_names_asked_for_are_computed() -> None:
    scores, missing = baseline_scores(
        Reference(features(9)), features(2), torch.ones(2, 3), names=["KNN", "ViM"]
    )
    assert list(scores) == ["KNN"]
    assert list(missing) == ["ViM"]


def test_a_name_that_is_no_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no baseline 'ODIN'. Known: Energy, MSP, MaxLogit, KNN, ViM, Maha"):
        baseline_scores(whole_reference(), features(2), torch.ones(2, 3), names=["MSP", "ODIN"])


def test_what_a_baseline_lacks_is_said_and_the_others_still_run() -> None:
    scores, missing = baseline_scores(Reference(features(60)), features(5), torch.ones(5, CLASSES))
    assert list(scores) == ["Energy", "MSP", "MaxLogit", "KNN"]
    assert missing == {
        "ViM": "ViM needs the weights of a linear head.",
        "Mahalanobis": "Mahalanobis needs the class of every bank image.",
    }


def test_what_a_baseline_needs_is_declared() -> None:
    assert {name: baseline.needs for name, baseline in BASELINES.items()} == {
        "Energy": (),
        "MSP": (),
        "MaxLogit": (),
        "KNN": ("features",),
        "ViM": ("features", "head"),
        "Mahalanobis": ("features", "labels"),
    }


def test_an_empty_bank_leaves_those_that_need_none() -> None:
    scores, missing = baseline_scores(Reference(features(0)), features(2), torch.ones(2, 3))
    assert list(scores) == ["Energy", "MSP", "MaxLogit"]
    assert missing["KNN"] == "KNN needs bank images."


def test_labels_need_not_be_all_classes_in_a_row() -> None:
    whole = whole_reference()
    labels = torch.tensor([7, 2, 900, 11])[whole.labels]
    other = Reference(whole.features, labels)
    queries, logits = features(9, seed=1), torch.ones(9, CLASSES)
    expected, _ = baseline_scores(whole, queries, logits, names=["Mahalanobis"])
    scores, _ = baseline_scores(other, queries, logits, names=["Mahalanobis"])
    torch.testing.assert_close(scores["Mahalanobis"], expected["Mahalanobis"])


def test_a_query_that_is_no_number_has_nan_scores_and_leaves_the_others_alone() -> None:
    reference, queries = whole_reference(), features(6, seed=1)
    logits = linear()(queries)
    clean, _ = baseline_scores(reference, queries, logits)
    queries[1, 4], logits[3, 0] = torch.nan, torch.inf
    scores, missing = baseline_scores(reference, queries, logits)
    assert not missing
    kept = torch.tensor([0, 2, 4, 5])
    for name, values in scores.items():
        assert values.isnan().tolist() == [False, True, False, True, False, False]
        torch.testing.assert_close(values[kept], clean[name][kept])


def test_queries_that_are_all_no_numbers_or_none_have_no_finite_scores() -> None:
    nothing, _ = baseline_scores(whole_reference(), torch.full((2, WIDTH), torch.nan), torch.ones(2, 3))
    assert all(values.isnan().all() for values in nothing.values())
    none, _ = baseline_scores(whole_reference(), torch.empty(0, WIDTH), torch.empty(0, 3))
    assert {values.shape for values in none.values()} == {(0,)}


def test_which_baselines_there_are_does_not_depend_on_the_queries() -> None:
    reference, queries = whole_reference(), features(6, seed=1)
    huge = 1e22 * queries
    first, missing = baseline_scores(reference, huge, linear()(huge))
    assert not missing
    assert list(first) == list(BASELINES)
    assert first["ViM"].isnan().all()  # the square of its residual is beyond float32
    then, missing = baseline_scores(reference, queries, linear()(queries))
    assert not missing
    assert all(values.isfinite().all() for values in then.values())


def test_knn_looks_at_directions_however_long_the_features_are() -> None:
    reference, queries = whole_reference(), features(6, seed=1)
    plain, _ = baseline_scores(reference, queries, torch.ones(6, 2), names=["KNN"])
    huge, _ = baseline_scores(reference, 1e22 * queries, torch.ones(6, 2), names=["KNN"])
    torch.testing.assert_close(huge["KNN"], plain["KNN"])
    bank, _ = baseline_scores(Reference(1e22 * reference.features), queries, torch.ones(6, 2), names=["KNN"])
    torch.testing.assert_close(bank["KNN"], plain["KNN"])


def test_what_cannot_be_fitted_to_features_beyond_float32_has_its_reason() -> None:
    whole = whole_reference()
    huge = Reference(1e22 * whole.features, whole.labels, None, whole.head_weight, whole.head_bias)
    scores, missing = baseline_scores(huge, features(3), torch.ones(3, CLASSES))
    assert set(scores) == {"Energy", "MSP", "MaxLogit", "KNN", "Mahalanobis"}
    assert set(missing) == {"ViM"}


@pytest.mark.parametrize("count", [1, 5, 49])
def test_knn_of_a_small_bank_takes_its_furthest_image(count: int) -> None:
    z, queries = features(count), features(3, seed=1)
    scores, _ = baseline_scores(Reference(z), queries, torch.ones(3, 2), names=["KNN"])
    distances = torch.cdist(nn.functional.normalize(queries), nn.functional.normalize(z))
    torch.testing.assert_close(scores["KNN"], distances.amax(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [3, 40, 50, 51, 52, 120])
def test_knn_of_an_image_of_the_bank_is_that_of_a_bank_without_it(count: int) -> None:
    from pytorch_ood.detector import KNN

    z = features(count)
    z[1] = z[0]  # the same image twice: both rows are its own
    z[2] = z[0]  # another image with the same features
    own = torch.arange(count)[:, None].expand(-1, 2).clone()
    own[:, 1] = -1
    own[0, 1], own[1, 1] = 1, 0
    queries, own = torch.cat([z, features(4, seed=1)]), torch.cat([own, torch.full((4, 2), -1)])
    scores, _ = baseline_scores(Reference(z), queries, torch.ones(count + 4, 2), names=["KNN"], own=own)
    for row, (query, gone) in enumerate(zip(queries, own.tolist(), strict=True)):
        rest = z[[each for each in range(count) if each not in gone]]
        alone = KNN(None, k=min(50, len(rest))).fit_features(rest, torch.zeros(len(rest)))
        expected = alone.predict_features(query[None]).float()
        torch.testing.assert_close(scores["KNN"][row : row + 1], expected, rtol=1e-6, atol=1e-6)


def test_knn_without_anything_left_to_compare_with_has_no_score() -> None:
    z, own = features(2), torch.tensor([[0, 1], [0, -1]])
    scores, _ = baseline_scores(Reference(z), z, torch.ones(2, 2), names=["KNN"], own=own)
    assert scores["KNN"].isnan().tolist() == [True, False]


def test_only_the_baselines_that_are_fitted_to_the_bank_keep_a_querys_own_row() -> None:
    assert [name for name, each in BASELINES.items() if each.keeps_own] == ["ViM", "Mahalanobis"]
    reference, own = whole_reference(), torch.arange(5)[:, None]
    queries, logits = reference.features[:5], linear()(reference.features[:5])
    plain, _ = baseline_scores(reference, queries, logits)
    without, _ = baseline_scores(reference, queries, logits, own=own)
    changed = [name for name in BASELINES if not torch.equal(plain[name], without[name])]
    assert changed == ["KNN"]


@pytest.mark.parametrize(("count", "note"), [(49, "there are only 49: its"), (50, None)])
def test_knn_of_a_small_bank_is_noted_with_both_numbers(count: int, note: str | None) -> None:
    reference = Reference(features(count))
    baseline_scores(reference, features(3), torch.ones(3, 2), names=["KNN"])
    assert list(reference.notes) == (["KNN"] if note else [])
    assert note is None or note in reference.notes["KNN"]


def test_mahalanobis_of_fewer_images_than_features_shrinks_the_covariance_and_says_so() -> None:
    reference = whole_reference(count=40, width=64)
    near, far = reference.features[:5] + 0.1, 20 * features(5, seed=1, width=64)
    queries = torch.cat([near, far])
    scores, missing = baseline_scores(reference, queries, torch.ones(10, 2), names=["Mahalanobis"])
    assert not missing
    assert scores["Mahalanobis"][5:].min() > scores["Mahalanobis"][:5].max()
    z, labels = reference.features.double(), reference.labels
    centres = torch.stack([z[labels == label].mean(dim=0) for label in range(CLASSES)])
    scatter = (z - centres[labels]).T @ (z - centres[labels])
    shrinkage = ledoit_wolf_shrinkage((z - centres[labels]).numpy(), assume_centered=True)
    shrunk = (1 - shrinkage) * scatter + shrinkage * scatter.trace() / 64 * torch.eye(64)
    expected = torch.stack([_squared_distances(queries.double() - each, shrunk) for each in centres])
    # pytorch-ood's score is a softmax over the classes' -distance / 2; its log is compared up to that.
    torch.testing.assert_close(
        scores["Mahalanobis"].double(), 0.5 * expected.min(dim=0).values, rtol=1e-3, atol=1e-3
    )
    assert reference.notes["Mahalanobis"] == (
        "Mahalanobis uses a shrunk covariance (Ledoit–Wolf): 40 bank images are too few for that of "
        "64 features."
    )


def _squared_distances(centred: Tensor, scatter: Tensor) -> Tensor:
    return torch.einsum("qd,de,qe->q", centred, torch.linalg.inv(scatter), centred)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("count", [40, 400])
def test_mahalanobis_does_not_depend_on_the_unit_of_the_features(unit: float, count: int) -> None:
    whole, queries = whole_reference(count, width=64), features(5, seed=1, width=64)
    expected, _ = baseline_scores(whole, queries, torch.ones(5, 2), names=["Mahalanobis"])
    scaled = Reference(unit * whole.features, whole.labels)
    scores, _ = baseline_scores(scaled, unit * queries, torch.ones(5, 2), names=["Mahalanobis"])
    torch.testing.assert_close(scores["Mahalanobis"], expected["Mahalanobis"], rtol=1e-3, atol=1e-5)
    assert list(scaled.notes) == (["Mahalanobis"] if count == 40 else [])


def test_mahalanobis_of_classes_without_any_spread_is_not_defined() -> None:
    reference = Reference(features(CLASSES).repeat(10, 1), torch.arange(40) % CLASSES)
    _, missing = baseline_scores(reference, features(3), torch.ones(3, 2), names=["Mahalanobis"])
    assert missing == {"Mahalanobis": "Mahalanobis needs bank images that differ within a class."}


def test_mahalanobis_bears_features_that_are_always_zero() -> None:
    whole = whole_reference()
    dead = whole.features * (torch.arange(WIDTH) > 2)
    scores, missing = baseline_scores(
        Reference(dead, whole.labels), dead[:5], torch.ones(5, 2), names=["Mahalanobis"]
    )
    assert not missing
    assert (scores["Mahalanobis"] > 0).all()


def test_vim_of_identical_images_is_not_defined() -> None:
    head = linear()
    reference = Reference(features(1).expand(40, WIDTH), None, None, head.weight, head.bias)
    _, missing = baseline_scores(reference, features(3, seed=1), torch.ones(3, 2), names=["ViM"])
    assert "8 principal dimensions leave nothing of the features of 40 images" in missing["ViM"]


def test_vim_of_fewer_images_than_principal_dimensions_keeps_two_thirds_of_them_and_says_so() -> None:
    from pytorch_ood.detector import ViM

    reference, queries = whole_reference(count=60, width=640), features(5, seed=1, width=640)
    head = linear(640)
    scores, missing = baseline_scores(reference, queries, head(queries), names=["ViM"])
    assert not missing
    theirs = ViM(None, 40, head.weight, head.bias).fit_features(reference.features, reference.labels)
    torch.testing.assert_close(scores["ViM"], theirs.predict_features(queries).float())
    assert reference.notes == {
        "ViM": "ViM keeps 40 principal dimensions instead of 512, since the bank has only 60 images."
    }


def test_vim_needs_a_head_that_gives_the_logits() -> None:
    whole = whole_reference()
    assert whole.logits is not None
    other = Reference(whole.features, None, 2 * whole.logits, whole.head_weight, whole.head_bias)
    _, missing = baseline_scores(other, features(3), torch.ones(3, 2), names=["ViM"])
    assert missing["ViM"] == "ViM needs logits that the linear head gives for these features."
    narrow = Reference(whole.features[:, :9], None, None, whole.head_weight, whole.head_bias)
    _, missing = baseline_scores(narrow, features(3, width=9), torch.ones(3, 2), names=["ViM"])
    assert missing["ViM"] == "ViM needs a head for 9 features, not 16."


def test_vim_takes_a_head_without_bias() -> None:
    whole = whole_reference()
    without = Reference(whole.features, head_weight=whole.head_weight)
    zero = Reference(whole.features, head_weight=whole.head_weight, head_bias=torch.zeros(CLASSES))
    queries, logits = features(3), torch.ones(3, CLASSES)
    expected, _ = baseline_scores(zero, queries, logits, names=["ViM"])
    scores, _ = baseline_scores(without, queries, logits, names=["ViM"])
    assert torch.equal(scores["ViM"], expected["ViM"])


@pytest.mark.parametrize(("width", "dimensions"), [(512, 256), (768, 512), (2048, 1000)])
def test_vim_keeps_as_many_dimensions_as_its_authors_where_the_features_are_wide(
    width: int, dimensions: int
) -> None:
    unsolved = LinAlgError("no convergence")
    with patch("pytorch_ood.detector.ViM", side_effect=unsolved) as vim:
        _, missing = baseline_scores(
            whole_reference(1500, width), features(2, width=width), torch.ones(2, 3), names=["ViM"]
        )
    assert vim.call_args.kwargs["d"] == dimensions
    assert missing["ViM"] == "ViM has no solution on these features: no convergence"


def test_a_baseline_is_fitted_once_for_all_query_sets() -> None:
    from pytorch_ood.detector import Mahalanobis

    reference = whole_reference()
    with patch("pytorch_ood.detector.Mahalanobis", wraps=Mahalanobis) as fits:
        for seed in (1, 2, 3):
            baseline_scores(reference, features(5, seed), torch.ones(5, 3), names=["Mahalanobis"])
    assert fits.call_count == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_precision_are_scored(dtype: torch.dtype) -> None:
    whole, queries = whole_reference(), features(5, seed=1).to(dtype)
    head = linear()
    reference = Reference(
        whole.features.to(dtype), whole.labels, None, head.weight.to(dtype), head.bias.to(dtype)
    )
    scores, missing = baseline_scores(reference, queries, head(queries.float()).to(dtype))
    assert not missing
    assert all(values.isfinite().all() for values in scores.values())


def test_the_reference_of_a_bank_is_its_images_unscaled() -> None:
    z, labels, head = features(50), torch.arange(50) % CLASSES - 1, linear()
    how = BankSettings(fraction=0.5, react_percentile=90.0)
    bank = build_bank(z, head=head, labels=labels, settings=how)
    reference = Reference.of(bank, z, head(z), head)
    assert torch.equal(reference.features, z[bank.positions])
    assert reference.labels is bank.labels
    assert reference.logits is not None
    assert torch.equal(reference.logits, head(z)[bank.positions])
    assert reference.head_weight is head.weight
    assert reference.head_bias is head.bias


def test_the_reference_of_a_bank_without_labels_or_linear_head_has_none() -> None:
    z, head = features(50), linear()
    reference = Reference.of(build_bank(z, head=head), z, head=nn.Sequential(head))
    assert reference.labels is reference.logits is reference.head_weight is reference.head_bias is None


def test_pytorch_ood_is_imported_only_when_scores_are_asked_for() -> None:
    program = """
import sys
import nnguide_core.baselines
assert not {"pytorch_ood", "sklearn", "torchvision"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])
