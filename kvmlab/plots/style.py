"""What all pictures share: colours, the frame around the axes, and a few words.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), or these mixed with white.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf
from numbers import Real

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from numpy.typing import ArrayLike

from kvmlab.columns import FRAMES
from kvmlab.errors import KvmlabError

PALETTE = {"guest": "#0072B2", "user": "#E69F00", "kernel": "#D55E00", "waiting": "#CC79A7", "halted": "#D9D9D9"}
SERIES = ("#9AA4B2", "#0072B2", "#009E73", "#E69F00")  # measurements beside each other: the first is the reference
INK, MUTED, RULE = "#1f2328", "#57606a", "#d0d7de"
ISOLATED = "#f6ea9b"


def new_axes(width: float, height: float) -> Axes:
    """Axes on a new white figure of so many inches, whatever the reader's theme."""
    return plt.subplots(figsize=(width, height), facecolor="white", layout="constrained")[1]


def frame_axes(ax: Axes, title: str, xlabel: str, **place: float) -> None:
    heading(ax, title, **place)
    ax.set_facecolor("white")
    ax.set_xlabel(xlabel, fontsize=9, color=MUTED)
    ax.tick_params(axis="x", labelsize=8, colors=MUTED)
    ax.tick_params(axis="y", left=False)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(RULE)


def heading(ax: Axes, title: str, **place: float) -> None:
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, parse_math=False, **place)


def blocks(ax: Axes, left: ArrayLike, bottom: ArrayLike, width: ArrayLike, height: ArrayLike, **style: object) -> PolyCollection:
    """Many bars at once: each as a patch of its own takes seconds where there are thousands."""
    sides = np.broadcast_arrays(*(np.asarray(side, dtype=float) for side in (left, bottom, width, height)))
    x, y, across, up = (side.reshape(-1) for side in sides)
    corners = [(x, y), (x + across, y), (x + across, y + up), (x, y + up)]
    return ax.add_collection(PolyCollection(np.array(corners).transpose(2, 0, 1), linewidth=0, **style))


def expect(data: pd.DataFrame, kind: str, source: str) -> None:
    """Say which call gives the frame that a picture needs, where it was given another one."""
    if not isinstance(data, pd.DataFrame):
        raise KvmlabError(f"This picture is drawn from a frame, not from {data!r:.60}: pass the one of {source}.")
    missing = [column.name for column in FRAMES[kind] if column.name not in data]
    if missing:
        raise KvmlabError(f"This frame has no column {missing[0]!r}: pass the one of {source}.")


def guess_of(guess: object, names: Sequence[str] = ()) -> None:
    """Raise unless it is a reader's guess: None, a number or, where there are `names`, some of these with a number each.

    >>> guess_of(25), guess_of({"c1": 25}, ["c1", "c2"])
    (None, None)
    """
    several = isinstance(guess, Mapping) and bool(names)
    if several and (strange := [name for name in guess if name not in names]):
        raise KvmlabError(f"guess={guess!r}: there is no {strange[0]!r} in this picture, but {', '.join(dict.fromkeys(names))}.")
    for one in guess.values() if several else () if guess is None else [guess]:
        if isinstance(one, bool) or not isinstance(one, Real) or not 0 <= one < inf:
            forms = f", or such as {{{names[0]!r}: 25}}" if names else ""
            raise KvmlabError(f"guess={guess!r}: write a number from 0 on{forms}.")


def runs(numbers: Iterable[int]) -> str:
    """Numbers as a reader would write them, in runs; where they are evenly spaced, as the first two and the last.

    >>> runs([0, 1, 2, 3, 8]), runs([1, 3, 5, 7])
    ('0-3,8', '1,3…7')
    """
    found = sorted(numbers)
    steps = {after - before for before, after in pairwise(found)}
    if len(found) > 3 and len(steps) == 1 and steps != {1}:
        return f"{found[0]},{found[1]}…{found[-1]}"
    starts = [number for before, number in zip([None, *found], found, strict=False) if before is None or number != before + 1]
    ends = [number for number, after in zip(found, [*found[1:], None], strict=True) if after is None or after != number + 1]
    return ",".join(f"{start}" if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


def span(values: pd.Series, word: str = " to ", form: Callable = str) -> str:
    """
    >>> span(pd.Series([4, 1, 2])), span(pd.Series([1, 2]), " or "), span(pd.Series([8, 8]))
    ('1 to 4', '1 or 2', '8')
    """
    least, most = form(values.min()), form(values.max())
    return least if least == most else f"{least}{word}{most}"


def size(kib: float) -> str:
    """
    >>> size(512), size(1536), size(33554432)
    ('512 KiB', '1.5 MiB', '32 GiB')
    """
    for unit in ("KiB", "MiB", "GiB"):
        if kib < 1000:
            return f"{kib:.3g} {unit}"
        kib /= 1024
    return f"{kib:,.3g} TiB" if kib < 1000 else f"{kib:,.0f} TiB"
