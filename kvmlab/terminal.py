"""Frames and readiness as text for a terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from kvmlab.wording import count

if TYPE_CHECKING:
    import pandas as pd

_MARKS = {"pass": ("ok", "32"), "warn": ("warn", "33"), "fail": ("FAIL", "31"), "unknown": ("?", "90")}


def width() -> int:
    """Columns of the terminal, or enough for any table where the output goes elsewhere."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 1_000_000


def table(frame: pd.DataFrame) -> str:
    """The frame with a line a row, cut to the terminal's width; NA as a dash."""
    cells = [list(frame.columns), *frame.astype("string").fillna("-").to_numpy().tolist()]
    numeric = [frame[name].dtype.kind in "if" for name in frame]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        parts = [_printable(c).rjust(w) if n else _printable(c).ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        lines.append("  ".join(parts).rstrip()[: width()])
    return "\n".join(lines)


def as_json(frame: pd.DataFrame) -> str:
    """A list with an object a row; NA is null."""
    return json.dumps(json.loads(frame.to_json(orient="records")), indent=1)


def readiness(frame: pd.DataFrame) -> str:
    """The checks, a line each, with advice below those that ask for some, and the point of it all at the end."""
    room = min(width(), 120)
    lines = []
    for row in frame.itertuples():
        mark, colour = _MARKS[row.status]
        lines.append(f"{_coloured(f'{mark:>4}', colour)}  {row.check:23} {row.found}"[: room + 20])
        if row.status in ("warn", "fail") and isinstance(row.advice, str) and row.check != "guest speed":
            lines += textwrap.wrap(row.advice, room, initial_indent=" " * 8 + "-> ", subsequent_indent=" " * 11)
    return "\n".join([*lines, "", *textwrap.wrap(in_short(frame), room)])


def in_short(frame: pd.DataFrame) -> str:
    """Whether KVM works here, how fast, and what follows."""
    rows = frame.set_index("check")
    failed = frame.loc[frame["status"] == "fail", "check"].tolist()
    parts = [f"Missing: {', '.join(failed)}." if failed else ""]
    if rows.loc["guest speed", "status"] in ("pass", "warn"):
        parts.append(f"In short: guests' {rows.loc['guest speed', 'found']}.")
        parts.append(rows.loc["guest speed", "advice"] if isinstance(rows.loc["guest speed", "advice"], str) else "KVM works as it should.")
    else:
        parts.append(f"In short: how fast KVM runs guests is not known: {rows.loc['guest speed', 'found']}.")
    if "lab guests" in rows.index:
        parts.append(f"Lab guests {rows.loc['lab guests', 'found']}.")
    return " ".join(part for part in parts if part)


_OVERCOMMIT = (
    "guests: with vCPUs that may use a CPU of the set; vcpus: those that may use no other; ratio: vcpus for each of its CPUs; "
    "demand: CPUs' worth that these ran or waited for in the last second; slack: what is left for others."
)


def overcommit(frame: pd.DataFrame, uri: str) -> str:
    """The ratios as a table, and what the first of them, that of the whole host, means."""
    host = frame.iloc[0]
    guests, vcpus, cpus = (count(host[name], word) for name, word in (("guests", "guest"), ("vcpus", "vCPU"), ("online", "host CPU")))
    parts = [f"{guests} on {uri}: {vcpus} for {cpus}."]
    if frame["slack"].notna().iloc[0]:
        left = round(host["slack"], 1)
        rest = f"{abs(left)} are {'left' if left > 0 else 'wanting'}" if left else "none is left, and none is wanting"
        parts.append(f"They ask for {host['demand']:.1f} CPUs; {rest}.")
    words = [" ".join(parts), _OVERCOMMIT]
    return "\n".join([table(frame.round(2)), "", *(line for text in words for line in textwrap.wrap(text, min(width(), 120)))])


def _coloured(text: str, colour: str) -> str:
    return f"\033[{colour}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def _printable(text: str) -> str:
    """Names of threads may hold anything, and a terminal obeys escape sequences."""
    return "".join(c if c.isprintable() else "?" for c in text)
