"""Calling heads and encoders of any kind and precision, and the device they live on."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["Network", "device_of", "head_logits", "move"]

Network = Callable[[Tensor], Tensor]  # an nn.Module, one of its bound methods, or any function of a tensor


def head_logits(head: Network, features: Tensor) -> Tensor:
    """Return the head's logits in float32 or float64, (N, D) -> (N, C).

    A module in float16 or bfloat16 is run with its weights in float32, because its logits would overflow or
    tie; a float64 module runs in float64; any other callable is given float32 features.

    Raises:
        ValueError: the head does not give one row of logits for each row of features.
    """
    logits = _run_module(head, features) if isinstance(head, nn.Module) else head(features.float())
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


def _module_of(network: Network | None) -> nn.Module | None:
    owner = network if isinstance(network, nn.Module) else getattr(network, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _run_module(head: nn.Module, features: Tensor) -> Tensor:
    state = dict(chain(head.named_parameters(), head.named_buffers()))
    weights = {name: value for name, value in state.items() if value.is_floating_point()}
    wide = any(value.dtype == torch.float64 for value in weights.values())
    dtype = torch.float64 if wide else torch.float32
    narrow = {name: value.to(dtype) for name, value in weights.items() if value.dtype != dtype}
    output: Tensor = functional_call(head, narrow, (features.to(dtype),))
    return output
