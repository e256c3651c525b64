"""The collapse of a lock: vCPUs of one guest that take a ticket lock in turns, on enough host CPUs and on too few.

Whoever waits for a ticket lock spins. Where vCPUs share a host CPU, the one that has the lock is taken off that CPU while it has it
(lock-holder preemption), and when it gives the lock back, the one whose turn it is may not be on a CPU either: then the others
spin their slices away. A lock that is passed on in a microsecond is then passed on once a slice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvmlab.columns import documents, frame
from kvmlab.errors import KvmlabError
from kvmlab.guest.spec import MOST_VCPUS
from kvmlab.host import cpulist
from kvmlab.measure import legal
from kvmlab.measure.crew import Wanted, crew
from kvmlab.measure.progress import Progress
from kvmlab.measure.run import run

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.guest import Guest
    from kvmlab.guest.lab import GuestLab

NAME = "lock-collapse-{}"
_START_S, _SETTLE_S = 0.5, 0.1


@documents("lock_collapse")
def lock_collapse(
    lab: GuestLab,
    vcpus: Sequence[int] = (1, 2, 4),
    cpus: Sequence[str] = ("0-1", "1"),
    seconds: float = 1,
    repeats: int = 3,
    progress: bool | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How often vCPUs of one guest pass a lock on, by how many they are and which host CPUs they have: one row of each, and repeat.

    One guest is started; in each run so many of its vCPUs do the work "lock", pinned to the same host CPUs, and the others are
    idle. Each repeat goes through all of it in a random order. Ctrl-C ends it early and keeps what was measured
    (``attrs["stopped"]``). At the end the guest is gone.

    Parameters
    ----------
    lab : Lab
    vcpus : list of int
        How many vCPUs take the lock.
    cpus : list of str
        Sets of host CPUs, such as "0-1".
    seconds : float
        Length of one run, 0.1 to 60.
    repeats : int
        Runs of each.
    progress : bool, optional
        Show how far it has come; by default in a terminal or notebook.
    seed : int
        Of the order.

    Raises
    ------
    KvmlabError
        For CPUs that are not online, and other numbers; before anything is measured.

    Examples
    --------
    >>> runs = measure.lock_collapse(lab)                                        # doctest: +SKIP
    >>> runs.groupby(["cpus", "vcpus"])["passes_per_s"].median()                 # doctest: +SKIP

    """
    order = _order(_legal(vcpus, cpus, seconds, repeats), repeats, seed)
    rows, stopped = [], False
    try:
        with Progress(_START_S + len(order) * (seconds + _SETTLE_S), progress) as bar:
            wanted = Wanted(1, max(count for count, _, _ in order), order[0][1], "lock")
            with crew(lab, NAME, wanted) as members:
                for n, (count, chosen, repeat) in enumerate(order):
                    bar.tell(n / len(order), f"run {n + 1} of {len(order)}: {count} vCPUs on CPUs {cpulist.format(chosen)}")
                    rows.append((count, cpulist.format(chosen), repeat, *_passes(lab, members[0].guest, count, chosen, seconds)))
    except KeyboardInterrupt:
        stopped = True
        legal.say_stopped(rows)
    result = frame(rows, "lock_collapse")
    result.attrs |= {"accel": lab.accel, "stopped": stopped}
    return result


def _legal(vcpus: Sequence[int], cpus: Sequence[str], seconds: float, repeats: int) -> list[tuple[int, tuple[int, ...]]]:
    """Each number of vCPUs on each set of CPUs."""
    vcpus, cpus = [vcpus] if isinstance(vcpus, int) else vcpus, [cpus] if isinstance(cpus, str | int) else cpus
    if not vcpus or not cpus or any(type(count) is not int or not 1 <= count <= MOST_VCPUS for count in vcpus):
        raise KvmlabError(
            f"vcpus={vcpus!r}, cpus={cpus!r}: write one of each at least, numbers from 1 to {MOST_VCPUS} and lists such as '0-1'."
        )
    legal.runs(seconds, repeats)
    return list(dict.fromkeys((count, legal.legal_cpus(chosen)) for chosen in cpus for count in vcpus))


def _order(cases: list[tuple], repeats: int, seed: int) -> list[tuple]:
    draw = random.Random(seed)
    return [(*case, repeat) for repeat in range(repeats) for case in draw.sample(cases, len(cases))]


def _passes(lab: GuestLab, guest: Guest, count: int, cpus: tuple[int, ...], seconds: float) -> tuple:
    """Seconds, passes a second, CPUs' worth that the vCPUs ran, and the mean share of the time that they waited."""
    lab.plan({(guest.name, vcpu): cpulist.format(cpus) for vcpu in range(count)}).apply()
    try:
        guest.work("lock", vcpus=range(count))
        time.sleep(_SETTLE_S)
        found = run([guest], cpus, seconds)
        if found.stopped:
            raise KeyboardInterrupt
        guest.work("idle")
    finally:
        lab.undo()
    got = [one for one in found.got if one.vcpu < count]
    totals = [None if None in values else sum(values) for values in zip(*((one.turns, one.share, one.waited) for one in got), strict=True)]
    return got[0].seconds, *totals[:2], None if totals[2] is None else totals[2] / count
