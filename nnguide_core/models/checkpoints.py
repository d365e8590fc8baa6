"""Own weights on a named architecture: found in their wrapping, compared by name and shape, then loaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnguide_core.errors import CheckpointError
from nnguide_core.logs import refusals_noted
from nnguide_core.models import checkpoint_formats
from nnguide_core.names import brief

__all__ = ["load_into", "read_state"]

_WRAPPINGS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "backbone.")
_MOST_WRAPPINGS = 4  # a damaged file may hold a container that holds itself
_MOST_PREFIXES = 8  # a name of nothing but prefixes would be copied once for each
_UNUSED = "num_batches_tracked"  # counts training steps, and old checkpoints lack it
_SHOWN = 3  # names of each kind that an error lists


@refusals_noted("checkpoint")
def read_state(path: Path, limit: int = checkpoint_formats.SIZE_LIMIT) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by name, taken out of the containers that trainers put around them.

    Raises:
        CheckpointError: the file is refused (see checkpoint_formats.read), or no tensors are in it.
    """
    found = checkpoint_formats.read(path, limit)
    for _ in range(_MOST_WRAPPINGS):
        inner = next((found[name] for name in _WRAPPINGS if isinstance(found.get(name), dict)), found)
        found = dict(dict.items(inner))
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"The checkpoint {path.name} holds no tensors by name but "
            f"{_listed(map(str, found)) or 'nothing'}. "
            f"Expected a state dict, alone or under one of the names {', '.join(_WRAPPINGS)}."
        )
    return tensors


@refusals_noted("checkpoint")
def load_into(network: nn.Module, state: Mapping[str, Tensor], file_name: str) -> None:
    """Copy a checkpoint's tensors into a network after comparing every name, shape and value.

    Prefixes that trainers add ("module." and the like) are taken off where the network has no such names.

    Raises:
        CheckpointError: names are missing or too many, shapes differ, or values are not finite.
    """
    expected = network.state_dict()
    given = _without_prefixes(state, expected)
    problems = [
        _problem("lacks", (name for name in expected if name not in given and not name.endswith(_UNUSED))),
        _problem("has unknown", (name for name in given if name not in expected)),
        _problem("has other shapes in", _differences(given, expected)),
    ]
    if any(problems):
        raise CheckpointError(
            f"The checkpoint {file_name} does not fit the architecture: it "
            f"{'; it '.join(filter(None, problems))}. Check the architecture and the number of classes."
        )
    _check_values(given, expected, file_name)
    network.load_state_dict(dict(given), strict=False)


def _without_prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Any]) -> Mapping[str, Tensor]:
    for _ in range(_MOST_PREFIXES):
        prefix = next((each for each in _PREFIXES if any(name.startswith(each) for name in state)), None)
        if prefix is None or any(name in expected for name in state):
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _differences(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterable[str]:
    for name, value in given.items():
        if name in expected and value.shape != expected[name].shape:
            yield f"{name} ({tuple(value.shape)}, expected {tuple(expected[name].shape)})"


def _check_values(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], file_name: str) -> None:
    kinds = [name for name, value in given.items() if not _same_kind(value, expected[name])]
    if kinds:
        raise CheckpointError(
            f"The checkpoint {file_name} holds other than dense floating weights in {_listed(kinds)}. "
            "Save the weights of the model before it was quantised or made sparse."
        )
    broken = [name for name, value in given.items() if not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(
            f"The checkpoint {file_name} has NaN or infinite values in {_listed(broken)}: it is damaged, or "
            "its training failed."
        )


def _same_kind(value: Tensor, expected: Tensor) -> bool:
    dense = value.layout == torch.strided and not value.is_quantized
    return dense and value.is_floating_point() == expected.is_floating_point() and not value.is_complex()


def _problem(what: str, names: Iterable[str]) -> str:
    return f"{what} {shown}" if (shown := _listed(names)) else ""


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(brief, names[:_SHOWN])) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )
