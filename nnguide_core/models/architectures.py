"""Networks by library and name, each with its own preprocessing and the names of its classes."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pickle import PickleError
from typing import Any, Protocol
from urllib.parse import urlparse

import torch
from torch import nn

from nnguide_core.errors import ModelError
from nnguide_core.images.preprocessing import Preprocess, ResizeAndCrop, from_timm, from_torchvision, imagenet

__all__ = [
    "DEMO",
    "LIBRARIES",
    "Builder",
    "Built",
    "available",
    "demo_model",
    "is_torchvision",
    "library_and_name",
    "timm_model",
    "torchvision_model",
    "weights_of",
]

DEMO = "DemoResNet"  # the demo's only architecture

_SIDES = {"inception_v3": 299}  # pixels, where random weights need other than 224
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_SEED = 0  # random weights are the same on every call
_SUGGESTED = 5  # names that an error lists

Own = Collection[str]  # names of the tensors in a checkpoint of one's own


@dataclass(frozen=True)
class Built:
    """A network with what belongs to it."""

    network: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] | None  # C names; None where only the network's author knows them


class Builder(Protocol):
    """What makes the networks of one library."""

    def __call__(
        self,
        name: str,
        weights: str | None = None,
        *,
        class_count: int | None = None,
        image_size: int | None = None,
        own: Own | None = None,
    ) -> Built:
        """Return a network with its preprocessing.

        Args:
            name: the architecture, as the library calls it.
            weights: as the library calls them, "DEFAULT" for those that it recommends; None for random ones.
            class_count: of a network without the library's weights; the architecture's own if not given.
            image_size: the side in pixels that the network is to see; that of the weights if not given.
            own: tensors of a checkpoint loaded later; of the weights only the preprocessing counts then.

        Raises:
            ModelError: no such name or weights, they could not be downloaded or read, or do not fit the rest.
        """


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


def library_and_name(model: str) -> tuple[str, str]:
    """Return library and architecture of a model as people write it: NAME is torchvision's.

    >>> library_and_name("resnet50"), library_and_name("timm:resnet50.tv2_in1k"), library_and_name("demo")
    (('torchvision', 'resnet50'), ('timm', 'resnet50.tv2_in1k'), ('demo', 'DemoResNet'))

    Raises:
        ModelError: there is no such library.
    """
    if model == "demo":
        return model, DEMO
    library, colon, name = model.partition(":")
    if colon and library not in LIBRARIES:
        raise ModelError(
            f"A model is a name of torchvision's, LIBRARY:NAME (libraries: {', '.join(LIBRARIES)}) or demo; "
            f"got {model!r}."
        )
    return (library, name) if colon else ("torchvision", model)


def torchvision_model(
    name: str,
    weights: str | None = None,
    *,
    class_count: int | None = None,
    image_size: int | None = None,
    own: Own | None = None,
) -> Built:
    """Return a torchvision classifier; weights are one of weights_of(name), or "DEFAULT". See Builder."""
    from torchvision.models import get_model

    _check_name(name)
    member = None if weights is None else _weights(name, weights)
    preprocess = imagenet(_SIDES.get(name, 224)) if member is None else from_torchvision(member.transforms())
    if image_size is not None:
        preprocess = replace(preprocess, resize=image_size, crop=(image_size, image_size))
    if member is not None and own is None:
        names = tuple(member.meta["categories"])
        if class_count not in (None, len(names)):
            raise ModelError(
                f"{name} with the weights {member.name} has {len(names)} classes, "
                f"but {class_count} were asked for. Use a checkpoint of your own for other classes."
            )
        _fetch(member, name)
        return Built(get_model(name, weights=member), preprocess, names)
    options: dict[str, Any] = {"num_classes": class_count or 1000}
    if name in _WITH_AUXILIARY:
        auxiliary = any("aux" in tensor.lower() for tensor in own or ())
        options |= {"aux_logits": auxiliary, "init_weights": True}
    if image_size is not None and name.startswith("vit_"):
        options["image_size"] = image_size
    with _same_random_weights():
        network = get_model(name, weights=None, **options)
    return Built(network, preprocess, None)


def timm_model(
    name: str,
    weights: str | None = None,
    *,
    class_count: int | None = None,
    image_size: int | None = None,
    own: Own | None = None,
) -> Built:
    """Return a timm model with timm's transforms; weights are a tag such as "tv2_in1k". See Builder.

    The tag may stand behind the name instead, as timm writes it: "resnet50.tv2_in1k".
    """
    try:
        timm, data = import_module("timm"), import_module("timm.data")
    except ImportError as error:
        raise ModelError(
            "timm is not installed. Install it with pip install timm, or choose one of torchvision's: "
            f"{', '.join(_similar(name, available()))}."
        ) from error
    tagged = _with_tag(timm, name, weights)
    pretrained = weights is not None and own is None
    size = {} if image_size is None else {"img_size": image_size}
    with _same_random_weights():
        network = _create_timm(timm, tagged, pretrained, size, None if pretrained else class_count)
    config = data.resolve_model_data_config(network, args=size)
    preprocess = from_timm(data.create_transform(**config, is_training=False), config)
    return Built(network, preprocess, _timm_classes(network) if pretrained else None)


def demo_model(
    name: str = DEMO,
    weights: str | None = None,
    *,
    class_count: int | None = None,
    image_size: int | None = None,
    own: Own | None = None,
) -> Built:
    """Return the demo's network; weights are "DEFAULT", those that are shipped. See Builder."""
    from safetensors.torch import load_file

    from nnguide_core.models.demo_network import CLASS_NAMES, IMAGE_SIDE, MEAN, STD, WEIGHTS, DemoResNet

    shipped = weights is not None and own is None
    count = len(CLASS_NAMES) if class_count is None else class_count
    if name != DEMO or weights not in (None, "DEFAULT") or (shipped and count != len(CLASS_NAMES)):
        raise ModelError(
            f"The demo has one network, {DEMO}, and one set of weights for {len(CLASS_NAMES)} classes, got "
            f"{name} with weights {weights} for {count} classes. Leave out what differs."
        )
    side = IMAGE_SIDE if image_size is None else image_size
    with _same_random_weights():
        network = DemoResNet(count)
    if shipped:
        network.load_state_dict(load_file(WEIGHTS))
    preprocess = ResizeAndCrop(resize=side, crop=(side, side), mean=MEAN, std=STD)
    names = CLASS_NAMES if own is None and count == len(CLASS_NAMES) else None
    return Built(network, preprocess, names)


