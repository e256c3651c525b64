"""How well a measured number is known: an interval around the median of its repeats, and when two of them are apart.

Shares are taken as they are. Rates and times are taken by their logarithm, for what doubles from 1 to 2 is as much as from 1000 to 2000.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import expm1, log, log1p, sqrt
from statistics import NormalDist, median, stdev
from typing import NamedTuple

RISK = 0.05  # of one false alarm in a whole comparison, were all of it normal; what it is really, is measured: see compare
_PRIOR = 4  # as many degrees of freedom has what is assumed of a spread before any was seen


class Scale(NamedTuple):
    """A kind of quantity: what spread is assumed of it, what is never called a difference, and where its logarithm begins (None: none)."""

    spread: float
    least: float
    unit: float | None

    def of(self, value: float) -> float:
        return value if self.unit is None else log1p(max(0.0, value) / self.unit)

    def back(self, value: float) -> float:
        return value if self.unit is None else max(0.0, expm1(value) * self.unit)


SHARE, PERCENT = Scale(0.05, 0.02, None), Scale(5.0, 2.0, None)
RATE, TIME, TIME_NS = Scale(0.1, 0.05, 1.0), Scale(0.5, 0.4, 1e-6), Scale(0.2, 0.1, 1.0)
SCALES = {"": SHARE, "%": PERCENT, "1/s": RATE, "s": TIME, "ns": TIME_NS}  # by the unit of the column


class Floor(NamedTuple):
    """What the machine alone may have done to a report's numbers: to shares, and to the logarithm of rates."""

    share: float = 0.0
    rate: float = 0.0

    def on(self, scale: Scale) -> float:
        return {SHARE: self.share, PERCENT: 100 * self.share}.get(scale, self.rate)


class Interval(NamedTuple):
    """A number as one report has it."""

    middle: float
    low: float
    high: float

    def apart(self, other: Interval) -> bool:
        return self.low > other.high or other.low > self.high


def spread(groups: Iterable[Sequence[float]], scale: Scale) -> float:
    """The typical standard deviation of repeats, of all groups of a table together and what is assumed beforehand."""
    squares, free = _PRIOR * scale.spread**2, _PRIOR
    for values in groups:
        if len(values) > 1:
            squares += (len(values) - 1) * stdev(map(scale.of, values)) ** 2
            free += len(values) - 1
    return sqrt(squares / free)


def width(numbers: int) -> float:
    """Standard errors to either side, so that of so many numbers hardly one is apart by chance: Bonferroni's, of the normal distribution.

    >>> round(width(1), 2), round(width(300), 2)
    (1.96, 3.76)
    """
    return NormalDist().inv_cdf(1 - RISK / 2 / max(1, numbers))


def interval(values: Sequence[float], scale: Scale, typical: float, errors: float, floor: float) -> Interval:
    """Around the median of the repeats. Few repeats are alike by luck: their own spread counts only where it is larger than is typical."""
    scaled = [scale.of(value) for value in values]
    own = stdev(scaled) if len(scaled) > 1 else 0.0
    half = errors * max(own, typical) / sqrt(len(scaled)) + floor + scale.least / 2
    middle = median(scaled)
    return Interval(median(values), scale.back(middle - half), scale.back(middle + half))


def floor(rows: Sequence[dict], speeds: Sequence[float], watched: bool) -> Floor:
    """Of a report's rows of measure.noise, before and after; `speeds` are those of both reports.

    Where guests were `watched` that run anyway, they are what was measured, and no noise.
    """
    others = max((strange(row, watched) for row in rows), default=0.0)
    uneven = max((row.get("interval") or 0.0 for row in rows), default=0.0) if not watched else 0.0
    drift = log(max(speeds) / min(speeds)) if speeds and min(speeds) > 0 else 0.0
    return Floor(others, uneven + drift / 2 - log(1 - min(others, 0.9)))


def strange(row: dict, watched: bool) -> float:
    """What a row of measure.noise says that others took of its CPU."""
    return (row.get("others") or 0.0) - ((row.get("guests") or 0.0) if watched else 0.0)
