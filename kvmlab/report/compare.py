"""compare: what differs between two reports of a notebook, beyond noise."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pandas as pd

from kvmlab.columns import FRAMES, documents, frame
from kvmlab.errors import ReportError
from kvmlab.report import data
from kvmlab.report.comparison import Comparison
from kvmlab.report.intervals import SCALES, Floor, Scale, floor, interval, spread, strange, width
from kvmlab.report.roles import ROLES, Role

_TOLD = ("sha256", "versions", "host", "acceleration", "seed")  # of environment.json
_LOUD = 0.1  # of a CPU: what others may take before it is said
_MAGNIFIED = "others took much of a CPU, and pauses and locks magnify that: not judged"


@dataclass
class _Report:
    """A report's folder, as it is read."""

    folder: Path
    environment: dict
    tables: dict[str, pd.DataFrame]

    @property
    def noise(self) -> list[dict]:
        found = self.environment.get("noise") or {}
        return [row for when in ("before", "after") for row in found.get(when) or []]

    @cached_property
    def strangers(self) -> set[str]:
        """Guests that were only seen: others run them, and they come and go."""
        found: set[str] = set()
        for table in self.tables.values():
            if {"guest", "owned"} <= {*table.columns}:
                found |= {*table.guest[~table.owned.fillna(True)]}
            elif table.attrs["kind"] == "vcpus" and {"guest", "work"} <= {*table.columns}:
                found |= {*table.guest[table.work.isna()]}
        return found

    def made_with(self) -> dict:
        """What is told of it: parameters, its own where none were given, versions, host and acceleration."""
        own, given = (self.environment.get(name) or {} for name in ("own_parameters", "parameters"))
        return {"parameters": own | given} | {name: self.environment.get(name) for name in _TOLD}

    def others(self, row: dict) -> float:
        """What others took, by a row of its noise."""
        return strange(row, bool(self.strangers))


class _Number(NamedTuple):
    """One measured number: its repeats in both reports, how it is scaled, and the typical spread of its like."""

    table: str
    what: str
    column: str
    scale: Scale
    values: tuple[list[float], list[float]]
    typical: float
    others: float  # by how much more of these CPUs others took in one report than in the other, while it was measured


@documents("compared_reports")
def compare(a: str | os.PathLike, b: str | os.PathLike) -> Comparison:
    """What differs between two reports of the same notebook, beyond noise.

    Rows are told apart by what they are about: plan, guest, vCPU, work ...; rows that agree in that are repeats of each other.

    A **state** is compared exactly: which CPUs a vCPU may use or was to use, what it worked, its weight and quota, flags, topology,
    whether a guest starts, which rows there are, and whether the notebook went through.

    A **number** is a share, a wait, a rate or a time that was measured twice or more in each report. Around the median of its repeats
    lies an interval, and it differs where the two intervals are apart. To either side an interval has:

    - so many standard errors that of all numbers of the comparison one is apart by chance once in 20 times or less (Bonferroni; they
      are 3.8 for 300 numbers). The spread of the repeats is their own or the typical one of the column, whichever is larger; the
      typical one begins with an assumption (5 % of a CPU; 10 % of a rate; 50 % of a pause) that counts like five repeats.
    - the noise floor of its report: what others took of a CPU before and after, how unevenly a busy loop got on, and how much
      faster the machine was in one of the reports (measure.noise); where the frame says what others took meanwhile, the
      difference of that as well.
    - half of what is never called a difference: 2 % of a CPU, 5 % of a rate, 40 % of a pause.

    So a small effect in few repeats is missed rather than invented. What was measured once has no interval and is not judged, nor are
    pauses and locks where others took more than 10 % of a CPU: a pause is as long as somebody else's turn then, and a lock magnifies
    such pauses a thousandfold.

    Measured on a quiet machine with two CPUs: of 14 reports of the same placements, locks, over-commit and modes (193 numbers judged in
    each of their 91 pairs), no two were said to differ. The constants above were chosen with 256 other pairs, most of them made while
    others were busy; none of these differs either. A changed pin is a state, and is always seen.

    Parameters
    ----------
    a, b : str
        Folders of ``report.run``.

    Returns
    -------
    Comparison
        ``.differs``; ``.frame``, one row a thing that differs, was measured or is told; ``str()`` says it in words.

    Raises
    ------
    ReportError
        For a folder that is no report, one that was damaged, and reports of different notebooks.

    Examples
    --------
    >>> print(report.compare("before", "after"))                # doctest: +SKIP

    """
    first, second = _read(a), _read(b)
    notebooks = [one.environment.get("notebook") for one in (first, second)]
    if None not in notebooks and Path(notebooks[0]).name != Path(notebooks[1]).name:
        raise ReportError(
            f"{first.folder} is a report of {notebooks[0]}, {second.folder} one of {notebooks[1]}: compare reports of one notebook."
        )
    found = _Compared(first, second)
    found.look()
    result = frame(found.rows, "compared_reports", {c: "of numbers only" for c in ("a_low", "a_high", "b_low", "b_high")})
    return Comparison(result, first.folder, second.folder, tuple(found.remarks()))


