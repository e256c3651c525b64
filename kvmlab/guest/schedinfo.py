"""Shares and quota: how much of the CPUs libvirt gives a guest when others want them too, and how much at most.

libvirt writes them into the guest's CPU cgroup, which takes a daemon that runs as root. Which values are legal, libvirt says
itself, for they are the kernel's and differ between cgroup v1 (cpu_shares 2 to 262144) and v2 (weights of 1 to 10000).

Sources: virDomainGetSchedulerParameters, cgroups(7), proc(5), sched(7) for the autogroups of a session without cgroups.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from kvmlab.columns import documents
from kvmlab.errors import GuestError
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.vcpus import ROOT, Process

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("cpu_shares", "vcpu_quota", "vcpu_period")  # libvirt's words, also for virsh schedinfo
PERIOD_US = 100_000  # the kernel's default
_SESSION = "CPU tuning is not available in session mode"  # libvirt's words
_WHO = "root can, and the group libvirt: Lab('qemu:///system')"
_CPU_CGROUP = re.compile(r"^(?:\d+:(?:[^:\n]*,)?cpu(?:,[^:\n]*)?|0:):(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Before:
    """What a change found, for ``lab.undo``."""

    process: Process
    domain: libvirt.virDomain
    known: dict[str, int]

    def put_back(self) -> None:
        with explained(f"Putting back the shares and quota of '{self.process.guest}'"):
            self.domain.setSchedulerParametersFlags(self.known, libvirt.VIR_DOMAIN_AFFECT_LIVE)


class SchedInfo:
    """The part of a Lab that shares CPUs out to its guests."""

    @documents("schedinfo")
    def schedinfo(
        self, name: str, *, cpu_shares: int | None = None, vcpu_quota: int | None = None, vcpu_period: int | None = None
    ) -> pd.DataFrame:
        """A running guest's shares and quota, one row: as they are or, with numbers, as they are then. As `virsh schedinfo`.

        ``lab.undo()`` takes a change back; the end of the Lab does so for guests that it did not start.

        Parameters
        ----------
        name : str
            Of a guest. To change one that this Lab did not start takes ``allow_changes=True``.
        cpu_shares : int, optional
            The guest's weight where others want the same CPU: one with twice the shares gets twice as much.
        vcpu_quota : int, optional
            Microseconds that each vCPU may run in each period, 1000 or more; -1 for no limit.
        vcpu_period : int, optional
            The period, 1000 to 1000000 microseconds.

        Raises
        ------
        PlanError
            When no guest of that name runs, or this Lab may not change it.
        GuestError
            For numbers that libvirt refuses, whose words name the range, and for any in session mode, which has no CPU tuning.

        Examples
        --------
        >>> lab.schedinfo("c1", cpu_shares=2048, vcpu_quota=10_000)                            # doctest: +SKIP

        """
        domain = self.domain(name)
        wanted = {
            parameter: value for parameter, value in zip(NAMES, (cpu_shares, vcpu_quota, vcpu_period), strict=True) if value is not None
        }
        if wanted:
            self.must_be_mine(name)
            self.remember([_change(self.process(name), domain, wanted)])
        known = read(domain)
        return self._frame([_row(name, known)], "schedinfo", _unavailable(known))


def read(domain: libvirt.virDomain) -> dict[str, int]:
    """What libvirt knows of NAMES; nothing in session mode."""
    try:
        with explained(f"Asking for the shares and quota of '{domain.name()}'"):
            found = domain.schedulerParametersFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except GuestError as error:
        if _SESSION in str(error):
            return {}
        raise
    return {name: found[name] for name in NAMES if name in found}


def _row(name: str, known: dict[str, int]) -> tuple:
    shares, quota, period = (known.get(parameter) for parameter in NAMES)
    return name, shares, quota / period if known and quota > 0 else None, period / 1e6 if known else None


def _unavailable(known: dict[str, int]) -> dict[str, str]:
    if known:
        return {"quota": "there is no limit"}
    return dict.fromkeys(("cpu_shares", "quota", "period_s"), f"{_SESSION}; {_WHO}")


def _change(process: Process, domain: libvirt.virDomain, wanted: dict[str, int]) -> Before:
    """Set them and read them back; if the kernel's answer differs, what was there before is put back."""
    asked = f"{', '.join(f'{parameter}={value!r}' for parameter, value in wanted.items())} of '{process.guest}'"
    if strange := [parameter for parameter, value in wanted.items() if type(value) is not int or value == 0]:
        raise GuestError(f"Setting {asked}: {strange[0]} is a whole number, and not 0; a vcpu_quota of -1 is none.")  # 0: libvirt's default
    if not (known := read(domain)):
        raise GuestError(f"Setting {asked}: {_SESSION}; {_WHO}.")
    before = Before(process, domain, {parameter: known[parameter] for parameter in wanted})
    with explained(f"Setting {asked}"):
        domain.setSchedulerParametersFlags(wanted, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    has = read(domain)
    if differs := [parameter for parameter, value in wanted.items() if value > 0 and has[parameter] != value]:
        before.put_back()
        raise GuestError(f"Setting {asked}: the kernel took {differs[0]}={has[differs[0]]} instead. It was put back.")
    return before


def grouped(processes: Iterable[Process]) -> bool:
    """Whether the kernel shares CPUs out to these guests first, and then to each guest's threads: each has a group of its own."""
    groups = [_group(process.pid) for process in processes]
    return None not in groups and len(set(groups)) == len(groups)


def _group(pid: int) -> str | None:
    """The CPU cgroup of a process or, where it is in none, its autogroup; None: neither."""
    for path in _CPU_CGROUP.findall(ROOT.read(f"proc/{pid}/cgroup") or ""):
        for folder in [str(at) for at in (PurePosixPath(path), *PurePosixPath(path).parents)][:-1]:
            if any(map(ROOT.read, (f"sys/fs/cgroup/cpu{folder}/cpu.shares", f"sys/fs/cgroup{folder}/cpu.weight"))):
                return folder
    on = ROOT.read("proc/sys/kernel/sched_autogroup_enabled") == "1"
    return ROOT.read(f"proc/{pid}/autogroup") if on else None
