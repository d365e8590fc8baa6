"""What every benchmark measures and prints: ours against a peer, in turn in one run, as a Markdown table."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Row", "Timing", "interleaved", "markdown"]

Run = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: how much faster than a peer, at which size, and what was asked for."""

    name: str
    size: str
    ours_s: float  # median seconds
    peer: str
    peer_s: float  # median seconds
    ratio: float  # peer's seconds / ours, median over the rounds
    ratio_min: float
    ratio_max: float
    target: str  # such as "≥ 4×", or "" where nothing was asked for
    note: str = ""


@dataclass(frozen=True)
class Timing:
    """Seconds of two things measured in turn, one of each per round."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times longer the peer took, round by round: what slows the machine slows both."""
        return tuple(peer / ours for ours, peer in zip(self.ours, self.peer, strict=True))

    def row(self, name: str, size: str, peer: str, target: str = "", note: str = "") -> Row:
        """Return the table's line for this."""
        return Row(
            name=name,
            size=size,
            ours_s=statistics.median(self.ours),
            peer=peer,
            peer_s=statistics.median(self.peer),
            ratio=statistics.median(self.ratios),
            ratio_min=min(self.ratios),
            ratio_max=max(self.ratios),
            target=target,
            note=note,
        )


def interleaved(
    ours: Callable[[], Any], peer: Callable[[], Any], rounds: int = 7, warm_up: int = 1
) -> Timing:
    """Run ours and the peer in turn; the rounds of the warm-up are not counted."""
    pairs = [(_seconds(ours), _seconds(peer)) for _ in range(warm_up + rounds)][warm_up:]
    return Timing(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def markdown(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table, times as medians and ratios as median (lowest to highest)."""
    lines = [
        "| what | size | ours | peer | peer's time | ratio (lowest to highest) | asked for | note |",
        "| --- | --- | ---: | --- | ---: | ---: | --- | --- |",
    ]
    lines.extend(
        f"| {row.name} | {row.size} | {_readable(row.ours_s)} | {row.peer} | {_readable(row.peer_s)} "
        f"| {row.ratio:.2f}× ({row.ratio_min:.2f} to {row.ratio_max:.2f}) | {row.target} | {row.note} |"
        for row in rows
    )
    return "\n".join(lines)


def _seconds(function: Run) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _readable(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
