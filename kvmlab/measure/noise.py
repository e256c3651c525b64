"""The noise floor: how much of this machine others use now, and how evenly a busy loop gets on beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import sqrt
from numbers import Real
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.host.threads import TICKS_PER_S

if TYPE_CHECKING:
    import pandas as pd

_LOOP = Path(__file__).with_name("busy_loop.py")
_START_S = 30  # more than a process takes to start on any machine that can be measured
_NOT_BUSY, _GUEST = (3, 4), (8, 9)  # of /proc/stat: idle and iowait; guest time, which is part of user and nice
_GONE = "a CPU went offline meanwhile"
_SILENT = dict.fromkeys(("others", "guests", "waited"), "this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)")


@documents("noise")
def noise(seconds: float = 0.5) -> pd.DataFrame:
    """What the machine is like to measure on just now: one row a host CPU that this process may use.

    On all of them at once a process of our own is busy for `seconds`, pinned there, and does nothing but look at the clock. What
    it does not get, somebody else does, and a guest would have felt the same. For a comparison, `others` is how far off a share of
    this CPU may be, `interval` how well a rate of work is known at best, and `turns_per_s` whether the machine is as fast as it was
    another time.

    Who only computes gets half of a CPU beside one such loop: `others` of 0.5 may be a process that would take all of it.

    Parameters
    ----------
    seconds : float
        How long, 0.1 to 60.

    Raises
    ------
    KvmlabError
        For another time, and where threads cannot be pinned: it takes Linux.

    Examples
    --------
    >>> bool((noise(0.1).longest_s > 0).all())
    True

    """
    if not isinstance(seconds, Real) or not 0.1 <= seconds <= 60:
        raise KvmlabError(f"seconds={seconds!r}: write 0.1 to 60 seconds.")
    if not hasattr(os, "sched_getaffinity"):
        raise KvmlabError("The noise of a host CPU is what a thread feels that is pinned there, and that takes Linux.")
    loops = {cpu: _start(cpu, seconds) for cpu in sorted(os.sched_getaffinity(0))}
    try:
        rows = [_row(cpu, loop.communicate(timeout=seconds + _START_S)[0]) for cpu, loop in loops.items()]
    finally:
        for loop in loops.values():
            loop.kill()
            loop.wait()
    result = frame(rows, "noise")
    reasons = dict.fromkeys(result, _GONE) if result["seconds"].isna().any() else _SILENT
    result.attrs["unavailable"] = {column: why for column, why in reasons.items() if result[column].isna().any()}
    return result


def _start(cpu: int, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-I", "-S", str(_LOOP), str(cpu), str(seconds)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _row(cpu: int, said: bytes) -> tuple:
    """In the order of columns.FRAMES["noise"]; a CPU that went offline meanwhile has nothing to say."""
    if not said:
        return cpu, *[None] * 7
    told = json.loads(said)
    seconds, turns = told["seconds"], told["turns"]
    ran, waited, busy, guests = _counted(told["before"], told["after"])
    others = None if None in (ran, busy) else min(1.0, max(0.0, (busy - ran) / seconds))
    guests = None if None in (others, guests) else min(others, guests / seconds)
    speed = sum(turns) / seconds if ran is None else sum(turns) / ran
    even = 2 * stdev(turns) / sqrt(len(turns)) / fmean(turns)
    return cpu, seconds, others, guests, None if waited is None else waited / seconds, told["longest"], speed, even


def _counted(before: list, after: list) -> tuple[float | None, ...]:
    """Seconds that the loop ran and waited, and that its CPU was busy, and in guest mode."""
    ours = [None, None] if None in (before[0], after[0]) else [(b - a) / 1e9 for a, b in zip(before[0], after[0], strict=True)]
    if None in (before[1], after[1]):
        return *ours, None, None
    spent = [(b - a) / TICKS_PER_S for a, b in zip(before[1], after[1], strict=True)]
    busy = sum(part for field, part in enumerate(spent) if field not in (*_NOT_BUSY, *_GUEST))
    return *ours, busy, sum(spent[field] for field in _GUEST)
