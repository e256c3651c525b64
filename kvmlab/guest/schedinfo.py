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

WHAT = "schedinfo"  # in the journal
NAMES = ("cpu_shares", "vcpu_quota", "vcpu_period")  # libvirt's words, also for virsh schedinfo
PERIOD_US = 100_000  # the kernel's default
_SESSION = "CPU tuning is not available in session mode"  # libvirt's words
_WHO = "root can, and the group libvirt: Lab('qemu:///system')"
_CPU_CGROUP = re.compile(r"^(?:\d+:(?:[^:\n]*,)?cpu(?:,[^:\n]*)?|0:):(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """New shares and quota, and what they found."""

    process: Process
    domain: libvirt.virDomain | None
    wanted: dict[str, int]
    known: dict[str, int]

    def __str__(self) -> str:
        return f"shares and quota of '{self.process.guest}'"

    @property
    def uuid(self) -> str:
        """Of the guest."""
        return self.process.uuid

    @property
    def asked(self) -> str:
        """In words."""
        return f"{', '.join(f'{parameter}={value!r}' for parameter, value in self.wanted.items())} of '{self.process.guest}'"

    def set(self) -> None:
        """Tell libvirt."""
        with explained(f"Setting {self.asked}"):
            self.domain.setSchedulerParametersFlags(self.wanted, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def read_back(self) -> None:
        """Raise where the kernel took another number."""
        has = read(self.domain)
        if differs := [parameter for parameter, value in self.wanted.items() if value > 0 and has[parameter] != value]:
            raise GuestError(f"Setting {self.asked}: the kernel took {differs[0]}={has[differs[0]]} instead. It was put back.")

    def there(self) -> bool:
        """Whether the guest still runs."""
        return self.process.alive()

    def differs(self) -> str | None:
        """What somebody else has changed since, in words; what is as it was found is as good as what was set."""
        if self.domain is None:
            raise GuestError(f"libvirt does not know '{self.process.guest}' now, though its QEMU runs.")
        has = read(self.domain)
        for parameter, value in self.wanted.items():
            if has.get(parameter) not in (value, self.known[parameter]) and value > 0:  # -1 may read as one of several numbers
                return f"{self}: {parameter} is {has.get(parameter)} now, and was set to {value}"
        return None

    def put_back(self) -> None:
        """As it was found."""
        with explained(f"Putting back the {self}"):
            self.domain.setSchedulerParametersFlags(self.known, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def as_json(self) -> dict:
        """For the journal."""
        process = self.process
        row = {"what": WHAT, "guest": process.guest, "uuid": process.uuid, "pid": process.pid, "start_ticks": process.start_ticks}
        return row | {"wanted": self.wanted, "known": self.known}


def from_json(row: dict, domain: libvirt.virDomain | None, same_boot: bool) -> Change:
    """What the journal holds; a guest of another boot is gone."""
    wanted, known = row["wanted"], row["known"]
    named = [row["guest"], row["uuid"]]
    numbers = [row["pid"], row["start_ticks"], *wanted.values(), *known.values()] if type(wanted) is type(known) is dict else [None]
    if {*map(type, named)} != {str} or {*map(type, numbers)} != {int} or not wanted.keys() <= known.keys() <= {*NAMES}:
        raise TypeError("no row of ours")
    if not all(-1 <= number < 1 << 63 for number in numbers):
        raise ValueError("no numbers of ours")
    process = Process(row["guest"], row["uuid"], row["pid"], row["start_ticks"] if same_boot else -1)
    return Change(process, domain, wanted, known)


class SchedInfo:
    """The part of a Lab that shares CPUs out to its guests."""

    @documents("schedinfo")
    def schedinfo(
        self, name: str, *, cpu_shares: int | None = None, vcpu_quota: int | None = None, vcpu_period: int | None = None
    ) -> pd.DataFrame:
        """A running guest's shares and quota, one row: as they are or, with numbers, as they are then. As `virsh schedinfo`.

        ``lab.undo()`` takes a change back; the end of the Lab does so for guests that it did not start, or the next Lab where
        this one is killed.

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
            self.must_be_mine(name, domain)
            self.change(lambda: [_checked(self.process(name, domain), domain, wanted)])
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


def _checked(process: Process, domain: libvirt.virDomain, wanted: dict[str, int]) -> Change:
    known = read(domain)
    change = Change(process, domain, wanted, {parameter: known[parameter] for parameter in wanted if known})
    if strange := [parameter for parameter, value in wanted.items() if not _is_legal(parameter, value)]:
        raise GuestError(f"Setting {change.asked}: {strange[0]} is a whole number above 0; a vcpu_quota of -1 is none.")
    if not known:
        raise GuestError(f"Setting {change.asked}: {_SESSION}; {_WHO}.")
    return change


def _is_legal(parameter: str, value: object) -> bool:
    """What libvirt could be told; its 0 means the default, and below -1 it takes everything for none."""
    return type(value) is int and (0 < value < 1 << 63 or (parameter, value) == ("vcpu_quota", -1))


def quota_of(pid: int, tid: int) -> float | None:
    """CPUs' worth that a thread's own CPU cgroup may take; libvirt makes one for each vCPU. None: all of it, or not known."""
    for folder in _CPU_CGROUP.findall(ROOT.read(f"proc/{pid}/task/{tid}/cgroup") or ""):
        v1, v2 = f"sys/fs/cgroup/cpu{folder}", f"sys/fs/cgroup{folder}"
        words = (ROOT.read(f"{v2}/cpu.max") or "").split() or [ROOT.read(f"{v1}/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        if all(word.isdecimal() for word in words):
            return int(words[0]) / int(words[1])
    return None


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
