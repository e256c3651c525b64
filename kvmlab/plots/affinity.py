"""Where any threads ran, look by look."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from kvmlab.plots.style import INK, PALETTE, RULE, blocks, expect, frame_axes, new_axes, runs
from kvmlab.wording import count

_SOURCE = "measure.follow(lambda: host.affinity(pid))"


def affinity(looks: pd.DataFrame, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Time to the right, a lane for each thread on each host CPU: how much of the time it ran there, and waited for that CPU.

    CPUs that a thread may not use are left out of its lanes.

    Parameters
    ----------
    looks : DataFrame
        Frames of ``Host.affinity`` below each other, as ``measure.follow`` makes them.
    title : str, optional
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    expect(looks, "affinity", _SOURCE)
    threads = [rows.sort_values("time_s") for _, rows in looks.groupby("tid")]
    lanes = [(number, cpu) for number, rows in enumerate(threads) for cpu in sorted(set(rows["cpu"].dropna()))]
    places = {lane: index + 0.7 * lane[0] for index, lane in enumerate(lanes)}
    ax = ax or new_axes(9.5, 1.1 + 0.26 * max(2, max(places.values(), default=0)))
    start, end = (looks["time_s"].min(), looks["time_s"].max()) if looks["time_s"].notna().any() else (0, 1)
    for number, rows in enumerate(threads):
        _spent(ax, rows, start, {cpu: places[of, cpu] for of, cpu in lanes if of == number})
    for place in places.values():
        ax.axhline(place + 0.4, color=RULE, linewidth=0.6, zorder=0)
    ax.set_yticks(list(places.values()), [_label(threads, lane, lanes) for lane in lanes], fontsize=9, color=INK, parse_math=False)
    ax.set(xlim=(0, max(end - start, 1e-3)), ylim=(max(places.values(), default=0) + 0.7, -0.7))
    frame_axes(ax, title or f"Where {count(len(threads), 'thread')} ran", "seconds")
    parts = [Patch(color=PALETTE["user"], label="ran"), Patch(color=PALETTE["waiting"], label="waited for the CPU")]
    ax.legend(handles=parts, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return ax


def _label(threads: list[pd.DataFrame], lane: tuple[int, int], lanes: list[tuple[int, int]]) -> str:
    number, cpu = lane
    last = threads[number].iloc[-1]
    first = min(other for of, other in lanes if of == number)
    return f"{last['comm']} {last['tid']}, allowed {last['allowed_cpus']}    CPU {cpu}" if cpu == first else f"CPU {cpu}"


def _spent(ax: Axes, rows: pd.DataFrame, start: float, lanes: dict[int, float]) -> None:
    """Between two looks: the share of the time it ran, and on top of it the share it waited, on the later look's CPU."""
    known = rows[rows["cpu"].notna()]
    steps = known[["time_s", "run_s", "run_delay_s"]].astype(float).diff().iloc[1:]
    left = known["time_s"].astype(float).to_numpy()[:-1] - start
    bottom = np.array([lanes[cpu] for cpu in known["cpu"].iloc[1:]]) + 0.4
    for colour, column in (("user", "run_s"), ("waiting", "run_delay_s")):
        height = 0.8 * (steps[column] / steps["time_s"]).clip(0, 1).fillna(0).to_numpy()
        blocks(ax, left, bottom, steps["time_s"].to_numpy(), -height, facecolor=PALETTE[colour])
        bottom = bottom - height


def affinity_in_words(looks: pd.DataFrame) -> str:
    """What ``affinity`` draws, a line a thread: where it may run, where it ran, and how long.

    Parameters
    ----------
    looks : DataFrame
        As for ``affinity``.
    """
    expect(looks, "affinity", _SOURCE)
    lines = []
    for tid, rows in looks.groupby("tid"):
        known = rows.sort_values("time_s")
        last, spent = known.iloc[-1], known.iloc[-1][["time_s", "run_s", "run_delay_s"]] - known.iloc[0][["time_s", "run_s", "run_delay_s"]]
        share = "" if pd.isna(spent["run_s"]) or not spent["time_s"] else f" for {spent['run_s'] / spent['time_s']:.0%} of the time"
        where = f"may run on {last['allowed_cpus']} and was seen on CPU {runs(int(cpu) for cpu in set(known['cpu'].dropna()))}"
        lines.append(f"{last['comm']} {tid} {where}; it ran{share}." if share else f"{last['comm']} {tid} {where}.")
    return "\n".join(lines)
