"""Plans beside each other: what they did to the work of the same vCPUs, and what each vCPU waited, moved and paused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from kvmlab.plots.overcommit import Measured, between, ended, folded, measured, others_of, percent, point, turns
from kvmlab.plots.style import INK, MUTED, PALETTE, SERIES, expect, frame_axes
from kvmlab.plots.tails import seconds
from kvmlab.wording import count

NAMED = 8  # vCPUs of a plan: where there are more, they are drawn smaller, without names and numbers
_TITLES = (
    ("Work, all together", "of that under the first plan"),
    ("Waited for a CPU", "part of the time"),
    ("Moved", "times a second"),
    ("Longest pause", "between two turns of work"),
)


def _moves(rate: float) -> str:
    """
    >>> _moves(0), _moves(0.25), _moves(12.4)
    ('0', '0.2', '12')
    """
    return f"{rate:.1f}" if 0 < rate < 9.95 else f"{rate:.0f}"


_PANELS = (  # of each vCPU: column, colour, the least extent of the axis (none: a logarithmic one), how a value is written
    ("waited", PALETTE["waiting"], 0.1, percent),
    ("migrations_per_s", SERIES[2], 1, _moves),
    ("longest_s", PALETTE["kernel"], None, seconds),
)


class _Plan(NamedTuple):
    """A plan: the work under it, as a part of the first plan's and in turns a second, and each vCPU's rows."""

    name: str
    part: Measured
    turns: Measured
    vcpus: dict[str, pd.DataFrame]

    def of(self, column: str) -> dict[str, Measured]:
        return {vcpu: measured(rows[column]) for vcpu, rows in self.vcpus.items()}


class _Place(NamedTuple):
    """Where plans and their vCPUs lie, in lanes from the top; a plan's name has one of its own where its vCPUs stand below."""

    plans: int
    vcpus: int

    @property
    def roomy(self) -> bool:
        return self.vcpus <= NAMED

    @property
    def lane(self) -> float:
        """In inches."""
        return 0.21 if self.roomy else 0.06

    @property
    def line(self) -> float:
        """What a line of text takes."""
        return 0.21 / self.lane

    @property
    def head(self) -> float:
        return self.line if self.vcpus > 1 else 0

    @property
    def bottom(self) -> float:
        return self.plan(self.plans)

    def plan(self, number: int) -> float:
        return number * (self.head + self.vcpus + (0.6 if self.vcpus > 1 else 1) * self.line)

    def vcpu(self, plan: int, number: int) -> float:
        return self.plan(plan) + self.head + number


