"""What to tell a user whose scores are computed as asked but may mislead: sentences for API and pages."""

from torch import Tensor

from nnguide_core.bank import FeatureBank
from nnguide_core.scoring import Neighbors

__all__ = ["of_bank", "of_queries"]

_NAMED_AT_MOST = 5  # rows that a sentence lists


def of_bank(bank: FeatureBank) -> list[str]:
    """Return a sentence for bank images with an energy of 0 or less, and one for rows that are all zero."""
    sentences = []
    if count := bank.negative_energies:
        sentences.append(_inversion(f"{count} of {bank.size} bank images", bank.energies, bank))
    if count := bank.zero_rows:
        sentences.append(f"{count} of {bank.size} bank rows are all zero and guide no query.")
    return sentences


def of_queries(found: Neighbors, bank: FeatureBank) -> list[str]:
    """Return sentences for queries with an energy of 0 or less, without a score, or with no features."""
    sentences = []
    total = len(found.energy)
    if count := found.negative_energies:
        sentences.append(_inversion(f"{count} of {total} queries", found.energy, bank))
    if not found.finite.all():
        sentences.append(f"{_listed(~found.finite)} have NaN or infinity: their score is NaN.")
    if found.zero_norm.any():
        sentences.append(f"{_listed(found.zero_norm)} have features that are all zero: their score is 0.")
    return sentences


def _inversion(who: str, energies: Tensor, bank: FeatureBank) -> str:
    lowest = float(energies[energies <= 0].min())
    return (
        f"{who} have an energy of 0 or less (lowest {lowest:.4g}), with which the ranking can invert: "
        f"compare with plain Energy, or set energy_offset above {bank.settings.energy_offset - lowest:.4g}."
    )


def _listed(mask: Tensor) -> str:
    rows = mask.nonzero().squeeze(1).tolist()
    more = ", …" if len(rows) > _NAMED_AT_MOST else ""
    return f"{len(rows)} of {len(mask)} queries (rows {', '.join(map(str, rows[:_NAMED_AT_MOST]))}{more})"
