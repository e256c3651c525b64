"""Several machines in one picture, such as this host and its guests: what a guest was told it is, beside what it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import wrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from kvmlab.errors import KvmlabError
from kvmlab.plots import boxes, layout
from kvmlab.plots.machine import machine
from kvmlab.plots.style import MUTED, expect, heading
from kvmlab.plots.words import machine_in_words, shape_in_words

WIDTH, HEIGHT = 10 * 72, 5 * 72  # points: as wide as a laptop's notebook; machines in one row get no higher
LEAST, GAP, MARGIN, LINE = 130, 24, 6, 11
MOST_IN_A_ROW = 4


@dataclass
class _Part:
    """One machine: what is written above and below it, its size and its place, in points from the top left."""

    name: str
    cpus: pd.DataFrame
    width: float = 0
    sheet: tuple[float, float] = (0, 0)
    above: list[str] = field(default_factory=list)
    lines: int = 0  # room above: as many as the one in its row that needs most
    x: float = 0
    y: float = 0


def machines(cpus: Mapping[str, pd.DataFrame]) -> list[Axes]:
    """Machines beside each other, as ``machine`` draws them; the larger ones get more room.

    Parameters
    ----------
    cpus : mapping
        What to call each one, to its frame of ``Host.cpus()`` or of a guest's ``topology()``.

    Returns
    -------
    list of Axes
        One a machine.

    Examples
    --------
    >>> plots.machines({"this host": host.cpus(), "guest c1": c1.topology()})  # doctest: +SKIP
    """
    if not isinstance(cpus, Mapping) or not cpus:
        raise KvmlabError("No machines to draw: pass one or more, such as {'this host': host.cpus()}.")
    for frame in cpus.values():
        expect(frame, "cpus", "Host.cpus() or a guest's topology()")
    parts = [_Part(name, frame) for name, frame in cpus.items()]
    lines = -(-len(parts) // MOST_IN_A_ROW)
    each = -(-len(parts) // lines)
    rows = [parts[start : start + each] for start in range(0, len(parts), each)]
    bottom = 0.0
    for row in rows:
        bottom = _arrange(row, bottom, HEIGHT / lines)
    return _draw(parts, max(row[-1].x + row[-1].width for row in rows), bottom)


def machines_in_words(cpus: Mapping[str, pd.DataFrame]) -> str:
    """What ``machines`` draws, a line each."""
    return "\n".join(f"{name}: {machine_in_words(frame)}." for name, frame in cpus.items())


def _arrange(row: list[_Part], top: float, height: float) -> float:
    """Give each of a row its width, by the root of its CPUs, and its place; returns where the row ends."""
    weights = [len(part.cpus) ** 0.5 or 1 for part in row]
    room = WIDTH - 2 * MARGIN - GAP * (len(row) - 1)
    spare = room - LEAST * len(row)
    x, below = MARGIN, 0.0
    for part, weight in zip(row, weights, strict=True):
        share = LEAST + spare * weight / sum(weights)
        sheet, look = layout.fit(boxes.tree(part.cpus)[0], share, height)
        part.sheet = (sheet.width + 0.5, sheet.height + 0.5)  # a hair more, or rounding makes it look too small to `machine`
        part.above = _wrapped(shape_in_words(part.cpus), max(LEAST, 1.1 * sheet.width))
        part.width = max(sheet.width, layout.text_width(part.name, 13), *(layout.text_width(line, 8) for line in part.above))
        part.x, x = x, x + part.width + GAP
        below = max(below, sheet.height + LINE * (2 if look.core_caches else 5))
    lines = max(len(part.above) for part in row)
    for part in row:
        part.lines, part.y = lines, top + MARGIN + 20 + LINE * lines
    return row[0].y + below


def _wrapped(text: str, width: float) -> list[str]:
    """In lines of about this many points, in letters of 8 points."""
    return wrap(text, max(12, int(len(text) * width / layout.text_width(text, 8)))) if text else []


def _draw(parts: list[_Part], width: float, height: float) -> list[Axes]:
    width += MARGIN
    figure = plt.figure(figsize=(width / 72, height / 72), facecolor="white")
    found = []
    for part in parts:
        across, up = part.sheet
        ax = figure.add_axes((part.x / width, 1 - (part.y + up) / height, across / width, up / height))
        machine(part.cpus, ax=ax, title=part.name)
        for note in [text for text in ax.texts if isinstance(text, Annotation)]:  # they were written for a figure of their own
            note.set_text("\n".join(_wrapped(note.get_text(), part.width)))
        heading(ax, part.name, pad=8 + LINE * part.lines)
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
        ax.annotate(
            "\n".join(part.above),
            (0, 1),
            (0, 5 + LINE * part.lines),
            **place,
            va="top",
            fontsize=8,
            color=MUTED,
            linespacing=LINE / 8 / 1.2,
        )
        found.append(ax)
    return found
