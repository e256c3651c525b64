"""In the notebook's kernel: every frame of kvmlab's that a cell bound to a name, or changed, is written after that cell.

A line of captured.jsonl says of each which file it is, or why there is none. Nothing that happens here fails a cell.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pandas as pd

from kvmlab.report import data

LIST = "captured.jsonl"


def start(shell: object, folder: str, seed: int) -> None:
    """Write from now on. What the notebook draws by chance itself begins at `seed`."""
    random.seed(seed)
    sys.modules["numpy"].random.seed(seed)  # pandas has loaded it
    shell.events.register("post_run_cell", _Capture(shell, Path(folder)).after_cell)


class _Capture:
    """What was bound before, so as to see what is new."""

    def __init__(self, shell: object, folder: Path):
        self._shell, self._folder = shell, folder
        self._known: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}  # name -> the frame itself, and what it was like

    def after_cell(self, result: object) -> None:
        """An event of IPython's; cells that do not count, as the injected parameters do not, have no number."""
        begin = time.monotonic()
        try:
            if (cell := result.execution_count) is not None:
                for name, frame in self._bound():
                    self._look(cell, name, frame)
                self._tell(cell=cell, spent_s=time.monotonic() - begin)
        except (Exception, KeyboardInterrupt) as error:
            self._failed(getattr(result, "execution_count", None), None, error)

    def _bound(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """By name, each object once."""
        seen = set()
        for name, value in list(self._shell.user_ns.items()):
            if not name.startswith("_"):
                for full, frame in _frames(name, value):
                    if id(frame) not in seen:
                        seen.add(id(frame))
                        yield full, frame

    def _look(self, cell: int, name: str, frame: pd.DataFrame) -> None:
        before, copy = self._known.get(name, (None, None))
        try:
            if before is frame and frame.equals(copy) and frame.attrs == copy.attrs:
                return
            self._known[name] = frame, frame.copy()
            file = f"{cell:02}_{name}.csv"
            data.write(frame, self._folder / "data" / file, f"{name}, as cell {cell} left it")
            told = {"kind": frame.attrs["kind"], "rows": len(frame), "columns": len(frame.columns), "accel": frame.attrs.get("accel")}
            self._tell(cell=cell, name=name, file=file, **told)
        except Exception as error:
            for left in (self._folder / "data").glob(f"{cell:02}_{name}.csv*"):
                left.unlink(missing_ok=True)
            self._failed(cell, name, error)

    def _failed(self, cell: int | None, name: str | None, error: BaseException) -> None:
        try:
            self._tell(cell=cell, name=name, error=f"{type(error).__name__}: {error}")
        except OSError as gone:  # the disk is full: the report's own files will say so
            print(f"kvmlab report: {name} was not saved: {gone}", file=sys.__stderr__)

    def _tell(self, **what: object) -> None:
        with open(self._folder / LIST, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(json.dumps(what, default=str) + "\n")


def _frames(name: str, value: object) -> Iterator[tuple[str, pd.DataFrame]]:
    """The frame itself, or those that one of kvmlab's results or a dict of the notebook's holds."""
    held: dict[str, object] = {}
    if isinstance(value, dict):
        held = {key: part for key, part in value.items() if isinstance(key, str) and key.isidentifier()}
    elif type(value).__module__.partition(".")[0] == "kvmlab":
        names = [field.name for field in fields(value)] if is_dataclass(value) else getattr(type(value), "_fields", ())
        held = {part: getattr(value, part, None) for part in names}
    for full, part in [(name, value), *((f"{name}.{key}", part) for key, part in held.items())]:
        if data.is_measured(part):
            yield full, part
