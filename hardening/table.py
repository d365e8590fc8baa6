"""What every hardening module counts and prints: what was tried, what came of it, and what it must be."""

import json
from dataclasses import asdict, dataclass

__all__ = ["Row", "from_json", "heading", "line", "must_be_zero", "to_json"]


@dataclass(frozen=True)
class Row:
    """One count or measurement, and the range in which it must lie."""

    name: str  # of the module
    what: str  # such as "inputs tried"
    value: float
    least: float | None = None
    most: float | None = None  # 0 for what may never happen
    unit: str = ""  # such as "s" or "MB"; "" for a count
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the value lies in its range; a NaN does not."""
        at_least = self.least is None or self.value >= self.least
        return at_least and (self.most is None or self.value <= self.most)

    @property
    def wanted(self) -> str:
        """The range in words, "" where any value will do."""
        if self.least == self.most:
            return "" if self.least is None else _number(self.least)
        low = "" if self.least is None else f"≥ {_number(self.least)}"
        high = "" if self.most is None else f"≤ {_number(self.most)}"
        return " and ".join(part for part in (low, high) if part)


def must_be_zero(name: str, what: str, count: int, note: str = "") -> Row:
    """Return the line of something that may never happen."""
    return Row(name, what, count, least=0, most=0, note=note)


def heading() -> str:
    """Return the first lines of a Markdown table of rows."""
    return "| part | what | found | must be | note |\n| --- | --- | ---: | ---: | --- |"


def line(row: Row) -> str:
    """Return a row as a line of that table; what is not as it must be is marked."""
    found = f"{_number(row.value)} {row.unit}".strip()
    marked = found if row.is_met else f"**{found}** ✗"
    return f"| {row.name} | {row.what} | {marked} | {row.wanted} | {row.note} |"


def to_json(row: Row) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(asdict(row), default=float)


def from_json(text: str) -> Row:
    """Return the row that to_json wrote."""
    return Row(**json.loads(text))


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}"
