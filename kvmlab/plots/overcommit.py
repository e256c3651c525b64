"""Over-commit: what guests do together, and each, by how many there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator

from kvmlab.plots.style import INK, MUTED, PALETTE, RULE, SERIES, expect, frame_axes, guess_of, new_axes
from kvmlab.wording import count

TOGETHER, EACH, PREDICTED = SERIES[2], PALETTE["guest"], SERIES[0]
SOURCE = "measure.overcommit"
MUCH = 0.05  # of a CPU, that others take: then it is said
NAMED = 8  # guests that are called by their names, where they get unequal parts


class Measured(NamedTuple):
    """The median of some repeats, the least and the most of them, and what the model says."""

    median: float
    low: float
    high: float
    predicted: float

    @property
    def known(self) -> bool:
        return self.median == self.median


# ---- together and each


def overcommit(frame: pd.DataFrame, guess: float | None = None, ax: Axes | None = None) -> Axes:
    """Turns of work a second, of all guests together and of each, against the number of guests; the model as lines under the points.

    A point is the median of the repeats, the bar through it goes from the least of them to the most. Where guests do no turns (idle
    ones), it is the part of a CPU that they took.

    Parameters
    ----------
    frame : DataFrame
        From ``measure.overcommit``.
    guess : float, optional
        What the reader thinks that the largest number of guests does together, in percent of what one CPU can do.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    told = _told(frame)
    guess_of(guess)
    ax = ax or new_axes(9.5, 3.8)
    labels = []
    for name, points in told["each"].items():
        _points(ax, points, EACH, 22)
        labels.append((list(points.values())[-1].median, _names(told).get(name), EACH))
    _points(ax, told["together"], TOGETHER, 40)
    top = _most([told["together"], *told["each"].values()])
    if told["together"]:
        labels.append((told["last"].median, f"together {_form(told, told['last'].median)}", TOGETHER))
    if guess is not None and told["alone"]:
        top = max(top, _guess(ax, told, guess))
        labels.append((guess / 100 * told["alone"], f"you said {guess:.0f} %", INK))
    ax.set_ylim(0, 1.12 * top or 1)
    numbers = list(told["together"])
    ax.xaxis.set_major_locator(FixedLocator(numbers) if len(numbers) <= 12 else MaxNLocator(integer=True))
    ax.set_xlim(min(numbers, default=1) - 0.5, max(numbers, default=1) + 0.5)
    beside(ax, max(numbers, default=1), [label for label in labels if label[1]])
    _left_axis(ax, told, top) if numbers else ax.set_yticks([])
    frame_axes(ax, _title(told), f"guests that {told['doing']} at once", pad=24)
    key(ax, [line("the model"), point("median of the repeats, and from the least to the most of them")])
    return ax


def _told(frame: pd.DataFrame) -> dict:
    """What picture and words say: by number of guests what they did together, and the same of each guest by its name."""
    expect(frame, "overcommit", SOURCE)
    turns = bool((frame["turns_per_s"].fillna(0) > 0).any())
    value, predicted = ("turns_per_s", "predicted_turns_per_s") if turns else ("share", "predicted")
    columns = [value, predicted]
    known = frame.astype(dict.fromkeys(columns, float))
    whole = known.groupby(["guests", "repeat", "guest"])[columns].agg(lambda part: part.sum(skipna=False)).reset_index()
    sums = whole.groupby(["guests", "repeat"])[columns].agg(lambda part: part.sum(skipna=False)).reset_index()
    alone = (known["predicted_turns_per_s"].astype(float) / known["predicted"].astype(float)).median() if turns else 1.0
    together = _by_number(sums, value, predicted)
    return {
        "turns": turns,
        "doing": "work" if turns else " and ".join(frame["work"].dropna().unique()) or "run",
        "alone": alone if together and alone == alone and alone > 0 else None,
        "together": together,
        "last": list(together.values())[-1] if together else None,
        "each": {str(name): _by_number(rows, value, predicted) for name, rows in whole.groupby("guest", sort=False)},
        "place": place_of(frame["cpus"].dropna()),
        "by": f" ({frame.attrs['accel'].upper()})" if frame.attrs.get("accel") else "",
    }


