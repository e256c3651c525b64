"""Guests for an experiment: started together, placed, given shares and quotas, and gone at its end, however it comes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import TYPE_CHECKING

from kvmlab.errors import KvmlabError
from kvmlab.guest.guest import Guest
from kvmlab.guest.interrupt import held_back
from kvmlab.guest.schedinfo import PERIOD_US
from kvmlab.guest.vcpus import ROOT
from kvmlab.guest.watch import own_guests
from kvmlab.host import cpulist
from kvmlab.host.cpusets import online_cpus

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

LEAST_QUOTA = 1000 / PERIOD_US
_SPARE = 0.1  # of the memory that is free, for everybody else
_FREE = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)
_FOOTPRINT = re.compile(r"^(?:Pss|VmRSS):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Wanted:
    """How many guests, what they shall do on which host CPUs, and each one's shares and quota, where it is given any."""

    number: int
    vcpus: int
    cpus: tuple[int, ...]
    work: str
    parameter: int | None = None
    weights: Sequence[int | None] = ()
    quotas: Sequence[float | None] = ()

    def __post_init__(self) -> None:
        for name, values in (("weights", self.weights), ("quota", self.quotas)):
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise KvmlabError(f"{name}={values!r}: write a list, with a number or None for the first guest, the second ...")
            if len(values) > self.number:
                raise KvmlabError(f"{name}={list(values)!r}: {len(values)} of them, and {self.number} guests.")
        if strange := [q for q in self.quotas if q is not None and not (isinstance(q, Real) and LEAST_QUOTA <= q < inf)]:
            told = "write what a vCPU may use at most, of one CPU, such as 0.1 for 10 %"
            raise KvmlabError(f"quota={strange[0]!r}: {told}; {LEAST_QUOTA} is the least that the kernel takes.")


@dataclass(frozen=True)
class Member:
    """A guest, with its shares and quota: None where it has none of its own."""

    guest: Guest
    weight: int | None = None
    quota: float | None = None


@contextmanager
def crew(lab: GuestLab, name: str, wanted: Wanted, tell: Callable[[int], None] = lambda number: None) -> Iterator[list[Member]]:
    """Guests that are idle, in a with-block; `tell` hears of each one that starts."""
    before, changes = own_guests(lab), 0
    try:
        guests = list(_start(lab, name, wanted, tell))
        _place(lab, guests, wanted.cpus)
        changes += 1
        for guest, parameters in zip(guests, _parameters(wanted), strict=True):
            if parameters:
                lab.schedinfo(guest.name, **parameters)
                changes += 1
        yield _members(lab, guests, wanted)
    finally:
        with held_back():
            lab.end([guest for guest in own_guests(lab) if guest not in before])
            for _ in range(changes):  # of guests that are gone: there is nothing to put back, only to forget
                lab.undo()


def _start(lab: GuestLab, name: str, wanted: Wanted, tell: Callable[[int], None]) -> Iterator[Guest]:
    """The first one shows that the work can be done, and what memory a guest takes."""
    tell(1)
    first = lab.start(name.format(1), wanted.vcpus)
    first.work(wanted.work, parameter=wanted.parameter)
    first.work("idle")
    _must_fit(first, wanted.number)
    yield first
    for number in range(2, wanted.number + 1):
        tell(number)
        yield lab.start(name.format(number), wanted.vcpus)


def _must_fit(first: Guest, number: int) -> None:
    """Raise unless there is memory for so many like this one, which shares none with anybody yet."""
    proc = f"proc/{first.process.pid}"
    footprint = _FOOTPRINT.search(ROOT.read(f"{proc}/smaps_rollup") or ROOT.read(f"{proc}/status") or "")
    free = _FREE.search(ROOT.read("proc/meminfo") or "")
    most = 1 + int((1 - _SPARE) * int(free[1]) / int(footprint[1])) if footprint and free else number
    if number > most:
        needs, each, left = number * int(footprint[1]) / 2**20, int(footprint[1]) / 1024, int(free[1]) / 2**20
        raise KvmlabError(
            f"{number} guests need {needs:.1f} GiB of memory, {each:.0f} MiB each as the first one does, "
            f"and {left:.1f} GiB are free: ask for up to {most}."
        )


def _place(lab: GuestLab, guests: list[Guest], cpus: tuple[int, ...]) -> None:
    """vCPUs on these CPUs, QEMU's other threads on the others, where there are any."""
    others = set(online_cpus(ROOT)) - set(cpus)
    pins = {(guest.name, vcpu): cpulist.format(cpus) for guest in guests for vcpu in range(guest.vcpus)}
    lab.plan(pins | {(guest.name, "emulator"): cpulist.format(others) for guest in guests if others}).apply()


def _parameters(wanted: Wanted) -> Iterator[dict[str, int]]:
    """libvirt's, of each guest."""
    for number in range(wanted.number):
        weight, quota = (values[number] if number < len(values) else None for values in (wanted.weights, wanted.quotas))
        shares = {} if weight is None else {"cpu_shares": weight}
        yield shares if quota is None else shares | {"vcpu_quota": round(quota * PERIOD_US), "vcpu_period": PERIOD_US}


def _members(lab: GuestLab, guests: list[Guest], wanted: Wanted) -> list[Member]:
    """With what libvirt says of them, once anybody was given anything."""
    if not any(_parameters(wanted)):
        return [Member(guest) for guest in guests]
    said = [lab.schedinfo(guest.name).iloc[0] for guest in guests]
    return [Member(guest, int(row.cpu_shares), None if row.isna()["quota"] else row.quota) for guest, row in zip(guests, said, strict=True)]
