"""The undo journal: what a Lab changes of others is on disk before it is changed, and so outlives a kill -9.

A file for each Lab that changed something, of JSON lines: ``{"step": 1, "at": ..., "rows": [...]}``, written and synced before
the change, and ``{"undone": 1}`` after it was taken back. When nothing is left to undo, the file goes. Its name says which
process of which machine it belongs to (a home may be shared); once that is gone, the next Lab of the same user there, or
``kvmlab doctor --clean``, takes back what it left.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import platform
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from kvmlab.errors import PinError
from kvmlab.guest.vcpus import ROOT
from kvmlab.host.threads import read_stat

PATIENCE_S = 10  # a plan takes milliseconds
_ENDING, _ASIDE = ".jsonl", ".corrupt"
_FLAGS = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Step:
    """One step that a process left behind: where it is written, and what each of its rows found."""

    path: Path
    line: int
    number: int
    boot: str
    at: float
    uptime_s: float  # of the machine: the wall clock may be set back
    rows: tuple[dict, ...]


@dataclass(frozen=True)
class Left:
    """A journal that its process left behind, with the numbers of the lines that are no lines of a journal."""

    path: Path
    steps: tuple[Step, ...]
    strange: tuple[int, ...]


# ---- where


def folder() -> Path:
    """This user's: $XDG_STATE_HOME/kvmlab/journal where that is the user's own, ~/.local/state or, for root, /var/lib otherwise."""
    told, home = os.environ.get("XDG_STATE_HOME", ""), os.path.expanduser("~/.local/state")
    if not (os.path.isabs(told) and _owner(told) == os.geteuid()):  # root may have come here by sudo, with a user's environment
        told = "/var/lib" if os.geteuid() == 0 else home
    return Path(told, "kvmlab", "journal")


def _made_folder() -> Path:
    place = folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _owner(place) != os.geteuid() or os.lstat(place).st_mode & 0o022:
        raise PermissionError(1, "it belongs to somebody else, or others may write there", str(place))
    return place


def _owner(path: str | Path) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None


@contextmanager
def locked() -> Iterator[None]:
    """Nobody else of this user applies, undoes or replays meanwhile. Where there can be no folder, there is nobody to wait for."""
    try:
        lock = os.open(_made_folder() / "lock", os.O_RDWR | _FLAGS, 0o600)
    except OSError:
        yield
        return
    try:
        _wait_for(lock)
        yield
    finally:
        os.close(lock)


def _wait_for(lock: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                why = f"another process of yours has been changing pins for {PATIENCE_S} s and holds {folder()}/lock (fuser names it)"
                raise PinError(f"Nothing was changed: {why}. End it, or wait.") from None
            time.sleep(0.002)


# ---- written


class Journal:
    """Of one Lab. There is no file before the first step."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._open: set[int] = set()
        self._steps = 0

    def begin(self, rows: Sequence[dict]) -> int | None:
        """Write down what a step is about to change; its number. Of nothing there is no step.

        Raises
        ------
        PinError
            When it cannot be written: then nothing may be changed either.
        """
        if not rows:
            return None
        self._steps += 1
        try:
            if self.path is None:
                self.path = _made_folder() / f"{_me()}-{uuid4().hex[:8]}{_ENDING}"
            append(self.path, _line(self._steps, boot_id(), time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), rows))
        except OSError as error:
            where = f"the undo journal in {folder()} cannot be written: {error.strerror}"
            raise PinError(f"Nothing was changed: {where}. Make room there, or name another folder in XDG_STATE_HOME.") from error
        self._open.add(self._steps)
        return self._steps

    def end(self, step: int | None) -> None:
        """A step was taken back. When all were, the file goes."""
        if step is None:
            return
        self._open.discard(step)
        if self._open:
            note(self.path, [step])
        else:
            self.path.unlink(missing_ok=True)
            self.path = None

    def hand_over(self) -> None:
        """Leave what could not be taken back to whoever comes next, in this process or another: no process has the number 0."""
        if self.path:
            with suppress(OSError):
                self.path.rename(self.path.with_name("-".join(["0", "0", *self.path.name.split("-")[2:]])))
        self.path = None
        self._open.clear()


