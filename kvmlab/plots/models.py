"""CPU models and hosts as heat maps: which model starts where, and which host's guests can move to which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from kvmlab.plots.layout import text_width
from kvmlab.plots.style import INK, MUTED, PALETTE, RULE, blocks, expect, heading, new_axes
from kvmlab.wording import count

STARTS, NEAR, FAR, FARTHEST, UNKNOWN, FOREIGN = PALETTE["guest"], "#f2b447", "#fae3b4", "#f6f2ea", "#c4c8cd", "#ffffff"
SHADES = ((3, NEAR, "1 to 3 flags missing"), (10, FAR, "4 to 10 missing"), (10_000, FARTHEST, "more missing"))
ENDINGS = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")
NOT_ASKED = -1
TOLD = 8  # hosts: so few have a line each in words, and the best model in each cell


def will_start(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Models against hosts: a full cell starts; a number says how many flags the host lacks, a question mark that nobody can know.

    Hosts stand from the poorest to the richest, models from those that start anywhere to those that start nowhere, each vendor's
    by themselves: the generations of processors are a staircase. With a single host, the flags themselves stand beside the cells.

    Parameters
    ----------
    frame : DataFrame
        From ``models.will_start()``.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Examples
    --------
    >>> plots.will_start(models.will_start(None, Host()))  # doctest: +SKIP
    """
    table, vendors = _starts(frame)
    ax = ax or _sheet(table, 0.172)
    _cells(ax, table)
    _separate(ax, vendors)
    if len(table.columns) == 1:
        _beside(ax, frame.set_index("model")["missing"].reindex(table.index))
    _names(ax, table, frame, 7.5 if len(table) > 30 else 8.5)
    keys = [Patch(color=STARTS, label="starts"), *_shade_keys(table)]
    _finish(
        ax, frame, _start_title(table), [*keys, *([Patch(color=UNKNOWN, label="? cannot be known")] if table.isna().any(axis=None) else [])]
    )
    return ax


