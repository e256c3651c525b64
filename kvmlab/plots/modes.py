"""Where vCPUs spent their time: modes by workload, one vCPU's life, and exits by reason."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from kvmlab.errors import KvmlabError
from kvmlab.plots.layout import text_width
from kvmlab.plots.style import INK, MUTED, PALETTE, RULE, blocks, expect, frame_axes, new_axes
from kvmlab.wording import count

MODES = {  # colour and name
    "guest": (PALETTE["guest"], "guest"),
    "user": (PALETTE["user"], "user"),
    "kernel": (PALETTE["kernel"], "kernel"),
    "running": ("#9AA4B2", "ran too little to say in which mode"),
    "waiting": (PALETTE["waiting"], "waiting for a CPU"),
    "blocked": (PALETTE["halted"], "halted or asleep"),
}
SHORT = {"blocked": "halted"}
DARK = ("guest", "kernel")
GAP = 0.6
WINDOW_S, TICK_S, TICKS = 0.25, 0.01, 5  # modes are told from the ticks this far around an interval, if there are so many


# ---- modes


def modes(frame: pd.DataFrame, guess: Mapping[str, str] | None = None, ax: Axes | None = None) -> Axes:
    """A bar for each guest and workload: what share of the wall clock its vCPUs spent in each mode.

    Parameters
    ----------
    frame : DataFrame
        From ``measure.modes``.
    guess : mapping, optional
        The reader's prediction: workload to the mode that takes most of the time, such as ``{"spin": "guest"}``.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    bars, guess = _bars(frame), _modes_of(guess or {})
    places = [number + GAP * groups for number, groups in enumerate(_group_numbers([key[2] for key in bars]))]
    ax = ax or new_axes(9.5, 1.5 + 0.42 * max(1, (places or [0])[-1] + 1))
    ax.set_xlim(0, 1)
    for place, shares in zip(places, bars.values(), strict=True):
        _stack(ax, place, shares)
    for place, (key, shares) in zip(places, bars.items(), strict=True):
        if key[2] in guess:
            _mark(ax, place, guess[key[2]], guess[key[2]] == _most(shares))
    ax.set_yticks(places, _labels(list(bars)), fontsize=9, color=INK)
    ax.set_ylim((places or [0])[-1] + 0.65, -0.65)
    ax.xaxis.set_major_formatter(lambda share, _place: f"{100 * share:.0f} %")
    frame_axes(ax, _title(bars, guess), "share of the wall clock (medians of the runs, which need not add up)", pad=24)
    shown = {mode for shares in bars.values() for mode, share in shares.items() if share >= 0.005} | set(guess.values())
    _key(ax, shown)
    return ax


def _bars(frame: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, float]]:
    """By (guest, accel, workload), the workloads together: the known shares by mode, as they are stacked."""
    expect(frame, "modes", "measure.modes()")
    order = {work: number for number, work in enumerate(dict.fromkeys(frame["workload"]))}
    bars: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in frame.sort_values("workload", key=lambda work: work.map(order), kind="stable").itertuples():
        shares = bars.setdefault((row.guest, row.accel, row.workload), {})
        if pd.notna(row.share):
            shares[row.mode] = float(row.share)
    return {key: {mode: shares[mode] for mode in MODES if mode in shares} for key, shares in bars.items()}


def _group_numbers(workloads: list[str]) -> list[int]:
    changes = [before != after for before, after in pairwise(workloads)]
    lone = len(set(workloads)) == len(workloads)
    return [0, *np.cumsum(changes).tolist()] if workloads and not lone else [0] * len(workloads)


def _modes_of(guess: Mapping[str, str]) -> dict[str, str]:
    names = {"halted": "blocked"} | {mode: mode for mode in MODES if mode != "running"}
    for work, mode in guess.items():
        if mode not in names:
            raise KvmlabError(f"guess[{work!r}] is {mode!r}: write guest, user, kernel, waiting or halted.")
    return {work: names[mode] for work, mode in guess.items()}


def _stack(ax: Axes, place: float, shares: dict[str, float]) -> None:
    left = 0.0
    points = ax.get_window_extent().width * 72 / ax.figure.dpi
    for mode, share in shares.items():
        ax.barh(place, share, 0.86, left, color=MODES[mode][0], edgecolor="white", linewidth=0.6)
        text = f"{100 * share:.0f} %"
        if text_width(text, 8) + 6 < share * points:
            colour = "white" if mode in DARK else INK
            ax.text(left + share / 2, place, text, ha="center", va="center", fontsize=8, color=colour)
        left += share


def _mark(ax: Axes, place: float, mode: str, right: bool) -> None:
    """The reader's guess, beside the bar: its colour, its name, and whether it was so."""
    side = ax.get_yaxis_transform()
    ax.plot([1.025], [place], "s", color=MODES[mode][0], markeredgecolor=MUTED, markersize=9, transform=side, clip_on=False)
    text = f"you said {SHORT.get(mode, mode)} {'✓' if right else '✗'}"
    weight = "bold" if right else "normal"
    ax.annotate(text, (1.025, place), (10, 0), side, "offset points", va="center", fontsize=9, color=INK, fontweight=weight)


