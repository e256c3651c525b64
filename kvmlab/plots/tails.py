"""What means hide: a lock whose holder waits for a CPU, and the few turns of work that take longest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from kvmlab.plots.overcommit import Measured, beside, ended, folded, key, measured, percent, place_of, point, turns
from kvmlab.plots.style import INK, MUTED, PALETTE, RULE, SERIES, expect, frame_axes, guess_of, new_axes
from kvmlab.wording import count

COLOURS = (PALETTE["guest"], PALETTE["kernel"], SERIES[2], PALETTE["user"], PALETTE["waiting"], "#56B4E9", SERIES[0], INK)
LONG = 10  # times the median: from there on a turn is one that was interrupted


# ---- the lock


def lock_collapse(frame: pd.DataFrame, guess: float | None = None, ax: Axes | None = None) -> Axes:
    """How often a second a lock was taken, on a logarithmic scale, against the vCPUs that want it; a line a set of host CPUs.

    A point is the median of the repeats, the bar through it goes from the least of them to the most.

    Parameters
    ----------
    frame : DataFrame
        From ``measure.lock_collapse``.
    guess : float, optional
        How many times fewer passes than one vCPU the reader expects of the first case with more vCPUs than host CPUs.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    lines = _lines(frame)
    guess_of(guess)
    numbers = sorted({vcpus for points in lines.values() for vcpus in points})
    ax = ax or new_axes(9.5, 3.8)
    labels: dict[int, list] = {number: [] for number in numbers}
    for (cpus, points), colour in zip(lines.items(), COLOURS, strict=False):
        _line(ax, points, numbers, colour)
        for vcpus, one in points.items():
            name = f"on {place_of([cpus])}: " if vcpus == max(points) else ""
            labels[vcpus].append((one.median, f"{name}{turns(one.median)}", colour))
    case = _case(lines)
    if guess and case:
        height = case.alone / guess
        ax.plot([numbers.index(case.vcpus)], [height], "D", color="white", markeredgecolor=INK, markersize=7, zorder=4)
        labels[case.vcpus].append((height, f"you said {guess:,.{0 if guess >= 10 else 1}f} times fewer", INK))
    _limits(ax, [height for column in labels.values() for height, *_ in column], len(numbers))
    for number, column in labels.items():
        beside(ax, numbers.index(number), column)
    ax.set_xticks(range(len(numbers)), [count(number, "vCPU") for number in numbers])
    ax.set_ylabel("passes a second", fontsize=9, color=MUTED)
    frame_axes(ax, _lock_title(frame, case), "vCPUs of one guest that take the same lock in turn", pad=24)
    key(ax, [point("median of the repeats, and from the least to the most of them")])
    return ax


def _lines(frame: pd.DataFrame) -> dict[str, dict[int, Measured]]:
    """By set of CPUs, the largest first, and number of vCPUs: passes a second, as far as they are known."""
    expect(frame, "lock_collapse", "measure.lock_collapse")
    lines: dict[str, dict[int, Measured]] = {cpus: {} for cpus in sorted(frame["cpus"].dropna().unique(), key=_size, reverse=True)}
    for (cpus, vcpus), rows in frame.groupby(["cpus", "vcpus"]):
        one = measured(rows["passes_per_s"])
        if one.known and one.median > 0:
            lines[str(cpus)][int(vcpus)] = one
    return {cpus: points for cpus, points in lines.items() if points}


def _line(ax: Axes, points: Mapping[int, Measured], numbers: list[int], colour: str) -> None:
    places, medians = [numbers.index(vcpus) for vcpus in points], [one.median for one in points.values()]
    ax.plot(places, medians, color=colour, linewidth=1.4, alpha=0.6)
    ax.vlines(places, [one.low for one in points.values()], [one.high for one in points.values()], color=colour, linewidth=1.6)
    ax.scatter(places, medians, s=40, color=colour, linewidth=0, zorder=3)


def _limits(ax: Axes, heights: list[float], columns: int) -> None:
    """Whole powers of ten, with the room for labels that the lowest and the highest need."""
    if heights:
        ax.set_yscale("log")
        ax.set_ylim(10 ** np.floor(np.log10(min(heights) / 1.5)), 10 ** np.ceil(np.log10(max(heights) * 1.5)))
        ax.yaxis.set_major_locator(LogLocator(numticks=12))
        ax.yaxis.set_major_formatter(lambda number, _place: f"{number:,.0f}" if number >= 1 else f"{number:g}")
    else:
        ax.set_yticks([])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlim(-0.25, max(1, columns) - 0.25)
    ax.tick_params(axis="y", labelsize=8, colors=MUTED)
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)


class Case(NamedTuple):
    """The first case of more vCPUs than host CPUs, beside fewest vCPUs on the same CPUs."""

    cpus: str
    vcpus: int
    passes: float
    alone: float


