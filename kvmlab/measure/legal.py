"""What measurements take, and what they say when they are stopped: one wording for all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from numbers import Integral, Real

from kvmlab.errors import CpuListError, KvmlabError
from kvmlab.guest.vcpus import ROOT
from kvmlab.host import cpulist
from kvmlab.host.cpusets import online_cpus

_LONGEST_S, _MOST_REPEATS = 60, 10_000


def runs(seconds: float, repeats: int, shortest: float = 0.1) -> None:
    """Raise unless runs can be so long and so many.

    >>> runs(2, 3)
    """
    fit = isinstance(seconds, Real) and shortest <= seconds <= _LONGEST_S
    if not fit or not isinstance(repeats, Integral) or not 1 <= repeats <= _MOST_REPEATS:
        told = f"write {shortest:g} to {_LONGEST_S} seconds, and 1 to {_MOST_REPEATS} repeats"
        raise KvmlabError(f"seconds={seconds!r}, repeats={repeats!r}: {told}.")


def legal_cpus(cpus: str | int | Iterable[int] | None) -> tuple[int, ...]:
    """Those online CPUs, sorted; all for None.

    Raises
    ------
    KvmlabError
        For what is no list of CPUs, an empty one, and for CPUs that are not online.
    """
    online = online_cpus(ROOT)
    try:
        wanted = online if cpus is None else cpulist.parse(str(cpus)) if isinstance(cpus, str | int) else tuple(cpus)
    except (TypeError, CpuListError) as error:
        why = f": {error}" if isinstance(error, CpuListError) else ""
        raise KvmlabError(f"cpus={cpus!r}{why}: name some of the online CPUs, such as '{cpulist.format(online)}'.") from error
    if strange := [cpu for cpu in wanted if cpu not in online]:
        raise KvmlabError(f"CPU {strange[0]!r} is not among the online CPUs {cpulist.format(online)}.")
    if not wanted:
        raise KvmlabError(f"No CPUs to measure: name one or more of the online CPUs {cpulist.format(online)}.")
    return tuple(sorted(set(wanted)))


def say_stopped(rows: Sized) -> None:
    """After Ctrl-C."""
    print("Stopped: what was measured until now is kept." if len(rows) else "Stopped before anything was measured.", file=sys.stderr)
