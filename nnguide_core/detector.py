"""The NNGuide detector: fit on ID training images, then score queries; higher = more out-of-distribution.

Source: Park et al., Nearest Neighbor Guidance for OOD Detection, ICCV 2023, arXiv 2309.14888. Calls, names
and errors are those of pytorch_ood.detector.NNGuide, so that its users change one import.
"""

import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
from torch import Tensor

from nnguide_core import cautions, detector_file
from nnguide_core.bank import EnergySource, FeatureBank, build_bank, clip
from nnguide_core.devices import exact_device
from nnguide_core.errors import (
    ModelNotSetException,
    NNGuideWarning,
    RequiresFittingException,
)
from nnguide_core.networks import Network, device_of, move, plain_linear
from nnguide_core.scoring import Neighbors, unit_features
from nnguide_core.search import topk_inner_product
from nnguide_core.search.rows import as_whole, checked_k, checked_places, checked_queries, whole_k
from nnguide_core.settings import DEFAULT_K, BankSettings, Draw, Scoring

__all__ = ["NNGuide"]

_E = TypeVar("_E", bound=Exception)


class NNGuide:
    """Nearest Neighbor Guidance: the energy of a query, guided by its similarity to ID training images.

    Features of any precision are taken in float32; a float16 or bfloat16 head is run in float32. The bank is
    where encoder and head are, and results are where the queries are. A Mac's GPU (mps) lacks float64, so
    with encoder and head there, the bank is kept and searched on the CPU.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
        >>> head = lambda features: features @ torch.tensor([[1.0, 0.0], [0.0, 0.0]]).T
        >>> detector = NNGuide(encoder=None, head=head, k=1).fit_features(features)
        >>> detector.predict_features(torch.tensor([[2.0, 0.0]]))
        tensor([-8.5463])
    """

    requires_fit: ClassVar[bool] = True
    hyperparameter_space: dict[str, list[Any]] = {}  # noqa: RUF012 - a search sets it on the instance

    def __init__(
        self,
        encoder: Network | None,
        head: Network | None,
        k: int = DEFAULT_K,
        scoring: Scoring = "paper",
        *,
        energy_offset: float = 0.0,
        react_percentile: float | None = None,
        fraction: float = 1.0,
        seed: int = 0,
        draw: Draw = "random",
    ) -> None:
        """Set what does not need data; k is checked against the bank when it is fitted.

        Args:
            encoder: images -> features; None if only features are ever given.
            head: features -> logits; None if logits or energies are always given.
            k: neighbours that guide. It may be changed after fitting.
            scoring: "paper" is the paper's and pytorch-ood 0.4.0's. "cosine" is pytorch-ood 0.3.2's, which
                picks neighbours by cosine, so that of the bank's energies only the sign survives.
            energy_offset: added to every energy, of bank and queries alike.
            react_percentile: clip features at this percentile of all ID training values (ReAct); the
                official ResNet-50 setting is 95.
            fraction: share of the ID training images that the bank keeps, in (0, 1].
            seed: of that draw.
            draw: "random"; "stratified" takes the same share of every class, "balanced" the same number,
                and all of a class that has fewer.

        Raises:
            ValueError: a setting is out of its range.
        """
        self.encoder = encoder
        self.head = head
        self.k = k
        if (whole := as_whole(seed)) is None:
            raise ValueError(f"The bank's seed must be a whole number, got {seed!r}.")
        self.settings = BankSettings(fraction, whole, draw, react_percentile, scoring, energy_offset)
        self.bank: FeatureBank | None = None
        self.provenance: dict[str, Any] = {}
        self.warns = True  # whether what may mislead is a warning; an Evaluation tells it as its cautions
        self._device: torch.device | None = None

    @property
    def device(self) -> torch.device | None:
        """Where the encoder, else the head, else the bank is; else what to() was given; else None."""
        bank = None if self.bank is None else self.bank.rows.device
        return device_of(self.encoder) or device_of(self.head) or bank or self._device

    def to(self, device: str | torch.device) -> Self:
        """Move encoder, head and bank to a device; the bank to the CPU where that is a Mac's GPU."""
        self._device = torch.device(device)
        move(self.encoder, self._device)
        move(self.head, self._device)
        self.bank = None if self.bank is None else self.bank.to(exact_device(self._device))
        return self

    def fit(
        self,
        data_loader: Iterable[Tensor | Sequence[Tensor]],
        device: str | torch.device | None = None,
    ) -> Self:
        """Encode a loader's ID images and build the bank from their features.

        Args:
            data_loader: batches of images, or of images and labels; a label below 0 leaves an image out.
            device: where images are encoded; the detector's device if not given.

        Raises:
            ModelNotSetException: the detector has no encoder.
            ValueError: fewer than k ID images, k is no whole number above 0, or NaN in their features.
        """
        if self.encoder is None:
            raise _also_pytorch_ood(ModelNotSetException)("No encoder was given: use fit_features().")
        self._warn(cautions.of_mode("encoder", self.encoder))
        place = torch.device(device or self.device or "cpu")
        move(self.encoder, place)
        features, labels = _encode(self.encoder, data_loader, place)
        return self.fit_features(features, labels)

    def fit_features(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        batch_size: int = 4096,
        *,
        logits: Tensor | None = None,
        energies: Tensor | None = None,
        ids: Sequence[str] | None = None,
        keep_unknown: bool = False,
    ) -> Self:
        """Build the bank from features.

        Args:
            z: features of ID training images, (N, D).
            labels: (N,), below 0 leaves an image out; None if there are none.
            batch_size: images scaled at once.
            logits: (N, C), for heads that are not a function of the features.
            energies: (N,) without offset, instead of logits.
            ids: N image ids, for explanations and for leaving a bank image's own row out.
            keep_unknown: keep images with a label below 0 too: NNGuide needs no labels.

        Raises:
            ModelNotSetException: there is no head, and neither logits nor energies.
            ValueError: fewer than k ID images, k is no whole number above 0, a wrong shape, or NaN.
        """
        device = self.device or z.device
        move(self.head, device)
        self.bank = build_bank(
            z,
            logits=logits,
            energies=energies,
            head=self.head,
            labels=labels,
            ids=ids,
            keep_unknown=keep_unknown,
            settings=self.settings,
            k=whole_k(self.k, len(z)),
            batch_size=batch_size,
            device=exact_device(device),
        )
        self._warn(self._of_head(logits, energies) + cautions.of_bank(self.bank))
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Return the scores of images, (Q, ...) -> (Q,) float32 where the images are, higher = more OOD.

        Raises:
            ModelNotSetException: the detector has no encoder.
            RequiresFittingException: the detector was not fitted.
        """
        if self.encoder is None:
            raise _also_pytorch_ood(ModelNotSetException)
        self._fitted()
        self._warn(cautions.of_mode("encoder", self.encoder))
        with torch.no_grad():
            place = device_of(self.encoder)
            z = self.encoder(x if place is None else x.to(place))
        return self.predict_features(z.flatten(1)).to(x.device)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Forward to predict."""
        return self.predict(*args, **kwargs)

    def predict_features(
        self,
        z: Tensor,
        batch_size: int = 65536,
        *,
        logits: Tensor | None = None,
        energies: Tensor | None = None,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """Return the scores of features, (Q, D) -> (Q,) float32 where they are, higher = more OOD.

        The arguments are those of neighbors_features.
        """
        return self.neighbors_features(z, batch_size, logits=logits, energies=energies, exclude=exclude).score

    def neighbors_features(
        self,
        z: Tensor,
        batch_size: int = 65536,
        *,
        k: int | None = None,
        logits: Tensor | None = None,
        energies: Tensor | None = None,
        exclude: Tensor | None = None,
    ) -> Neighbors:
        """Return the neighbours of features, with all that their scores are made of, where the features are.

        Args:
            z: features, (Q, D).
            batch_size: queries judged at once; the search bounds its own memory.
            k: neighbours to keep; every smaller k then comes free. The detector's k if not given.
            logits: (Q, C), instead of the head's.
            energies: (Q,) without offset, instead of logits.
            exclude: bank rows that count as absent: (M,) int64 for every query (what-if), or (Q, E) int64 for
                each query its own, padded with -1 (leave-one-out). The first is a fit without them on the
                same clip. So is the second, but that "cosine" keeps the sign of the whole bank's mean energy.

        Raises:
            RequiresFittingException: the detector was not fitted.
            ModelNotSetException: there is no head, and neither logits nor energies.
            BankMismatchError: the queries have another number of features than the bank.
            ValueError: a wrong shape, or fewer than k bank rows.
        """
        bank = self._fitted()
        k = checked_k(self.k if k is None else k, bank.size)
        z = checked_queries(z, bank.width)
        exclude = None if exclude is None else checked_places(exclude, len(z), bank.size)
        if batch_size < 1:
            raise ValueError(f"The batch size must be at least 1, got {batch_size}.")
        source = EnergySource(bank.settings, self.head, logits, energies)
        source.check(len(z))
        if (device := self.device) is not None:
            move(self.head, device)
        starts = range(0, max(len(z), 1), batch_size)
        rows = [torch.arange(start, min(start + batch_size, len(z))) for start in starts]
        with torch.no_grad():
            parts = [_judge(bank, source, z[part], part, k, _of(exclude, part)) for part in rows]
        names = [field.name for field in fields(Neighbors)]
        found = Neighbors(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
        self._warn(self._of_head(logits, energies) + cautions.of_queries(found, bank))
        return found.to(z.device)

    def get_hyperparameters(self) -> dict[str, Any]:
        """Return the current value of each name in hyperparameter_space."""
        known = {**asdict(self.settings), "k": self.k}
        return {name: known[name] for name in self.hyperparameter_space}

    def set_hyperparameters(self, **kwargs: Any) -> Self:
        """Set k or the bank's settings; once a bank setting has changed, the detector must be fitted again.

        Raises:
            ValueError: a name is not in hyperparameter_space or no setting, or a value is out of its range.
        """
        settings = asdict(self.settings)
        for name in kwargs:
            if name not in self.hyperparameter_space or name not in (*settings, "k"):
                known = ", ".join(each for each in self.hyperparameter_space if each in (*settings, "k"))
                raise ValueError(
                    f"NNGuide has no hyperparameter {name!r} to search. Known: {known or 'none'}. "
                    f"It can name k, {', '.join(settings)}."
                )
        changed = BankSettings(**{**settings, **{name: kwargs[name] for name in kwargs if name != "k"}})
        if changed != self.settings:
            self.settings, self.bank = changed, None
        self.k = kwargs.get("k", self.k)
        return self

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> None:
        """Write bank, settings, k and, if it is a plain nn.Linear, the head to one safetensors file.

        A subclass or a layer with hooks is no plain one: like any other head it must be given to load().

        Args:
            path: where to; an older file there is replaced at once or not at all.
            provenance: what the bank came from, as JSON-able values; the detector's own if not given.

        Raises:
            RequiresFittingException: the detector was not fitted.
            ValueError: k is no whole number from 1 to the size of the bank, or provenance is not JSON-able.
        """
        bank = self._fitted()
        k = checked_k(self.k, bank.size)
        about = self.provenance if provenance is None else provenance
        saved = detector_file.SavedDetector(bank, k, plain_linear(self.head), about)
        detector_file.write(Path(path), saved)

    @classmethod
    def load(cls, path: str | Path, encoder: Network | None = None, head: Network | None = None) -> Self:
        """Read a fitted detector, to where the encoder is; the saved head serves if none is given.

        Raises:
            StoreError: the file is damaged, foreign or of a newer version.
            OSError: there is no such file, or it cannot be read.
        """
        saved = detector_file.read(Path(path))
        detector = cls(encoder, saved.head if head is None else head, saved.k, **asdict(saved.bank.settings))
        detector.bank = saved.bank
        detector.provenance = dict(saved.provenance)
        return detector

    def __repr__(self) -> str:
        size = "not fitted" if self.bank is None else f"{self.bank.size} bank images"
        return f"NNGuide(k={self.k}, scoring={self.settings.scoring!r}, {size})"

    def _of_head(self, logits: Tensor | None, energies: Tensor | None) -> list[str]:
        """Return what to know of the head, where the energies come from it."""
        given = logits is not None or energies is not None
        used = self.settings.react_percentile is not None or not given
        return cautions.of_mode("head", self.head) if used else []

    def _warn(self, sentences: list[str]) -> None:
        """Warn at the line outside this file that called, or Python would show only the first warning."""
        frame, level = sys._getframe(1), 2
        while frame.f_code.co_filename == __file__ and frame.f_back is not None:
            frame, level = frame.f_back, level + 1
        for sentence in sentences if self.warns else ():
            warnings.warn(sentence, NNGuideWarning, stacklevel=level)

    def _fitted(self) -> FeatureBank:
        """Return the bank where the detector is: an encoder may have been moved since it was fitted."""
        if self.bank is None:
            raise _also_pytorch_ood(RequiresFittingException)
        if self.device is not None and self.bank.rows.device != exact_device(self.device):
            self.bank = self.bank.to(exact_device(self.device))
        return self.bank


def _judge(
    bank: FeatureBank, source: EnergySource, z: Tensor, rows: Tensor, k: int, exclude: Tensor | None
) -> Neighbors:
    """Return the neighbours of some of the queries, whose rows among all of them are given."""
    features = z.to(bank.rows.device, torch.float32)
    clipped = clip(features, bank.react_threshold)
    energy = source.of(clipped, rows)
    undefined = ~(features.isfinite().all(dim=1) & energy.isfinite())[:, None]
    direction = bank.direction(exclude if exclude is not None and exclude.ndim == 1 else None)
    found = topk_inner_product(direction * unit_features(clipped), bank.prepared, k, exclude=exclude)
    scales = direction * bank.scales[found.indices]
    cosines = (found.values / scales).clamp(-1.0, 1.0).masked_fill(scales == 0, 0.0)
    return Neighbors(
        indices=found.indices.masked_fill(undefined, -1),
        similarities=found.values.masked_fill(undefined, torch.nan),
        cosines=cosines.masked_fill(undefined, torch.nan),
        energy=energy.masked_fill(undefined[:, 0], torch.nan),
        zero_norm=(clipped == 0).all(dim=1),
    )


def _encode(
    encoder: Network, batches: Iterable[Tensor | Sequence[Tensor]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return the features (N, D) and labels (N,) of ID images, on the CPU; None if there are no labels."""
    features, labels = [], []
    for batch in batches:
        images = batch if isinstance(batch, Tensor) else batch[0]
        known = torch.ones(len(images), dtype=torch.bool)
        if not isinstance(batch, Tensor) and len(batch) > 1:
            known = (batch[1] >= 0).cpu()
            labels.append(batch[1].cpu()[known])
        if known.any():
            with torch.no_grad():
                features.append(encoder(images[known].to(device)).flatten(1).cpu())
    if not features:
        raise ValueError("The loader has no ID image: it is empty, or every label is below 0.")
    return torch.cat(features), torch.cat(labels) if labels else None


def _of(exclude: Tensor | None, rows: Tensor) -> Tensor | None:
    return exclude if exclude is None or exclude.ndim == 1 else exclude[rows]


def _also_pytorch_ood(error: type[_E]) -> type[_E]:
    """Return an error class that pytorch-ood's error of the same name catches too, where it was imported."""
    theirs = getattr(sys.modules.get("pytorch_ood.api"), error.__name__, None)
    if theirs is None:
        return error
    # Pickled as the plain class: a worker process may not have imported pytorch-ood.
    both = type(error.__name__, (error, theirs), {"__reduce__": lambda self: (error, self.args)})
    return cast(type[_E], both)
