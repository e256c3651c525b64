"""What a cache line's round trip costs between any two host CPUs: a matrix, every run by itself, and both in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from kvmlab.plots.style import INK, MUTED, PALETTE, expect, frame_axes, heading, new_axes
from kvmlab.wording import count

# What two CPUs share, nearest first. Above the diagonal a tint says it; the tints are neutral, for blue is how long it takes.
TINTS = {
    "same CPU": "#ecd0e0",
    "SMT siblings": "#b3aa9b",
    "same cluster": "#c6bfb3",
    "same L3": "#d9d4cb",
    "same node": "#e8e5df",
    "across nodes": "#f4f2ef",
    "not known": "#ffffff",
}
BLUES = LinearSegmentedColormap.from_list("round trips", ["#dcebf6", PALETTE["guest"], "#06263b"])
SPREAD_CELLS, VALUE_CELLS, MOST_TICKS = 8, 20, 16  # CPUs with which there is room for so much
RESTLESS = 1.25  # a pair whose middle half of runs spreads by more than this factor


def pingpong(runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Host CPUs by host CPUs: below the diagonal the median round trip, bluer for longer, above it what the two share.

    Beside it what each of these relations costs. CPUs that share something stand together. Where there is room, a cell has its
    numbers: the median, and between which two values the middle half of its runs lies; elsewhere an orange dot marks pairs whose
    middle half spreads by more than a quarter. On one CPU two vCPUs take turns: the diagonal has a colour of its own, or the
    scheduler's milliseconds would make all round trips through a cache look alike.

    Parameters
    ----------
    runs : DataFrame
        From ``measure.pingpong``.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Examples
    --------
    >>> plots.pingpong(measure.pingpong(lab))  # doctest: +SKIP
    """
    pairs = _pairs(runs)
    order = _together(pairs)
    place = {cpu: n for n, cpu in enumerate(order)}
    side = min(5.4, max(2.6, 0.68 * len(order)))
    ax = ax or new_axes(side + 3.6, side + 0.8)
    heading(ax, f"Round trip of a cache line between two vCPUs{_accel(runs)}")
    if not order:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "No runs.", ha="center", color=MUTED, transform=ax.transAxes)
        return ax
    norm = _norm(pairs)
    ax.imshow(_colours(pairs, place, norm), extent=(-0.5, len(order) - 0.5, len(order) - 0.5, -0.5))
    _write(ax, pairs, place, norm)
    _ticks(ax, order)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
    ax.legend(handles=_keys(pairs, len(order)), **beside, frameon=False, fontsize=8.5, labelcolor=INK)
    if len(order) > VALUE_CELLS and norm:
        _bar(ax, norm)
    return ax