# A library is one line here and its builder.
LIBRARIES: dict[str, Builder] = {"torchvision": torchvision_model, "timm": timm_model, "demo": demo_model}


def _check_name(name: str) -> None:
    if not is_torchvision(name):
        raise ModelError(
            f"torchvision has no classifier {name!r}. "
            f"Similar ones: {', '.join(_similar(name, available()))}. One of timm's is written timm:{name}."
        )


def _similar(name: str, names: Iterable[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, names, n=_SUGGESTED, cutoff=0.4) or ["resnet50"]


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


def _with_tag(timm: Any, name: str, weights: str | None) -> str:
    """Return timm's name of an architecture with the tag of its weights, having checked both."""
    if ":" in name:  # hf-hub: and local-dir: name one set of weights, which timm finds itself
        if weights not in (None, "DEFAULT"):
            raise ModelError(f"{name} has its own weights, not {weights}: leave them out.")
        return name
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        similar = ", ".join(_similar(architecture, timm.list_models()))
        raise ModelError(f"timm has no model {architecture!r}. Similar ones: {similar}.")
    wanted = tag if weights in (None, "DEFAULT") else weights
    if tag not in ("", wanted):
        raise ModelError(f"{name} names the weights {tag}, and {weights} were asked for: name one of them.")
    known = timm.models.get_arch_pretrained_cfgs(architecture)
    tags = [each.partition(".")[2] for each in known if "." in each]
    if wanted and wanted not in tags:
        there = ", ".join(tags) or "none"
        raise ModelError(f"timm's {architecture} has no weights {wanted!r}. There are {there}.")
    return f"{architecture}.{wanted}" if wanted else architecture


def _create_timm(
    timm: Any, name: str, pretrained: bool, size: dict[str, int], class_count: int | None
) -> nn.Module:
    options = {} if class_count is None else {"num_classes": class_count}
    try:
        if size:
            # Networks for one size of images are made for this one, the others take any.
            options = timm.models.resolve_model_input_args(name, size, **options)
            name = options.pop("model_name")
        network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ModelError(
            f"timm could not make {name}"
            + (" with its weights, which come from the Hugging Face Hub or its cache" if pretrained else "")
            + f": {error}"
        ) from error
    return network


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
