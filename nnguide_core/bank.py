"""The bank: energy-scaled unit features of ID training images, and how it is drawn from them.

Source: Park et al., Nearest Neighbor Guidance for OOD Detection, ICCV 2023, arXiv 2309.14888. ReAct: Sun et
al., NeurIPS 2021, arXiv 2111.12797.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnguide_core.errors import ModelNotSetException
from nnguide_core.networks import Network, device_of, head_logits
from nnguide_core.scoring import energy, unit_features
from nnguide_core.search import PreparedBank, prepare
from nnguide_core.settings import BankSettings

__all__ = ["EnergySource", "FeatureBank", "build_bank", "clip", "percentile"]

IntArray = npt.NDArray[np.integer[Any]]

_BLOCK = 2**20  # feature values looked at together


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """What queries are compared with, and how it was drawn. All tensors are on one device."""

    rows: Tensor  # (N, D) float32, energy * unit features
    energies: Tensor  # (N,) float32, offset included
    labels: Tensor  # (N,) int64, below 0 where unknown: all -1 if no labels were given
    ids: tuple[str, ...]  # N image ids, "" where unknown
    positions: Tensor  # (N,) int64 ascending, the rows of the training features it was drawn from
    settings: BankSettings
    react_threshold: float | None  # features above it are clipped to it
    search_device: torch.device | None = None  # where rows are searched; where they are if not given

    @property
    def size(self) -> int:
        """How many images the bank holds."""
        return self.rows.shape[0]

    @property
    def width(self) -> int:
        """How many features each row has, D."""
        return self.rows.shape[1]

    @cached_property
    def scales(self) -> Tensor:
        """What each unit row is multiplied with where it is searched, (N,) float32.

        Its energy for "paper"; for "cosine" only its energy's sign.
        """
        return self.energies if self.settings.scoring == "paper" else self.energies.sign()

    @cached_property
    def search_rows(self) -> Tensor:
        """What is searched, (N, D) float32: the rows for "paper", unit rows with their sign for "cosine"."""
        return self.rows if self.settings.scoring == "paper" else unit_features(self.rows)

    @cached_property
    def prepared(self) -> PreparedBank:
        """What is searched, encoded once for every search; a quarter of its size, released with the bank."""
        return prepare(self.search_rows, device=self.search_device)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: what can be made again is not."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def direction(self, absent: Tensor | None = None) -> float:
        """Return the sign that all products with the searched rows have in common: 1 for "paper".

        For "cosine" that of the mean energy + 1e-8, which its scale energy / (mean energy + 1e-8) divides by;
        of the images that remain where some rows, (M,) int64, count as absent.
        """
        if self.settings.scoring == "paper":
            return 1.0
        energies = self.energies if absent is None else self.energies[self._others(absent)]
        return float((energies.mean() + 1e-8).sign())

    def without(self, rows: Tensor) -> "FeatureBank":
        """Return the bank of the other images, (M,) int64 rows left out; the ReAct threshold stays."""
        others = self._others(rows)
        names = ("rows", "energies", "labels", "positions")
        ids = tuple(image for image, stays in zip(self.ids, others.tolist(), strict=True) if stays)
        return replace(self, ids=ids, **{name: getattr(self, name)[others] for name in names})

    def _others(self, rows: Tensor) -> Tensor:
        others = torch.ones(self.size, dtype=torch.bool, device=self.rows.device)
        others[rows.to(others.device)] = False
        return others

    @property
    def negative_energies(self) -> int:
        """How many rows have an energy of 0 or less, with which the ranking can invert."""
        return int((self.energies <= 0).sum())

    @property
    def unlabelled(self) -> int:
        """How many rows have no known label."""
        return int((self.labels < 0).sum())

    @property
    def zero_rows(self) -> int:
        """How many rows are all zero and so never guide: zero-norm features or an energy of exactly 0."""
        return int((torch.linalg.vector_norm(self.rows, ord=torch.inf, dim=1) == 0).sum())

    def own_rows(self, ids: Sequence[str]) -> Tensor:
        """Return the bank rows that are the query itself, (Q, E) int64 on the CPU, -1 for none, for exclude.

        The same bytes have the same id, so an image that is in the bank twice has both rows named.
        """
        rows = [self._rows_by_id.get(image, []) for image in ids]
        width = max(map(len, rows), default=0)
        padded = [own + [-1] * (width - len(own)) for own in rows]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)

    @cached_property
    def _rows_by_id(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for row, image in enumerate(self.ids):
            if image:
                found[image].append(row)
        return found

    def to(self, device: torch.device | str) -> "FeatureBank":
        """Return the same bank on a device."""
        names = ("rows", "energies", "labels", "positions")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, eq=False)
class EnergySource:
    """Where the energies of N images come from: energies, logits, or a head that is run on the features.

    With ReAct the logits change with the clipped features, so that only the head will do.
    """

    settings: BankSettings
    head: Network | None = None
    logits: Tensor | None = None  # (N, C)
    energies: Tensor | None = None  # (N,), without the offset

    def check(self, count: int) -> None:
        """Refuse a source that cannot serve so many images.

        Raises:
            ModelNotSetException: there is no head, and neither logits nor energies.
            ValueError: both were given, one has another number of rows, or ReAct has no head.
        """
        given = [name for name in ("logits", "energies") if getattr(self, name) is not None]
        if len(given) == 2:
            raise ValueError("Both logits and energies were given: give one of them.")
        if self.head is None and self.settings.react_percentile is not None:
            raise ValueError(
                "ReAct clips the features, so the logits must be recomputed from them: give the head, "
                f"or turn ReAct off. Given: {given[0] if given else 'features only'}."
            )
        if self.head is None and not given:
            raise ModelNotSetException("No head was given: pass logits or energies with the features.")
        if self.logits is not None and (self.logits.ndim != 2 or len(self.logits) != count):
            raise ValueError(f"The logits must be ({count}, classes), got {tuple(self.logits.shape)}.")
        if self.energies is not None and self.energies.shape != (count,):
            raise ValueError(f"The energies must be ({count},), got {tuple(self.energies.shape)}.")

    def of(self, features: Tensor, rows: Tensor) -> Tensor:
        """Return the energies of some of the N images from their clipped features, (n, D) -> (n,) float32."""
        if self.settings.react_percentile is None:
            if self.energies is not None:
                return self.energies[rows].to(features.device).float() + self.settings.energy_offset
            if self.logits is not None:
                return energy(self.logits[rows].to(features.device), self.settings.energy_offset)
        if self.head is None:
            raise ModelNotSetException("No head was given: pass logits or energies with the features.")
        logits = head_logits(self.head, features.to(device_of(self.head) or features.device))
        return energy(logits.to(features.device), self.settings.energy_offset)


def build_bank(
    features: Tensor,
    *,
    logits: Tensor | None = None,
    energies: Tensor | None = None,
    head: Network | None = None,
    labels: Tensor | None = None,
    ids: Sequence[str] | None = None,
    settings: BankSettings | None = None,
    keep_unknown: bool = False,
    k: int = 1,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
) -> FeatureBank:
    """Draw a bank from the features of ID training images.

    Args:
        features: (N, D) of any precision; kept in float32.
        logits: (N, C), used instead of the head.
        energies: (N,) without offset, used instead of the head.
        head: gives the logits of features; needed with ReAct, or if neither logits nor energies are given.
        labels: (N,) class indices; images with a label below 0 are left out.
        keep_unknown: keep those too, as one more class where the draw goes by class.
        ids: N image ids.
        settings: how to draw and scale; the paper's scoring and every image if not given.
        k: the fewest images that the bank must hold.
        batch_size: images scaled at once.
        device: where the bank is built and kept; that of the features if not given.

    Raises:
        ModelNotSetException: there is nothing to take energies from.
        ValueError: a wrong shape, fewer than k images, or NaN or infinity in an image that is used.
    """
    settings = settings or BankSettings()
    source = EnergySource(settings, head, logits, energies)
    _check_shapes(features, labels, ids, batch_size)
    source.check(len(features))
    known = _known_rows(None if keep_unknown else labels, len(features))
    drawn = _draw(known, labels, settings)
    if len(drawn) < max(k, 1):
        raise ValueError(_too_few(max(k, 1), len(drawn), len(known), len(features), settings))
    threshold = _react_threshold(features, known, settings)
    _refuse_non_finite("features", drawn, _finite_rows(features, drawn))
    rows, scales = _scaled_rows(features, drawn, source, threshold, batch_size, device)
    _refuse_non_finite("energies", drawn, scales.isfinite().cpu())
    kept = torch.full((len(drawn),), -1) if labels is None else labels.cpu()[drawn].long()
    names = ("",) * len(drawn) if ids is None else tuple(ids[row] for row in drawn.tolist())
    place = rows.device
    return FeatureBank(rows, scales, kept.to(place), names, drawn.to(place), settings, threshold)


def clip(features: Tensor, threshold: float | None) -> Tensor:
    """Return the features with values above the ReAct threshold set to it; unchanged if there is none."""
    return features if threshold is None else features.clamp(max=threshold)


def percentile(features: Tensor, percent: float, rows: Tensor | None = None) -> float:
    """Return the percentile of all values of some rows, exact at any size, with linear interpolation.

    The values must be finite. Nothing as large as the features is copied.
    """
    rows = torch.arange(len(features)) if rows is None else rows
    place = percent / 100.0 * (len(rows) * features.shape[1] - 1)
    below, above = _order_statistics(features, rows, (math.floor(place), math.ceil(place)))
    return below + (above - below) * (place - math.floor(place))


def _check_shapes(
    features: Tensor, labels: Tensor | None, ids: Sequence[str] | None, batch_size: int
) -> None:
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"The features must be (images, features), got {tuple(features.shape)}.")
    if labels is not None and labels.shape != (len(features),):
        raise ValueError(f"The labels must be ({len(features)},), got {tuple(labels.shape)}.")
    if ids is not None and len(ids) != len(features):
        raise ValueError(f"There must be one id for each of {len(features)} images, got {len(ids)}.")
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, got {batch_size}.")


def _known_rows(labels: Tensor | None, count: int) -> Tensor:
    """Return the rows of ID images, those whose label is not below 0, (M,) int64 ascending on the CPU."""
    return torch.arange(count) if labels is None else (labels.cpu() >= 0).nonzero().squeeze(1)


def _draw(known: Tensor, labels: Tensor | None, settings: BankSettings) -> Tensor:
    """Return the rows that the bank keeps, ascending, the same on every device for one seed."""
    if settings.draw != "random" and labels is None:
        raise ValueError(f"A {settings.draw} draw of the bank needs labels, and none were given.")
    count = math.floor(settings.fraction * len(known) + 1e-9)
    if count == len(known) or count == 0:
        return known[:count]
    generator = torch.Generator().manual_seed(settings.seed)
    shuffled = known[torch.randperm(len(known), generator=generator)]
    if labels is None or settings.draw == "random":
        return shuffled[:count].sort().values
    by_class = shuffled[labels.cpu()[shuffled].argsort(stable=True)]
    if settings.draw == "balanced":
        return by_class[_same_number(labels.cpu()[by_class], count, generator)].sort().values
    # Evenly spaced steps through the images in class order give every class its share, rounded up or down.
    start = torch.randint(len(known), (1,), generator=generator)
    steps = (torch.arange(count) * len(known) + start) // count
    return by_class[steps].sort().values


def _same_number(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return which of N images to keep, one of each class by turns, (N,) -> (count,) int64."""
    sizes = torch.unique(labels, return_counts=True)[1]
    turns = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    mixed = torch.randperm(len(labels), generator=generator)  # which classes have the last turn is chance
    return mixed[turns[mixed].argsort(stable=True)][:count]


