"""Boxes inside boxes, on a sheet: how large each one is and where it stands, in points (1/72 inch), y downwards.

All cells of a picture have the same size. From the largest look to the smallest, the first is taken with which the machine fits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from kvmlab.plots.boxes import Box
from kvmlab.plots.style import runs

PAD, GAP = 5, 5  # within a box's border, and between two boxes
SHAPES = (1.3, 0.6, 0.9, 1.8, 2.5, 3.6, 6.0)  # width to height that boxes may strive for
SHEET_SHAPE = 2.2  # and the whole sheet, and what holds most of the machine
STEP = 0.25  # how much worse a shape is worth the next larger look


@dataclass(frozen=True)
class Look:
    """How large cells and letters are, and what is written: names of cores, caches of single cores, CPU numbers one by one."""

    cell_width: float
    cell_height: float
    font: float
    cores: bool = True
    core_caches: bool = True
    numbers: bool = True

    @property
    def tight(self) -> float:
        """Within a core, and between cells."""
        return 3 if self.cores else 1.5

    @property
    def names(self) -> float:
        """Size of the letters outside of cells."""
        return max(self.font, 7)

    @property
    def line(self) -> float:
        """Height of a line of them."""
        return self.names * 1.5


LOOKS = (
    *(
        Look(width, width * 0.55, font)
        for width, font in ((96, 11), (72, 11), (54, 10.5), (42, 10), (36, 9.5), (30, 9), (26, 8), (22, 7.5))
    ),
    *(Look(width, width * 0.7, font, core_caches=False) for width, font in ((30, 9), (24, 8), (20, 7.5), (17, 7))),
    *(Look(width, width * 0.7, font, cores=False, core_caches=False) for width, font in ((26, 9), (22, 8), (18, 7), (15, 6.5), (13, 6))),
    *(Look(width, width, 6, cores=False, core_caches=False, numbers=False) for width in (8, 6, 4)),
)


@dataclass
class Place:
    """A box, its size, and where it stands within the one around it."""

    box: Box
    width: float = 0
    height: float = 0
    x: float = 0
    y: float = 0
    texts: list[tuple[str, float, bool]] = field(default_factory=list)  # what, how far down, is it a cache
    inside: float = 0  # the width that its children need
    children: list[Place] = field(default_factory=list)

    def all(self, depth: int = 0, x: float = 0, y: float = 0) -> Iterator[tuple[int, float, float, Place]]:
        """This one and all inside it, with how deep, and where on the sheet, each one is."""
        x, y = x + self.x, y + self.y
        yield depth, x, y, self
        for child in self.children:
            yield from child.all(depth + 1, x, y)


def fit(machine: Box, width: float, height: float) -> tuple[Place, Look]:
    """The machine on a sheet of this size: as large as it fits, unless a little smaller gives a better shape.

    In the smallest look, however long it becomes, if it fits in none.
    """
    best: tuple[float, Place, Look] | None = None
    for number, look in enumerate(LOOKS):
        if best and best[0] < STEP * number:
            break
        look = _widened(look, machine)
        sheets = _sheets(machine, look, width * height)
        fitting = [(_badness(sheet) + STEP * number, sheet, look) for sheet in sheets if sheet.width <= width and sheet.height <= height]
        best = min([*fitting, *([best] if best else [])], key=lambda found: found[0], default=None)
    if best:
        return best[1:]
    narrow = [sheet for sheet in sheets if sheet.width <= width]
    return min(narrow or sheets, key=lambda sheet: sheet.height if narrow else sheet.width), look


def _sheets(machine: Box, look: Look, area: float) -> list[Place]:
    """The machine in all shapes; in one only, where that one shows that it is by far too large."""
    first = Layout(machine, look, SHAPES[0]).sheet()
    hopeless = first.width * first.height > 1.5 * area and look.cell_width > LOOKS[-1].cell_width
    return [first] if hopeless else [first, *(Layout(machine, look, shape).sheet() for shape in SHAPES[1:])]


def _badness(sheet: Place) -> float:
    return abs(math.log(sheet.width / sheet.height / SHEET_SHAPE))


def _widened(look: Look, machine: Box) -> Look:
    """Cells wide enough for the longest CPU number, and for the longest text on a core, so that all cores are alike."""
    boxes = list(machine.all())
    if look.numbers:
        widest = max((text_width(box.names[0], look.font) for box in boxes if box.kind == "cpu"), default=0)
        look = replace(look, cell_width=max(look.cell_width, widest + 3))
    cores = [box for box in boxes if box.kind == "core"]
    cells = _columns_of_cells(max((len(core.cpus) for core in cores), default=1))
    texts = {text for core in cores for text, *_ in texts_of(core, look)[0]}
    missing = max((text_width(text, look.names) for text in texts), default=0) + 6 - cells * look.cell_width - (cells - 1) * look.tight
    return replace(look, cell_width=look.cell_width + max(0, missing) / cells)


def _columns_of_cells(cells: int) -> int:
    """Of the threads of one core: 4 as 2 x 2."""
    return cells if cells < 4 else math.ceil(math.sqrt(cells))


def text_width(text: str, font: float) -> float:
    return font * _width(text)


@lru_cache(maxsize=1 << 14)
def _width(text: str) -> float:
    """At a size of 1 point; letters grow in proportion."""
    return TextToPath().get_text_width_height_descent(text, FontProperties(size=100), ismath=False)[0] / 100


# ---- what is written at the top of a box


def border(box: Box, look: Look) -> float:
    """How far from its outline the inside of a box begins."""
    return 0 if box.kind == "machine" else look.tight if box.kind == "core" else PAD


def texts_of(box: Box, look: Look) -> tuple[list[tuple[str, float, bool]], float]:
    """Its texts one under the other, as in Place, and where its inside begins below them."""
    found, top = [], border(box, look)
    for cache, texts in ((False, _names(box, look)), (True, _caches(box, look))):
        for text in texts:
            found.append((text, top, cache))
            top += look.line
    return found, top + (look.tight if found and found[-1][2] else 0)


def _names(box: Box, look: Look) -> list[str]:
    if box.kind in ("cpu", "machine") or (box.kind == "core" and not look.cores):
        return []
    names = [" · ".join(box.names)] if box.names else []
    if not look.numbers and any(child.kind in ("core", "cpu") for child in box.children) and box.kind != "core":
        names.append(shortened(box.cpus))
    return names


def shortened(cpus: frozenset[int]) -> str:
    text = f"CPUs {runs(cpus)}"
    return text if len(text) < 32 else f"{len(cpus)} CPUs, {min(cpus)} to {max(cpus)}"


def _caches(box: Box, look: Look) -> list[str]:
    return box.caches if box.kind != "core" or look.core_caches else []


# ---- sizes


class Layout:
    """One way to lay out a machine: in this look, with boxes that strive for this shape."""

    def __init__(self, machine: Box, look: Look, shape: float):
        self.machine, self.look, self.shape = machine, look, shape
        self.most: dict[tuple, int] = defaultdict(int)  # children of a kind of box: all of a kind get as many columns
        self.inside: dict[tuple, float] = defaultdict(float)  # and their width
        for box in machine.all():
            self.most[box.likeness] = max(self.most[box.likeness], len(box.children))

    def sheet(self) -> Place:
        sheet = self._place(self.machine)
        for *_, place in sheet.all():
            self.inside[place.box.likeness] = max(self.inside[place.box.likeness], place.inside)
        self._spread(sheet)
        return sheet

    def _place(self, box: Box) -> Place:
        """The box and all inside it: under its texts a grid of what has CPUs, one of nodes that have none, and what is offline."""
        if box.kind == "cpu":
            return Place(box, self.look.cell_width, self.look.cell_height)
        place, left = Place(box), border(box, self.look)
        place.texts, bottom = texts_of(box, self.look)
        place.children = [self._place(child) for child in box.children]
        parts = defaultdict(list)
        for child in place.children:
            parts[child.box.kind == "offline", not child.box.cpus].append(child)
        for number, part in enumerate(parts[key] for key in sorted(parts)):
            place.inside = max(place.inside, self._grid(box, part, left, bottom + GAP * (number > 0)))
            bottom = max(child.y + child.height for child in part)
        if box.kind == "core":  # one with a thread offline is as wide as the others
            cells = _columns_of_cells(self.most[box.likeness])
            place.inside = max(place.inside, cells * self.look.cell_width + (cells - 1) * self.look.tight)
        longest = max((text_width(text, self.look.names) + 6 for text, *_ in place.texts), default=1)
        place.width, place.height = max(place.inside, longest) + 2 * left, max(1, bottom + left)
        return place

    def _grid(self, box: Box, places: list[Place], left: float, top: float) -> float:
        """Set them in rows and columns; returns the width that they take."""
        kinds, look = {place.box.kind for place in places}, self.look
        gap = look.tight if kinds == {"cpu"} or (kinds <= {"cpu", "core"} and not look.cores) else GAP
        columns = self._columns(box, places, gap)
        widths = [max(place.width for place in places[column::columns]) for column in range(columns)]
        if len(kinds) == 1:
            widths = [max(widths)] * columns
        for start in range(0, len(places), columns):
            row = places[start : start + columns]
            height = max(place.height for place in row)
            for column, place in enumerate(row):
                place.x, place.y = left + sum(widths[:column]) + column * gap, top
                if place.box.kind not in ("cpu", "core") or kinds == {"core"}:  # neighbours end on the same line
                    place.width, place.height = widths[column], height
            top += height + gap
        return sum(widths) + (columns - 1) * gap

    def _columns(self, box: Box, places: list[Place], gap: float) -> int:
        """How many columns come nearest to the shape; holes in the last row count against it."""
        count = max(len(places), self.most[box.likeness])
        if box.kind == "core":
            return min(len(places), _columns_of_cells(count))
        if {place.box.kind for place in places} == {"cpu"} and box.kind in ("offline", "machine"):
            return min(len(places), 16)
        shape = SHEET_SHAPE if 2 * len(box.cpus) > len(self.machine.cpus) else self.shape
        width, height = (max(size) + gap for size in zip(*((place.width, place.height) for place in places), strict=True))

        def badness(columns: int) -> float:
            rows = math.ceil(count / columns)
            holes = rows * columns - count
            return abs(math.log(columns * width / (rows * height) / shape)) + 0.8 * (holes > 0) + 2 * holes / (rows * columns)

        return min(len(places), min(range(1, count + 1), key=badness))

    def _spread(self, place: Place) -> None:
        """Where a long text made a box wider than its children need, they share what is left over."""
        left = border(place.box, self.look)
        needed = self.inside[place.box.likeness]
        factor = max(1.0, (place.width - 2 * left) / needed) if needed else 1.0
        for child in place.children:
            child.x, child.width = left + (child.x - left) * factor, child.width * factor
            self._spread(child)
