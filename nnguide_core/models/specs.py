"""A network ready to judge images: loaded, split into encoder and head, with its own preprocessing."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nnguide_core.devices import choose_device, describe_device
from nnguide_core.errors import ModelError
from nnguide_core.images.preprocessing import Preprocess
from nnguide_core.models import architectures, checkpoints
from nnguide_core.models.architectures import LIBRARIES, Built, available, library_and_name, weights_of
from nnguide_core.models.encoders import Encoder, Split, find_split, forward, logits_of
from nnguide_core.models.folding import fold_batch_norms
from nnguide_core.progress import Cancelled

__all__ = [
    "Classifier",
    "ModelSpec",
    "Precision",
    "available",
    "library_and_name",
    "load_model",
    "weights_of",
]

Precision = Literal["float32", "bfloat16", "auto"]

_PROBE_IMAGES = 2
_SAFE_COSINE = 0.999  # between features of the probe in both precisions
_SAFE_LOGITS = 0.02  # largest difference as a share of the largest logit


@dataclass(frozen=True)
class ModelSpec:
    """Which network, with which weights, and how its classes are called.

    In float32, features are the same on every machine but for rounding. "bfloat16" doubles the rate on CPUs
    that are made for it; on the demo it moved scores by 0.4 % (median) to 3 % (largest), AUROC by at most
    0.0014 and up to 5 of 1,600 decisions. "auto" takes it where device and network allow.
    """

    library: str  # one of architectures.LIBRARIES
    architecture: str  # as the library calls it
    weights: str | None = None  # as the library calls them, "DEFAULT" for its choice; None: random
    checkpoint: Path | None = None  # own weights; of the library's only the preprocessing counts then
    class_names: tuple[str, ...] | None = None  # C names, by the model's class index
    class_count: int | None = None  # C
    feature_layer: str | None = None  # the layer whose input is the features; found if not given
    image_size: int | None = None  # side in pixels that the network sees; that of the weights if not given
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.library not in LIBRARIES:
            raise ValueError(f"library must be one of {', '.join(LIBRARIES)}, got {self.library!r}.")
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}."
            )
        if self.class_count is not None and self.class_count < 1:
            raise ValueError(f"class_count must be at least 1, got {self.class_count}.")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1 pixel, got {self.image_size}.")

    @property
    def name(self) -> str:
        """The model in a few words that a person recognises."""
        if self.library == "demo" and self.weights is not None and self.checkpoint is None:
            return "demo"
        name = self.architecture if self.library == "torchvision" else f"{self.library}:{self.architecture}"
        if self.checkpoint is not None:
            return f"{self.checkpoint.name} on {name}"
        return f"{name}, {self.weights or 'random weights'}"

    def to_json(self) -> dict[str, Any]:
        """Return what from_json reads, ready for JSON; a checkpoint is found from any folder."""
        return {
            **vars(self),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint.absolute()),
            "class_names": None if self.class_names is None else list(self.class_names),
        }

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> "ModelSpec":
        """Read what to_json wrote, here or in a version that knew sources instead of libraries.

        Raises:
            ValueError: it is no specification.
        """
        try:
            about = _with_library(about) if "source" in about else about
            checkpoint, names = about["checkpoint"], about["class_names"]
            return cls(
                **{
                    **about,
                    "checkpoint": None if checkpoint is None else Path(checkpoint),
                    "class_names": None if names is None else tuple(names),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is no specification of a model: {error}") from error


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network in evaluation mode that gives features and logits in one pass; safe to share by threads."""

    spec: ModelSpec
    network: nn.Module  # channels last, batch norms folded; never trained again
    split: Split
    class_names: tuple[str, ...]  # C names, by class index
    preprocess: Preprocess
    precision: Literal["float32", "bfloat16"]  # of the computation; features and logits are float32 always
    fingerprint: str  # of architecture, weights, preprocessing and precision: the same on any machine

    @property
    def name(self) -> str:
        """The model in a few words that a person recognises."""
        return self.spec.name

    @property
    def width(self) -> int:
        """D, features per image."""
        return self.split.width

    @property
    def class_count(self) -> int:
        """C, logits per image."""
        return self.split.class_count

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def encoder(self) -> Encoder:
        """The network up to its head: normalised images (B, 3, H, W) -> features (B, D) float32."""
        return Encoder(self.network, self.split)

    @property
    def head(self) -> nn.Linear | None:
        """The last linear layer, features (N, D) -> logits (N, C); None where logits need the whole network.

        It may be given other features too: clipped ones, for ReAct. It shares the network's weights.
        """
        return self.split.head

    def normalise(self, images: Tensor) -> Tensor:
        """Turn a batch as preprocess makes it, (B, 3, H, W), into the network's float32 input."""
        return self.preprocess.normalise(images)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and logits (B, C), both float32, of normalised images (B, 3, H, W)."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), _computing(self.precision, images.device):
            return forward(self.network, self.split, images)

    def describe(self) -> dict[str, Any]:
        """Return what a person wants to know of it, ready for a table or JSON."""
        return {
            "model": self.name,
            "features": self.width,
            "classes": self.class_count,
            "feature layer": self.split.layer,
            "logits": "head of the features" if self.split.exact else "whole network",
            "image": self.preprocess.describe(),
            "precision": self.precision,
            "device": describe_device(self.device),
            "fingerprint": self.fingerprint,
        }


