"""What a user can set, its defaults and its limits; only here are environment variables read or set."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

__all__ = [
    "DEFAULT_K",
    "VERDICTS",
    "VERSION",
    "BankSettings",
    "Draw",
    "Scoring",
    "ask_for_large_pages",
    "data_roots",
    "preferred_device",
    "session_upload_limit",
    "workspace_home",
]

VERSION = "0.1.0"  # of this program, as in pyproject.toml
DEFAULT_K = 10  # the paper's ImageNet setting
REACT_PERCENTILE = 95.0  # the official ResNet-50 setting
VERDICTS = ("detector right", "really ID", "really OOD", "wrong label", "duplicate", "unsure")

Scoring = Literal["paper", "cosine"]
Draw = Literal["random", "stratified", "balanced"]


@dataclass(frozen=True)
class BankSettings:
    """How a bank is drawn from ID training features, and how similarity to it is scored."""

    fraction: float = 1.0  # share of the training images that the bank keeps, in (0, 1]
    seed: int = 0
    draw: Draw = "random"  # "stratified": the same share of every class; "balanced": the same number
    react_percentile: float | None = None  # clip features at this percentile (0, 100] of all their values
    scoring: Scoring = "paper"
    energy_offset: float = 0.0  # added to every energy, bank and query

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"The bank fraction must be in (0, 1], got {self.fraction}.")
        if self.react_percentile is not None and not 0.0 < self.react_percentile <= 100.0:
            raise ValueError(f"The ReAct percentile must be in (0, 100], got {self.react_percentile}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"The bank's seed must be in [0, 2**63), got {self.seed}.")
        if not math.isfinite(self.energy_offset):
            raise ValueError(f"The energy offset must be a finite number, got {self.energy_offset}.")
        if self.scoring not in get_args(Scoring):
            raise ValueError(f'scoring must be "paper" or "cosine", got {self.scoring!r}.')
        if self.draw not in get_args(Draw):
            raise ValueError(f'draw must be "random", "stratified" or "balanced", got {self.draw!r}.')

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> "BankSettings":
        """Read what asdict gave, here or in a version that called a stratified draw balanced.

        Raises:
            TypeError: a name is no setting.
            ValueError: a setting is out of its range.
        """
        about = dict(about)
        if "balanced" in about:
            about["draw"] = "stratified" if about.pop("balanced") else "random"
        return cls(**about)


def ask_for_large_pages() -> None:
    """Let torch take its memory in large pages: without the page faults, networks run a fifth faster.

    For programs, before their first tensor; a library leaves the environment of its process alone.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def data_roots() -> tuple[Path, ...]:
    """Return the folders under which typed paths are allowed: NNGUIDE_DATA_ROOTS, else the defaults."""
    given = os.environ.get("NNGUIDE_DATA_ROOTS", "")
    roots = [Path(part) for part in given.split(os.pathsep) if part]
    return tuple(root.expanduser().resolve() for root in roots or [Path.cwd(), Path.home() / "nnguide-data"])


def preferred_device() -> str | None:
    """Return the device to compute on where nobody chooses one: NNGUIDE_DEVICE, None if it is not set."""
    return os.environ.get("NNGUIDE_DEVICE") or None


def session_upload_limit() -> int:
    """Return how many bytes one session may upload: NNGUIDE_UPLOAD_LIMIT, else 4 GiB."""
    given = os.environ.get("NNGUIDE_UPLOAD_LIMIT", "")
    if given and not given.isdecimal():
        raise ValueError(f"NNGUIDE_UPLOAD_LIMIT must be a whole number of bytes, got {given!r}.")
    return int(given or 4 * 2**30)


def workspace_home() -> Path:
    """Return the workspace folder, resolved: NNGUIDE_HOME, else the platform's data folder for this user."""
    if given := os.environ.get("NNGUIDE_HOME"):
        return Path(given).expanduser().resolve()
    from platformdirs import user_data_path

    return user_data_path("nnguide-explorer").resolve()
