"""A host made noisy on purpose: three faults of placement that each cost somebody something, and one that costs nobody anything."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmlab.errors import GuestError, KvmlabError
from kvmlab.host import cpulist

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

GUESTS = ("c1", "c2")
QUOTA_US = 10_000  # of each 100 ms: a tenth of a CPU
WANTS_PCT = 30  # of a CPU, what c2's work takes
_LOOP = """
import ctypes, os
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: it ends with the notebook's kernel, also where it was paused
parent = os.getppid()
while os.getppid() == parent: pass
"""
_MESSES: list[Mess] = []


@dataclass
class Mess:
    """What was done to the host. It shows what is complained of, not the causes."""

    lab: GuestLab
    cpus: tuple[int, int]  # the crowded one, and the other
    _stranger: subprocess.Popen
    no_quota: str  # why c2 has none, where nobody can set one

    def __repr__(self) -> str:
        missing = f"\n(c2 is served as it should be: its fault takes shares and quota. {self.no_quota})" if self.no_quota else ""
        return (
            f"The host has two guests, and CPUs {cpulist.format(self.cpus)} for all.\n"
            'c1\'s owner: "Two vCPUs, and my database hands out hardly any locks. It was a thousand times faster on the old host."\n'
            f'c2\'s owner: "I need {WANTS_PCT} % of a CPU. I hardly get {QUOTA_US / 1000:.0f}."\n'
            f'The host\'s owner: "They overbook it, I say. And yet a good part of CPU {self.cpus[1]} is idle."{missing}'
        )

    @property
    def stranger(self) -> int:
        """The process that nobody has told you of; for who has looked, or wants to know."""
        return self._stranger.pid

    def end(self) -> None:
        """The guests go with their Lab; this is the rest."""
        self._stranger.kill()
        self._stranger.wait()
        atexit.unregister(self.end)
        if self in _MESSES:
            _MESSES.remove(self)


def noisy_host(lab: GuestLab, crowded: int | None = None) -> Mess:
    """Make a host as one finds it: guests c1 and c2, started where they are not there yet, and what is wrong with them.

    It does not say what that is: lesson 08 finds it, one thing after the other. The end of the Lab takes it back, and ``Mess.end()`` ends
    the process that belongs to no guest, if the end of this one has not.

    Parameters
    ----------
    lab : Lab
    crowded : int, optional
        The host CPU that all are put on; by default the last one.

    Raises
    ------
    KvmlabError
        Where there is one CPU only: nothing can be placed badly.

    Examples
    --------
    >>> noisy_host(lab)                                                     # doctest: +SKIP
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise KvmlabError(f"There is CPU {cpus[0]} only: where there is no choice, nothing is placed badly. This lesson takes two CPUs.")
    full = cpus[-1] if crowded is None else crowded
    other = next(cpu for cpu in reversed(cpus) if cpu != full)
    for mess in list(_MESSES):
        mess.end()
    _start(lab)
    stranger = subprocess.Popen([sys.executable, "-c", _LOOP])
    mess = Mess(lab, (full, other), stranger, "")
    atexit.register(mess.end)
    _MESSES.append(mess)
    lab.plan({("c1", 0): full, ("c1", 1): full, ("c1", "emulator"): full, ("c2", 0): other, f"pid {stranger.pid}": full}).apply()
    try:
        lab.schedinfo("c2", vcpu_quota=QUOTA_US, vcpu_period=100_000)
    except GuestError as error:
        mess.no_quota = str(error)
    return mess


def current() -> Mess:
    """The mess that was made last.

    Raises
    ------
    KvmlabError
        Where none was made, or it has been cleared away.
    """
    if not _MESSES:
        raise KvmlabError("There is no mess to look at: run mess = noisy_host(lab).")
    return _MESSES[-1]


def _start(lab: GuestLab) -> None:
    for name, vcpus, work, parameter in (("c1", 2, "lock", None), ("c2", 1, "duty", WANTS_PCT)):
        guest = lab.own.get(name) or lab.start(name, vcpus=vcpus)
        guest.work(work, parameter=parameter)