def plans(frame: pd.DataFrame, guess: Mapping[str, float] | None = None) -> list[Axes]:
    """Four pictures beside each other, a block a plan: the work of all vCPUs together, and how each waited, moved and paused.

    The work is in percent of that under the first plan; where vCPUs do different works, it is the mean of these percentages. Bars and
    points are medians of the repeats, the lines through them go from the least to the most.

    Parameters
    ----------
    frame : DataFrame
        From ``measure.placement``.
    guess : mapping, optional
        Name of a plan to how much work the reader expects under it, in percent of the first one.
    """
    found = _plans(frame)
    place = _Place(len(found), max((len(plan.vcpus) for plan in found), default=1))
    height = 1.5 + place.lane * (max(place.bottom, 1) + 0.7)
    figure, axes = plt.subplots(1, 4, figsize=(9.5, height), width_ratios=(1.25, 1, 1, 1), facecolor="white", layout="constrained")
    _work(axes[0], found, place, guess or {})
    for ax, (column, colour, least, form) in zip(axes[1:], _PANELS, strict=True):
        lanes = {place.vcpu(n, lane): one for n, plan in enumerate(found) for lane, one in enumerate(plan.of(column).values())}
        _lanes(ax, lanes, colour, least, form, place.roomy)
    for ax, words in zip(axes, _TITLES, strict=True):
        frame_axes(ax, *words)
        ax.set(ylim=(max(place.bottom, 1) - 0.2, -0.7), yticks=[])
    _names(axes[0], found, place)
    figure.suptitle(_title(frame, found), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    keys = [point("median of the repeats, and from the least to the most of them")] if found else []
    figure.legend(handles=keys, loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK)
    return list(axes)


# ---- what is told


def _plans(frame: pd.DataFrame) -> list[_Plan]:
    """In the order they were given."""
    expect(frame, "placement", "measure.placement")
    names = [name for name in frame.attrs.get("plans", frame["plan"].unique()) if (frame["plan"] == name).any()]
    work = _parts(frame, names[0]) if names else ()
    found = []
    for name in names:
        rows = frame[frame["plan"] == name].sort_values(["guest", "vcpu"])
        vcpus = {f"{guest} vCPU {vcpu}": those for (guest, vcpu), those in rows.groupby(["guest", "vcpu"], sort=False)}
        found.append(_Plan(str(name), *(measured(values[values.index.get_level_values("plan") == name]) for values in work), vcpus))
    return found


def _parts(frame: pd.DataFrame, first: str) -> tuple[pd.Series, pd.Series]:
    """By plan and repeat, the work as a part of the first plan's, and in turns a second where all do the same work.

    Runs in which a guest was missing are left out: what was missing is no fault of the plan.
    """
    known = frame.astype({"turns_per_s": float, "work": str})
    there = known.groupby(["plan", "repeat"])["guest"].transform("size")
    sums = known[there == there.max()].groupby(["plan", "repeat", "work"])["turns_per_s"].agg(lambda part: part.sum(skipna=False))
    usual = sums[sums.index.get_level_values("plan") == first].groupby("work").median()
    usual = usual[usual > 0]
    parts = sums / sums.index.get_level_values("work").map(usual).to_numpy(float)
    totals = (sums if len(usual) == 1 else np.nan * sums).groupby(["plan", "repeat"]).sum(min_count=1)
    return parts.dropna().groupby(["plan", "repeat"]).mean(), totals


def _title(frame: pd.DataFrame, found: Sequence[_Plan]) -> str:
    if not found:
        return "Nothing was measured"
    by = f" ({frame.attrs['accel'].upper()})" if frame.attrs.get("accel") else ""
    return f"The same work of {count(max(len(plan.vcpus) for plan in found), 'vCPU')} under {count(len(found), 'plan')}{by}"


# ---- how it is drawn


def _work(ax: Axes, found: Sequence[_Plan], place: _Place, guess: Mapping[str, float]) -> None:
    """A bar a plan, and the reader's guess below it."""
    for number, plan in enumerate(found):
        middle, thick = place.vcpu(number, 0) + (place.vcpus - 1) / 2, (1.1 if place.head else 0.72) * place.line
        if plan.part.known:
            ax.barh(middle, plan.part.median, thick, color=PALETTE["guest"], linewidth=0)
        _number(ax, plan.part, middle, percent, 0, fontsize=9, fontweight="bold")
        _intervals(ax, {middle: plan.part})
        if plan.name in guess:
            said, below = guess[plan.name] / 100, middle + thick / 2 + 0.7 * place.line
            ax.plot([said], [below], "D", color="white", markeredgecolor=INK, markersize=6, zorder=4, clip_on=False)
            look = {"textcoords": "offset points", "va": "center", "fontsize": 9, "color": INK}
            ax.annotate(f"you said {guess[plan.name]:.0f} %", (said, below), (7, 0), **look)
    ends = [1.35 * plan.part.high for plan in found if plan.part.known] + [said / 100 + 0.9 for said in guess.values()]
    ax.set_xlim(0, max(ends, default=1) or 1)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(lambda part, _place: f"{100 * part:.0f} %")


def _lanes(ax: Axes, lanes: Mapping[float, Measured], colour: str, least: float | None, form: Callable, roomy: bool) -> None:
    """A bar a vCPU; or a point on a logarithmic scale, where that has no least extent."""
    known = {place: one for place, one in lanes.items() if one.known}
    medians = [one.median for one in known.values()]
    most = max((one.high for one in known.values()), default=1)
    if least is not None:
        ax.barh(list(known), medians, 0.72, color=colour, linewidth=0)
        ax.set_xlim(0, 1.4 * max(most, least))
        ax.xaxis.set_major_locator(MaxNLocator(4))
    elif known:
        ax.set(xscale="log", xlim=(min(one.low for one in known.values()) / 3, most * 20))
        ax.xaxis.set_major_locator(LogLocator(numticks=5))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.scatter(medians, list(known), s=30 if roomy else 5, color=colour, linewidth=0, zorder=3)
    else:
        ax.set_xticks([])
    ax.xaxis.set_major_formatter(lambda value, _place: form(value))
    _intervals(ax, known, INK if roomy else MUTED)
    for place, one in lanes.items() if roomy else ():
        _number(ax, one, place, form, ax.get_xlim()[0], fontsize=8)


def _intervals(ax: Axes, lanes: Mapping[float, Measured], colour: str = INK) -> None:
    ax.hlines(list(lanes), [one.low for one in lanes.values()], [one.high for one in lanes.values()], color=colour, linewidth=1, zorder=2)


def _number(ax: Axes, one: Measured, place: float, form: Callable, start: float, **style: object) -> None:
    text, end = (form(one.median), one.high) if one.known else ("not known", start)
    ax.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center", color=INK if one.known else MUTED, **style)


def _names(ax: Axes, found: Sequence[_Plan], place: _Place) -> None:
    """A plan's name above those of its vCPUs; where there is one, the plan's is enough."""
    names = {place.plan(number): plan.name for number, plan in enumerate(found)}
    vcpus = {place.vcpu(number, lane): vcpu for number, plan in enumerate(found) for lane, vcpu in enumerate(plan.vcpus)}
    ticks = {**(vcpus if place.roomy and place.head else {}), **names}
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=8, color=INK, parse_math=False)
    for where, label in zip(ticks, ax.get_yticklabels(), strict=True):
        if where in names:
            label.set(fontweight="bold", fontsize=9)


