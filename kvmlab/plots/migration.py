"""A guest's work while it moves from one host to another, and for how long it stood still."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from kvmlab.errors import KvmlabError
from kvmlab.plots.style import INK, MUTED, PALETTE, RULE, SERIES, expect, frame_axes, new_axes

STEP_S = 0.02
HERE, THERE, STILL = SERIES[1], SERIES[2], PALETTE["waiting"]


def migration(samples: pd.DataFrame, guess: float | None = None, ax: Axes | None = None) -> Axes:
    """Turns a second of all vCPUs together, before, during and after a move: on the one host, then on the other.

    The move is shaded grey, from asking for it to libvirt's answer; the guest's pause in it stands out.

    Parameters
    ----------
    samples : DataFrame
        ``samples`` of what ``Lab.migrate`` returns, as it is.
    guess : float, optional
        How long the reader thinks that the pause is, in milliseconds: drawn from where it began.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Examples
    --------
    >>> plots.migration(a.migrate("c1", b).samples)  # doctest: +SKIP
    """
    told = _told(samples)
    ax = ax or new_axes(9, 3.4)
    ax.axvspan(0, told["took_s"], color=RULE, alpha=0.4, linewidth=0, zorder=0)
    top = 0.0
    for host, colour in ((told["source"], HERE), (told["destination"], THERE)):
        when, rate = told["rates"][host]
        ax.fill_between(when, rate / 1e3, step="post", color=colour, alpha=0.85, linewidth=0)
        top = max([top, *rate / 1e3])
        if len(when) > 1:
            ax.annotate(f"on host {host}", (when[0], 0), (5, 6), textcoords="offset points", fontsize=10, fontweight="bold", color="white")
    ax.set(ylim=(0, top * 1.4 or 1), xlim=(told["begin_s"], max(told["end_s"], told["took_s"])))
    _mark_pause(ax, told, top)
    if guess is not None and told["pause"]:
        _mark_guess(ax, told["pause"][0], guess, top)
    words = f"the move: {told['took_s']:.2f} s"
    ax.annotate(words, (0, 1), (4, -4), ("data", "axes fraction"), "offset points", va="top", fontsize=8, color=MUTED)
    ax.set_ylabel("thousand turns a second", fontsize=9, color=MUTED)
    ax.tick_params(axis="y", labelsize=8, colors=MUTED)
    frame_axes(
        ax,
        f"{told['guest']} moves from host {told['source']} to host {told['destination']}{told['by']}",
        "seconds since the move was asked for",
    )
    return ax


def _mark_pause(ax: Axes, told: dict, top: float) -> None:
    if told["pause"] is None:
        note = f"No vCPU did a turn of work: nothing shows how long it stood still{_libvirts(told)}."
        ax.text(0.5, 0.5, note, ha="center", fontsize=9, color=INK, transform=ax.transAxes)
        return
    begin, end = told["pause"]
    ax.axvspan(begin, end, color=STILL, linewidth=0, zorder=3)
    note = f"stood still for {_ms(end - begin)}{_libvirts(told)}"
    ax.annotate(note, (end, top * 1.15 or 0.5), (6, 0), textcoords="offset points", fontsize=9, color=INK, va="center")


def _mark_guess(ax: Axes, begin: float, guess: float, top: float) -> None:
    ax.plot([begin, begin + guess / 1e3], [top * 1.28] * 2, color=INK, linewidth=1.5, marker="|", markersize=8, zorder=4)
    where = (begin + guess / 1e3, top * 1.28), (6, 0)
    ax.annotate(f"your guess: {guess:.0f} ms", *where, textcoords="offset points", fontsize=9, color=INK, va="center")


def migration_in_words(samples: pd.DataFrame) -> str:
    """What ``migration`` draws, as sentences.

    Parameters
    ----------
    samples : DataFrame
        As for ``migration``.
    """
    told = _told(samples)
    pause = told["pause"]
    text = f"{told['guest']} moved from host {told['source']} to host {told['destination']} in {told['took_s']:.2f} s{told['by']}. "
    if pause is None:
        return f"{text}It did no turns of work, so that nothing says how long it stood still{_libvirts(told)}."
    means = [_mean(told, told["source"], None, 0), _mean(told, told["source"], 0, None), _mean(told, told["destination"], None, None)]
    before, during, after = ("an unknown number of" if mean is None else _thousands(mean) for mean in means)
    return (
        f"{text}It did {before} turns a second before, {during} while it was copied, stood still for {_ms(pause[1] - pause[0])}"
        f"{_libvirts(told)}, and did {after} on host {told['destination']}."
    )


def _told(samples: pd.DataFrame) -> dict:
    """What picture and words say, in seconds since the move was asked for."""
    expect(samples, "migration", "Lab.migrate(...).samples")
    if "span" not in samples.attrs or samples.empty:
        raise KvmlabError("These samples do not say when the move began: pass those of Lab.migrate(...).samples as they are.")
    zero, answered = samples.attrs["span"]
    pause = samples.attrs["pause"]
    source, destination = samples.attrs["source"], samples.attrs["destination"]
    bounds = {source: (None, pause and pause[0]), destination: (pause and pause[1], None)}
    return {
        "guest": samples["guest"].iloc[0],
        "source": source,
        "destination": destination,
        "took_s": answered - zero,
        "pause": pause and (pause[0] - zero, pause[1] - zero),
        "downtime_s": samples.attrs.get("downtime_s"),
        "by": f" ({samples.attrs['accel'].upper()})" if samples.attrs.get("accel") else "",
        "begin_s": samples["time_s"].min() - zero,
        "end_s": samples["time_s"].max() - zero,
        "rates": {host: _rates(samples[samples["host"] == host], zero, *limits) for host, limits in bounds.items()},
    }


def _rates(samples: pd.DataFrame, zero: float, begin: float | None, end: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Times, and the turns a second of all vCPUs from each of them to the next."""
    times = samples["time_s"].to_numpy(float)
    begin, end = begin or times.min(initial=np.inf), end or times.max(initial=-np.inf)
    if not begin < end:
        return np.array([]), np.array([])
    grid = np.linspace(begin, end, max(2, round((end - begin) / STEP_S) + 1))
    turns = sum(np.interp(grid, one["time_s"].to_numpy(float), one["turns"].to_numpy(float)) for _, one in samples.groupby("vcpu"))
    rate = np.diff(turns) / np.diff(grid)
    return grid - zero, np.append(rate, rate[-1])


def _mean(told: dict, host: str, begin: float | None, end: float | None) -> float | None:
    when, rate = told["rates"][host]
    chosen = rate[(when >= (-np.inf if begin is None else begin)) & (when < (np.inf if end is None else end))]
    return chosen.mean() if len(chosen) else None


def _thousands(turns: float) -> str:
    return f"{turns / 1e3:,.{0 if turns >= 10e3 else 1}f} thousand"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _libvirts(told: dict) -> str:
    return "" if told["downtime_s"] is None else f" (libvirt says {_ms(told['downtime_s'])})"
