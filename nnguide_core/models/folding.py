"""Batch normalisation folded into the convolution before it: fewer passes over memory, the same features.

In evaluation mode a batch norm is one multiplication and one addition per channel, which the convolution's
own weights can do. Source of the identity: Jacob et al., CVPR 2018, arXiv 1712.05877, section 3.2.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fold_batch_norms"]

_TOLERANCE = 1e-4  # of the largest output; rounding stays far below it


class FoldedBatchNorm(nn.Identity):
    """Takes the place of a batch norm that was folded into the convolution before it."""


def fold_batch_norms(network: nn.Module, probe: Tensor) -> int:
    """Fold every batch norm that can be, and return how many.

    Nothing is folded where the network's output would change by more than rounding, as it does where a
    convolution's output is used beside its batch norm too.

    Args:
        network: in evaluation mode, on the device of probe; changed in place.
        probe: (B, 3, H, W), a batch that the network runs on.
    """
    pairs, before = _find_pairs(network, probe)
    if not pairs:
        return 0
    weights = {convolution: (convolution.weight, convolution.bias) for convolution in pairs}
    folded: dict[nn.Module, nn.Module] = {norm: FoldedBatchNorm() for norm in pairs.values()}
    for convolution, norm in pairs.items():
        _fold(convolution, norm)
    _replace(network, folded)
    with torch.inference_mode():
        after = network(probe)
    if torch.allclose(after, before, rtol=_TOLERANCE, atol=_TOLERANCE * float(before.abs().max())):
        return len(pairs)
    _replace(network, {identity: norm for norm, identity in folded.items()})
    for convolution, (weight, bias) in weights.items():
        convolution.weight, convolution.bias = weight, bias
    return 0


def _find_pairs(network: nn.Module, probe: Tensor) -> tuple[dict[nn.Conv2d, nn.BatchNorm2d], Tensor]:
    """Run the network; return each convolution with the batch norm that takes its output, and the logits."""
    outputs: list[tuple[nn.Conv2d, Tensor]] = []
    takes: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            outputs.append((module, output))

    def compare(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d):
            takes.extend((source, module) for source, output in outputs if output is arguments[0])

    # Subclasses may do more than their names say, such as timm's batch norms with an activation in them.
    hooks = [
        *(each.register_forward_hook(keep) for each in network.modules() if type(each) is nn.Conv2d),
        *(each.register_forward_pre_hook(compare) for each in network.modules() if _is_plain_norm(each)),
    ]
    try:
        with torch.inference_mode():
            logits: Tensor = network(probe)
    finally:
        for hook in hooks:
            hook.remove()
    convolutions, norms = [source for source, _ in outputs], [norm for _, norm in takes]
    once = {source: norm for source, norm in takes if convolutions.count(source) == norms.count(norm) == 1}
    return once, logits


def _is_plain_norm(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.running_mean is not None and not module.training


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give the convolution the weights that do the batch norm's work too, computed in float64 on the CPU."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("A batch norm without running statistics cannot be folded.")
    with torch.no_grad():
        scale = (_exact(variance) + norm.eps).rsqrt()
        shift = -_exact(mean) * scale
        if convolution.bias is not None:
            shift += _exact(convolution.bias) * scale
        if norm.affine:
            scale, shift = scale * _exact(norm.weight), shift * _exact(norm.weight) + _exact(norm.bias)
        weight = _exact(convolution.weight) * scale.view(-1, 1, 1, 1)
        device, dtype = convolution.weight.device, convolution.weight.dtype
        layout = torch.channels_last if _is_channels_last(convolution.weight) else torch.contiguous_format
        weight, shift = weight.to(dtype, memory_format=layout).to(device), shift.to(dtype).to(device)
        convolution.weight = nn.Parameter(weight, requires_grad=False)
        convolution.bias = nn.Parameter(shift, requires_grad=False)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.cpu().double()  # a Mac's GPU has no float64


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last)


def _replace(network: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in replacements:
                setattr(module, name, replacements[child])
