"""Pinning: plan -> apply -> read back -> undo.

libvirt is asked first, so that it knows of the pin and `virsh vcpupin` shows it; then the kernel is read back for every
thread. Pinning the emulator through libvirt moves QEMU's main thread, and the others only where cgroups do it for
libvirt: a Plan moves the rest with sched_setaffinity(2), so that "emulator" means all of them, everywhere.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmlab.errors import CpuListError, GuestError, PinError, PlanError
from kvmlab.guest.connection import default_uri, explained, libvirt
from kvmlab.guest.vcpus import ROOT, Process
from kvmlab.host import cpulist
from kvmlab.host.cpusets import online_cpus

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

EMULATOR = "emulator"


@dataclass(frozen=True)
class Pin:
    """One line of a plan: the CPUs that a vCPU (by number) or the emulator threads of a guest may use."""

    guest: str
    who: int | str
    cpus: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.who if self.who == EMULATOR else f'vCPU {self.who}'} of '{self.guest}'"


@dataclass(frozen=True)
class _Before:
    """What a pin found: the kernel's affinity of each thread, and libvirt's own idea of it."""

    pin: Pin
    process: Process
    domain: libvirt.virDomain
    affinity: dict[int, frozenset[int]]
    known: tuple[bool, ...]

    def put_back(self) -> None:
        try:
            _tell_libvirt(self, self.known)
        finally:  # the kernel's part also where libvirt does not answer any more
            for tid, cpus in self.affinity.items():
                _move(self, tid, cpus)


class Plan:
    """Where vCPUs and emulator threads may run, checked but not yet applied. Made by ``lab.plan``."""

    def __init__(self, lab: GuestLab, pins: Mapping[tuple[str, int | str], str | int]):
        self._lab = lab
        self.pins = tuple(self._checked(key, cpus) for key, cpus in pins.items())

    def __repr__(self) -> str:
        return "Plan: " + ("; ".join(f"{p} on CPU {cpulist.format(p.cpus)}" for p in self.pins) or "nothing")

    def _checked(self, key: tuple[str, int | str], cpus: str | int) -> Pin:
        if not (isinstance(key, tuple) and len(key) == 2):
            raise PlanError(f"{key!r} names no thread: write (guest, vCPU) or (guest, 'emulator'), such as ('c1', 0).")
        guest, who = key
        process = self._lab.process(guest)
        if who != EMULATOR and who not in process.vcpus:
            legal = ", ".join(map(str, sorted(process.vcpus)))
            raise PlanError(f"'{guest}' has no vCPU {who!r}: it has {legal}, and 'emulator'.")
        pin = Pin(guest, who, ())
        return Pin(guest, who, _legal_cpus(pin, cpus))

    def commands(self) -> list[str]:
        """The same in virsh's words, to learn and to paste; ``taskset`` for emulator threads that virsh may leave out."""
        virsh = "virsh" if self._lab.uri == default_uri() else f"virsh -c {shlex.quote(self._lab.uri)}"
        lines = []
        for pin in self.pins:
            cpus, process = cpulist.format(pin.cpus), self._lab.process(pin.guest)
            if pin.who == EMULATOR:
                lines.append(f"{virsh} emulatorpin {pin.guest} {cpus}")
                lines += [f"taskset -pc {cpus} {tid}" for tid in process.emulator if tid != process.pid]
            else:
                lines.append(f"{virsh} vcpupin {pin.guest} {pin.who} {cpus}")
        return lines

    def apply(self) -> None:
        """Pin them all and read the kernel back; if one does not come true, everything is put back.

        Raises
        ------
        PinError
            When the kernel's answer differs from the plan: which thread, what was asked, what it has.
        GuestError
            When a guest is gone by now, or libvirt refuses.
        """
        before: list[_Before] = []
        try:
            for pin in self.pins:
                _legal_cpus(pin, cpulist.format(pin.cpus))  # a CPU may have gone offline since
                before.append(self._find(pin))
                _set(before[-1], set(pin.cpus))
            for step in before:
                _read_back(step)
        except BaseException:
            restore(before)
            raise
        self._lab.remember(before)

    def _find(self, pin: Pin) -> _Before:
        self._lab.must_be_mine(pin.guest)
        process, domain = self._lab.process(pin.guest), self._lab.domain(pin.guest)
        tids = process.emulator if pin.who == EMULATOR else [process.vcpus[pin.who]]
        with explained(f"Asking where {pin} may run"):
            known = domain.emulatorPinInfo(0) if pin.who == EMULATOR else domain.vcpuPinInfo(0)[pin.who]
        affinity = {tid: cpus for tid in tids if (cpus := _affinity(pin, process, tid)) is not None}
        return _Before(pin, process, domain, affinity, tuple(known))


def _legal_cpus(pin: Pin, cpus: str | int) -> tuple[int, ...]:
    try:
        wanted = cpulist.parse(str(cpus))
    except CpuListError as error:
        raise PlanError(f"{pin}: {error}") from error
    online = online_cpus(ROOT)
    if not wanted:
        raise PlanError(f"{pin}: an empty CPU set; it must be able to run on one of the online CPUs {cpulist.format(online)}.")
    if strange := sorted(set(wanted) - set(online)):
        verb = f"CPU {strange[0]} is" if len(strange) == 1 else f"CPUs {cpulist.format(strange)} are"
        raise PlanError(f"{pin}: {verb} not among the online CPUs {cpulist.format(online)}.")
    return wanted


def _set(step: _Before, cpus: set[int]) -> None:
    _tell_libvirt(step, tuple(cpu in cpus for cpu in range(len(step.known))))
    for tid in step.affinity:
        _move(step, tid, cpus)


def _tell_libvirt(step: _Before, cpumap: tuple[bool, ...]) -> None:
    with explained(f"Pinning {step.pin}"):
        if step.pin.who == EMULATOR:
            step.domain.pinEmulator(cpumap, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        else:
            step.domain.pinVcpuFlags(step.pin.who, cpumap, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _affinity(pin: Pin, process: Process, tid: int) -> frozenset[int] | None:
    """What the kernel lets a thread use; None for a helper thread of QEMU that ended meanwhile, as they do."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except ProcessLookupError as error:
        if pin.who == EMULATOR and process.alive():
            return None
        raise GuestError(f"{pin}: its thread is gone; was the guest stopped?") from error


def _move(step: _Before, tid: int, cpus: set[int] | frozenset[int]) -> None:
    if _affinity(step.pin, step.process, tid) in (None, cpus):
        return
    try:
        os.sched_setaffinity(tid, cpus)
    except PermissionError as error:
        raise PinError(f"{step.pin}: its threads belong to another user; pin it as that user or as root.") from error
    except OSError as error:
        raise PinError(f"{step.pin}: the kernel refuses these CPUs ({error.strerror}); is its cpuset narrower?") from error


def _read_back(step: _Before) -> None:
    for tid in step.affinity:
        now = _affinity(step.pin, step.process, tid)
        if now not in (None, frozenset(step.pin.cpus)):
            asked, has = cpulist.format(step.pin.cpus), cpulist.format(now or ())
            raise PinError(
                f"{step.pin}: asked for CPU {asked}, but the kernel lets thread {tid} use {has}. "
                "Somebody else pins it too, or its cpuset is narrower (see /proc/TID/status: Cpus_allowed_list). Everything was put back."
            )


def restore(steps: list[_Before]) -> int:
    """Put back what `steps` found, last one first; guests that are gone need nothing. How many lines were put back."""
    alive = [step for step in reversed(steps) if step.process.alive()]
    for step in alive:
        step.put_back()
    return len(alive)
