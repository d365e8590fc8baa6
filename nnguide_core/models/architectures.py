"""Networks by name, each with its own preprocessing and the names of its classes.

Sources: torchvision's classifiers, timm's where timm is installed, and the demo's network.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pickle import PickleError
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from nnguide_core.errors import ModelError
from nnguide_core.images.preprocessing import Preprocess, ResizeAndCrop, from_timm, from_torchvision, imagenet

__all__ = ["Built", "available", "demo", "is_torchvision", "timm_model", "torchvision_model", "weights_of"]

_SIDES = {"inception_v3": 299}  # pixels, where random weights need other than 224
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_SEED = 0  # random weights are the same on every call
_SUGGESTED = 5  # names that an error lists


@dataclass(frozen=True)
class Built:
    """A network with what belongs to it."""

    network: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] | None  # C names; None where only the network's author knows them


def available() -> tuple[str, ...]:
    """Return the names of torchvision's classifiers, in alphabetical order."""
    import torchvision
    from torchvision.models import list_models

    return tuple(sorted(list_models(module=torchvision.models)))


def is_torchvision(name: str) -> bool:
    """Return whether torchvision has a classifier of this name."""
    return name in available()


def weights_of(name: str) -> tuple[str, ...]:
    """Return the names of a torchvision classifier's weights, the recommended ones last.

    Raises:
        ModelError: no such classifier.
    """
    from torchvision.models import get_model_weights

    _check_name(name)
    return tuple(weights.name for weights in get_model_weights(name))


def torchvision_model(
    name: str,
    weights: str | None = None,
    *,
    class_count: int | None = None,
    image_size: int | None = None,
    preprocess_of: str | None = None,
    auxiliary: bool = False,
) -> Built:
    """Return a torchvision classifier.

    Args:
        name: one of available().
        weights: one of weights_of(name), or "DEFAULT"; None for random ones.
        class_count: for random weights; 1,000 if not given.
        image_size: for random weights: the side in pixels that the network sees.
        preprocess_of: for random weights: the weights whose transforms are used.
        auxiliary: for random weights: keep the side outputs that GoogLeNet and Inception train with.

    Raises:
        ModelError: no such name or weights, or the weights could not be downloaded or read.
    """
    from torchvision.models import get_model

    _check_name(name)
    if weights is not None:
        member = _weights(name, weights)
        _fetch(member, name)
        built = Built(
            get_model(name, weights=member),
            from_torchvision(member.transforms()),
            tuple(member.meta["categories"]),
        )
        if class_count not in (None, len(built.class_names or ())):
            raise ModelError(
                f"{name} with the weights {member.name} has {len(built.class_names or ())} classes, "
                f"but {class_count} were asked for. Use a checkpoint of your own for other classes."
            )
        return built
    options: dict[str, Any] = {"num_classes": class_count or 1000}
    if name in _WITH_AUXILIARY:
        options |= {"aux_logits": auxiliary, "init_weights": True}
    if image_size is not None and name.startswith("vit_"):
        options["image_size"] = image_size
    with _same_random_weights():
        network = get_model(name, weights=None, **options)
    return Built(network, _random_preprocess(name, image_size, preprocess_of), None)


def timm_model(name: str, *, pretrained: bool, class_count: int | None = None) -> Built:
    """Return a timm model with the transforms of its own data configuration.

    Raises:
        ModelError: timm is not installed, has no such model, or could not download its weights.
    """
    try:
        timm, data = import_module("timm"), import_module("timm.data")
    except ImportError as error:
        raise ModelError(
            f"{name} is no torchvision classifier, and timm is not installed. Install it with "
            "pip install timm, or choose one of torchvision's: " + ", ".join(_similar(name)) + "."
        ) from error
    if not timm.is_model(name):
        raise ModelError(f"Neither torchvision nor timm has a model {name!r}. {_did_you_mean(name)}")
    options = {} if class_count is None else {"num_classes": class_count}
    with _same_random_weights():
        network = _create_timm(timm.create_model, name, pretrained, options)
    config = data.resolve_model_data_config(network)
    preprocess = from_timm(data.create_transform(**config, is_training=False), config)
    return Built(network, preprocess, _timm_classes(network) if pretrained else None)


def demo(class_count: int) -> Built:
    """Return the demo's network with random weights."""
    from nnguide_core.models.demo_network import CLASS_NAMES, IMAGE_SIDE, MEAN, STD, DemoResNet

    preprocess = ResizeAndCrop(resize=IMAGE_SIDE, crop=(IMAGE_SIDE, IMAGE_SIDE), mean=MEAN, std=STD)
    with _same_random_weights():
        network = DemoResNet(class_count)
    return Built(network, preprocess, CLASS_NAMES if class_count == len(CLASS_NAMES) else None)


def _check_name(name: str) -> None:
    if not is_torchvision(name):
        raise ModelError(f"torchvision has no classifier {name!r}. {_did_you_mean(name)}")


def _similar(name: str) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, available(), n=_SUGGESTED, cutoff=0.4) or ["resnet50", "vit_b_16"]


def _did_you_mean(name: str) -> str:
    return f"Similar ones: {', '.join(_similar(name))}."


def _weights(name: str, weights: str) -> Any:
    """Return the member of the weights enumeration that a name such as "IMAGENET1K_V2" stands for."""
    from torchvision.models import get_model_weights

    members = get_model_weights(name).__members__
    wanted = weights.rpartition(".")[2]
    if wanted not in members:
        raise ModelError(f"{name} has no weights {weights!r}. There are {', '.join(members)}.")
    return members[wanted]


def _fetch(member: Any, name: str) -> None:
    """Download the weights if they are not there, and read them once without running code from them."""
    try:
        member.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, PickleError) as error:
        file = urlparse(member.url).path.rpartition("/")[2]
        raise ModelError(
            f"The weights {member.name} of {name} could not be read from {member.url} ({error}). Place the "
            f"file {file} in {torch.hub.get_dir()}/checkpoints and try again; if it is there, it is damaged: "
            "remove it."
        ) from error


def _random_preprocess(name: str, image_size: int | None, preprocess_of: str | None) -> ResizeAndCrop:
    if image_size is not None:
        return ResizeAndCrop(resize=image_size, crop=(image_size, image_size))
    if preprocess_of is not None:
        return from_torchvision(_weights(name, preprocess_of).transforms())
    return imagenet(_SIDES.get(name, 224))


def _create_timm(
    create: Callable[..., nn.Module], name: str, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    try:
        return create(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            f"timm could not make {name}"
            + (" with its weights, which come from the Hugging Face Hub or its cache" if pretrained else "")
            + f": {error}"
        ) from error


def _timm_classes(network: nn.Module) -> tuple[str, ...] | None:
    """Return the names of the ImageNet classes that the weights were trained on, None if of other data."""
    data = import_module("timm.data")
    subset = data.infer_imagenet_subset(network)
    if not subset:
        return None
    info = data.ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))


@contextmanager
def _same_random_weights() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield
