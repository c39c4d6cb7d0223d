"""A measured figure: its rounds, its floor, its target; as a text table and as JSON."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Of(StrEnum):
    """What a target bounds."""

    VALUE = "value"
    RATIO = "ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on the median, or on the median ratio to the floor.

    `floor_at_least`: the target holds only where the floor's own median reaches this; a slower machine is not judged.
    """

    of: Of
    at_most: float | None = None
    at_least: float | None = None
    floor_at_least: float | None = None

    def __str__(self) -> str:
        bound = f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"
        text = bound + ("x" if self.of is Of.RATIO else "")
        return text if self.floor_at_least is None else f"{text} if floor >= {self.floor_at_least:g}"


@dataclass(slots=True, kw_only=True)
class Figure:
    """One line of the report. `rounds` and `floor` hold one value per round; round n of both ran side by side."""

    name: str
    unit: str
    rounds: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    floor_name: str = ""
    target: Target | None = None

    def add(self, value: float, floor: float | None = None) -> None:
        """Takes in one round."""
        self.rounds.append(value)
        if floor is not None:
            self.floor.append(floor)

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds) if self.rounds else math.nan

    @property
    def ratio(self) -> float | None:
        """The median of each round's value over its own floor; None without a floor."""
        pairs = [(value, floor) for value, floor in zip(self.rounds, self.floor, strict=False) if floor > 0]
        return statistics.median(value / floor for value, floor in pairs) if pairs else None

    @property
    def verdict(self) -> str:
        """``ok``, ``MISSED``, ``not judged`` (the floor is too slow to say), or nothing without a target."""
        if self.target is None:
            return ""
        if self.target.floor_at_least is not None and statistics.median(self.floor) < self.target.floor_at_least:
            return "not judged"
        measured = self.median if self.target.of is Of.VALUE else self.ratio
        if measured is None or math.isnan(measured):
            return "MISSED"
        is_low_enough = self.target.at_most is None or measured <= self.target.at_most
        is_high_enough = self.target.at_least is None or measured >= self.target.at_least
        return "ok" if is_low_enough and is_high_enough else "MISSED"

    def as_json(self) -> dict[str, object]:
        """Plain values, every round included."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "rounds": self.rounds,
            "floor": self.floor_name or None,
            "floor_median": statistics.median(self.floor) if self.floor else None,
            "floor_rounds": self.floor,
            "ratio": self.ratio,
            "target": None if self.target is None else str(self.target),
            "verdict": self.verdict or None,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of at least one value.

    >>> percentile([1, 2, 3, 4], 50)
    2
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def shown(value: float | None) -> str:
    """A number with three significant digits, or a dash."""
    if value is None or math.isnan(value):
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def print_figures(title: str, figures: Sequence[Figure]) -> None:
    """One table on stdout."""
    headers = ("figure", "median", "rounds", "floor", "of", "ratio", "target", "")
    rows = [
        (
            figure.name,
            f"{shown(figure.median)} {figure.unit}".rstrip(),
            f"{shown(min(figure.rounds, default=math.nan))} .. {shown(max(figure.rounds, default=math.nan))}",
            shown(statistics.median(figure.floor)) if figure.floor else "-",
            figure.floor_name or "-",
            "-" if figure.ratio is None else f"{figure.ratio:.2f}x",
            "-" if figure.target is None else str(figure.target),
            figure.verdict,
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    print(f"\n{title}")
    for row in (headers, tuple("-" * width for width in widths), *rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
