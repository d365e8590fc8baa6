"""What each run keeps in the workspace: its model's head, its datasets, their features, its maps."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnguide_core.records import Run
from nnguide_core.store.tensors import TensorFiles

__all__ = ["Belonging", "RunSize", "belongings", "run_sizes"]


@dataclass(frozen=True)
class Belonging:
    """One file of tensors that belongs to a run, and perhaps to others."""

    kind: str
    key: str
    path: Path
    needs: frozenset[str]  # as Workspace.save was given them
    size: int  # bytes


@dataclass(frozen=True)
class RunSize:
    """The bytes that a run takes."""

    bytes: int
    alone: int  # of these, what no other run shares: what goes when the run is removed


def belongings(tensors: TensorFiles, runs: Sequence[Run]) -> dict[str, frozenset[Belonging]]:
    """Return which files belong to each run, by its id."""
    files = [(each, tensors.about(each.kind, each.key) or {}) for each in _files(tensors)]
    return {
        run.id: frozenset(each for each, about in files if _belongs(each, about.get("model"), run))
        for run in runs
    }


def run_sizes(owned: dict[str, frozenset[Belonging]]) -> dict[str, RunSize]:
    """Return the bytes that each run takes, given what belongs to each."""
    shared = {run: frozenset().union(*(owned[each] for each in owned if each != run)) for run in owned}
    return {run: RunSize(_size(mine), _size(mine - shared[run])) for run, mine in owned.items()}


def _files(tensors: TensorFiles) -> Iterable[Belonging]:
    for kind, key, path in tensors.all():
        with suppress(FileNotFoundError):  # deleted meanwhile, by another process
            yield Belonging(kind, key, path, tensors.needs(kind, key), path.stat().st_size)


def _belongs(file: Belonging, model: str | None, run: Run) -> bool:
    datasets = {each.fingerprint for each in (run.bank, *run.queries)}
    match file.kind:
        case "features":
            return model == run.model and file.needs <= datasets
        case "datasets":
            return file.needs <= datasets
        case _:
            return bool(file.needs & {run.id, run.question, run.model})


def _size(files: Iterable[Belonging]) -> int:
    return sum(each.size for each in files)
