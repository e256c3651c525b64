"""What the host CPUs have to do: how many threads ran on each, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kvmlab.plots.layout import text_width
from kvmlab.plots.style import INK, ISOLATED, MUTED, PALETTE, RULE, blocks, expect, frame_axes, new_axes, runs, span
from kvmlab.wording import count

UPRIGHT = 24  # CPUs: with so many, bars stand upright
LANES = 16  # CPUs: more than these are a heat map
PER_CPU = ("migration", "ksoftirqd", "cpuhp", "idle_inject", "irq_work", "ktimers", "watchdog")
GROUPS = {  # of kinds of threads: colour and kinds; what is in none of them is another kernel thread
    "vCPUs": (PALETTE["guest"], ("vcpu",)),
    "other guest threads": ("#56B4E9", ("emulator", "iothread", "vhost", "kvm")),
    "ordinary": (PALETTE["user"], ("ordinary",)),
    "kworkers": (PALETTE["kernel"], ("kworker",)),
    "per-CPU kernel threads": ("#e89a66", PER_CPU),
    "other kernel threads": ("#f5d0b5", ()),
}
GROUP_OF = {kind: name for name, (_, kinds) in GROUPS.items() for kind in kinds}
PARTS = {  # of a CPU's time: the columns that make them
    "guest": ("guest_s", "guest_nice_s"),
    "user": ("user_s", "nice_s"),
    "kernel": ("kernel_s", "irq_s", "softirq_s"),
    "waiting": ("steal_s",),
    "halted": ("idle_s", "iowait_s"),
}
BUSY = ("guest", "user", "kernel")
NAMES = {"waiting": "steal", "halted": "idle"}
HEAT = LinearSegmentedColormap.from_list("busy", ["#f2f2f2", "#f7c873", PALETTE["kernel"], "#4d1f00"])  # ever darker


# ---- threads


def threads_per_cpu(frame: pd.DataFrame, ax: Axes | None = None, cpus: pd.DataFrame | None = None) -> Axes:
    """A bar for each host CPU: how many threads ran on it last, by what they are for.

    Parameters
    ----------
    frame : DataFrame
        From ``Host.threads_per_cpu()``.
    ax : Axes, optional
        Where to draw; a new figure by default.
    cpus : DataFrame, optional
        From ``Host.cpus()``: online CPUs without any thread have their place then, too, and isolated ones stand out.
    """
    table, isolated = _threads(frame, cpus)
    upright = len(table) >= UPRIGHT
    ax = ax or new_axes(9.5, 4.2 if upright else 1.5 + 0.3 * max(1, len(table)))
    places = range(len(table))
    for place in (place for place, cpu in enumerate(table.index) if cpu in isolated):
        (ax.axvspan if upright else ax.axhspan)(place - 0.5, place + 0.5, color=ISOLATED, zorder=0, linewidth=0)
    (_columns if upright else _bars)(ax, table, places)
    title = f"{count(int(table.sum().sum()), 'thread')} last ran on {count(len(table), 'CPU')}"
    title += f": {span(table.sum(axis=1), ' to ')} on each" if len(table) > 1 else ""
    frame_axes(ax, title, "host CPU" if upright else "threads", pad=24)
    keys = [Patch(color=GROUPS[name][0], label=name) for name in table if table[name].any()]
    _key(ax, [*keys, Patch(color=ISOLATED, label="isolated CPU")] if isolated else keys)
    return ax


def _threads(frame: pd.DataFrame, cpus: pd.DataFrame | None) -> tuple[pd.DataFrame, set[int]]:
    """Threads by CPU and group, and the isolated CPUs. Threads of which no CPU is known are not counted."""
    expect(frame, "threads_per_cpu", "Host.threads_per_cpu()")
    known = frame[frame["cpu"].notna()]
    groups = known["kind"].map(lambda kind: GROUP_OF.get(kind, "other kernel threads"))
    table = known["threads"].astype("int64").groupby([known["cpu"].astype("int64"), groups]).sum().unstack(fill_value=0)
    shown, isolated = set(table.index), set()
    if cpus is not None:
        expect(cpus, "cpus", "Host.cpus()")
        shown |= {int(cpu) for cpu in cpus[cpus["online"].fillna(False)]["cpu"]}
        isolated = {int(cpu) for cpu in cpus[cpus["isolated"].fillna(False)]["cpu"]}
    return table.reindex(index=sorted(shown), columns=list(GROUPS), fill_value=0), isolated & shown


def _bars(ax: Axes, table: pd.DataFrame, places: Sequence[int]) -> None:
    """Lying, with the number of threads on each part where there is room for it."""
    left, totals = 0, table.sum(axis=1)
    ax.set_xlim(0, max(1, totals.max() if len(table) else 1) * 1.06)
    points = ax.get_window_extent().width * 72 / ax.figure.dpi / ax.get_xlim()[1]
    for name in table:
        bars = ax.barh(places, table[name], 0.86, left=left, color=GROUPS[name][0], edgecolor="white", linewidth=0.6)
        labels = [f"{n}" if n and text_width(f"{n}", 8) + 4 < n * points else "" for n in table[name]]
        ax.bar_label(bars, labels, label_type="center", fontsize=8, color="white" if name in ("vCPUs", "kworkers") else INK)
        left = left + table[name]
    for place, total in zip(places, totals, strict=True):
        ax.annotate(f"{total}", (total, place), (4, 0), textcoords="offset points", va="center", fontsize=8, fontweight="bold", color=INK)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_yticks(places, [f"CPU {cpu}" for cpu in table.index], fontsize=9, color=INK)
    ax.set_ylim(len(table) - 0.4, -0.6)


def _columns(ax: Axes, table: pd.DataFrame, places: Sequence[int]) -> None:
    """Upright, with a number under as many as there is room for."""
    bottom = 0 * table.sum(axis=1)
    for name in table:
        blocks(ax, np.array(places) - 0.43, bottom, 0.86, table[name], facecolor=GROUPS[name][0])
        bottom = bottom + table[name]
    ax.set(xlim=(-0.6, len(table) - 0.4), ylim=(0, max(1, bottom.max()) * 1.05))
    ax.set_xticks(*_numbered(ax, table.index))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("threads", fontsize=9, color=MUTED)
    ax.tick_params(axis="y", labelsize=8, colors=MUTED)
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)


def _numbered(ax: Axes, cpus: Sequence[int], upright: bool = False) -> tuple[list[int], list[str]]:
    """Places and numbers of CPUs, so few that they do not touch: each, or each second, fourth, eighth, ..."""
    size = ax.get_window_extent()
    room = (size.height if upright else size.width) * 72 / ax.figure.dpi / max(1, len(cpus))
    need, step = (11 if upright else text_width(f"{max(cpus, default=0)}", 8) + 4), 1
    while step * room < need:
        step *= 2
    return list(range(0, len(cpus), step)), [f"{cpu}" for cpu in list(cpus)[::step]]


def _key(ax: Axes, keys: list[Patch]) -> None:
    """What colours mean, in one line under the title."""
    tight = {"borderaxespad": 0.2, "borderpad": 0.2, "columnspacing": 1.2, "handlelength": 1.2}
    ax.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=max(1, len(keys)), frameon=False, fontsize=8, labelcolor=INK, **tight
    )


def threads_per_cpu_in_words(frame: pd.DataFrame, cpus: pd.DataFrame | None = None) -> str:
    """What ``threads_per_cpu`` draws, as a sentence: each CPU of up to eight, else the extremes.

    Parameters
    ----------
    frame, cpus : DataFrame
        As for ``threads_per_cpu``.
    """
    table, isolated = _threads(frame, cpus)
    totals = table.sum(axis=1)
    told = list(table.index) if len(table) <= 8 else [totals.idxmin(), totals.idxmax()]
    parts = [f"{count(int(totals.sum()), 'thread')} on {count(len(table), 'CPU')}"]
    for cpu in told:
        groups = ", ".join(
            count(int(number), name.removesuffix("s")) if name != "ordinary" else f"{number} ordinary"
            for name, number in table.loc[cpu].items()
            if number
        )
        which = "" if len(table) <= 8 else " (fewest)" if cpu == told[0] else " (most)"
        parts.append(f"CPU {cpu}{which}: {totals[cpu]}{f' ({groups})' if groups else ''}")
    if isolated:
        parts.append(f"isolated: {runs(isolated)}")
    return "; ".join(parts)


# ---- time


def cpu_times(samples: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Where each host CPU's time went, between each two readings: a lane a CPU, or with more than 16 of them how busy each was.

    Parameters
    ----------
    samples : DataFrame
        Frames of ``Host.cpu_times()`` after each other, as ``pd.concat`` makes them.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    steps = _steps(samples)
    cpus = sorted(samples["cpu"].dropna().astype("int64").unique())
    many = len(cpus) > LANES
    ax = ax or new_axes(9.5, min(8.0, 1.6 + 0.06 * len(cpus)) if many else 1.4 + 0.5 * max(1, len(cpus)))
    (_heat if many else _lanes)(ax, steps, cpus)
    frame_axes(ax, _times_title(steps, cpus), "seconds", pad=8 if many else 24)
    return ax


def _steps(samples: pd.DataFrame) -> pd.DataFrame:
    """For each CPU and each two readings after each other: cpu, start, end, and the seconds of each part that is known.

    The kernel's idle and iowait counters may step back (proc(5)); that is no time.
    """
    expect(samples, "cpu_times", "Host.cpu_times()")
    rows = samples[samples["cpu"].notna() & samples["time_s"].notna()].sort_values(["cpu", "time_s"], ignore_index=True)
    cpu, time = rows["cpu"].astype("int64"), rows["time_s"].astype(float)
    spent = pd.DataFrame({part: rows[list(columns)].astype(float).sum(axis=1, min_count=1) for part, columns in PARTS.items()})
    steps = spent.groupby(cpu).diff().clip(lower=0).dropna(axis=1, how="all")
    place = pd.DataFrame({"cpu": cpu, "start": time.groupby(cpu).shift() - time.min(), "end": time - time.min()})
    return place.join(steps)[steps.sum(axis=1) > 0]


def _shares(steps: pd.DataFrame) -> pd.DataFrame:
    parts = steps[[part for part in PARTS if part in steps]]
    return parts.div(parts.sum(axis=1), axis=0)


def _of_cpus(steps: pd.DataFrame) -> pd.DataFrame:
    """The share of each part in all of each CPU's time."""
    return _shares(steps.groupby("cpu")[[part for part in PARTS if part in steps]].sum())