def _read(folder: str | os.PathLike) -> _Report:
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder. A report is what `kvmlab report NOTEBOOK -o FOLDER` makes.")
    try:
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        if not isinstance(environment, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError as error:
        raise ReportError(f"{folder} is no report: it has no environment.json. `kvmlab report NOTEBOOK -o FOLDER` makes one.") from error
    except (OSError, ValueError) as error:
        raise ReportError(f"{folder}/environment.json cannot be read: {error}.") from error
    return _Report(folder, environment, {path.stem: data.read(path) for path in sorted((folder / "data").glob("*.csv"))})


class _Compared:
    """What was looked at: rows in the order of columns.FRAMES["compared_reports"]."""

    def __init__(self, a: _Report, b: _Report):
        self._a, self._b = a, b
        self._strangers = a.strangers | b.strangers
        self._numbers: list[_Number] = []
        self.rows: list[tuple] = []

    def _tell(self, table: str, what: str, column: str, values: Sequence, differs: bool, why: str, *ends: float | None) -> None:
        a, b = (None if value is None else str(value) for value in values)
        low_a, high_a, low_b, high_b = ends or (None,) * 4
        self.rows.append((table, what, column, a, low_a, high_a, b, low_b, high_b, differs, why))

    def look(self) -> None:
        self._status()
        for name in sorted({**self._a.tables, **self._b.tables}):
            self._table(name, self._a.tables.get(name), self._b.tables.get(name))
        self._judge()
        self._context()

    def _status(self) -> None:
        states = [one.environment.get("status") for one in (self._a, self._b)]
        self._tell(
            "report", "the notebook", "status", states, states[0] != states[1], "it failed in one of them" if states[0] != states[1] else ""
        )

    # ---- tables

    def _table(self, name: str, a: pd.DataFrame | None, b: pd.DataFrame | None) -> None:
        if a is None or b is None:
            self._tell(name, "the table", "", (a is not None, b is not None), True, f"only {'B' if a is None else 'A'} has it")
            return
        kinds = [one.attrs.get("kind") for one in (a, b)]
        if kinds[0] != kinds[1]:
            self._tell(name, "the table", "kind", kinds, True, "it is of another kind")
        elif role := ROLES.get(kinds[0]):
            self._groups(name, role, a, b)

    def _groups(self, name: str, role: Role, a: pd.DataFrame, b: pd.DataFrame) -> None:
        keys = [key for key in role.keys if key in a and key in b]
        groups = [_grouped(one, keys) for one in (a, b)]
        results = [one for one in role.results if {*one.split("/")} <= {*a.columns} & {*b.columns}]
        units = {column.name: column.unit for column in FRAMES[a.attrs["kind"]]}
        for key in {**groups[0], **groups[1]}:
            rows = [one.get(key) for one in groups]
            what = _words(keys, key)
            if any(one is None for one in rows):
                self._missing(name, what, rows, role.loose or self._strange(keys, key))
                continue
            for column in [one for one in role.states if one in a and one in b]:
                self._state(name, what, column, *rows)
        for result in results:
            self._number(name, keys, result, groups, "" if "/" in result else units[result])

    def _strange(self, keys: Sequence[str], key: tuple) -> bool:
        return "guest" in keys and key[keys.index("guest")] in self._strangers

    def _missing(self, name: str, what: str, rows: Sequence, expected: bool) -> None:
        only = "B" if rows[0] is None else "A"
        why = f"only {only} has it" + (", and it comes and goes" if expected else "")
        self._tell(name, what or "rows", "", [one is not None for one in rows], not expected, why)

    def _state(self, name: str, what: str, column: str, a: pd.DataFrame, b: pd.DataFrame) -> None:
        values = [" / ".join(sorted(one[column].astype("string").fillna("NA").unique())) for one in (a, b)]
        self._tell(name, what, column, values, values[0] != values[1], "a state, compared exactly")

    def _number(self, name: str, keys: Sequence[str], result: str, groups: Sequence[Mapping], unit: str) -> None:
        scale = SCALES[unit]
        values = [{key: _values(rows, result) for key, rows in one.items()} for one in groups]
        loud = self._loud()
        typical = spread([some for one in values for some in one.values()], scale)
        for key in groups[0]:
            if key not in groups[1]:
                continue
            what = _words(keys, key)
            others = _others(groups[0][key]) - _others(groups[1][key])
            pair = values[0][key], values[1][key]
            if loud and (unit == "s" or _is_lock(result, groups[0][key])):
                self._unjudged(name, what, result, pair, _MAGNIFIED)
            elif min(map(len, pair)) > 1:
                self._numbers.append(_Number(name, what, result, scale, pair, typical, abs(others)))
            elif any(pair):
                self._unjudged(name, what, result, pair)

    def _unjudged(self, name: str, what: str, column: str, pair: Sequence[list[float]], why: str = "") -> None:
        why = why or ("measured once: nothing tells how well it is known" if all(pair) else "not measured in one of them")
        self._tell(name, what, column, [f"{median(values):.4g}" if values else None for values in pair], False, why)

    def _loud(self) -> bool:
        return any(one.others(row) > _LOUD for one in (self._a, self._b) for row in one.noise)

    # ---- numbers

    def _judge(self) -> None:
        errors, floors = width(len(self._numbers)), self._floors()
        for one in self._numbers:
            extra = Floor(one.others, one.others).on(one.scale) / 2
            a, b = (
                interval(values, one.scale, one.typical, errors, noise.on(one.scale) + extra)
                for values, noise in zip(one.values, floors, strict=True)
            )
            why = "the intervals are apart" if a.apart(b) else "within noise"
            values = (f"{a.middle:.4g}", f"{b.middle:.4g}")
            self._tell(one.table, one.what, one.column, values, a.apart(b), why, a.low, a.high, b.low, b.high)

    def _floors(self) -> tuple[Floor, Floor]:
        speeds = [row["turns_per_s"] for one in (self._a, self._b) for row in one.noise if row.get("turns_per_s")]
        a, b = (floor(one.noise, speeds, bool(one.strangers)) for one in (self._a, self._b))
        return a, b

    # ---- what is told, and is no difference by itself

    def _context(self) -> None:
        a, b = (dict(_flat(one.made_with())) for one in (self._a, self._b))
        for name in sorted(a.keys() | b.keys()):
            if a.get(name) != b.get(name):
                self._tell("environment", name, "", (a.get(name), b.get(name)), False, "told, and no difference by itself")

    def remarks(self) -> Iterator[str]:
        if self._a.folder.resolve() == self._b.folder.resolve():
            yield "A and B are the same folder."
        for letter, one in (("A", self._a), ("B", self._b)):
            if one.environment.get("status") != "complete":
                yield f"{letter} did not go through: what came after the cell that failed is missing there."
            if not one.noise:
                yield f"{letter} does not say how noisy the machine was: its numbers are taken as if it had been quiet."
            for row in one.noise:
                if one.others(row) > _LOUD:
                    when = "before" if row in one.environment["noise"]["before"] else "after"
                    yield f"{letter}: others took {100 * one.others(row):.0f} % of CPU {row['cpu']} {when} it."


def _grouped(table: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[str, ...], pd.DataFrame]:
    """By the texts of their keys."""
    if not keys:
        return {(): table}
    texts = [table[key].astype("string").fillna("NA") for key in keys]
    return {key: rows for key, rows in table.groupby(texts, sort=False)}


def _words(keys: Sequence[str], key: Sequence[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(keys, key, strict=True))


def _values(rows: pd.DataFrame, result: str) -> list[float]:
    column, _, whole = result.partition("/")
    values = rows[column].astype(float) / (rows[whole].astype(float) if whole else 1)
    return [float(value) for value in values if pd.notna(value)]


def _is_lock(result: str, rows: pd.DataFrame) -> bool:
    return "passes_per_s" in rows or (result == "turns_per_s" and "work" in rows and rows["work"].eq("lock").any())


def _others(rows: pd.DataFrame) -> float:
    """What all else took of these CPUs while it was measured."""
    known = rows["others"].dropna() if "others" in rows else ()
    return float(known.median()) if len(known) else 0.0


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """A nested dict with a name a leaf."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