def _too_few(k: int, drawn: int, known: int, given: int, settings: BankSettings) -> str:
    reasons = [] if known == given else [f"{given - known} of {given} have a label below 0 and are left out"]
    if settings.fraction < 1.0:
        reasons.append(f"the bank keeps the fraction {settings.fraction:g} of {known}")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return f"The bank needs at least k = {k} ID images, but has {drawn}{why}. Lower k or give more images."


def _react_threshold(features: Tensor, known: Tensor, settings: BankSettings) -> float | None:
    if settings.react_percentile is None:
        return None
    _refuse_non_finite("features", known, _finite_rows(features, known))
    return percentile(features, settings.react_percentile, known)


def _scaled_rows(
    features: Tensor,
    drawn: Tensor,
    source: EnergySource,
    threshold: float | None,
    batch_size: int,
    device: torch.device | str | None,
) -> tuple[Tensor, Tensor]:
    """Return energy * unit features and the energies, (n, D) and (n,) float32."""
    place = features.device if device is None else torch.device(device)
    rows = torch.empty(len(drawn), features.shape[1], device=place)
    scales = torch.empty(len(drawn), device=place)
    with torch.no_grad():
        for start in range(0, len(drawn), batch_size):
            part, block = slice(start, start + batch_size), drawn[start : start + batch_size]
            clipped = clip(features[block].detach().to(place, torch.float32), threshold)
            scales[part] = source.of(clipped, block)
            rows[part] = unit_features(clipped) * scales[part, None]
    return rows, scales


