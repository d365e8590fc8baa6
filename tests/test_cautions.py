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


def test_queries_without_a_score_or_features_are_named_by_row() -> None:
    bank = build_bank(torch.eye(1), energies=torch.ones(1))
    energies = [torch.nan] * 6 + [1.0]
    assert cautions.of_queries(judged(energies, [False] * 6 + [True]), bank) == [
        "6 of 7 queries (rows 0, 1, 2, 3, 4, …) have NaN or infinity: their score is NaN.",
        "1 of 7 queries (rows 6) have features that are all zero: their score is 0.",
    ]
