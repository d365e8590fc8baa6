"""What a user is told when scores may mislead."""

import torch

from nnguide_core import cautions
from nnguide_core.bank import build_bank
from nnguide_core.scoring import Neighbors
from nnguide_core.settings import BankSettings


def judged(energies: list[float], zero_norm: list[bool] | None = None) -> Neighbors:
    count = len(energies)
    ones = torch.ones(count, 1)
    flags = torch.tensor(zero_norm or [False] * count)
    return Neighbors(ones.long(), ones, ones, torch.tensor(energies), flags)


def test_there_is_nothing_to_say_of_ordinary_energies() -> None:
    bank = build_bank(torch.eye(2), energies=torch.tensor([1.0, 2.0]))
    assert cautions.of_bank(bank) == []
    assert cautions.of_queries(judged([0.5, 3.0]), bank) == []


def test_energies_of_0_or_less_are_counted_with_the_offset_that_ends_them() -> None:
    settings = BankSettings(energy_offset=1.0)
    bank = build_bank(torch.eye(3), energies=torch.tensor([-3.5, -1.0, 2.0]), settings=settings)
    assert cautions.of_bank(bank) == [
        "2 of 3 bank images have an energy of 0 or less (lowest -2.5), with which the ranking can invert: "
        "compare with plain Energy, or set energy_offset above 3.5.",
        "1 of 3 bank rows are all zero and guide no query.",
    ]
    assert cautions.of_queries(judged([-0.25, 0.0, 1.0]), bank) == [
        "2 of 3 queries have an energy of 0 or less (lowest -0.25), with which the ranking can invert: "
        "compare with plain Energy, or set energy_offset above 1.25."
    ]


def test_labels_that_are_only_partly_known_are_counted() -> None:
    labels = torch.tensor([0, -1, 2, -1, -1])
    bank = build_bank(torch.eye(5), energies=torch.ones(5), labels=labels, keep_unknown=True)
    assert cautions.of_bank(bank) == [
        "3 of 5 bank images are of classes that the model does not know: they guide like any other, and "
        "Mahalanobis, which needs every class, cannot be compared with."
    ]
    for others in (None, labels.clamp_min(0)):
        assert cautions.of_bank(build_bank(torch.eye(5), energies=torch.ones(5), labels=others)) == []


def test_images_left_out_of_the_bank_are_counted() -> None:
    assert cautions.of_left_out(0, 9) == []
    assert cautions.of_left_out(2, 9) == [
        "2 of 9 images for the bank have a label below 0 and were left out of it."
    ]


def test_queries_that_a_baseline_was_fitted_with_are_counted() -> None:
    own = torch.tensor([[3, -1], [-1, -1], [0, 4]])
    assert cautions.of_baselines(own, ["ViM", "Mahalanobis"]) == [
        "2 of 3 queries are themselves in the bank. NNGuide and KNN leave a query's own row out; ViM and "
        "Mahalanobis were fitted with it, so that these look more typical there."
    ]
    assert "; ViM was fitted with it" in cautions.of_baselines(own, ["ViM"])[0]
    assert cautions.of_baselines(own, []) == []
    assert cautions.of_baselines(own[1:2], ["ViM"]) == []
    assert cautions.of_baselines(own[:, :0], ["ViM"]) == []


def test_queries_without_a_score_or_features_are_named_by_row() -> None:
    bank = build_bank(torch.eye(1), energies=torch.ones(1))
    energies = [torch.nan] * 6 + [1.0]
    assert cautions.of_queries(judged(energies, [False] * 6 + [True]), bank) == [
        "6 of 7 queries (rows 0, 1, 2, 3, 4, …) have NaN or infinity: their score is NaN.",
        "1 of 7 queries (rows 6) have features that are all zero: their score is 0.",
    ]
