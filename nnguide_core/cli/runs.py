"""What the workspace keeps, on the command line: runs with their sizes, and making room."""

from argparse import Namespace
from typing import Any

from nnguide_core.cli.console import console
from nnguide_core.errors import StoreError
from nnguide_core.names import visible
from nnguide_core.records import Run
from nnguide_core.store import RunSize, Workspace

__all__ = ["clean", "list_runs"]


def list_runs(options: Namespace) -> int:
    """Print every run with what it takes; return 0, as no file is skipped."""
    with console(options) as told:
        workspace = Workspace()
        runs = workspace.runs()  # once: a dashboard may save another run meanwhile
        sizes, usage = workspace.run_sizes(runs), workspace.usage()
        lines = [_line(run, sizes[run.id]) for run in runs]
        if lines:
            lines.append("nnguide clean RUN ... removes runs, with all that no other run needs.")
        count = "1 run" if len(runs) == 1 else f"{len(runs):,} runs"
        whole = _in_words(sum(usage.values()))
        told.say(
            "\n".join([f"{count}; the workspace {workspace.root} takes {whole}.", *lines]),
            workspace=str(workspace.root),
            usage=usage,
            runs=[_facts(run, sizes[run.id]) for run in runs],
        )
    return 0


def clean(options: Namespace) -> int:
    """Remove the runs that are named, and what nothing needs; return 0, as no file is skipped.

    Raises:
        StoreError: there is no such run; none is removed then.
    """
    with console(options) as told:
        workspace = Workspace()
        runs = list({run.id: run for run in (_named(workspace, name) for name in options.runs)}.values())
        freed = sum(workspace.remove_run(run.id) for run in runs) + workspace.clean_up()
        removed = "".join(f"Removed {run.id[:12]}, {_what(run)}.\n" for run in runs)
        told.say(f"{removed}{_in_words(freed)} freed.", removed=[run.id for run in runs], bytes_freed=freed)
    return 0


def _named(workspace: Workspace, name: str) -> Run:
    run = workspace.run(name)
    if run is None:
        raise StoreError(
            f"There is no single run whose id begins with {visible(name)}: give the 12 or more digits "
            "that nnguide runs shows."
        )
    return run


def _facts(run: Run, size: RunSize) -> dict[str, Any]:
    return {
        "id": run.id,
        "model": run.model_name,
        "bank": run.bank.name,
        "queries": [each.name for each in run.queries],
        "k": run.k,
        "created": run.created.isoformat(),
        "bytes": size.bytes,
        "bytes_alone": size.alone,
    }


def _line(run: Run, size: RunSize) -> str:
    when = run.created.astimezone().strftime("%Y-%m-%d %H:%M")
    taken = f"{_in_words(size.bytes):>10} ({_in_words(size.alone)} unshared)"
    return f"{run.id[:12]}  {when}  {taken}  {_what(run)}"


def _what(run: Run) -> str:
    queries = ", ".join(visible(each.name) for each in run.queries)
    return f"{visible(run.model_name)}: {queries} against {visible(run.bank.name)}, k = {run.k}"


def _in_words(size: int) -> str:
    """Return bytes as people read them.

    >>> _in_words(999), _in_words(1_500_000)
    ('1 kB', '1.5 MB')
    """
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
