"""What is kept away from which CPU and what is there all the same, in words; and busy threads beside isolated CPUs, as a picture."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch

from kvmlab.plots.style import INK, ISOLATED, MUTED, PALETTE, RULE, expect, new_axes, runs
from kvmlab.plots.usage import PER_CPU
from kvmlab.wording import count

_SENTENCES = {  # column of isolation(): what it keeps away, and what that leaves
    "isolcpus": "left out of load balancing (isolcpus): the kernel puts no thread there by itself, and moves none that is there",
    "managed_irq": "kept free of managed interrupts, those of disks and network cards with a queue a CPU, as far as others can take them",
    "nohz_full": "without a timer tick while a single thread runs (nohz_full); with a second one the tick is back",
    "rcu_nocbs": "relieved of their RCU callbacks (rcu_nocbs): threads named rcuo* run these elsewhere",
}


def isolation_in_words(frame: pd.DataFrame, threads: pd.DataFrame | None = None) -> str:
    """What is kept away from which CPU, and what is there all the same: a sentence a line.

    Parameters
    ----------
    frame : DataFrame
        From ``Host.isolation()``.
    threads : DataFrame, optional
        From ``Host.threads()``: threads on CPUs that something is kept away from are told, too.
    """
    expect(frame, "isolation", "Host.isolation()")
    lines, isolated = [], set()
    for column, words in _SENTENCES.items():
        cpus = _cpus(frame[frame[column].fillna(False).astype(bool)])
        isolated |= cpus
        lines += [f"{_named(cpus)} {words}."] if cpus else []
    for group, rows in frame.groupby("cpuset_partition"):
        isolated |= _cpus(rows)
        lines.append(f"{_named(_cpus(rows))} there for cpuset {group} alone: no thread outside of it is put there.")
    unknown = [column for column in _SENTENCES if frame[column].isna().all()]
    lines += [f"Not known: {', '.join(unknown)}."] if unknown and len(frame) else []
    if not isolated:
        lines.append("Nothing is kept away from any CPU: every thread that is not bound may come to each of them, and so may interrupts.")
        return "\n".join(lines)
    return "\n".join([*lines, _irqs(frame[frame["cpu"].isin(isolated)]), *_threads(threads, isolated)])


def _cpus(rows: pd.DataFrame) -> set[int]:
    return {int(cpu) for cpu in rows["cpu"]}


def _named(cpus: Iterable[int]) -> str:
    return f"CPUs {runs(cpus)} are" if len(set(cpus)) > 1 else f"CPU {runs(cpus)} is"


def _irqs(rows: pd.DataFrame) -> str:
    if rows["irqs"].isna().all():
        return "Which interrupts go there is not known."
    told = [f"{row.irqs} to CPU {row.cpu}" for row in rows.itertuples() if isinstance(row.irqs, str) and row.irqs]
    return f"Interrupts that may go there all the same: {'; '.join(told)}." if told else "No interrupt goes there."


def _threads(threads: pd.DataFrame | None, cpus: set[int]) -> list[str]:
    if threads is None:
        return []
    expect(threads, "threads", "Host.threads()")
    there = threads[threads["cpu"].isin(cpus)]
    pooled = (there["kind"] == "kworker") & there["pool"].str.match(r"\d").fillna(False)  # u4: bound to no CPU
    bound = there["kind"].isin(PER_CPU) | pooled
    numbers = {kind: int(number) for kind, number in there[bound]["kind"].value_counts().items()}
    kernels = f"Of the kernel's own there are {', '.join(f'{number} {kind}' for kind, number in numbers.items())}, bound to their CPU."
    others = [f"{row.comm} ({row.tid}) on CPU {row.cpu}" for row in there[~bound].itertuples()]
    rest = f"{count(len(others), 'other thread')} last ran there: {', '.join(others[:6])}{', and more' * (len(others) > 6)}."
    return [*([kernels] if numbers else []), rest if others else "No other thread last ran there."]


# ---- busy loops


def loops(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Busy loops in a Linux guest: a column a start of loops, a row a CPU, a box a loop, as wide as the part of the time that it ran.

    Parameters
    ----------
    frame : DataFrame
        ``loops`` of one or several ``boot_isolated``.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    expect(frame, "loops", "kvmlab.guest.isolated.boot_isolated().loops")
    groups = list(frame.groupby(["isolcpus", "started_on"], sort=False, dropna=False))
    lanes = max([4, *(int(cpu) + 1 for cpu in frame["cpu"].dropna())])
    ax = ax or new_axes(9.5, 1.3 + 0.42 * lanes)
    for column, ((isolcpus, started_on), rows) in enumerate(groups):
        _column(ax, column * 1.25, rows, lanes, set(_members(isolcpus)))
        words = f"{count(len(rows), 'loop')} on {started_on}"
        ax.text(column * 1.25, -0.62, words, fontsize=9, color=INK, va="bottom")
        ax.text(column * 1.25, -1.0, f"isolcpus={isolcpus}" if isolcpus else "nothing isolated", fontsize=9, color=MUTED, va="bottom")
    ax.set(xlim=(-0.02, max(1, len(groups)) * 1.25 - 0.2), ylim=(lanes - 0.45, -1.45), xticks=[])
    ax.set_yticks(range(lanes), [f"CPU {cpu}" for cpu in range(lanes)], fontsize=9, color=INK)
    ax.tick_params(left=False)
    ax.set_title("Where busy loops ran, and for what part of the time", loc="left", fontsize=11, fontweight="bold", color=INK)
    for side in ax.spines.values():
        side.set_visible(False)
    keys = [Patch(color=PALETTE["user"], label="a loop"), Patch(color=ISOLATED, label="isolated CPU")]
    ax.legend(handles=keys, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    return ax


def _members(text: str) -> list[int]:
    """The CPUs of a list that kvmlab itself wrote."""
    parts = [part.split("-") for part in str(text).split(",") if part]
    return [cpu for part in parts for cpu in range(int(part[0]), int(part[-1]) + 1)]


def _column(ax: Axes, left: float, rows: pd.DataFrame, lanes: int, isolated: set[int]) -> None:
    for cpu in range(lanes):
        colour = ISOLATED if cpu in isolated else "#f2f2f2"
        ax.add_patch(FancyBboxPatch((left, cpu - 0.4), 1, 0.8, boxstyle="square,pad=0", facecolor=colour, edgecolor=RULE, linewidth=0.6))
        place = left
        for share in rows[rows["cpu"] == cpu]["share"].fillna(0):
            ax.barh(cpu, share, 0.62, left=place, color=PALETTE["user"], edgecolor="white", linewidth=1)
            ax.text(place + share / 2, cpu, f"{share:.0%}", fontsize=8, color=INK, ha="center", va="center")
            place += share


def loops_in_words(frame: pd.DataFrame) -> str:
    """What ``loops`` draws, a line a start of loops.

    Parameters
    ----------
    frame : DataFrame
        As for ``loops``.
    """
    expect(frame, "loops", "kvmlab.guest.isolated.boot_isolated().loops")
    lines = []
    for (isolcpus, started_on), rows in frame.groupby(["isolcpus", "started_on"], sort=False, dropna=False):
        there = [
            f"CPU {cpu} ran {len(of)}, {of['share'].mean():.0%} of the time{' each' * (len(of) > 1)}" for cpu, of in rows.groupby("cpu")
        ]
        what = f"isolcpus={isolcpus}" if isolcpus else "nothing isolated"
        lines.append(f"With {what}, {count(len(rows), 'loop')} started on CPUs {started_on}: {'; '.join(there)}.")
    return "\n".join(lines)
