"""Calling heads and encoders of any kind and precision, and the device they live on."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["Network", "device_of", "head_logits", "in_training", "linear", "move", "plain_linear"]

Network = Callable[[Tensor], Tensor]  # an nn.Module, one of its bound methods, or any function of a tensor

_MODAL = (_BatchNorm, _DropoutNd, nn.RReLU, nn.MultiheadAttention, nn.RNNBase)  # compute by their mode
_ALIKE = ("timm.layers.linear.Linear",)  # have a forward of their own that differs in TorchScript alone


def head_logits(head: Network, features: Tensor) -> Tensor:
    """Return the head's logits in float32 or float64, (N, D) -> (N, C).

    A module in float16 or bfloat16, or one of its methods, is run with its weights in float32, because its
    logits would overflow or tie; one in float64 runs in float64; what else can be called is given float32.

    Raises:
        ValueError: the head does not give one row of logits for each row of features.
    """
    module = _module_of(head)
    logits = head(features.float()) if module is None else _run(head, module, features)
    if logits.ndim != 2 or logits.shape[0] != features.shape[0] or logits.shape[1] == 0:
        raise ValueError(
            f"The head must turn features of shape {tuple(features.shape)} into logits of shape "
            f"({features.shape[0]}, classes), but it gave {tuple(logits.shape)}."
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def device_of(network: Network | None) -> torch.device | None:
    """Return where a module, or the module whose method this is, keeps its weights; None if nowhere."""
    module = _module_of(network)
    if module is None:
        return None
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return None if tensor is None else tensor.device


def move(network: Network | None, device: torch.device) -> None:
    """Move a module, or the module whose method this is, to a device; leave other callables alone."""
    module = _module_of(network)
    if module is not None:
        module.to(device)


def plain_linear(head: Network | None) -> nn.Linear | None:
    """Return the head if weight and bias are all there is to it.

    A hook, a parametrization or a forward of its own may compute more: a subclass is plain only if it
    inherits nn.Linear's forward, or is known to compute the same.
    """
    if not isinstance(head, nn.Linear) or "forward" in vars(head) or "weight" not in head._parameters:
        return None
    kind = type(head)
    same = kind.forward is nn.Linear.forward or f"{kind.__module__}.{kind.__qualname__}" in _ALIKE
    return head if same and not (head._forward_hooks or head._forward_pre_hooks) else None


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a frozen layer that shares the memory of this weight (C, D) and bias (C,)."""
    classes, width = weight.shape
    layer = nn.Linear(width, classes, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.eval()


def in_training(network: Network | None) -> str | None:
    """Return the class name of a network, or of a method's module, that is in training mode, else None.

    A module whose forward is torch.nn's counts only if its mode matters; any other always counts.
    """
    module = _module_of(network)
    for each in () if module is None else module.modules():
        forward = getattr(type(each), "forward", None)
        known = getattr(forward, "__module__", "").startswith("torch.nn.")
        if each.training and (isinstance(each, _MODAL) or not known):
            return type(module).__name__
    return None


class _Call(nn.Module):
    """A module that makes one call of another: what functional_call takes, whatever the other is."""

    def __init__(self, owner: nn.Module, call: Network) -> None:
        super().__init__()
        self.owner = owner
        self._call = (call,)  # in a tuple, or a module would be registered a second time

    def forward(self, features: Tensor) -> Tensor:
        return self._call[0](features)


def _module_of(network: Network | None) -> nn.Module | None:
    owner = network if isinstance(network, nn.Module) else getattr(network, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _run(head: Network, module: nn.Module, features: Tensor) -> Tensor:
    """Call a module, or a method of it, with weights and features of one type: float64 if it has any."""
    state = dict(chain(module.named_parameters(), module.named_buffers()))
    weights = {name: value for name, value in state.items() if value.is_floating_point()}
    wide = any(value.dtype == torch.float64 for value in weights.values())
    dtype = torch.float64 if wide else torch.float32
    others = {f"owner.{name}": value.to(dtype) for name, value in weights.items() if value.dtype != dtype}
    if not others:
        return head(features.to(dtype))
    output: Tensor = functional_call(_Call(module, head), others, (features.to(dtype),))
    return output