def load_model(
    spec: ModelSpec, device: torch.device | str | None = None, *, cancelled: Cancelled | None = None
) -> Classifier:
    """Load a network and find its encoder and head; its spec says how many classes the checkpoint has.

    Args:
        spec: which one.
        device: where it computes, as choose_device takes it.
        cancelled: asked while a checkpoint is read.

    Raises:
        DeviceError: there is no such device here.
        ModelError: no such network, weights that cannot be had, no features to be found, or class names that
            do not fit; CheckpointError where the checkpoint is at fault.
        CancelledError: stopped on request.
    """
    where = choose_device(device)  # first, since a network can take minutes to build
    state = None if spec.checkpoint is None else checkpoints.read_state(spec.checkpoint, cancelled=cancelled)
    spec = spec if state is None else _with_class_count(spec, state)
    built = _build(spec, state)
    network = built.network.eval().requires_grad_(False)
    weights = network.state_dict()  # as they were trained: the steps below make new ones
    network = network.to(where).to(memory_format=torch.channels_last)
    probe = _probe(built.preprocess).to(where, memory_format=torch.channels_last)
    logits_of(network, probe)  # what cannot run is refused here, in a sentence
    fold_batch_norms(network, probe)
    # Only now: a batch norm that was folded cannot be the layer whose input is the features.
    split = find_split(network, probe, spec.feature_layer)
    names = _class_names(spec, built, split.class_count)
    identity = _identity(spec.architecture, weights, split, built.preprocess)
    precision = _precision(spec.precision, network, split, probe)
    if precision != "float32":
        identity = hashlib.sha256(f"{identity} {precision}".encode()).hexdigest()
    return Classifier(spec, network, split, names, built.preprocess, precision, identity)


def _build(spec: ModelSpec, state: Mapping[str, Tensor] | None) -> Built:
    count = spec.class_count or (len(spec.class_names) if spec.class_names else None)
    built = LIBRARIES[spec.library](
        spec.architecture, spec.weights, class_count=count, image_size=spec.image_size, own=state
    )
    if spec.checkpoint is not None and state is not None:
        checkpoints.load_into(built.network, state, spec.checkpoint.name)
    return built


def _with_class_count(spec: ModelSpec, state: Mapping[str, Tensor]) -> ModelSpec:
    """Return a spec that says how many classes the head in its checkpoint has, unless it says so already.

    Raises:
        ModelError: no such architecture, or more or fewer class names than the head has classes.
    """
    count = _head_count(spec, state) if spec.class_count is None else None
    if count is None or spec.checkpoint is None:
        return spec
    if spec.class_names is not None and len(spec.class_names) != count:
        raise ModelError(
            f"The checkpoint {spec.checkpoint.name} has {count} classes, but {len(spec.class_names)} class "
            "names were given: give one per class, or none."
        )
    return replace(spec, class_count=count)


