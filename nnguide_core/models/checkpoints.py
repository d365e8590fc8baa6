"""Own weights on a named architecture: found in their wrapping, compared by name and shape, then loaded."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from nnguide_core.apart import Bounds
from nnguide_core.array_files import tensors_apart
from nnguide_core.errors import CheckpointError, ImageError
from nnguide_core.logs import refusals_noted
from nnguide_core.models import checkpoint_formats
from nnguide_core.models.checkpoint_formats import Placeholder
from nnguide_core.names import brief
from nnguide_core.paths.regular_files import open_regular
from nnguide_core.progress import Cancelled

__all__ = ["load_into", "read_state", "state_in"]

_LOG = logging.getLogger(__name__)

_WRAPPINGS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "backbone.")
_MOST_WRAPPINGS = 4  # a damaged file may hold a container that holds itself
_MOST_PREFIXES = 8  # a name of nothing but prefixes would be copied once for each
_UNUSED = "num_batches_tracked"  # counts training steps, in whatever type; old checkpoints lack it
_ROOM = 2**30  # bytes, beside twice the file's own
_SECONDS = 8.0  # of computing, and for each 50 MB of the file one more
_BYTES_PER_SECOND = 50_000_000
_SHOWN = 3  # names of each kind that an error lists


@refusals_noted("checkpoint")
def read_state(
    path: Path, limit: int = checkpoint_formats.SIZE_LIMIT, *, cancelled: Cancelled | None = None
) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by name, taken out of the containers that trainers put around them.

    A worker process reads the file; what is neither a tensor nor a plain container is ignored, and named in
    the log.

    Raises:
        CheckpointError: the file is refused (see checkpoint_formats.read), or no tensors are in it.
        CancelledError: cancelled returned True.
    """
    with _opened(path) as file:
        tensors, ignored = tensors_apart(
            state_in, file, path.name, limit, **_terms(path, file), cancelled=cancelled
        )
    if ignored:
        _LOG.info("ignored in the checkpoint %s: %s", path.name, _listed(ignored))
    return tensors


def state_in(file: BinaryIO, name: str, limit: int) -> tuple[dict[str, Tensor], list[str]]:
    """Return a checkpoint's tensors, and what in it was ignored; what the worker process does.

    Raises:
        CheckpointError: as read_state.
    """
    content, ignored = checkpoint_formats.read(file, name, limit)
    found = _contents(content)
    if found is None:
        raise CheckpointError(
            f"The checkpoint {name} holds a {type(content).__name__}, expected tensors by name."
        )
    for _ in range(_MOST_WRAPPINGS):
        inside = (_contents(found[each]) for each in _WRAPPINGS if each in found)
        found = next((each for each in inside if each is not None), found)
    tensors = {str(each): value for each, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"The checkpoint {name} holds no tensors by name but {_listed(map(str, found)) or 'nothing'}. "
            f"Expected a state dict, alone or under one of the names {', '.join(_WRAPPINGS)}."
        )
    _check_layouts(tensors, name)
    return tensors, ignored


@refusals_noted("checkpoint")
def load_into(network: nn.Module, state: Mapping[str, Tensor], file_name: str) -> None:
    """Copy a checkpoint's tensors into a network after comparing every name, shape and value.

    Prefixes that trainers add ("module." and the like) are taken off where the network has no such names;
    what stands beside such a prefix, such as a loss's own weights, is left out and named in the log.

    Raises:
        CheckpointError: names are missing or too many, shapes differ, or values are not finite.
    """
    expected = network.state_dict()
    state = {name: value for name, value in state.items() if not name.endswith(_UNUSED)}
    given, beside = _without_prefixes(state, expected)
    if beside:
        _LOG.info("left out of the checkpoint %s: %s", file_name, _listed(beside))
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


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except ImageError as error:
        raise CheckpointError(f"The checkpoint {path.name} is not a readable file. {error}") from error


def _terms(path: Path, file: BinaryIO) -> dict[str, Any]:
    """Return what reading the file may cost, and how it is refused where it costs more."""

    def refused(reason: str) -> CheckpointError:
        return CheckpointError(f"The checkpoint {path.name} cannot be read. {reason}")

    size = os.fstat(file.fileno()).st_size
    return {"bounds": Bounds(_ROOM + 2 * size, _SECONDS + size / _BYTES_PER_SECOND), "refused": refused}


def _contents(value: Any) -> dict[Any, Any] | None:
    """Return a container's items, or the weights of a whole network whose class is not loaded."""
    if isinstance(value, Placeholder) and isinstance(value.state, dict) and "_modules" in value.state:
        return dict(_weights(value))
    return dict(dict.items(value)) if isinstance(value, dict) else None


def _weights(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    state = module.state if isinstance(module, Placeholder) and isinstance(module.state, dict) else {}
    for kind in ("_parameters", "_buffers"):
        values = state.get(kind)
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value.detach()
    inner = state.get("_modules")
    for name, value in inner.items() if isinstance(inner, dict) else ():
        yield from _weights(value, f"{prefix}{name}.")


def _check_layouts(tensors: Mapping[str, Tensor], file_name: str) -> None:
    """Refuse what cannot be handed on as it is, or is larger than the memory behind it."""
    odd = [
        name
        for name, value in tensors.items()
        if value.layout != torch.strided or value.is_quantized or value.is_meta
    ]
    if odd:
        raise CheckpointError(
            f"The checkpoint {file_name} holds tensors that are not dense: {_listed(odd)}. "
            "Save the weights of the model before it was quantised or made sparse."
        )
    vast = [name for name, value in tensors.items() if value.nbytes > value.untyped_storage().nbytes()]
    if sum(tensors[name].nbytes for name in vast) > _ROOM:
        raise CheckpointError(
            f"The checkpoint {file_name} holds tensors larger than the data behind them: {_listed(vast)}."
        )


def _without_prefixes(
    state: Mapping[str, Tensor], expected: Mapping[str, Any]
) -> tuple[Mapping[str, Tensor], list[str]]:
    """Return the tensors under their names in the network, and the names of those beside it."""
    beside: list[str] = []
    for _ in range(_MOST_PREFIXES):
        prefix = next((each for each in _PREFIXES if any(name.startswith(each) for name in state)), None)
        if prefix is None or any(name in expected for name in state):
            break
        beside += [name for name in state if not name.startswith(prefix)]
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state, beside


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