def _refuse_non_finite(what: str, rows: Tensor, finite: Tensor) -> None:
    """Raise if any of these images has NaN or infinity, naming how many and the first five rows."""
    if finite.all():
        return
    wrong = rows[~finite].tolist()
    first = ", ".join(map(str, wrong[:5])) + (", …" if len(wrong) > 5 else "")
    raise ValueError(
        f"{len(wrong)} of {len(rows)} bank images have NaN or infinity in their {what} (rows {first}): "
        "one would make every score NaN. Leave them out or repair the model's output."
    )


def _finite_rows(features: Tensor, rows: Tensor) -> Tensor:
    """Return whether all values of each of these rows are finite in float32, (n,) bool on the CPU."""
    return torch.cat([block.isfinite().all(dim=1).cpu() for block in _blocks(features, rows)])


def _blocks(features: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """Yield float32 copies of these rows, a bounded number of values at a time."""
    size = max(1, _BLOCK // features.shape[1])
    for start in range(0, len(rows), size):
        yield features[rows[start : start + size]].detach().float()


def _order_statistics(features: Tensor, rows: Tensor, ranks: tuple[int, ...]) -> list[float]:
    """Return the values at these ranks, 0 the lowest, among all values of these rows: a radix selection.

    A float's bits give an integer of the same order. Its upper half is counted first, then the lower half
    among the values that share the upper half found.
    """
    uppers = _count(upper for upper, _ in _halves(features, rows))
    places = [_find(uppers, rank) for rank in ranks]
    lowers = {
        found: _count(lower[upper == found] for upper, lower in _halves(features, rows))
        for found in {found for found, _ in places}
    }
    return [_value(upper, _find(lowers[upper], rank)[0]) for upper, rank in places]


def _halves(features: Tensor, rows: Tensor) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the upper and lower 16 bits of integers in the order of the values, all from 0 to 65535."""
    for block in _blocks(features, rows):
        bits = block.cpu().numpy().ravel().view(np.int32)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        yield (key >> 16) + 2**15, key & 0xFFFF


def _value(upper: int, lower: int) -> float:
    key = (upper - 2**15) << 16 | lower
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    return float(np.int32(bits).view(np.float32))


def _count(numbers: Iterator[IntArray]) -> IntArray:
    """Return how often each 16-bit number occurs, (65536,)."""
    counts = np.zeros(2**16, dtype=np.int64)
    for block in numbers:
        counts += np.bincount(block, minlength=2**16)
    return counts


def _find(counts: IntArray, rank: int) -> tuple[int, int]:
    """Return the number at this rank, and the rank among those equal to it."""
    ends = counts.cumsum()
    found = int(np.searchsorted(ends, rank, side="right"))
    return found, rank - int(ends[found] - counts[found])