def _by_number(rows: pd.DataFrame, value: str, predicted: str) -> dict[int, Measured]:
    found = {int(number): measured(those[value], those[predicted]) for number, those in rows.groupby("guests")}
    return {number: one for number, one in found.items() if one.known}


def measured(values: pd.Series, predicted: pd.Series | None = None) -> Measured:
    values = values.astype(float)
    return Measured(values.median(), values.min(), values.max(), float("nan") if predicted is None else predicted.astype(float).median())


def place_of(cpus: Iterable[str]) -> str:
    """
    >>> place_of(["1", "1"]), place_of(["0-1"]), place_of(["0", "1"])
    ('CPU 1', 'CPUs 0-1', 'their CPUs')
    """
    cpus = list(dict.fromkeys(cpus))
    if len(cpus) != 1:
        return "their CPUs"
    return f"CPU {cpus[0]}" if cpus[0].isdigit() else f"CPUs {cpus[0]}"


def _most(series: Sequence[Mapping[int, Measured]]) -> float:
    numbers = [number for points in series for one in points.values() for number in (one.high, one.predicted)]
    return max((number for number in numbers if number == number), default=0.0)


def _points(ax: Axes, points: Mapping[int, Measured], colour: str, size: float) -> None:
    if not points:
        return
    numbers, (medians, lows, highs, predicted) = list(points), zip(*points.values(), strict=True)
    ax.plot(numbers, predicted, color=PREDICTED, linewidth=2.5, marker="_", markersize=16, markeredgewidth=2.5, zorder=1)
    ax.vlines(numbers, lows, highs, color=colour, linewidth=1.6, zorder=2)
    ax.scatter(numbers, medians, s=size, color=colour, linewidth=0, zorder=3, clip_on=False)


def _guess(ax: Axes, told: Mapping, guess: float) -> float:
    """The reader's line, from the fewest guests to the most; returns how high it goes."""
    first, last = min(told["together"]), max(told["together"])
    height = guess / 100 * told["alone"]
    ax.plot([first, last], [told["together"][first].median, height], color=INK, linewidth=1, linestyle="--", zorder=2)
    ax.plot([last], [height], "D", color="white", markeredgecolor=INK, markersize=7, zorder=4, clip_on=False)
    return height


def _names(told: Mapping) -> dict[str, str]:
    """What is written beside the last point of each guest: one word for all where the model gives them alike, or if they are many."""
    last = {name: list(points.values())[-1] for name, points in told["each"].items() if points}
    alike = len({f"{one.predicted:.3g}" for one in last.values()}) == 1
    if len(last) == 1:
        return {}
    if alike or len(last) > NAMED:
        middle = pd.Series([one.median for one in last.values()]).median()
        return {next(iter(last)): f"each {_form(told, middle)}"} if last else {}
    return {name: f"{name} {_form(told, one.median)}" for name, one in last.items()}


