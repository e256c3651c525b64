"""class Comparison: what ``report.compare`` found, as a frame, in words, and as a table for a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

_MOST = 40  # lines; the frame has them all


@dataclass(frozen=True)
class Comparison:
    """Two reports of a notebook beside each other."""

    frame: pd.DataFrame
    a: Path
    b: Path
    remarks: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether anything is other than noise explains."""
        return bool(self.frame["differs"].any())

    def __str__(self) -> str:
        lines = [self._headline(), f"A is {self.a}, B is {self.b}."]
        lines += ["", *_shortened([f"  {_line(row)}" for row in self._differing()])] if self.differs else []
        told = [*self.remarks, *(f"{row.what}: {_value(row.a)} in A, {_value(row.b)} in B." for row in self._told())]
        return "\n".join(
            lines + (["", "Told, and no difference by itself:", *_shortened([f"  {words}" for words in told])] if told else [])
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(row.table)}</td><td>{escape(row.what)}</td><td>{escape(row.column or '')}</td>"
            f"<td>{escape(_known(row.a, row.a_low, row.a_high))}</td><td>{escape(_known(row.b, row.b_low, row.b_high))}</td></tr>"
            for row in self._differing()[:_MOST]
        )
        head = "<tr><th>table</th><th>what</th><th>column</th><th>A</th><th>B</th></tr>"
        table = f"<table>{head}{rows}</table>" if rows else ""
        told = [*self.remarks, *(f"{row.what}: {_value(row.a)} in A, {_value(row.b)} in B" for row in self._told()[:_MOST])]
        items = "".join(f"<li>{escape(words)}</li>" for words in told)
        notes = f"<p>Told, and no difference by itself:</p><ul>{items}</ul>" if items else ""
        return f"<p><b>{escape(self._headline())}</b><br>A is {escape(str(self.a))}, B is {escape(str(self.b))}.</p>{table}{notes}"

    def _headline(self) -> str:
        numbers = self.frame["a_low"].notna()
        states = self.frame["why"].eq("a state, compared exactly")
        counted = f"{int(states.sum())} states and {int(numbers.sum())} measured numbers were compared"
        if not self.differs:
            nothing = "Nothing was compared: these reports have no state and no measured number in common."
            return f"No difference beyond noise: {counted}." if states.any() or numbers.any() else nothing
        return f"They differ beyond noise, in {int(self.frame['differs'].sum())} things: {counted}."

    def _differing(self) -> list:
        return list(self.frame[self.frame["differs"]].itertuples())

    def _told(self) -> list:
        return list(self.frame[self.frame["table"] == "environment"].itertuples())


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"  ... and {len(lines) - _MOST} more: .frame has them all"]


def _line(row: tuple) -> str:
    what = f"{row.table}, {row.what}" + (f": {row.column}" if row.column else "")
    if row.a in ("True", "False") and not row.column:
        return f"{what}: {row.why}"
    return f"{what} {_known(row.a, row.a_low, row.a_high)} -> {_known(row.b, row.b_low, row.b_high)}"


def _known(value: str, low: float, high: float) -> str:
    return _value(value) if pd.isna(low) else f"{value} ({low:.3g} to {high:.3g})"


def _value(value: str) -> str:
    return "none" if pd.isna(value) else value