def pingpong_runs(runs: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Every run as a dot, by what its two CPUs share, on a logarithmic scale: the noise, and whether it has one heap or two.

    Parameters
    ----------
    runs : DataFrame
        From ``measure.pingpong``.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Examples
    --------
    >>> plots.pingpong_runs(measure.pingpong(lab))  # doctest: +SKIP
    """
    expect(runs, "pingpong", "measure.pingpong")
    known = _named(runs).dropna(subset="round_trip_ns")
    found = [name for name in TINTS if name in set(known["relation"])]
    ax = ax or new_axes(8, 1 + 0.55 * max(1, len(found)))
    for line, name in enumerate(found):
        values = known[known["relation"] == name]["round_trip_ns"].to_numpy(float)
        offsets = (np.arange(len(values)) * 0.618033988749895 % 1 - 0.5) * 0.5  # as good as random, and the same each time
        ax.scatter(values, line + offsets, s=14, color=PALETTE["guest"], alpha=max(0.15, min(0.7, 60 / len(values))), linewidth=0)
        ax.plot([np.median(values)] * 2, [line - 0.36, line + 0.36], color=PALETTE["kernel"], linewidth=1.6)
        ax.annotate(_time(np.median(values)), (np.median(values), line - 0.38), ha="center", va="bottom", fontsize=8, color=INK)
    if len(known):
        ax.set_xscale("log")
        ax.margins(x=0.12)
    ax.set_ylim(len(found) - 0.4, -0.75)
    ax.set_yticks(range(len(found)), found, fontsize=9, color=INK)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda ns, _: _time(ns)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    frame_axes(ax, f"Every run{_accel(runs)}: each dot is one, the line their median", "one round trip of a cache line")
    return ax


def pingpong_in_words(runs: pd.DataFrame) -> str:
    """What ``pingpong`` and ``pingpong_runs`` draw, as text.

    Parameters
    ----------
    runs : DataFrame
        From ``measure.pingpong``.
    """
    pairs, named = _pairs(runs), _named(runs)
    lines = [_costs(name, those, named.loc[named["relation"] == name, "round_trip_ns"].dropna()) for name, those in _by_relation(pairs)]
    restless = [f"{row.cpu_a} and {row.cpu_b}" for row in pairs.itertuples() if row.spread > RESTLESS]
    if restless:
        lines.append(f"The middle half of the runs spreads by more than a quarter for CPUs {', '.join(restless[:5])}{_more(restless[5:])}.")
    others = runs[runs["cpu_a"] != runs["cpu_b"]]
    disturbed = (others["waited_s"] > 0.05 * others["seconds"]).sum()
    if disturbed:
        lines.append(f"In {disturbed} of {len(others)} runs on two CPUs, vCPUs waited for over 5 % of the time: something else ran there.")
    if runs.attrs.get("accel") == "tcg":
        lines.append("Under TCG this is what QEMU's emulation of the guest's instructions costs, not the hardware alone.")
    if runs.attrs.get("stopped"):
        lines.append("The measurement was stopped early.")
    return "\n".join(lines)


def _costs(name: str, pairs: pd.DataFrame, values: pd.Series) -> str:
    turns = ": two vCPUs on one CPU take turns, as the scheduler lets them" if name == "same CPU" else ""
    if values.empty:
        return f"{name} ({count(len(pairs), 'pair')}): not known."
    least, middle, most = (_time(value) for value in (values.min(), values.median(), values.max()))
    return f"{name} ({count(len(pairs), 'pair')}): {middle}, its {count(len(values), 'run')} {least} to {most}{turns}."


def _more(rest: list) -> str:
    return f" and {len(rest)} pairs more" if rest else ""


def _accel(runs: pd.DataFrame) -> str:
    return f" ({runs.attrs['accel'].upper()})" if runs.attrs.get("accel") else ""


def _time(ns: float) -> str:
    """
    >>> _time(127.6), _time(9.84), _time(1000), _time(8043815), _time(2.5e9)
    ('128 ns', '9.8 ns', '1 µs', '8 ms', '2.5 s')
    """
    for unit in ("ns", "µs", "ms"):
        if ns < 999.5:
            return f"{ns:.2g} {unit}" if ns < 10 else f"{ns:.0f} {unit}"
        ns /= 1000
    return f"{ns:.2g} s"


# ---- what is drawn


def _named(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.assign(relation=runs["relation"].fillna("not known"))


def _pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a pair: its CPUs and relation, quartiles and median of its runs, the factor between the quartiles; NaN where not known."""
    expect(runs, "pingpong", "measure.pingpong")
    groups = _named(runs).astype({"round_trip_ns": float}).groupby(["cpu_a", "cpu_b", "relation"])["round_trip_ns"]
    pairs = (
        groups.quantile([0.25, 0.5, 0.75]).unstack() if len(runs) else pd.DataFrame(columns=[0.25, 0.5, 0.75], index=groups.size().index)
    )
    pairs.columns = ["low", "median", "high"]
    return pairs.assign(spread=pairs["high"] / pairs["low"]).reset_index()


def _by_relation(pairs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name, pairs[pairs["relation"] == name]) for name in TINTS if name in set(pairs["relation"])]


def _together(pairs: pd.DataFrame) -> list[int]:
    """The CPUs in an order in which those that share more stand closer together: by the first CPU of each group that one is in."""
    names = list(TINTS)
    cpus = {int(cpu): [int(cpu)] * len(names) for cpu in {*pairs["cpu_a"], *pairs["cpu_b"]}}
    for row in pairs.itertuples():
        for level in range(names.index(row.relation), len(names)):
            cpus[row.cpu_b][level] = min(cpus[row.cpu_b][level], int(row.cpu_a))
    return sorted(cpus, key=lambda cpu: cpus[cpu][::-1])


def _norm(pairs: pd.DataFrame) -> LogNorm | None:
    """From the shortest to the longest round trip between two CPUs; a factor of 4 at least, or noise would look like a finding."""
    known = pairs[(pairs["cpu_a"] != pairs["cpu_b"])]["median"].dropna()
    if known.empty:
        return None
    middle = (known.min() * known.max()) ** 0.5
    return LogNorm(min(known.min(), middle / 2), max(known.max(), middle * 2))