def _starts(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """How many flags each host (column) lacks for each model (row), NA where that is not known, and the models' vendors; both in order.

    A model of another architecture than the host's was not asked for.
    """
    expect(frame, "will_start", "models.will_start()")
    lacking = _lengths(frame["missing"]).where(frame["starts"].notna())
    rows = frame.assign(lacking=lacking)
    table = rows.pivot(index="model", columns="host", values="lacking").reindex(frame["model"].unique())
    asked = rows.pivot(index="model", columns="host", values="model").reindex(table.index).notna()
    table = table.where(asked, NOT_ASKED)
    vendors = frame.drop_duplicates("model").set_index("model")["vendor"].fillna("any vendor")
    family = frame.drop_duplicates("host").set_index("host")["host_vendor"].fillna("")
    starts = table.eq(0).fillna(False).astype(bool)
    hosts = sorted(table.columns, key=lambda host: (family[host], starts[host].sum(), -table[host].fillna(0).sum()))
    order = list(dict.fromkeys(["any vendor", *(family[host] for host in hosts), *sorted(vendors)]))
    models = sorted(
        table.index, key=lambda model: (order.index(vendors[model]), -starts.loc[model].sum(), table.loc[model].fillna(99).sum())
    )
    return table.loc[models, hosts], vendors[models]


def _start_title(table: pd.DataFrame) -> str:
    starts = table.eq(0).sum()
    if len(starts) == 1:
        return f"{starts.iloc[0]} of {count(len(table), 'CPU model')} start on {_short(starts.index[0])}"
    span = f"{starts.min()}" if starts.min() == starts.max() else f"{starts.min()} to {starts.max()}"
    return f"Of {count(len(table), 'CPU model')}, {span} start on each of {count(len(starts), 'host')}"


def will_migrate(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Hosts against hosts: from each row's host, a guest with all that it has moves to the hosts of the full cells.

    A number says how many flags the destination lacks, a dash that the vendors or architectures differ. Of up to eight hosts, the
    best model with which a guest does move is written below.

    Parameters
    ----------
    frame : DataFrame
        From ``models.will_migrate()``.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Examples
    --------
    >>> plots.will_migrate(models.will_migrate({"here": Host(), "there": Host.open("me.tar.xz")}))  # doctest: +SKIP
    """
    table, best = _moves(frame)
    few = len(table) <= TOLD
    ax = ax or _sheet(table, 0.6 if few else 0.24)
    foreign = best.isna() & table.notna() & table.ne(0)
    _cells(ax, table, foreign, best if few else None)
    for place in range(len(table)):
        ax.plot([place - 0.5, place + 0.5], [place - 0.5, place + 0.5], color=RULE, linewidth=0.8)
    _names(ax, table, frame, 8.5)
    ax.set_xlabel("to", fontsize=9, color=MUTED)
    ax.set_ylabel("from", fontsize=9, color=MUTED)
    keys = [Patch(color=STARTS, label="moves as it is"), *_shade_keys(table.where(~foreign))]
    keys += [Patch(facecolor=FOREIGN, edgecolor=RULE, label="\u2013 another vendor")] if foreign.any(axis=None) else []
    keys += [Patch(color=UNKNOWN, label="? cannot be known")] if frame["moves"].isna().any() else []
    _finish(ax, frame, _move_title(table), keys)
    return ax


def _moves(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How many flags each destination (column) lacks of each source (row), and the best models; hosts from the poorest to the richest.

    Hosts of one vendor stand together. The diagonal and what is not known are NA.
    """
    expect(frame, "will_migrate", "models.will_migrate()")
    lacking = _lengths(frame["missing"])
    lacking = lacking.where(frame["moves"].fillna(False) | (lacking > 0), 1).where(frame["moves"].notna())  # none, and yet it does not move
    hosts = list(dict.fromkeys([*frame["source"], *frame["destination"]]))
    table = frame.assign(lacking=lacking).pivot(index="source", columns="destination", values="lacking").reindex(index=hosts, columns=hosts)
    best = frame.pivot(index="source", columns="destination", values="best_model").reindex(index=hosts, columns=hosts)
    alike = {host: min([host, *best.columns[best.loc[host].notna()]], key=hosts.index) for host in hosts}
    size = {family: list(alike.values()).count(family) for family in alike.values()}
    order = sorted(
        hosts, key=lambda host: (-size[alike[host]], hosts.index(alike[host]), -table.loc[host].eq(0).sum(), table.loc[host].sum())
    )
    return table.loc[order, order], best.loc[order, order]


def _move_title(table: pd.DataFrame) -> str:
    pairs = len(table) * (len(table) - 1)
    if not pairs:
        return "One host alone: there is nowhere to move to"
    return f"{int(table.eq(0).sum().sum())} of {count(pairs, 'move')} between {count(len(table), 'host')} go as they are"


# ---- what both share


def _sheet(table: pd.DataFrame, height: float) -> Axes:
    """As wide as names, cells and the title need, as high as the rows and the longest upright name."""
    beside, below = (max((text_width(_short(name), 8.5) / 72 for name in names), default=0) for names in (table.index, table.columns))
    width = beside + max(6.6, 0.45 + 0.3 * len(table.columns))
    return new_axes(min(9.5, width), 1.1 + below + height * max(3, len(table)))


def _cells(ax: Axes, table: pd.DataFrame, foreign: pd.DataFrame | None = None, below: pd.DataFrame | None = None) -> None:
    """A cell each, coloured and marked; `below` is written under the mark. A host has none for itself."""
    size = 7 if below is not None or len(table) > 20 or len(table.columns) > 15 else 8
    asked = table.ne(NOT_ASKED).fillna(True).to_numpy(dtype=bool)
    shown = [place for place in np.ndindex(table.shape) if asked[place] and (foreign is None or place[0] != place[1])]
    colors = []
    for row, column in shown:
        lacking = None if pd.isna(table.iat[row, column]) else int(table.iat[row, column])
        other = foreign is not None and bool(foreign.iat[row, column])
        colors.append(UNKNOWN if lacking is None else FOREIGN if other else _shade(lacking))
        mark = "?" if lacking is None else "\u2013" if other else f"{lacking}" if lacking else ""
        text = (
            mark if below is None or pd.isna(below.iat[row, column]) else f"{mark}\n{below.iat[row, column]}".lstrip().replace("-", "-\n")
        )
        if text:
            ax.text(column, row, text, ha="center", va="center_baseline", fontsize=size, color="white" if lacking == 0 else INK)
    if shown:
        rows, columns = np.array(shown).T
        blocks(ax, columns - 0.5, rows - 0.5, 1, 1, facecolor=colors)


def _shade(lacking: int) -> str:
    return STARTS if lacking == 0 else next(color for most, color, _ in SHADES if lacking <= most)


def _shade_keys(table: pd.DataFrame) -> list[Patch]:
    used = {_shade(int(lacking)) for lacking in np.unique(table.stack().dropna().astype(int)) if lacking > 0}
    return [Patch(color=color, label=label) for _, color, label in SHADES if color in used]


def _separate(ax: Axes, vendors: pd.Series) -> None:
    """Each vendor's name at the right of its models, upright where there is room, and a line between them."""
    for vendor in vendors.unique():
        places = np.flatnonzero(vendors == vendor)
        ax.axhline(places.max() + 0.5, color=MUTED, linewidth=0.8)
        upright = {"rotation": 270} if len(places) > 3 else {}
        where = (1, places.mean()), (4, 0), ax.get_yaxis_transform(), "offset points"
        ax.annotate(vendor, *where, va="center", fontsize=8 if upright else 7, color=MUTED, **upright)


def _beside(ax: Axes, missing: pd.Series) -> None:
    """The flags that a single host lacks, as many as there is room for."""
    for row, flags in enumerate(missing.fillna("")):
        words = flags.split(", ") if flags else []
        text = " ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "")
        ax.annotate(text, (1, row), (40, 0), ax.get_yaxis_transform(), "offset points", va="center_baseline", fontsize=7, color=MUTED)


def _names(ax: Axes, table: pd.DataFrame, frame: pd.DataFrame, size: float) -> None:
    made_up = set(frame.attrs.get("made_up", ())) if not _all_made_up(frame, table.columns) else set()
    columns = [_short(name) + (" (made up)" if name in made_up else "") for name in table.columns]
    rows = [_short(name) + (" (made up)" if name in made_up and table.index.name == "source" else "") for name in table.index]
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8, color=INK)
    ax.set_yticks(range(len(rows)), rows, fontsize=size, color=INK)
    ax.set(xlim=(-0.5, max(1, len(columns)) - 0.5), ylim=(max(1, len(rows)) - 0.5, -0.5))
    ax.set_xticks(np.arange(0.5, len(columns) - 1), minor=True)
    ax.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    ax.grid(which="minor", color="white", linewidth=0.7)


def _all_made_up(frame: pd.DataFrame, hosts: Sequence[str]) -> bool:
    return bool(len(hosts)) and set(hosts) <= set(frame.attrs.get("made_up", ()))


def _finish(ax: Axes, frame: pd.DataFrame, title: str, keys: list[Patch]) -> None:
    hosts = frame["host" if "host" in frame else "source"].unique()
    note = "\nMade-up hosts: each is the flags of one CPU model, none is a machine" if _all_made_up(frame, hosts) else ""
    heading(ax, title + note, pad=22)
    ax.set_facecolor("white")
    ax.tick_params(length=0, which="both")
    for side in ax.spines.values():
        side.set_visible(False)
    ax.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=max(1, len(keys)), frameon=False, fontsize=7.5,
        labelcolor=INK, borderaxespad=0.2, borderpad=0.2, columnspacing=0.9, handlelength=1.1,
    )  # fmt: skip


