"""Where a network's encoder ends and its head begins: found by running it, not known by its name."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nnguide_core.errors import ModelError
from nnguide_core.memory_errors import is_out_of_memory
from nnguide_core.networks import linear, plain_linear

__all__ = ["Encoder", "Split", "find_split", "forward"]

Pooling = Literal["none", "positions", "class token"]

_CHANNELS_FIRST = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
_CLASS_TOKENS = ("class_token", "cls_token")
_NAMED_AT_MOST = 5  # layers that an error lists
_CALLS: ContextVar[dict[int, Tensor] | None] = ContextVar("inputs of layers in this forward", default=None)


@dataclass(frozen=True)
class Split:
    """The layer whose input is the features."""

    layer: str  # its name in the network, parts joined by dots
    module: nn.Module
    head: nn.Linear | None  # with the layer's weights: logits == head(features); None where they are not
    width: int  # D, features per image
    class_count: int  # C, logits per image
    pooling: Pooling  # how its input becomes one row per image
    exact: bool  # logits == module(features); otherwise they come from the whole network
    own_logits: bool  # the logits are the layer's output, what the network does after it is left out


class Encoder(nn.Module):
    """A network up to its head: normalised images (B, 3, H, W) -> features (B, D) float32."""

    def __init__(self, network: nn.Module, split: Split) -> None:
        super().__init__()
        self.network = network
        self.split = split

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, (B, 3, H, W) -> (B, D) float32."""
        return forward(self.network, self.split, images)[0]


@dataclass(frozen=True)
class _Call:
    """One layer's part in a forward on the probe batch."""

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor
    pooling: Pooling | None  # how its input becomes one row per image, None where that is not clear


def find_split(network: nn.Module, probe: Tensor, layer: str | None = None) -> Split:
    """Find the layer whose input is the features, check it on a batch, and make forward() work with it.

    Without a name it is the last linear layer that gives the network's output. A named linear layer with as
    many outputs as the network has gives the logits itself, so that a softmax after it does no harm; of any
    other named layer only the input is used, averaged over positions or taken at the class token.

    Args:
        network: in evaluation mode.
        probe: (B, 3, H, W) normalised images, B ≥ 2, all different.
        layer: name of the layer, as network.named_modules() gives it.

    Raises:
        ModelError: no such layer, or one whose input cannot be features; names the layers that can be given.
    """
    calls, logits = _trace(network, probe)
    found = _named(network, calls, layer) if layer is not None else _last_linear(calls, logits)
    split = _checked(found, logits, calls)
    found.module.register_forward_pre_hook(_keep_input)
    _verify(network, split, probe)
    return split


