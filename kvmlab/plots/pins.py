"""Where threads may run and where they do: the pin canvas as a picture that stands still."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from kvmlab.plots.style import INK, ISOLATED, MUTED, PALETTE, RULE, blocks, expect, heading, new_axes, runs

_MAY, _BUSY, _PLAN = "#dbeafe", "#9aa4b2", "#0969da"


def pins(table: pd.DataFrame, title: str = "Where threads may run, and where they ran", ax: Axes | None = None) -> Axes:
    """A row a thread, a column a host CPU: may run there (tint), ran there (height of the bar) and waited (on top of it).

    Parameters
    ----------
    table : DataFrame
        From ``lab.pin_widget().table()``.
    title : str
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    expect(table, "pins", "lab.pin_widget().table()")
    cpus, rows = list(dict.fromkeys(table["cpu"])), _rows(table)
    place = {cpu: number for number, cpu in enumerate(cpus)}
    ax = ax or new_axes(9, 1.1 + 0.3 * (len(rows) + 1))
    x = table["cpu"].map(place).to_numpy(dtype=float)
    y = pd.Series([rows[key] for key in _keys(table)], dtype=float).to_numpy()
    _cells(ax, table, x, y)
    busy = table.drop_duplicates("cpu")
    height = (busy["busy_pct"].fillna(0).to_numpy(dtype=float) / 100) * 0.8
    blocks(ax, range(len(cpus)), [-0.9] * len(cpus), 0.86, 0.8, color="#eff2f5")
    blocks(ax, range(len(cpus)), -0.1 - height, 0.86, height, color=_BUSY)
    _words(ax, table, cpus, rows, title)
    return ax


def _keys(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["guest"].fillna(""), table["thread"], strict=True))


def _rows(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Where each row stands: a little apart where another guest begins."""
    found: dict[tuple[str, str], float] = {}
    y, before = 0.0, None
    for key in dict.fromkeys(_keys(table)):
        y += 0.3 if before not in (None, key[0]) else 0.0
        found[key], before = y, key[0]
        y += 1
    return found


def _cells(ax: Axes, table: pd.DataFrame, x, y) -> None:
    may, wished = (table[name].to_numpy(dtype=bool) for name in ("may_run", "wished"))
    ran, waited = (table[name].fillna(0).clip(0, 100).to_numpy(dtype=float) / 100 for name in ("ran_pct", "waited_pct"))
    special = table["special"].notna().to_numpy(dtype=bool)
    if special.any():
        blocks(ax, x[special] - 0.07, y[special] - 0.1, 1.0, 1.1, color=ISOLATED, alpha=0.6)
    blocks(ax, x, y, 0.86, 0.86, facecolor="white", edgecolor=RULE) if len(x) else None
    for which, colour in ((~may, "#f6f8fa"), (may, _MAY)):
        blocks(ax, x[which], y[which], 0.86, 0.86, color=colour)
    blocks(ax, x, y + 0.86 - 0.86 * ran, 0.86, 0.86 * ran, color=PALETTE["guest"])
    more = 0.86 * (waited.clip(0, 1) * (ran + waited <= 1) + (1 - ran) * (ran + waited > 1))
    blocks(ax, x, y + 0.86 - 0.86 * ran - more, 0.86, more, color=PALETTE["waiting"])
    for column, line, row in zip(x[may != wished], y[may != wished], wished[may != wished], strict=True):
        ax.plot(
            [column, column + 0.86, column + 0.86, column, column],
            [line, line, line + 0.86, line + 0.86, line],
            color=_PLAN,
            linestyle="-" if row else (0, (3, 2)),
            linewidth=1.5,
        )


def _words(ax: Axes, table: pd.DataFrame, cpus: list[int], rows: dict, title: str) -> None:
    ticks = {-0.5: "all work on it"} | {y + 0.43: f"{guest}  {thread}".strip() for (guest, thread), y in rows.items()}
    ax.set_yticks(list(ticks), list(ticks.values()), fontsize=9, color=INK, parse_math=False)
    step = 1 + len(cpus) // 40
    ax.set_xticks([number + 0.43 for number in range(0, len(cpus), step)], [str(cpu) for cpu in cpus[::step]], fontsize=8, color=INK)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_xlim(-0.2, max(len(cpus), 8) + 0.1)
    ax.set_ylim(max(rows.values(), default=0) + 1.1, -1.05)
    for side in ax.spines.values():
        side.set_visible(False)
    heading(ax, title, pad=26)
    ax.text(-0.25, -1.2, "host CPU", fontsize=9, color=MUTED, ha="right", va="bottom", clip_on=False)
    parts = {"may run": _MAY, "ran": PALETTE["guest"], "waited": PALETTE["waiting"], "CPU in use": _BUSY}
    if table["special"].notna().any():
        parts[" / ".join(sorted(set(table["special"].dropna())))] = ISOLATED
    handles = [Patch(color=colour, label=name) for name, colour in parts.items()]
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 0), ncols=len(parts), frameon=False, fontsize=9, labelcolor=INK, borderpad=0.2
    )


def pins_in_words(table: pd.DataFrame) -> str:
    """What ``pins`` draws, a line a thread.

    Parameters
    ----------
    table : DataFrame
        From ``lab.pin_widget().table()``.
    """
    expect(table, "pins", "lab.pin_widget().table()")
    lines = []
    for (guest, thread), cells in table.groupby([table["guest"].fillna(""), "thread"], sort=False):
        may = cells[cells["may_run"]]["cpu"]
        ran = cells[cells["ran_pct"].fillna(0) >= 1].sort_values("ran_pct", ascending=False)
        did = ", ".join(f"{row.ran_pct:.0f} % on CPU {row.cpu}" for row in ran.head(4).itertuples())
        waited = cells["waited_pct"].sum()
        told = f"{guest} {thread}".strip() + f": may run on CPU {runs(may) or 'none'}; "
        told += f"ran {did}" if did else "did not run" if cells["ran_pct"].notna().any() else "not watched yet"
        told += f"; waited {waited:.0f} %" if waited >= 1 else ""
        wished = cells[cells["wished"]]["cpu"]
        told += f"; wished: CPU {runs(wished) or 'none'}" if set(wished) != set(may) else ""
        lines.append(told)
    return "\n".join(lines) if lines else "No guest runs."
