"""How far a reader is, in a small file of the reader's own."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmlab.columns import documents, frame

if TYPE_CHECKING:
    import pandas as pd

_NEVER: dict[str, Any] = {"tries": 0, "failed": 0, "done": None}
_unwritten: dict[str, dict] | None = None  # what is known of the reader where no file can be written


def path() -> Path:
    """$KVMLAB_COURSE, or else kvmlab/course.json in $XDG_DATA_HOME, by default in ~/.local/share."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(os.environ.get("KVMLAB_COURSE") or Path(data, "kvmlab", "course.json"))


def note(number: str, done: bool) -> int:
    """Write one try down; which failed try since the last success it is. Where nothing can be written, the course goes on."""
    global _unwritten
    tried = _read()
    mine = tried.setdefault(number, dict(_NEVER))
    mine["tries"] += 1
    mine["failed"] = 0 if done else mine["failed"] + 1
    if done and not mine["done"]:
        mine["done"] = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        _write(tried)
        _unwritten = None
    except OSError as error:
        if _unwritten is None:
            why = error.strerror or error
            warnings.warn(f"Your progress cannot be written to {path()} ({why}): it lasts as long as this Python.", stacklevel=3)
        _unwritten = tried
    return mine["failed"]


def _write(tried: dict[str, dict]) -> None:
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and _known(target) is None:
        target.replace(target.with_suffix(".unreadable"))  # not ours to throw away
    new = target.with_suffix(f".{os.getpid()}")
    try:
        new.write_text(json.dumps(tried, indent=1))
        new.replace(target)  # whole or not at all, whatever happens meanwhile
    finally:
        new.unlink(missing_ok=True)


def _read() -> dict[str, dict]:
    return _known(path()) or {} if _unwritten is None else _unwritten


def _known(file: Path) -> dict[str, dict] | None:
    """What was written there; None for a file that is missing, damaged or somebody else's."""
    with suppress(OSError, ValueError, RecursionError):
        tried = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(tried, dict) and all(map(_is_ours, tried.values())):
            return tried
    return None


def _is_ours(mine: object) -> bool:
    counts = isinstance(mine, dict) and mine.keys() == _NEVER.keys() and all(type(mine[name]) is int for name in ("tries", "failed"))
    return counts and isinstance(mine["done"], str | None)


@documents("progress")
def progress() -> pd.DataFrame:
    """How far you are: one row an exercise of the course. ``attrs["file"]`` is where it is kept.

    Examples
    --------
    >>> from kvmlab.course import progress
    >>> list(progress().columns)
    ['exercise', 'title', 'tries', 'done', 'since']

    """
    from kvmlab.course.check import exercises

    tried = _read()
    known = [(exercise, tried.get(number, _NEVER)) for number, exercise in exercises().items()]
    rows = [(exercise.number, exercise.title, mine["tries"], mine["done"] is not None, mine["done"]) for exercise, mine in known]
    result = frame(rows, "progress")
    result.attrs["unavailable"] = {"since": "not done yet"} if result.since.isna().any() else {}
    result.attrs["file"] = str(path())
    return result
