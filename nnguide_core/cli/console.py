"""What one command tells: text as it comes or one JSON object at its end, cautions, bars, skipped files."""

import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TextIO

from tqdm import tqdm

from nnguide_core.errors import NNGuideWarning
from nnguide_core.names import visible
from nnguide_core.progress import OnProgress, Progress
from nnguide_core.records import Skipped

__all__ = ["Console", "console"]

_NAMED_AT_MOST = 20  # skipped files, in text


class Console:
    """Standard output for results, standard error for everything beside them."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self._as_json = as_json
        self._facts: dict[str, Any] = {}
        self._cautions: list[str] = []
        self._skipped: list[dict[str, str]] = []
        self._bar = None if quiet else _Bar()

    @property
    def skipped(self) -> int:
        """How many files were skipped so far."""
        return len(self._skipped)

    @property
    def progress(self) -> OnProgress | None:
        """What is to be told how far long work is; None where nobody wants to know."""
        return None if self._bar is None else self._bar.show

    def say(self, text: str, **facts: Any) -> None:
        """Print text at once, or keep the facts, JSON-able, for the JSON object that stands for it."""
        self._facts |= facts
        if not self._as_json:
            self._above_the_bar(text, sys.stdout)

    def caution(self, sentence: str) -> None:
        """Tell once what may mislead in the results."""
        if sentence not in self._cautions:
            self._cautions.append(sentence)
            self._above_the_bar(f"nnguide: caution: {visible(sentence)}", sys.stderr)

    def skip(self, dataset: str, files: Iterable[Skipped]) -> None:
        """Name the files of a dataset that were skipped: the first in text, all of them in JSON."""
        found = [{"dataset": dataset, "path": each.path, "reason": each.reason} for each in files]
        self._skipped += found
        for each in found[:_NAMED_AT_MOST]:
            place = f"{visible(dataset)}/{visible(each['path'])}"
            self._above_the_bar(f"skipped {place}: {visible(each['reason'])}", sys.stderr)
        if len(found) > _NAMED_AT_MOST:
            more = f"… and {len(found) - _NAMED_AT_MOST:,} more files of {visible(dataset)} skipped"
            self._above_the_bar(f"{more}: --json names them all.", sys.stderr)

    def end(self) -> None:
        """Print the JSON object, if one was asked for."""
        self.close_bar()
        if self._as_json:
            facts = {**self._facts, "cautions": self._cautions, "skipped": self._skipped}
            sys.stdout.write(json.dumps(facts, allow_nan=False) + "\n")

    def close_bar(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _above_the_bar(self, text: str, stream: TextIO) -> None:
        with nullcontext() if self._bar is None else self._bar.aside(stream):
            stream.write(text + "\n")
            stream.flush()


@contextmanager
def console(options: Namespace) -> Iterator[Console]:
    """Open the console of one command; warnings of the core become cautions, others stay what they are."""
    told = Console(as_json=options.json, quiet=options.quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("always", NNGuideWarning)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, NNGuideWarning):
                told.caution(str(message))
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        try:
            yield told
            told.end()
        finally:
            told.close_bar()


class _Bar:
    """A bar that begins again with every new piece of work; none where there is no terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def show(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = tqdm(unit=" images", file=sys.stderr, disable=None, dynamic_ncols=True)
        if progress.total != self._bar.total or progress.done < self._bar.n:
            self._bar.reset(progress.total)
            self._bar.initial = progress.resumed
        self._bar.set_description(progress.step, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def aside(self, stream: TextIO) -> AbstractContextManager[None]:
        """Return a block in which the stream can be written to without a bar in the way."""
        return nullcontext() if self._bar is None else tqdm.external_write_mode(file=stream)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