def note(path: Path, undone: Iterable[int], kept: Iterable[Step] = ()) -> None:
    """Note what was taken back, and of which steps only some rows are left.

    To take something back twice would do no harm, so that a full disk is none either.
    """
    with suppress(OSError):
        text = path.read_bytes()
        os.truncate(path, text.rfind(b"\n") + 1)  # a torn line
        for step in undone:
            append(path, {"undone": step})
        for step in kept:
            append(path, _line(step.number, step.boot, step.at, step.uptime_s, step.rows))


def _line(step: int, boot: str, at: float, uptime_s: float, rows: Sequence[dict]) -> dict:
    return {"step": step, "at": at, "uptime_s": uptime_s, "boot": boot, "rows": list(rows)}


def append(path: Path, line: dict) -> None:
    """Add a line and wait until the disk has it; all of it or nothing, unless we are killed at it."""
    new = not path.exists()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | _FLAGS, 0o600)
    try:
        size = os.fstat(file).st_size
        data = json.dumps(line).encode() + b"\n"
        try:
            if os.write(file, data) != len(data):
                raise OSError(28, "no space is left")
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)
    if new:
        _sync(path.parent)


def _sync(place: Path) -> None:
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _me() -> str:
    pid = os.getpid()
    return f"{pid}-{read_stat(ROOT, pid, pid).start_ticks}-{boot_id()[:8]}-{machine()}"


@lru_cache(1)
def machine() -> str:
    """Of this machine, short: the same after its next boot."""
    return hashlib.sha256((ROOT.read("etc/machine-id") or platform.node()).encode()).hexdigest()[:8]


@lru_cache(1)
def boot_id() -> str:
    """Of this boot of the machine: process numbers and start times mean nothing in another."""
    return ROOT.read("proc/sys/kernel/random/boot_id") or "unknown"


# ---- read


def left_behind() -> list[Left]:
    """This user's journals whose processes are gone."""
    found = []
    for path in _mine():
        with suppress(OSError):
            if not _is_written(path):
                found.append(read(path))
    return found


def others(own: Path | None = None) -> bool:
    """Whether another Lab of this user has changed something, and still runs."""
    return any(path != own and _is_written(path) for path in _mine())


def _mine() -> list[Path]:
    return [path for path in sorted(folder().glob(f"*-*-*-{machine()}-*{_ENDING}")) if _is_own_file(path)]


def _is_own_file(path: Path) -> bool:
    with suppress(OSError):
        status = path.lstat()
        return status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode)
    return False


def _is_written(path: Path) -> bool:
    """Whether the process that a journal's name names still runs."""
    pid, start, boot = (*path.name.split("-"), "", "", "")[:3]
    if not pid.isdecimal() or boot != boot_id()[:8]:
        return False
    found = read_stat(ROOT, int(pid), int(pid))
    return found is not None and found.state not in "ZX" and str(found.start_ticks) == start


def read(path: Path) -> Left:
    """The steps of a journal that were not undone. A last line without its end is none: its change did not happen yet."""
    *lines, _torn = path.read_bytes().split(b"\n")
    steps, strange = {}, []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if "undone" in line:
                steps.pop(line["undone"], None)
            else:
                steps[line["step"]] = _step(path, number, line)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # also of bytes that are no UTF-8
            strange.append(number)
    return Left(path, tuple(steps.values()), tuple(strange))


def _step(path: Path, number: int, line: dict) -> Step:
    rows = tuple({**row, "boot": line["boot"]} for row in line["rows"])
    step = Step(path, number, line["step"], line["boot"], float(line["at"]), float(line["uptime_s"]), rows)
    if type(step.number) is not int or type(step.boot) is not str or not math.isfinite(step.at + step.uptime_s):
        raise ValueError("no step of ours")
    return step


def put_aside(path: Path) -> Path:
    """Keep a journal under a name that is not looked at again."""
    aside = path.with_name(path.name + _ASIDE)
    path.rename(aside)
    return aside