def _labels(keys: list[tuple[str, str, str]]) -> list[str]:
    """The workload, with whatever else tells two bars apart."""
    accels, several = {key[1] for key in keys}, len({key[:2] for key in keys}) > len({key[1] for key in keys})
    return [
        "  ".join([work, *([str(accel).upper()] if len(accels) > 1 or not several else []), *([guest] if several else [])])
        for guest, accel, work in keys
    ]


def _most(shares: Mapping[str, float]) -> str | None:
    return max(shares, key=lambda mode: shares[mode]) if shares else None


def _title(bars: Mapping[tuple, dict[str, float]], guess: Mapping[str, str]) -> str:
    if not bars:
        return "No workload was measured"
    told = [(key, _most(shares)) for key, shares in bars.items()]
    if guess:
        asked = [(key, mode) for key, mode in told if key[2] in guess]
        right = sum(guess[key[2]] == mode for key, mode in asked)
        return f"Where the time of a vCPU goes: you were right {right} of {count(len(asked), 'time')}"
    if len(told) > 3:
        return "Where the time of a vCPU goes, by what it does"
    each = [f"{SHORT.get(mode, mode) or 'not known'} in {key[2]}" for key, mode in told]
    return f"Where most time goes: {', '.join(each)}"


def _key(ax: Axes, shown: set[str]) -> None:
    keys = [Patch(color=colour, label=name) for mode, (colour, name) in MODES.items() if mode in shown]
    tight = {"borderaxespad": 0.2, "borderpad": 0.2, "columnspacing": 1.2, "handlelength": 1.2}
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": max(1, len(keys))}
    ax.legend(handles=keys, frameon=False, fontsize=8, labelcolor=INK, **tight, **place)


def modes_in_words(frame: pd.DataFrame) -> str:
    """What ``modes`` draws, a sentence a bar: what it spent most of its time on, how well that is known, and the rest.

    Parameters
    ----------
    frame : DataFrame
        From ``measure.modes``.
    """
    bars = _bars(frame)
    known = frame.set_index(["guest", "accel", "workload", "mode"])
    lines = []
    for label, (key, shares) in zip(_labels(list(bars)), bars.items(), strict=True):
        parts = []
        for mode, share in sorted(shares.items(), key=lambda item: -item[1]):
            row = known.loc[(*key, mode)]
            between = "" if pd.isna(row["low"]) else f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
            parts += [f"{MODES[mode][1]} {100 * share:.1f} %{between if not parts else ''}"] if share >= 0.0005 or not parts else []
        lines.append(f"{label}: {', '.join(parts) or 'not known'}.")
    return "\n".join(lines)


# ---- one life


