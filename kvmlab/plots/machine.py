"""The machine as nested boxes: nodes, sockets, dies, caches, cores, host CPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from kvmlab.plots import boxes, layout
from kvmlab.plots.boxes import Box
from kvmlab.plots.layout import Look, Place
from kvmlab.plots.style import INK, ISOLATED, MUTED, RULE, expect, heading
from kvmlab.plots.words import shape_in_words
from kvmlab.wording import count

SHEET = (10 * 72, 6 * 72)  # points: as wide as a laptop's notebook, and no higher than its screen
MARGIN, LINE = 6, 14
CACHE, CPU, EDGE = "#cceae2", "#dbe3ec", "#8c959f"
FILLS = {"node": "#f3f5f8", "socket": "#f3f5f8", "die": "#fafbfc", "cache": "#ffffff", "core": "#ffffff", "offline": "#ffffff"}
STATES = {  # of a CPU: fill, edge, hatch, line width. Isolation is a fill and nohz_full an edge, for they go together or not
    "": (CPU, CPU, None, 0),
    "isolated": (ISOLATED, ISOLATED, None, 0),
    "nohz_full": (CPU, "#56B4E9", None, 1.8),
    "isolated, nohz_full": (ISOLATED, "#56B4E9", None, 1.8),
    "offline": ("#ffffff", RULE, "/////", 0.8),
}
STRONG, WEAK = "#ffffff", "#e6d7bd"  # cores, where they differ


def machine(
    cpus: pd.DataFrame,
    caches: pd.DataFrame | None = None,
    nodes: pd.DataFrame | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Boxes inside boxes, as the hardware is: nodes, sockets, dies, level 3 and 2 caches, cores, and in them the host CPUs.

    Parameters
    ----------
    cpus : DataFrame
        From ``Host.cpus()``.
    caches, nodes : DataFrame, optional
        From ``Host.caches()`` for the caches' sizes, and ``Host.nodes()`` for the nodes' memory and the nodes without CPUs.
    ax : Axes, optional
        Where to draw; a new figure by default.
    title : str, optional
        By default the machine in a few words.
    """
    for data, kind in ((cpus, "cpus"), (caches, "caches"), (nodes, "nodes")):
        if data is not None:
            expect(data, kind, f"Host.{kind}()")
    tree, left_out = boxes.tree(cpus, caches, nodes)
    strengths = boxes.strengths(cpus)
    sheet, look = layout.fit(tree, *(SHEET if ax is None else _points(ax)))
    title, keys, notes = title or shape_in_words(cpus), _keys(tree, strengths), _notes(tree, look, left_out)
    ax = ax or _new_axes(sheet, title, [key.get_label() for key in keys], notes)
    _draw(ax, sheet, look, _tints([kind for kind, _ in strengths]))
    heading(ax, title)
    if keys:
        place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 0}
        ax.legend(handles=keys, **place, frameon=False, fontsize=8, labelcolor=INK, ncols=len(keys))
    for line, note in enumerate(notes, start=bool(keys)):
        place = (0, -LINE * line - 5)
        ax.annotate(note, (0, 0), place, "axes fraction", "offset points", va="top", fontsize=8, color=MUTED, annotation_clip=False)
    return ax


def _points(ax: Axes) -> tuple[float, float]:
    size = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    return size.width * 72, size.height * 72


def _new_axes(sheet: Place, title: str, keys: list[str], notes: list[str]) -> Axes:
    """Axes on a new figure, of just the sheet's size: a point of the sheet is a point on paper, so texts fit where they were measured."""
    lines = [
        layout.text_width(title, 11),
        *(layout.text_width(note, 8) for note in notes),
        sum(layout.text_width(key, 8) + 40 for key in keys),
    ]
    width = max(sheet.width, 1.15 * max(lines))  # the title is bold, and screens make small letters wider
    above, below = 26, MARGIN + LINE * (len(notes) + bool(keys))
    size = (width + 2 * MARGIN, sheet.height + above + below)
    figure = plt.figure(figsize=(size[0] / 72, size[1] / 72), facecolor="white")
    return figure.add_axes((MARGIN / size[0], below / size[1], sheet.width / size[0], sheet.height / size[1]))


# ---- drawing