def _lengths(lists: pd.Series) -> pd.Series:
    """How many flags each text names."""
    return lists.fillna("").str.split(", ").str.len().where(lists.fillna("").ne(""), 0).astype("Int64")


def _short(name: str) -> str:
    return next((name.removesuffix(ending) for ending in ENDINGS[::-1] if name.endswith(ending)), name)


# ---- in words


def will_start_in_words(frame: pd.DataFrame) -> str:
    """What ``will_start`` draws, as sentences: for each host how many models start, the one of most flags, and the nearest that do not.

    Hosts of which the same is to be said are named together.

    Parameters
    ----------
    frame : DataFrame
        As for ``will_start``.
    """
    table, vendors = _starts(frame)
    said: dict[str, list[str]] = {}
    for host in table:
        said.setdefault(_host_in_words(frame[frame["host"] == host], table[host], vendors), []).append(_short(host))
    parts = [f"{', '.join(hosts)}: {words}" for words, hosts in said.items()]
    return "; ".join([_start_title(table) + _made_up_in_words(frame, table.columns), *parts]) + "."


def _host_in_words(rows: pd.DataFrame, lacking: pd.Series, vendors: pd.Series) -> str:
    words = [f"{lacking.eq(0).sum()} start"]
    if unknown := int(lacking.isna().sum()):
        words.append(f"of {unknown} it cannot be known")
    short = lacking[lacking > 0].astype(int).sort_values(kind="stable")[:2]
    flags = rows.set_index("model")["missing"].str.split(", ")
    words += [f"{model} lacks {' '.join(flags[model][:4])}{' and more' if number > 4 else ''}" for model, number in short.items()]
    return ", ".join(words)


def will_migrate_in_words(frame: pd.DataFrame) -> str:
    """What ``will_migrate`` draws, as sentences: from each host, to how many others, and what is in the way to the nearest of the rest.

    Parameters
    ----------
    frame : DataFrame
        As for ``will_migrate``.
    """
    table, _best = _moves(frame)
    parts = [_move_title(table) + _made_up_in_words(frame, table.index)]
    parts += [f"from {_short(host)} {_source_in_words(frame[frame['source'] == host])}" for host in table.index if len(table) > 1]
    return "; ".join(parts) + "."


def _source_in_words(rows: pd.DataFrame) -> str:
    moves = rows["moves"].fillna(False).astype(bool)
    words = f"to {moves.sum()} of {len(rows)}"
    if unknown := int(rows["moves"].isna().sum()):
        words += f", of {unknown} it cannot be known"
    rest = rows[~moves & rows["best_model"].notna()]
    if foreign := int(rows["why"].fillna("").str.contains("another").sum()):
        words += f", {foreign} {'is' if foreign == 1 else 'are'} of another vendor or architecture"
    if rest.empty:
        return words
    nearest = rest.loc[_lengths(rest["missing"]).idxmin()]
    flags = nearest["missing"].split(", ")
    way = " ".join(flags[:6]) + (f" and {len(flags) - 6} more" if len(flags) > 6 else "")
    return f"{words}; to {_short(nearest['destination'])}, {way} in the way, it moves as {nearest['best_model']}"


def _made_up_in_words(frame: pd.DataFrame, hosts: Sequence[str]) -> str:
    made_up = [host for host in hosts if host in set(frame.attrs.get("made_up", ()))]
    if not made_up:
        return ""
    return " (all made up)" if len(made_up) == len(hosts) else f" (made up: {', '.join(made_up)})"
