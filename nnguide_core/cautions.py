"""What to tell a user whose scores are computed as asked but may mislead: sentences for API and pages."""

from collections.abc import Sequence

from torch import Tensor

from nnguide_core.bank import FeatureBank
from nnguide_core.networks import Network, in_training
from nnguide_core.scoring import Neighbors

__all__ = ["of_bank", "of_baselines", "of_left_out", "of_mode", "of_queries", "of_unscored"]

_NAMED_AT_MOST = 5  # rows that a sentence lists


def of_mode(what: str, network: Network | None) -> list[str]:
    """Return a sentence for an encoder or a head, as what says, that is in training mode."""
    name = in_training(network)
    if name is None:
        return []
    return [
        f"The {what} ({name}) is in training mode: its output for an image can change with every call "
        "and with the other images of the batch, and every call can change running statistics. "
        f"Call eval() on the {what} and fit again."
    ]


def of_bank(bank: FeatureBank) -> list[str]:
    """Return sentences for energies of 0 or less, rows that are all zero, and labels only partly known."""
    sentences = []
    if count := bank.negative_energies:
        sentences.append(_inversion(f"{count} of {bank.size} bank images", bank.energies, bank))
    if count := bank.zero_rows:
        sentences.append(f"{count} of {bank.size} bank rows are all zero and guide no query.")
    if 0 < bank.unlabelled < bank.size:
        sentences.append(
            f"{bank.unlabelled} of {bank.size} bank images are of classes that the model does not know: they "
            "guide like any other, and Mahalanobis, which needs every class, cannot be compared with."
        )
    return sentences


def of_left_out(count: int, total: int) -> list[str]:
    """Return a sentence for images that a bank was not drawn from, none if there are none."""
    if count == 0:
        return []
    return [f"{count} of {total} images for the bank have a label below 0 and were left out of it."]


def of_baselines(own: Tensor, fitted: Sequence[str]) -> list[str]:
    """Return a sentence for queries that are bank images, where some baselines were fitted to them.

    Args:
        own: each query's own bank rows, (Q, E) int64, -1 for none.
        fitted: those baselines.
    """
    count = int((own >= 0).any(dim=1).sum())
    if not count or not fitted:
        return []
    were = "was" if len(fitted) == 1 else "were"
    return [
        f"{count} of {len(own)} queries are themselves in the bank. NNGuide and KNN leave a query's own row "
        f"out; {' and '.join(fitted)} {were} fitted with it, so that these look more typical there."
    ]


def of_unscored(count: int, total: int, name: str) -> list[str]:
    """Return a sentence for queries that NNGuide has a score for and this baseline has none."""
    if count == 0:
        return []
    return [
        f"{name} gives no finite score for {count} of {total} queries, although NNGuide scores these: its "
        "metrics leave them out."
    ]


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