def life(samples: pd.DataFrame, guest: str, vcpu: int = 0, ax: Axes | None = None) -> Axes:
    """One vCPU's life as a strip: between each two samples, what it did, stacked on each other.

    How long it ran and waited is exact. In which mode it ran is told from the kernel's ticks around. What is left is drawn as halted
    where it was seen asleep at one of the two samples, and stays white else.

    Parameters
    ----------
    samples : DataFrame
        From ``lab.sample``.
    guest, vcpu : str, int
        Whose life.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    expect(samples, "vcpus", "lab.sample()")
    mine = samples[(samples["guest"] == guest) & (samples["vcpu"] == vcpu)]
    if not len(mine):
        there = sorted({f"{row.guest} vCPU {row.vcpu}" for row in samples[["guest", "vcpu"]].itertuples()})
        raise KvmlabError(f"There is no vCPU {vcpu} of {guest!r} in these samples: they have {', '.join(there) or 'none'}.")
    steps = pd.concat([_steps(rows, mine["time_s"].min()) for _, rows in mine.groupby("tid", dropna=False)], ignore_index=True)
    ax = ax or new_axes(9.5, 1.9)
    bottom = np.zeros(len(steps))
    for mode in MODES:
        height = steps[mode].to_numpy(float)
        blocks(ax, steps["start"], bottom, steps["seconds"], height, facecolor=MODES[mode][0])
        bottom = bottom + height
    ax.set(xlim=(0, max(steps["start"] + steps["seconds"], default=1)), ylim=(0, 1))
    ax.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=8, color=MUTED)
    total = (steps[list(MODES)].mul(steps["seconds"], axis=0)).sum() / max(steps["seconds"].sum(), 1e-9)
    told = ", ".join(f"{SHORT.get(m, m)} {100 * s:.0f} %" for m, s in total.sort_values(ascending=False).items() if s >= 0.005)
    frame_axes(ax, f"{guest} vCPU {vcpu}: {told or 'it takes two samples to tell what it did'}", "seconds", pad=24)
    _key(ax, {mode for mode, share in total.items() if share >= 0.0005})
    return ax


def _steps(rows: pd.DataFrame, begin: float) -> pd.DataFrame:
    """Between each two samples: start, seconds, and the share of each mode."""
    times, run, delay = (rows[name].astype(float).to_numpy() for name in ("time_s", "run_s", "run_delay_s"))
    seconds = np.diff(times)
    ran, waited = (np.clip(np.nan_to_num(np.diff(counter) / seconds), 0, 1) for counter in (run, delay))
    steps = pd.DataFrame({"start": times[:-1] - begin, "seconds": seconds})
    split = _split(rows, times)
    for mode in ("guest", "user", "kernel"):
        steps[mode] = ran * split[mode]
    steps["running"] = ran * (1 - sum(split.values()))
    steps["waiting"] = np.minimum(waited, 1 - ran)
    asleep = rows["state"].ne("R").fillna(False).to_numpy(bool)
    steps["blocked"] = np.where(asleep[1:] | asleep[:-1], 1 - ran - steps["waiting"], 0)
    return steps


def _split(rows: pd.DataFrame, times: np.ndarray) -> dict[str, np.ndarray]:
    """The shares of guest, user and kernel in the ticks around each step; all 0 where there are too few."""
    ticks = {mode: rows[f"{mode}_s"].astype(float).to_numpy() for mode in ("guest", "user", "kernel")}
    first = np.searchsorted(times, times[:-1] - WINDOW_S, "left")
    last = np.searchsorted(times, times[1:] + WINDOW_S, "right") - 1
    risen = {mode: np.clip(np.nan_to_num(counter[last] - counter[first]), 0, None) for mode, counter in ticks.items()}
    total = sum(risen.values())
    enough = total > (TICKS - 0.5) * TICK_S
    return {mode: np.where(enough, part / np.where(enough, total, 1), 0) for mode, part in risen.items()}


# ---- exits


def exits(frames: pd.DataFrame | Mapping[str, pd.DataFrame], ax: Axes | None = None) -> Axes:
    """How often vCPUs left guest mode, by reason, all vCPUs together; or a sentence where nothing counted it.

    An exit a second or less by "signal" is the reading itself, which calls each vCPU out of guest mode.

    Parameters
    ----------
    frames : DataFrame or mapping
        From ``measure.exits``; or name to such frames, such as one a workload.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    runs = dict(frames) if isinstance(frames, Mapping) else {"": frames}
    for data in runs.values():
        expect(data, "exits", "measure.exits()")
    bars = [(name, *bar) for name, data in runs.items() for bar in _rates(data)]
    counted = [name for name, data in runs.items() if len(data)]
    ax = ax or new_axes(9.5, 1.3 + 0.3 * max(1, len(bars)))
    if counted:
        _exit_bars(ax, bars)
        frame_axes(ax, _exits_title(runs), "exits a second, on a logarithmic scale (other: KVM counts them under no reason)")
    else:
        why = [data.attrs["unavailable"]["exits_per_s"] for data in runs.values() if data.attrs.get("unavailable")]
        ax.set_axis_off()
        ax.text(0, 0.5, why[0] if why else "No guest ran.", transform=ax.transAxes, va="center", fontsize=10, color=MUTED, wrap=True)
        frame_axes(ax, "Exits: not counted here" if why else "No exits", "")
    return ax


def _rates(data: pd.DataFrame) -> list[tuple[str, float | None]]:
    """The reasons that there were, the most frequent first; one line to say so where there were none."""
    if not len(data):
        return [("not counted", None)]
    rates = data[data["reason"] != "all"].groupby("reason")["exits_per_s"].sum().astype(float).sort_values(ascending=False)
    return [(str(reason), rate) for reason, rate in rates.items() if rate >= 0.05] or [("none", None)]


def _exit_bars(ax: Axes, bars: list[tuple[str, str, float | None]]) -> None:
    groups = _group_numbers([name for name, _, _ in bars]) if len({name for name, _, _ in bars}) > 1 else [0] * len(bars)
    places = [number + GAP * group for number, group in enumerate(groups)]
    ax.set_xscale("log")
    for place, (_, _, rate) in zip(places, bars, strict=True):
        if rate is not None:
            ax.barh(place, rate, 0.86, color=PALETTE["kernel"])
            text = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
            ax.annotate(text, (rate, place), (3, 0), textcoords="offset points", va="center", fontsize=8, color=INK)
    first = [number == 0 or bars[number - 1][0] != name for number, (name, _, _) in enumerate(bars)]
    labels = [f"{name}    {reason}" if new and name else reason for new, (name, reason, _) in zip(first, bars, strict=True)]
    ax.set_yticks(places, labels, fontsize=9, color=INK)
    ax.set(xlim=(0.1, max(10, 4 * max(rate or 0 for _, _, rate in bars))), ylim=(places[-1] + 0.65, -0.65))
    ax.grid(axis="x", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)


def _exits_title(runs: Mapping[str, pd.DataFrame]) -> str:
    every = {name: float(data[data["reason"] == "all"]["exits_per_s"].sum()) for name, data in runs.items() if len(data)}
    most = max(every, key=lambda name: every[name])
    return f"Exits from guest mode: {every[most]:,.0f} a second{f' in {most}, the most' if len(every) > 1 else ''}"
