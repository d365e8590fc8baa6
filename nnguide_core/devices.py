"""Which device computes: a CUDA device, a Mac's GPU (mps) or the processor; chosen here and nowhere else."""

import torch

from nnguide_core.errors import DeviceError
from nnguide_core.settings import preferred_device

__all__ = ["AUTO", "available_devices", "choose_device", "describe_device", "exact_device"]

AUTO = "auto"  # the fastest kind that is here, if NNGUIDE_DEVICE names none


def available_devices() -> tuple[str, ...]:
    """Return the devices that can be chosen here, the fastest kind first, such as ("cuda", "cpu")."""
    counts = _counts()
    single = [f"cuda:{index}" for index in range(counts["cuda"])] if counts["cuda"] > 1 else []
    return tuple(
        name for kind in counts if counts[kind] for name in (kind, *(single if kind == "cuda" else []))
    )


def choose_device(asked: torch.device | str | None = None) -> torch.device:
    """Return the device to compute on: the one asked for, else NNGUIDE_DEVICE's, else the fastest kind here.

    Args:
        asked: such as "cuda", "cuda:1", "mps" or "cpu"; None or "auto" asks for none.

    Raises:
        DeviceError: it is not here; the message lists those that are.
    """
    available = available_devices()
    by_name = asked is not None and asked != AUTO
    name = str(asked) if by_name else preferred_device() or AUTO
    kind, _, number = (available[0] if name == AUTO else name).partition(":")
    number = number or "0"
    if not (number.isdecimal() and int(number) < _counts().get(kind, 0)):
        source = "" if by_name else "NNGUIDE_DEVICE asks for it. "
        known = ", ".join((AUTO, *available))
        raise DeviceError(f"There is no device {name!r} here. {source}Choose one of: {known}.")
    # With its number, as tensors name it: "cuda" and "cuda:0" are not equal.
    return torch.device(kind, int(number)) if kind == "cuda" else torch.device(kind)


def describe_device(device: torch.device) -> str:
    """Return a device in words, such as "cuda (NVIDIA H100 80GB HBM3)", "mps" or "cpu"."""
    if device.type != "cuda":
        return device.type
    return f"cuda ({torch.cuda.get_device_name(device)})"


def exact_device(device: torch.device) -> torch.device:
    """Return where a device's tensors are computed with in float64: there, or on the CPU if it has none."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def _counts() -> dict[str, int]:
    """Return how many devices of each kind are here, the fastest kind first."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"cuda": cuda, "mps": int(torch.backends.mps.is_available()), "cpu": 1}
