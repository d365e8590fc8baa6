"""Nearest Neighbor Guidance (NNGuide) for out-of-distribution detection: exact, fast and explained."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnguide_core.bank import FeatureBank
    from nnguide_core.detector import NNGuide
    from nnguide_core.errors import (
        ModelNotSetException,
        NNGuideError,
        NNGuideWarning,
        RequiresFittingException,
    )
    from nnguide_core.scoring import Neighbors
    from nnguide_core.settings import BankSettings

__all__ = [
    "BankSettings",
    "FeatureBank",
    "ModelNotSetException",
    "NNGuide",
    "NNGuideError",
    "NNGuideWarning",
    "Neighbors",
    "RequiresFittingException",
]

_HOMES = {
    "BankSettings": "settings",
    "FeatureBank": "bank",
    "ModelNotSetException": "errors",
    "NNGuide": "detector",
    "NNGuideError": "errors",
    "NNGuideWarning": "errors",
    "Neighbors": "scoring",
    "RequiresFittingException": "errors",
}


def __getattr__(name: str) -> Any:
    """Import a name where it is first used, so that the command line's help need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