def _colours(pairs: pd.DataFrame, place: dict[int, int], norm: LogNorm | None) -> np.ndarray:
    colours = np.ones((len(place), len(place), 3))
    for row in pairs.itertuples():
        high, low = sorted((place[row.cpu_a], place[row.cpu_b]))
        colours[high, low] = to_rgb(TINTS[row.relation])
        if high != low:
            colours[low, high] = BLUES(norm(row.median))[:3] if row.median == row.median else (1, 1, 1)
    return colours


def _write(ax: Axes, pairs: pd.DataFrame, place: dict[int, int], norm: LogNorm | None) -> None:
    """What stands in the cells, as far as there is room."""
    details = len(place) <= SPREAD_CELLS
    cells = [(*sorted((place[row.cpu_a], place[row.cpu_b])), row) for row in pairs.itertuples()]
    if not details:
        restless = [(x + 0.32, y - 0.32) for x, y, row in cells if row.spread > RESTLESS]
        ax.scatter(*zip(*restless, strict=True), s=max(3, 160 / len(place)), color=PALETTE["user"], linewidth=0) if restless else None
    for x, y, row in cells if len(place) <= VALUE_CELLS else ():
        dark = x != y and norm and norm(row.median) > 0.3
        ax.text(x, y, _in_cell(row, details), ha="center", va="center", fontsize=7 if details else 6, color="white" if dark else INK)
        if details and x != y:
            ax.text(y, x, row.relation.replace(" ", "\n", 1), ha="center", va="center", fontsize=7, color=MUTED)


def _in_cell(row, details: bool) -> str:
    if row.median != row.median:
        return "?"
    if not details:
        return _time(row.median).removesuffix(" ns").replace(" ", "\n")
    low, high = _time(row.low), _time(row.high)
    return _time(row.median) + (f"\n{low.split()[0]}-{high.split()[0]}" if low != high else "")


def _ticks(ax: Axes, order: list[int]) -> None:
    step = -(-len(order) // MOST_TICKS)
    places = range(0, len(order), step)
    labels = [order[n] for n in places]
    ax.set_xticks(places, labels)
    ax.set_yticks(places, labels)
    ax.tick_params(length=0 if step == 1 else 2, labelsize=8, colors=MUTED)
    ax.set_xlabel("host CPU of one vCPU", fontsize=9, color=MUTED)
    ax.set_ylabel("host CPU of the other", fontsize=9, color=MUTED)
    for side in ax.spines.values():
        side.set_visible(False)
    if len(order) <= VALUE_CELLS:
        for n in range(len(order) + 1):
            ax.axhline(n - 0.5, color="white", linewidth=1.5)
            ax.axvline(n - 0.5, color="white", linewidth=1.5)


def _keys(pairs: pd.DataFrame, cpus: int) -> list[Patch | Line2D]:
    """What each relation costs: the median of its pairs, and from the least to the most of them."""
    keys = []
    for name, those in _by_relation(pairs):
        known = those["median"].dropna()
        least, middle, most = (
            (_time(value) for value in (known.min(), known.median(), known.max())) if len(known) else ("", "not known", "")
        )
        text = f"{name}, {count(len(those), 'pair')}: {middle}" + (f"\n{least} to {most}" if least != most else "")
        text += "\n(they take turns)" if name == "same CPU" else ""
        keys.append(Patch(facecolor=TINTS[name], edgecolor=MUTED, linewidth=0.4, label=text))
    if cpus <= SPREAD_CELLS:
        keys.append(Line2D([], [], linestyle="", label="in a cell: the median, and\nthe middle half of its runs"))
    elif (pairs["spread"] > RESTLESS).any():
        style = {"marker": ".", "linestyle": "", "color": PALETTE["user"]}
        keys.append(Line2D([], [], **style, label="the middle half of its runs\nspreads by over a quarter"))
    return keys


def _bar(ax: Axes, norm: LogNorm) -> None:
    bar = ax.figure.colorbar(ScalarMappable(norm, BLUES), ax=ax, location="bottom", shrink=0.6, aspect=30, pad=0.02)
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda ns, _: _time(ns)))
    bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.tick_params(which="both", labelsize=7, colors=MUTED, length=2)
    bar.outline.set_visible(False)
