"""Where vCPUs ran, and what a placement did to their moves and their work."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from kvmlab.plots.style import INK, MUTED, PALETTE, RULE, SERIES, expect, frame_axes, new_axes


def placement(samples: pd.DataFrame, title: str = "Where each vCPU ran", ax: Axes | None = None) -> Axes:
    """Time to the right, a lane for each vCPU on each host CPU: how much of the time it ran there, and waited for that CPU.

    Parameters
    ----------
    samples : DataFrame
        From ``lab.sample``.
    title : str
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    expect(samples, "vcpus", "lab.sample")
    vcpus = list(samples.groupby(["guest", "vcpu", "tid"], dropna=False))
    cpus = sorted(int(cpu) for cpu in samples["cpu"].dropna().unique())
    ax = ax or new_axes(9, 0.9 + 0.26 * max(1, len(vcpus)) * (len(cpus) + 0.7))
    start = samples["time_s"].min() if len(samples) else 0
    ticks: dict[float, str] = {}
    for block, ((guest, vcpu, _), rows) in enumerate(vcpus):
        base = block * (len(cpus) + 0.7)
        for lane, cpu in enumerate(cpus):
            ticks[base + lane] = f"{guest} vCPU {vcpu}    CPU {cpu}" if lane == 0 else f"CPU {cpu}"
            ax.axhline(base + lane + 0.4, color=RULE, linewidth=0.6, zorder=0)
        _bars(ax, rows, start, {cpu: base + lane for lane, cpu in enumerate(cpus)})
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=9, color=INK)
    ax.tick_params(left=False)
    ax.set_ylim(max(ticks, default=0) + 0.7, -0.7)
    frame_axes(ax, title, "seconds")
    parts = [Patch(color=PALETTE["guest"], label="ran"), Patch(color=PALETTE["waiting"], label="waited for the CPU")]
    ax.legend(handles=parts, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return ax


def _bars(ax: Axes, rows: pd.DataFrame, start: float, lanes: Mapping[int, float]) -> None:
    """Between two samples: the share of the time it ran, and on top of it the share it waited, on the later one's CPU."""
    steps = rows[["time_s", "cpu", "run_s", "run_delay_s"]].astype(float).fillna(0).to_numpy()
    for before, after in pairwise(steps):
        seconds = after[0] - before[0]
        bottom = lanes[int(after[1])] + 0.4
        for part, counter in (("guest", 2), ("waiting", 3)):
            height = 0.8 * min(1.0, (after[counter] - before[counter]) / seconds)
            ax.bar(before[0] - start, -height, seconds, bottom, align="edge", color=PALETTE[part], linewidth=0)
            bottom -= height


def rates(runs: Mapping[str, pd.DataFrame], guess: float | None = None) -> list[Axes]:
    """Two bar charts beside each other: how often each vCPU moved, and how much work it did, in each run.

    Parameters
    ----------
    runs : mapping
        Name to a frame of ``measure.rates``; the first one is the reference.
    guess : float, optional
        The reader's prediction of moves a second in the first run, drawn as a line.
    """
    first = next(iter(runs.values()))
    labels = [f"{row.guest} vCPU {row.vcpu}" for row in first.itertuples()]
    height = 1.4 + 0.28 * len(labels) * (len(runs) + 0.6)
    figure, (moves, work) = plt.subplots(1, 2, figsize=(9, height), sharey=True, facecolor="white", layout="constrained")
    for number, (name, run) in enumerate(runs.items()):
        places = [block * (len(runs) + 0.6) + number for block in range(len(run))]
        _labelled_bars(moves, places, run["migrations_per_s"], name, SERIES[number % len(SERIES)], "{:.1f}")
        _labelled_bars(work, places, run["turns_per_s"] / 1e3, name, SERIES[number % len(SERIES)], "{:,.0f}")
    if guess is not None:
        moves.axvline(guess, color=INK, linestyle="--", linewidth=1)
        moves.annotate(f"your guess: {guess:g}", (guess, 1), (4, -2), "data", textcoords="offset points", fontsize=9, va="top", color=INK)
    middle = (len(runs) - 1) / 2
    moves.set_yticks([block * (len(runs) + 0.6) + middle for block in range(len(labels))], labels, fontsize=9, color=INK)
    moves.invert_yaxis()
    frame_axes(moves, "Moves to another CPU", "a second")
    frame_axes(work, "Work done", "thousand turns a second")
    figure.legend(
        *moves.get_legend_handles_labels(), loc="outside lower center", ncols=len(runs), frameon=False, fontsize=9, labelcolor=INK
    )
    return [moves, work]


def _labelled_bars(ax: Axes, places: list[float], values: pd.Series, name: str, colour: str, form: str) -> None:
    numbers = values.astype(float).tolist()
    ax.barh(places, numbers, 0.9, color=colour, label=name)
    for place, number in zip(places, numbers, strict=True):  # bar_label would say nothing of what is not known
        text, end = (form.format(number), number) if number == number else ("not known", 0)
        ax.annotate(text, (end, place), (3, 0), textcoords="offset points", va="center", fontsize=8, color=MUTED)
    ax.margins(x=0.15)