def _case(lines: Mapping[str, Mapping[int, Measured]]) -> Case | None:
    for cpus, points in reversed(lines.items()):
        fewest = min(points)
        for vcpus in sorted(points):
            if vcpus > max(fewest, _size(cpus)):
                return Case(cpus, vcpus, points[vcpus].median, points[fewest].median)
    return None


def _size(cpus: str) -> int:
    """
    >>> _size("0-2,8"), _size("1")
    (4, 1)
    """
    ends = [part.partition("-") for part in cpus.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def _lock_title(frame: pd.DataFrame, case: Case | None) -> str:
    by = f" ({frame.attrs['accel'].upper()})" if frame.attrs.get("accel") else ""
    if not case:
        return f"How often a lock is taken{by}" if len(frame) else "No lock was measured"
    return f"A lock{by}: {count(case.vcpus, 'vCPU')} on {place_of([case.cpus])} take it {_fewer(case.passes, case.alone)} one"


def _fewer(passes: float, alone: float) -> str:
    """
    >>> _fewer(10, 1550), _fewer(95, 100), _fewer(130, 100)
    ('160 times less often than', 'about as often as', '1.3 times as often as')
    """
    if 0.8 < passes / alone < 1.25:
        return "about as often as"
    return f"{_two_digits(alone / passes)} times less often than" if passes < alone else f"{_two_digits(passes / alone)} times as often as"


def _two_digits(number: float) -> str:
    """
    >>> _two_digits(1.34), _two_digits(155), _two_digits(6912)
    ('1.3', '160', '6,900')
    """
    return f"{float(f'{number:.2g}'):,.{0 if number >= 9.95 else 1}f}"


def lock_collapse_in_words(frame: pd.DataFrame) -> str:
    """What ``lock_collapse`` draws, a line a number of vCPUs and set of host CPUs, with what they ran and waited meanwhile.

    Parameters
    ----------
    frame : DataFrame
        As for ``lock_collapse``.
    """
    lines = _lines(frame)
    text = [_pass(frame, cpus, vcpus, points) for cpus, points in lines.items() for vcpus in points]
    return folded([*text, *ended(frame)])


def _pass(frame: pd.DataFrame, cpus: str, vcpus: int, points: Mapping[int, Measured]) -> str:
    rows, one = frame[(frame["cpus"] == cpus) & (frame["vcpus"] == vcpus)], points[vcpus]
    between = "" if one.low == one.high else f" ({turns(one.low)} to {turns(one.high)})"
    compared = "" if vcpus == min(points) else f", {_fewer(one.median, points[min(points)].median)} {min(points)}"
    ran, waited = (measured(rows[column]) for column in ("share", "waited"))
    text = f"{count(vcpus, 'vCPU')} on {place_of([cpus])}: {turns(one.median)} passes a second{between}{compared}"
    known = [f"ran {percent(ran.median)} of one CPU together"] if ran.known else []
    known += [f"each waited {percent(waited.median)} of the time"] if waited.known else []
    return f"{text}; {', '.join(known)}." if known else f"{text}."


# ---- tails


class Tail(NamedTuple):
    """How many turns took how long: so many from each of these times on, up to the next one (or longer: the last)."""

    starts: np.ndarray
    ends: np.ndarray
    counts: np.ndarray

    @property
    def later(self) -> np.ndarray:
        """Which share of all turns took as long as each bucket's beginning, or longer."""
        return self.counts[::-1].cumsum()[::-1] / max(1, self.counts.sum())

    def within(self, share: float) -> float:
        """So many of the turns took no longer than this: the end of a bucket."""
        return float(self.ends[np.searchsorted(self.counts.cumsum(), share * self.counts.sum())])

    @property
    def longest(self) -> float:
        return float(self.ends[np.flatnonzero(self.counts)[-1]])

    @property
    def interrupted(self) -> tuple[float, float]:
        """Of the turns that took LONG times the median: their share of all turns, and of all the time."""
        seconds = self.counts * (self.starts + self.ends) / 2
        chosen = self.starts >= LONG * self.within(0.5)
        return float(self.counts[chosen].sum() / self.counts.sum()), float(seconds[chosen].sum() / seconds.sum())


def tails(frames: pd.DataFrame | Mapping[str, pd.DataFrame], guess: float | None = None, ax: Axes | None = None) -> Axes:
    """What share of the turns took how long or longer, both on logarithmic scales: what is to the right of the knee are interruptions.

    Parameters
    ----------
    frames : DataFrame or mapping
        From ``Guest.tails``, a line a guest; or name to such frames, a line each.
    guess : float, optional
        How long the reader thinks that the longest turn of the last line took, in milliseconds.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    found = _tails(frames)
    guess_of(guess)
    ax = ax or new_axes(9.5, 3.8)
    for (name, tail), colour in zip(found.items(), COLOURS * len(found), strict=False):
        last = np.flatnonzero(tail.counts)[-1]
        when = [*tail.starts[1 : last + 1], tail.ends[last]]
        ax.plot(
            when,
            [*tail.later[1 : last + 1], tail.later[last]],
            color=colour,
            linewidth=1.8,
            label=f"{name}, longest {seconds(tail.longest)}",
        )
        ax.plot(when[-1], tail.later[last], "o", color=colour, markersize=5)
    if not found:
        ax.set(xticks=[], yticks=[])
    else:
        _scales(ax, found)
        ax.legend(loc="upper right", frameon=False, fontsize=9, labelcolor=INK, handlelength=1.4)
    if guess and found:
        ax.axvline(guess / 1e3, ymax=0.5, color=INK, linestyle="--", linewidth=1)
        ax.set_xlim(min(ax.get_xlim()[0], guess / 2e3), max(ax.get_xlim()[1], guess / 5e2))
        side, align = ((-5, 0), "right") if guess / 1e3 > np.prod(ax.get_xlim()) ** 0.5 else ((5, 0), "left")
        where = (guess / 1e3, 0.05), side, ("data", "axes fraction"), "offset points"
        ax.annotate(
            f"you said {guess:.4g} ms",
            where[0],
            where[1],
            *where[2:],
            ha=align,
            fontsize=9,
            color=INK,
            bbox={"color": "white", "alpha": 0.8, "pad": 0.5},
        )
    title = "How long the turns took: most are alike, a few are not" if found else "No turns were done"
    frame_axes(ax, title, "time between two turns of work")
    return ax


def _tails(frames: pd.DataFrame | Mapping[str, pd.DataFrame]) -> dict[str, Tail]:
    """Lines by name, of all those vCPUs together that did any turns."""
    for frame in frames.values() if isinstance(frames, Mapping) else [frames]:
        expect(frame, "tails", "Guest.tails")
    if not isinstance(frames, Mapping):
        frames = {str(guest): rows for guest, rows in frames.groupby("guest", sort=False)}
    found = {}
    for name, frame in frames.items():
        rows = frame.dropna(subset="count").groupby("from_s").agg({"to_s": "first", "count": "sum"}).reset_index()
        starts, counts = rows["from_s"].to_numpy(float), rows["count"].to_numpy(float)
        ends = rows["to_s"].to_numpy(float, na_value=np.nan)
        if counts.sum() > 0:
            found[str(name)] = Tail(starts, np.where(np.isnan(ends), starts, ends), counts)
    return found


def _scales(ax: Axes, found: Mapping[str, Tail]) -> None:
    least = min(tail.starts[max(1, np.flatnonzero(tail.counts)[0])] for tail in found.values())
    rarest = min(1 / tail.counts.sum() for tail in found.values())
    ax.set(xscale="log", yscale="log", xlim=(least / 1.5, max(tail.longest for tail in found.values()) * 2), ylim=(rarest / 2, 1.6))
    for axis, form in ((ax.xaxis, seconds), (ax.yaxis, _one_in)):
        axis.set_major_locator(LogLocator(numticks=12))
        axis.set_major_formatter(lambda number, _place, form=form: form(number))
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())
    ax.set_ylabel("turns that took so long or longer", fontsize=9, color=MUTED)
    ax.tick_params(axis="y", labelsize=8, colors=MUTED)
    ax.grid(color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)


def _one_in(share: float) -> str:
    """
    >>> _one_in(1), _one_in(0.01), _one_in(1 / 91234)
    ('all', '1 in 100', '1 in 91,234')
    """
    return "all" if share >= 1 else f"1 in {1 / share:,.0f}"


def seconds(time: float) -> str:
    """
    >>> seconds(3.2e-6), seconds(0.0124), seconds(1.5), seconds(0.001)
    ('3.2 µs', '12 ms', '1.5 s', '1 ms')
    """
    for size, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if time >= 0.9995 * size:
            return f"{time / size:.2g} {unit}" if time < 99.5 * size else f"{time / size:.0f} {unit}"
    return f"{time * 1e9:.0f} ns"


def tails_in_words(frames: pd.DataFrame | Mapping[str, pd.DataFrame]) -> str:
    """What ``tails`` draws, a line each: within which times how many turns came, and what part of the time went with the rest.

    Parameters
    ----------
    frames : DataFrame or mapping
        As for ``tails``.
    """
    return folded(f"{name}: {_told(tail)}." for name, tail in _tails(frames).items())


def _told(tail: Tail) -> str:
    some, time = tail.interrupted
    half, most = seconds(tail.within(0.5)), seconds(tail.within(0.99))
    parts = f"half of the turns within {half}, 99 of 100 within {most}, the longest {seconds(tail.longest)}"
    if not some:
        return f"{parts}; none took {LONG} times as long as most"
    return f"{parts}; {_one_in(some)} took {LONG} times as long as most, and with these went {percent(time)} of the time"