# ---- in words


def plans_in_words(frame: pd.DataFrame) -> str:
    """What ``plans`` draws, a line a plan.

    Parameters
    ----------
    frame : DataFrame
        As for ``plans``.
    """
    found, reasons = _plans(frame), frame.attrs.get("unavailable", {})
    lines = [" ".join([_line(plan, found[0]), *others_of(frame[frame["plan"] == plan.name])]) for plan in found]
    words = {"turns_per_s": "work", "waited": "waited", "migrations_per_s": "moves", "longest_s": "pauses"}
    silent = [f"{word}: {reasons[column]}." for column, word in words.items() if column in reasons and frame[column].isna().any()]
    return folded([*lines, *silent, *ended(frame)])


def _line(plan: _Plan, first: _Plan) -> str:
    text = "work not known"
    if plan.part.known:
        spread = "" if plan.part.low == plan.part.high else f" ({100 * plan.part.low:.1f} to {100 * plan.part.high:.1f})"
        of = "" if plan is first else f" of the work under '{first.name}'"
        text = f"{turns(plan.turns.median)} turns a second, " if plan.turns.known else ""
        text += f"{100 * plan.part.median:.1f} %{of}{spread}"
    told = ("waited {} of the time", "moved {} times a second", "longest pause {}")
    each = [_each(plan, column, words, form) for (column, *_, form), words in zip(_PANELS, told, strict=True)]
    return f"{plan.name}: {'; '.join([text, *filter(None, each)])}."


def _each(plan: _Plan, column: str, words: str, form: Callable) -> str:
    """What the vCPUs have in common; of a few that differ, each with its name."""
    known = {vcpu: one.median for vcpu, one in plan.of(column).items() if one.known}
    if not known:
        return ""
    low, high = min(known.values()), max(known.values())
    if len(known) > NAMED or high <= 1.5 * low + 0.05 * (column == "waited"):
        return words.format(between(list(known.values()), form))
    return words.format(", ".join(f"{form(value)} ({vcpu})" for vcpu, value in known.items()))