def forward(network: nn.Module, split: Split, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run the network once, (B, 3, H, W) normalised -> features (B, D) and logits (B, C), both float32."""
    inputs: dict[int, Tensor] = {}
    token = _CALLS.set(inputs)
    try:
        output = network(images)
    finally:
        _CALLS.reset(token)
    features = _pooled(inputs[id(split.module)], split.pooling)
    if split.own_logits:
        output = split.module(features)
    return features.float(), output.float()


def _keep_input(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Keep a layer's input for the forward() that runs in this thread, if one does."""
    inputs = _CALLS.get()
    if inputs is not None:
        inputs[id(module)] = arguments[0]


def _trace(network: nn.Module, probe: Tensor) -> tuple[list[_Call], Tensor]:
    """Run the network and list the layers it called, in order, with one tensor in and one out."""
    calls: list[_Call] = []
    with _recording(network, calls, len(probe)), torch.inference_mode():
        try:
            logits = network(probe)
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            side = f"{probe.shape[2]} × {probe.shape[3]} pixels"
            raise ModelError(f"The network does not run on images of {side}: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(probe):
        raise ModelError(
            f"The network must return logits of shape ({len(probe)}, classes) for {len(probe)} images, "
            f"but it returned {_shown(logits)}. Wrap it so that it returns the logits alone."
        )
    return calls, logits


@contextmanager
def _recording(network: nn.Module, calls: list[_Call], batch: int) -> Iterator[None]:
    names = {module: name for name, module in network.named_modules()}
    has_token = any(name.endswith(_CLASS_TOKENS) for name, _ in network.named_parameters())

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if arguments and isinstance(arguments[0], Tensor) and isinstance(output, Tensor):
            pooling = _pooling(module, arguments[0], batch, has_token)
            calls.append(_Call(names[module], module, arguments[0], output, pooling))

    handles = [module.register_forward_hook(record) for module in names if not list(module.children())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last_linear(calls: list[_Call], logits: Tensor) -> _Call:
    for call in reversed(calls):
        if isinstance(call.module, nn.Linear) and (call.output is logits or torch.equal(call.output, logits)):
            return call
    raise ModelError(
        "No linear layer of this network gives its logits, so that features and head cannot be told apart. "
        f"Name the layer whose input is to be the features (feature_layer): {_candidates(calls)}."
    )


def _named(network: nn.Module, calls: list[_Call], layer: str) -> _Call:
    if layer not in dict(network.named_modules()):
        raise ModelError(
            f"The network has no layer {layer!r}. Layers that can be named: {_candidates(calls)}."
        )
    found = [call for call in calls if call.name == layer]
    if not found:
        raise ModelError(
            f"The network calls no layer {layer!r} on one tensor when it judges images. "
            f"Layers that can be named: {_candidates(calls)}."
        )
    return found[-1]


def _checked(call: _Call, logits: Tensor, calls: list[_Call]) -> Split:
    if call.pooling is None:
        raise ModelError(
            f"The input of layer {call.name!r} ({type(call.module).__name__}) has shape "
            f"{_shown(call.input)}, of which no row per image can be made. "
            f"Layers that can be named: {_candidates(calls)}."
        )
    if sum(other.module is call.module for other in calls) > 1:
        raise ModelError(f"The network calls layer {call.name!r} more than once: name another.")
    is_head = isinstance(call.module, nn.Linear) and call.output.shape == logits.shape
    plain = plain_linear(call.module) if is_head else None
    return Split(
        layer=call.name,
        module=call.module,
        head=None if plain is None else linear(plain.weight, plain.bias),
        width=_pooled(call.input, call.pooling).shape[1],
        class_count=logits.shape[1],
        pooling=call.pooling,
        exact=is_head,
        own_logits=is_head and not torch.equal(call.output, logits),
    )


def _pooling(module: nn.Module, inputs: Tensor, batch: int, has_token: bool) -> Pooling | None:
    if len(inputs) != batch:
        return None
    if inputs.ndim == 2:
        return "none"
    if inputs.ndim == 4 and isinstance(module, _CHANNELS_FIRST):
        return "positions"
    if inputs.ndim == 3 and isinstance(module, nn.LayerNorm) and has_token:
        return "class token"
    return None


def _pooled(inputs: Tensor, pooling: Pooling) -> Tensor:
    if pooling == "positions":
        return inputs.mean(dim=(2, 3))
    return inputs[:, 0] if pooling == "class token" else inputs


def _verify(network: nn.Module, split: Split, probe: Tensor) -> None:
    """Check that an image's features do not depend on its batch, and that the head gives the logits."""
    with torch.inference_mode():
        features, logits = forward(network, split, probe)
        alone, _ = forward(network, split, probe[:1])
        refit = (split.head or split.module)(features) if split.exact else logits
    if not torch.allclose(alone, features[:1], rtol=1e-2, atol=_share(1e-3, features), equal_nan=True):
        raise ModelError("The network's features for an image depend on the other images of its batch.")
    if not torch.allclose(refit, logits, rtol=1e-4, atol=_share(1e-4, logits), equal_nan=True):
        raise ModelError(
            f"The output of layer {split.layer!r} on its own input is not the network's logits: name another."
        )


def _share(share: float, values: Tensor) -> float:
    """Return a share of the largest finite value."""
    return share * float(values.nan_to_num(0, 0, 0).abs().max())


def _candidates(calls: list[_Call]) -> str:
    """Name the last layers whose input can be features, the deepest first."""
    widths = {
        call.name: f"{call.name} ({_pooled(call.input, call.pooling).shape[1]} wide)"
        for call in reversed(calls)
        if call.pooling is not None
    }
    return ", ".join(list(widths.values())[:_NAMED_AT_MOST]) or "none of its layers can be"


def _shown(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