def _busy(shares: pd.DataFrame) -> pd.Series:
    return shares[[part for part in BUSY if part in shares]].sum(axis=1)


def _lanes(ax: Axes, steps: pd.DataFrame, cpus: list[int]) -> None:
    """A lane a CPU: its parts stacked on each other, a full lane being all of its time."""
    shares, whole = _shares(steps).fillna(0), _of_cpus(steps)
    bottom = steps["cpu"].map({cpu: lane for lane, cpu in enumerate(cpus)}) + 0.42
    for part in shares:  # y grows downwards
        blocks(ax, steps["start"], bottom, steps["end"] - steps["start"], -0.84 * shares[part], facecolor=PALETTE[part])
        bottom = bottom - 0.84 * shares[part]
    for lane, cpu in enumerate(cpus):
        if cpu in whole.index:
            text, place = f"{_busy(whole)[cpu]:.0%} busy", (1, lane)
            ax.annotate(text, place, (6, 0), ax.get_yaxis_transform(), "offset points", va="center", fontsize=9, color=INK)
    ax.set_yticks(range(len(cpus)), [f"CPU {cpu}" for cpu in cpus], fontsize=9, color=INK)
    ax.set(xlim=(0, steps["end"].max() if len(steps) else 1), ylim=(len(cpus) - 0.4, -0.6))
    _key(ax, [Patch(color=PALETTE[part], label=NAMES.get(part, part)) for part in shares])


