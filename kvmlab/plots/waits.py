"""Who waits how long: of each vCPU what it ran, waited, and felt of it, beside what the model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kvmlab.plots.overcommit import SOURCE, Measured, between, ended, folded, key, measured, others_of, percent, place_of
from kvmlab.plots.style import INK, MUTED, PALETTE, expect, frame_axes, guess_of, new_axes
from kvmlab.wording import count

FELT = "#7a3b62"  # a darker "waiting": the same wait, seen from inside
TALL, SMALL = 0.46, 0.2  # inches a vCPU; the second where there are more than ROOMY
ROOMY = 16
RESTING = ("idle", "duty", "stop")  # works that halt


def waits(frame: pd.DataFrame, guess: float | Mapping[str, float] | None = None, ax: Axes | None = None) -> Axes:
    """A bar a vCPU, of the largest number of guests: for what part of the time it ran, and for what part it waited.

    It waits where others have the CPU, or where its quota is used up: the kernel counts both as one.
    Upright strokes are the model, the line lying across the end of what it ran goes from the least of the repeats to the most, and
    the bar below is the wait as the guest felt it. The kernel counts a wait when it ends, so that the parts of a short run need
    not add up: what is missing stays white, and what is too much is cut off (the words have it all).

    Parameters
    ----------
    frame : DataFrame
        From ``measure.overcommit``; ``frame[frame.guests == 4]`` shows four guests.
    guess : float or mapping, optional
        For what part of the time the reader thinks that vCPUs run, in percent; or name of a guest to it, for some of them.
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    bars = _bars(frame)
    guess_of(guess, [*(bar["guest"] for bar in bars), *frame.attrs.get("ended", {})])
    ax = ax or new_axes(9.5, 1.6 + _row(bars) * max(1, len(bars)))
    for place, bar in enumerate(bars):
        _bar(ax, place, bar, _row(bars) == TALL)
    _mark(ax, bars, guess)
    ax.set_yticks(range(len(bars)), [bar["name"] for bar in bars], fontsize=9 if _row(bars) == TALL else 7, color=INK)
    ax.set(xlim=(0, 1), ylim=(len(bars) - 0.4 + (isinstance(guess, (int, float)) and bool(bars)), -0.6))
    ax.xaxis.set_major_formatter(lambda share, _place: f"{100 * share:.0f} %")
    title = f"{count(int(frame['guests'].max()), 'guest')} on {place_of(frame['cpus'].dropna())}" if bars else "No guest ran"
    by = f" ({frame.attrs['accel'].upper()})" if bars and frame.attrs.get("accel") else ""
    frame_axes(ax, f"{title}{by}{_who(bars)}", "part of the time (medians of the repeats)", pad=24)
    parts = [Patch(color=PALETTE["guest"], label="ran"), Patch(color=PALETTE["waiting"], label="waited for a CPU")]
    parts += [Patch(color=FELT, label="felt by the guest")] if any(bar["felt"].known for bar in bars) else []
    parts += [Patch(color=PALETTE["halted"], label="halted")] if any(_halted(bar) >= 0.005 for bar in bars) else []
    key(ax, [*parts, Line2D([], [], color=INK, marker="|", markersize=10, markeredgewidth=1.8, linestyle="", label="the model")])
    return ax


def _bars(frame: pd.DataFrame) -> list[dict]:
    """A vCPU each, of the largest number of guests: what it did, with the intervals of the repeats."""
    expect(frame, "overcommit", SOURCE)
    last = frame[frame["guests"] == frame["guests"].max()] if len(frame) else frame
    several = bool((last["vcpu"] > 0).any())
    bars = []
    for (guest, vcpu), rows in last.groupby(["guest", "vcpu"], sort=False):
        bars.append(
            {
                "guest": str(guest),
                "name": _name(str(guest), int(vcpu) if several else None, rows.iloc[0], last),
                "ran": measured(rows["share"], rows["predicted"]),
                "waited": measured(rows["waited"], rows["predicted_waited"]),
                "felt": measured(rows["felt"], rows["predicted_waited"]),
                "rests": rows["work"].isin(RESTING).all(),
            }
        )
    return bars


def _name(guest: str, vcpu: int | None, row: pd.Series, all_rows: pd.DataFrame) -> str:
    """With what sets it apart from the others."""
    parts = [guest] if vcpu is None else [f"{guest} vCPU {vcpu}"]
    if pd.notna(row["weight"]) and all_rows["weight"].nunique(dropna=False) > 1:
        parts.append(f"weight {row['weight']}")
    if pd.notna(row["quota"]):
        parts.append(f"at most {percent(row['quota'])}")
    return ", ".join(parts)


def _row(bars: Sequence) -> float:
    return TALL if len(bars) <= ROOMY else SMALL