def beside(ax: Axes, x: float, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write (height, text, colour) to the right of points above x, moved up where they would touch."""
    to_points = ax.transData.transform
    lowest = -1e9
    for height, text, colour in sorted(labels):
        here = to_points((x, height))[1] * 72 / ax.figure.dpi
        lowest = max(here, lowest + 13)
        look = {"fontsize": 9, "fontweight": "bold", "color": colour, "bbox": {"color": "white", "alpha": 0.8, "pad": 0.5}}
        ax.annotate(text, (x, height), (14, lowest - here), textcoords="offset points", va="center", annotation_clip=False, **look)


def _left_axis(ax: Axes, told: Mapping, top: float) -> None:
    thousands = told["turns"] and top >= 10_000
    ax.set_ylabel(
        ("thousand turns a second" if thousands else "turns a second") if told["turns"] else "part of one CPU", fontsize=9, color=MUTED
    )
    scale = (1e3 if thousands else 1) if told["turns"] else 0.01
    unit = "" if told["turns"] else " %"
    ax.yaxis.set_major_formatter(lambda number, _place: f"{number / scale:,.6g}{unit}")
    ax.tick_params(axis="y", labelsize=8, colors=MUTED)
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)


def _form(told: Mapping, number: float) -> str:
    return turns(number) if told["turns"] else percent(number)


def turns(number: float) -> str:
    """
    >>> turns(301234), turns(37600), turns(634.2), turns(2.4)
    ('301 thousand', '37.6 thousand', '634', '2.4')
    """
    for size, word in ((1e6, " million"), (1e3, " thousand"), (1, "")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{word}"
    return f"{number:.2g}"


def percent(share: float) -> str:
    """
    >>> percent(0.2512), percent(0.009), percent(0.00012), percent(1), percent(0)
    ('25 %', '0.9 %', '0.01 %', '100 %', '0 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.{1 if share >= 0.0005 else 2}f} %"


def _title(told: Mapping) -> str:
    if not told["together"]:
        return f"No guest {'worked' if told['turns'] else 'ran'}"
    number, last = max(told["together"]), told["last"].median
    who = f"{count(number, 'guest')} on {told['place']}{told['by']}"
    if not told["turns"]:
        return f"{who}: {told['doing']}, all together {percent(last)} of one CPU"
    return f"{who}: together {percent(last / told['alone'])} of the work of one CPU" if told["alone"] else f"{who}: what they do together"


def overcommit_in_words(frame: pd.DataFrame) -> str:
    """What ``overcommit`` draws, a line a number of guests: what they did together, what each had of it, and what each paid in waiting.

    Parameters
    ----------
    frame : DataFrame
        As for ``overcommit``.
    """
    told = _told(frame)
    return folded([*(_line_of(told, number, frame[frame["guests"] == number]) for number in told["together"]), *ended(frame)])


def folded(sentences: Iterable[str]) -> str:
    """A line each, and those that are longer than a notebook is wide go on below; a number stays with its unit."""
    kept = (re.sub(r"(?<=\d) (?=%|thousand|million|[mµn]?s\b)", "\N{NO-BREAK SPACE}", sentence) for sentence in sentences)
    return "\n".join(fill(sentence, 110, subsequent_indent="    ") for sentence in kept).replace("\N{NO-BREAK SPACE}", " ")


def _line_of(told: Mapping, number: int, rows: pd.DataFrame) -> str:
    all_of_them, unit = told["together"][number], " turns a second" if told["turns"] else " of one CPU"
    there = [points[number] for points in told["each"].values() if number in points]
    text = f"{count(number, 'guest')} on {told['place']}: {_form(told, all_of_them.median)}{unit}"
    if all_of_them.predicted == all_of_them.predicted:
        text += f" (model: {_form(told, all_of_them.predicted)})"
    if len(there) > 1:
        text += f" together, {between([one.median for one in there], lambda value: _form(told, value))} each"
    paid = {"ran": rows["share"].dropna(), "waited": rows["waited"].dropna()}
    known = [f"{word} {between(shares, percent)}" for word, shares in paid.items() if len(shares)]
    text += f"; each vCPU {' and '.join(known)} of the time" if known else ""
    return " ".join([f"{text}.", *others_of(rows)])


def others_of(rows: pd.DataFrame) -> list[str]:
    """What else ran on the same CPUs, where that was much: the model does not know of it."""
    others = rows.groupby("repeat")["others"].first().dropna().astype(float)
    return [f"All else took {between(others, percent)} of one CPU."] if len(others) and others.max() >= MUCH else []


def between(values: Sequence[float], form) -> str:
    """
    >>> between([0.249, 0.251], percent), between([0.2, 0.4], percent)
    ('25 %', '20 % to 40 %')
    """
    low, high = form(float(min(values))), form(float(max(values)))
    return low if low == high else f"{low} to {high}"


def ended(frame: pd.DataFrame) -> list[str]:
    """What became of guests in mid-run, and of the measurement."""
    gone = [f"{name} ended {when}." for name, when in frame.attrs.get("ended", {}).items()]
    return [*gone, *(["It was stopped early."] if frame.attrs.get("stopped") else [])]


# ---- keys


def line(text: str) -> Line2D:
    return Line2D([], [], color=PREDICTED, linewidth=2.5, label=text)


def point(text: str) -> Line2D:
    return Line2D([], [], color=MUTED, marker="o", markersize=5, linewidth=1.6, label=text)


def key(ax: Axes, keys: Sequence[Line2D | Patch]) -> None:
    tight = {"borderaxespad": 0.2, "borderpad": 0.2, "columnspacing": 1.2, "handlelength": 1.2}
    ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(keys), frameon=False, fontsize=8, labelcolor=INK, **tight)