def _head_count(spec: ModelSpec, state: Mapping[str, Tensor]) -> int | None:
    """Return how many classes a checkpoint's head has: the side that grows with them; None if not to be told.

    Raises:
        ModelError: no such architecture.
    """
    try:
        two, three = _shapes(spec, 2), _shapes(spec, 3)
    except (RuntimeError, NotImplementedError):  # some networks cannot be made without memory
        return None
    sides = {
        name: [few < more for few, more in zip(shape, three[name], strict=True)].index(True)
        for name, shape in two.items()
        if shape != three[name]
    }
    counts = {
        tensor.shape[side]
        for given, tensor in state.items()
        for name, side in sides.items()
        if given == name or given.endswith(f".{name}")
        if tensor.ndim == len(two[name])
    }
    return counts.pop() if len(counts) == 1 else None


def _shapes(spec: ModelSpec, class_count: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors without making them."""
    with torch.device("meta"):
        built = LIBRARIES[spec.library](spec.architecture, class_count=class_count)
    return {name: tuple(tensor.shape) for name, tensor in built.network.state_dict().items()}


def _with_library(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a specification that names a source as one that names a library, for the same network."""
    about = {**about, "library": about["source"]}
    match about.pop("source"):
        case "demo":  # the shipped weights, wherever that program was installed
            about |= {"weights": "DEFAULT", "checkpoint": None, "class_names": None, "class_count": None}
        case "timm":  # whatever text the weights were, timm's choice was loaded
            about |= {"weights": about["weights"] and "DEFAULT", "image_size": None}
        case "checkpoint" if architectures.is_torchvision(about["architecture"]):
            about["library"] = "torchvision"
        case "checkpoint":
            about |= {"library": "timm", "weights": None, "image_size": None}
    return about


def _probe(preprocess: Preprocess) -> Tensor:
    """Return a small batch of noise as the network expects it."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_PROBE_IMAGES, 3, *preprocess.size, generator=generator)


def _class_names(spec: ModelSpec, built: Built, count: int) -> tuple[str, ...]:
    names = spec.class_names or built.class_names or tuple(str(index) for index in range(count))
    if len(names) != count or spec.class_count not in (None, count):
        raise ModelError(
            f"The network has {count} classes, but {len(names)} class names "
            f"{'and class_count ' + str(spec.class_count) + ' ' if spec.class_count else ''}were given."
        )
    return names


def _identity(architecture: str, weights: Mapping[str, Tensor], split: Split, preprocess: Preprocess) -> str:
    """Hash all that features depend on, whatever device and file it came from."""
    digest = hashlib.sha256()
    for part in (architecture, split.layer, split.pooling, str(split.own_logits), preprocess.describe()):
        digest.update(f"{len(part.encode())} {part} ".encode())
    for name, tensor in sorted(weights.items()):
        if name.endswith("num_batches_tracked"):  # how long it was trained does not count
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _precision(
    wanted: Precision, network: nn.Module, split: Split, probe: Tensor
) -> Literal["float32", "bfloat16"]:
    """Decide what "auto" means: bfloat16 where the device is made for it and the network bears it."""
    if wanted != "auto":
        return wanted
    if not _fast_in_bfloat16(probe.device):
        return "float32"
    with torch.inference_mode():
        features, logits = forward(network, split, probe)
        with _computing("bfloat16", probe.device):
            rough_features, rough_logits = forward(network, split, probe)
    cosine = torch.cosine_similarity(features, rough_features).min()
    difference = (rough_logits - logits).abs().max() / logits.abs().max()
    return "bfloat16" if cosine > _SAFE_COSINE and difference < _SAFE_LOGITS else "float32"


def _fast_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _computing(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in bfloat16 where it may be, or in float32 that deserves its name: on CUDA not in TF32."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    if device.type == "cuda":
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return nullcontext()