def _heat(ax: Axes, steps: pd.DataFrame, cpus: list[int]) -> None:
    """A row a CPU: the darker, the busier."""
    top = steps["cpu"].map({cpu: lane for lane, cpu in enumerate(cpus)}) - 0.5
    cells = blocks(ax, steps["start"], top, steps["end"] - steps["start"], 1, cmap=HEAT, antialiased=False)
    cells.set_array(100 * _busy(_shares(steps)))
    cells.set_clim(0, 100)
    ax.set(xlim=(0, steps["end"].max() if len(steps) else 1), ylim=(len(cpus) - 0.5, -0.5))
    ax.set_yticks(*_numbered(ax, cpus, upright=True), fontsize=8, color=INK)
    ax.set_ylabel("host CPU", fontsize=9, color=MUTED)
    bar = ax.figure.colorbar(cells, ax=ax, pad=0.015, aspect=30, format="{x:.0f} %")
    bar.set_label("busy: guest, user and kernel", fontsize=9, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    bar.outline.set_visible(False)


def _times_title(steps: pd.DataFrame, cpus: list[int]) -> str:
    if not len(steps):
        return f"{count(len(cpus), 'CPU')}: it takes two readings to tell what their time was spent on"
    busy, seconds = _busy(_of_cpus(steps)), steps["end"].max() - steps["start"].min()
    most, least = f"{busy.max():.0%}", f"{busy.min():.0%}"
    apart = f"CPU {busy.idxmax()} most with {most}, CPU {busy.idxmin()} least with {least}" if most != least else "all alike"
    each = f": {apart}" if len(busy) > 1 else ""
    return f"{count(len(busy), 'CPU')} {busy.mean():.0%} busy in {seconds:.3g} s{each}"


def cpu_times_in_words(samples: pd.DataFrame) -> str:
    """What ``cpu_times`` draws, as a sentence: each CPU of up to eight, else the least and the most busy one.

    Parameters
    ----------
    samples : DataFrame
        As for ``cpu_times``.
    """
    steps = _steps(samples)
    title = _times_title(steps, sorted(samples["cpu"].dropna().unique()))
    shares = _of_cpus(steps)
    if len(shares) > 8:
        busy = _busy(shares)
        shares = shares.loc[sorted({busy.idxmin(), busy.idxmax()})]
    parts = [
        f"CPU {cpu}: {', '.join(f'{NAMES.get(part, part)} {share:.0%}' for part, share in row.items())}" for cpu, row in shares.iterrows()
    ]
    return "; ".join([title, *parts])
