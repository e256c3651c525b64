"""The one table of every frame's columns (columns.txt): name, dtype, unit, meaning, source.

`frame` builds all of kvmlab's frames from it, so that an empty one has the same columns and dtypes as a full one, and
`documents` writes it into the docstrings of the functions that return them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

import pandas as pd


class Column(NamedTuple):
    name: str
    dtype: str
    unit: str
    meaning: str
    source: str


def _read(path: Path) -> dict[str, tuple[Column, ...]]:
    frames: dict[str, list[Column]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            columns = frames[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            columns.append(Column(*(part.strip() for part in line.split("|"))))
    return {kind: tuple(columns) for kind, columns in frames.items()}


FRAMES = _read(Path(__file__).with_suffix(".txt"))


def frame(rows: Iterable[tuple], kind: str, unavailable: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A frame of `kind` from tuples in the table's order; None becomes NA.

    ``frame.attrs["kind"]`` is the kind. ``frame.attrs["unavailable"]`` says, by column, why values are missing: what
    `unavailable` says, and for any other column without a single value, which source gave none.
    """
    columns = FRAMES[kind]
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    result = pd.DataFrame({c.name: _array(v, c.dtype) for c, v in zip(columns, values, strict=True)}, copy=False)
    silent = [c for c, v in zip(columns, values, strict=True) if v and pd.isna(v[0]) and result[c.name].isna().all()]
    result.attrs["kind"] = kind
    result.attrs["unavailable"] = {c.name: f"this machine gives none: {c.source}" for c in silent} | dict(unavailable or {})
    return result


def _array(values: tuple, dtype: str) -> pd.api.extensions.ExtensionArray:
    """As pd.array, which takes several times as long over None as over a value; a column that begins with None has many."""
    if not values or values[0] is not None:
        return pd.array(list(values), dtype=dtype)
    present = [i for i, value in enumerate(values) if value is not None]
    array = pd.array([None], dtype=dtype).repeat(len(values))
    array[present] = pd.array([values[i] for i in present], dtype=dtype)
    return array


def documents(kind: str, source: str | None = None) -> Callable:
    """Write the columns of `kind` at the end of the decorated function's docstring, after its blank line.

    `source` is where all of them come from, where that is not what the table says.
    """

    def decorate(function: Callable) -> Callable:
        function.__doc__ = cleandoc(function.__doc__ or "") + "\n" + _section(kind, source)
        function.frame_kind = kind  # docs/dictionary.py lists the calls of each kind
        return function

    return decorate


def _section(kind: str, source: str | None) -> str:
    lines = [f"{c.name} : {c.dtype}{f', {c.unit}' if c.unit else ''}\n    {c.meaning} ({source or c.source})" for c in FRAMES[kind]]
    return "\nColumns\n-------\n" + "\n".join(lines) + "\n"