def _draw(ax: Axes, sheet: Place, look: Look, tints: dict[str, str]) -> None:
    """All rectangles of one kind at once: one by one they would take seconds on a large machine."""
    ax.set(xlim=(0, sheet.width), ylim=(sheet.height, 0), aspect="equal", anchor="NW")
    ax.set_axis_off()
    width, height = _points(ax)
    scale = min(1, width / sheet.width, height / sheet.height)  # smaller than 1 where the caller's axes are too small for any look
    alike: dict[tuple, list[Rectangle]] = {}
    for depth, x, y, place in sheet.all():
        for rectangle, layer, *colours in _rectangles(x, y, place, look, tints):
            alike.setdefault((depth + layer, *colours), []).append(rectangle)
        for middle, height, text, size, ink in _texts(x, y, place, look):
            ax.text(middle, height, text, ha="center", va="center_baseline", fontsize=size * scale, color=ink, zorder=1000)
    for (layer, fill, edge, hatch, thick), patches in alike.items():
        style = {"facecolor": fill, "edgecolor": edge, "hatch": hatch, "linewidth": thick}
        ax.add_collection(PatchCollection(patches, **style, zorder=layer, clip_on=False))


def _rectangles(x: float, y: float, place: Place, look: Look, tints: dict[str, str]) -> Iterator[tuple]:
    """The outline of a box and a strip for each of its caches: (rectangle, layer, fill, edge, hatch, line width)."""
    box, left = place.box, layout.border(place.box, look)
    if box.kind == "cpu":
        *colours, thick = STATES[box.state]
        inside = (x + thick / 2, y + thick / 2), place.width - thick, place.height - thick  # a line is drawn on both sides of its path
        yield Rectangle(*inside), 0, *colours, thick
    elif box.kind != "machine":
        fill, line = tints.get(box.state, FILLS[box.kind]), RULE if box.kind in ("offline", "cache") else EDGE
        yield Rectangle((x, y), place.width, place.height), 0, fill, line, None, 0.8
    for _, top, cache in place.texts:
        if cache:
            yield Rectangle((x + left, y + top + 1), place.width - 2 * left, look.line - 2), 0.5, CACHE, CACHE, None, 0


def _texts(x: float, y: float, place: Place, look: Look) -> Iterator[tuple]:
    """What stands in a box: (x, y, text, font size, colour)."""
    middle = x + place.width / 2
    if place.box.kind == "cpu" and look.numbers:
        yield middle, y + place.height / 2, place.box.names[0], look.font, MUTED if place.box.state == "offline" else INK
    for text, top, _ in place.texts:
        yield middle, y + top + look.line / 2, text, look.names, INK


# ---- what is said beside the boxes


def _tints(kinds: list[str]) -> dict[str, str]:
    """A tint for each kind of core, from the strongest to the weakest."""
    strong, weak, steps = to_rgb(STRONG), to_rgb(WEAK), max(1, len(kinds) - 1)
    return {kind: tuple(a + (b - a) * step / steps for a, b in zip(strong, weak, strict=True)) for step, kind in enumerate(kinds)}


def _keys(tree: Box, strengths: list[tuple[str, int]]) -> list[Patch]:
    """What tints mean, of those that are there."""
    states = {box.state for outer in tree.all() if outer.kind != "offline" for box in outer.children if box.kind == "cpu"}
    found = [
        Patch(facecolor=fill, edgecolor=edge, hatch=hatch, linewidth=thick, label=state.replace(", ", " and "))
        for state, (fill, edge, hatch, thick) in STATES.items()
        if state in states - {""}
    ]
    tints = _tints([kind for kind, _ in strengths])
    told = strengths if len(strengths) < 5 else [strengths[0], strengths[-1]]
    return found + [Patch(facecolor=tints[kind], edgecolor=EDGE, label=f"{count(number, 'core')} {kind}") for kind, number in told]


def _notes(tree: Box, look: Look, left_out: list[str]) -> list[str]:
    """What is too small to stand on the boxes, and what cannot be a box."""
    cores = [box for box in tree.all() if box.kind == "core"]
    caches = Counter(" and ".join(core.caches) for core in cores if core.caches and not look.core_caches)
    notes = ["Each of the smallest boxes is a core."] if cores and not look.cores else []
    if len(caches) == 1 and caches.total() == len(cores):
        notes.append(f"Each core has its own {next(iter(caches))}.")
    elif caches:
        notes.append("; ".join(f"{count(number, 'core')} with {names}" for names, number in caches.most_common(4)) + ".")
    if left_out:
        notes.append(f"Not drawn: {', '.join(left_out[:8])}; their CPUs overlap with other boxes or are not known.")
    return [" ".join(notes)] if notes else []
