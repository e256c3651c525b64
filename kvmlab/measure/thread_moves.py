"""Moves: what threads did between the looks of ``measure.follow(lambda: host.affinity(pid))``."""

from __future__ import annotations

import pandas as pd

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.host import cpulist

_NEEDED = ("time_s", "pid", "tid", "comm", "cpu", "migrations", "run_s", "run_delay_s")


@documents("thread_moves")
def thread_moves(looks: pd.DataFrame) -> pd.DataFrame:
    """How often each thread moved to another host CPU, ran and waited, from the first look at it to the last: one row a thread.

    Where the kernel counts migrations, these; else how often `cpu` differed from one look to the next, which is the least that it can
    have been. ``attrs["migrations"]`` says which.

    Parameters
    ----------
    looks : DataFrame
        Frames of ``Host.affinity`` below each other, as ``measure.follow`` makes them.

    Raises
    ------
    KvmlabError
        For another frame.

    Examples
    --------
    >>> import os
    >>> from kvmlab import Host, measure
    >>> looks = measure.follow(lambda: Host().affinity(os.getpid()), seconds=0.2)
    >>> measure.thread_moves(looks).pid.unique().tolist() == [os.getpid()]
    True

    """
    missing = [name for name in _NEEDED if name not in looks]
    if missing:
        raise KvmlabError(f"This frame has no column {missing[0]!r}: pass what measure.follow(lambda: host.affinity(pid)) gives.")
    rows = [_row(of_one.sort_values("time_s")) for _, of_one in looks.groupby(["pid", "tid"])]
    result = frame(rows, "thread_moves")
    said = sorted(set(result["counted_by"].dropna()))
    result.attrs["migrations"] = {("kernel",): "counted by the kernel", ("looks",): "changes of cpu from look to look"}.get(
        tuple(said), "both: see counted_by"
    )
    return result


def _row(looks: pd.DataFrame) -> tuple:
    first, last = looks.iloc[0], looks.iloc[-1]
    counts = looks["migrations"].notna().all()
    seen = looks["cpu"].dropna()
    moved = last["migrations"] - first["migrations"] if counts else int((seen.diff().fillna(0) != 0).sum())
    spent = (last[name] - first[name] for name in ("time_s", "run_s", "run_delay_s"))
    who = (last["pid"], last["tid"], last["comm"])  # a program that is executed changes the name
    return *who, cpulist.format(int(cpu) for cpu in seen), moved, "kernel" if counts else "looks", *spent