def _halted(bar: Mapping) -> float:
    known = bar["rests"] and bar["ran"].known and bar["waited"].known
    return max(0.0, 1 - bar["ran"].median - bar["waited"].median) if known else 0.0


def _bar(ax: Axes, place: float, bar: Mapping, roomy: bool) -> None:
    ran, waited, felt = bar["ran"], bar["waited"], bar["felt"]
    if not ran.known:
        ax.annotate("not known", (0, place), (4, 0), textcoords="offset points", va="center", fontsize=8, color=MUTED)
        return
    left = 0.0
    for part, share in (("guest", ran.median), ("waiting", waited.median if waited.known else 0), ("halted", _halted(bar))):
        width = min(share, 1 - left)
        if width > 0:
            ax.barh(place - 0.08, width, 0.56, left, color=PALETTE[part], linewidth=0)
        if roomy and width >= 0.06:
            colour = "white" if part == "guest" else INK
            ax.text(left + width / 2, place - 0.08, percent(share), ha="center", va="center", fontsize=8, color=colour)
        left += width
    for edge in {ran.predicted, ran.predicted + waited.predicted} - {1.0}:
        ax.plot([edge] * 2, [place - 0.43, place + 0.24], color=INK, linewidth=1.8, clip_on=False)
    if ran.low < ran.high:
        ax.plot([ran.low, ran.high], [place - 0.08] * 2, color=INK, linewidth=1, marker="|", markersize=4)
    if felt.known:
        ax.barh(place + 0.29, min(felt.median, 1 - ran.median), 0.14, ran.median, color=FELT, linewidth=0)


def _mark(ax: Axes, bars: Sequence[Mapping], guess: float | Mapping[str, float] | None) -> None:
    """The reader's guess: a line through all bars, or a stroke on the bars of some guests with the number beside it."""
    if isinstance(guess, Mapping):
        for place, bar in enumerate(bars):
            if bar["guest"] in guess:
                value = guess[bar["guest"]]
                ax.plot([value / 100], [place - 0.36], "D", color="white", markeredgecolor=INK, markersize=7, zorder=4, clip_on=False)
                side = ax.get_yaxis_transform()
                ax.annotate(f"you said {value:.0f} %", (1, place), (8, 0), side, "offset points", va="center", fontsize=9, color=INK)
    elif guess is not None and bars:
        ax.axvline(guess / 100, color=INK, linestyle="--", linewidth=1, clip_on=False)
        side, align = ((-5, 0), "right") if guess > 75 else ((5, 0), "left")
        where = (guess / 100, len(bars) - 0.1), side
        ax.annotate(f"you said {guess:.0f} %", *where, textcoords="offset points", ha=align, va="center", fontsize=9, color=INK)


def _who(bars: Sequence[Mapping]) -> str:
    waited = [min(bar["waited"].median, 1) for bar in bars if bar["waited"].known]
    return f": each vCPU waits {between(waited, percent)} of the time" if waited else ""


def waits_in_words(frame: pd.DataFrame) -> str:
    """What ``waits`` draws, a line a vCPU; where there are many, a line for all.

    Parameters
    ----------
    frame : DataFrame
        As for ``waits``.
    """
    bars = _bars(frame)
    if len(bars) <= ROOMY:
        lines = [_sentence(bar) for bar in bars]
    else:
        known = {word: [bar[word].median for bar in bars if bar[word].known] for word in ("ran", "waited", "felt")}
        parts = [f"{word} {between(values, percent)}" for word, values in known.items() if values]
        lines = [f"{len(bars)} vCPUs: each {', '.join(parts) or 'not known'} of the time."]
    reasons = frame.attrs.get("unavailable", {})
    silent = [f"{word}: {reasons[word]}." for word in ("felt", "waited", "share") if word in reasons and len(bars)]
    return folded([*lines, *others_of(frame[frame["guests"] == frame["guests"].max()]), *silent, *ended(frame)])


def _sentence(bar: Mapping) -> str:
    parts = [_part(word, bar[word]) for word in ("ran", "waited") if bar[word].known]
    parts += [f"felt {_exact(bar['felt'].median)}"] if bar["felt"].known else []
    return f"{bar['name']}: {', '.join(parts) or 'not known'}."


def _part(word: str, one: Measured) -> str:
    between = "" if one.low == one.high else f"{100 * one.low:.1f} to {100 * one.high:.1f}"
    model = "" if one.predicted != one.predicted else f"model {100 * one.predicted:.1f}"
    inside = "; ".join(part for part in (between, model) if part)
    return f"{word} {_exact(one.median)}" + (f" ({inside})" if inside else "")


def _exact(share: float) -> str:
    return f"{100 * share:.1f} %"
