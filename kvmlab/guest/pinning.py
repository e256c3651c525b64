"""Pinning: plan -> lint -> apply -> read back -> undo."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kvmlab.columns import documents
from kvmlab.errors import PlanError
from kvmlab.guest import libvirt_pins, targets
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.pinned import InLibvirt, Pinned, affinity, ticks_now
from kvmlab.guest.targets import EMULATOR, Group, Pin, iothread
from kvmlab.guest.vcpus import ROOT, Process
from kvmlab.host import cpulist
from kvmlab.host.cpusets import online_cpus

if TYPE_CHECKING:
    import pandas as pd

    from kvmlab.guest.lab import GuestLab

__all__ = ["EMULATOR", "Pin", "Plan"]

Key = tuple[str, int | str] | str


class Plan:
    """Where threads may run, checked but not yet applied. Made by ``lab.plan`` and ``lab.autoplan``.

    Attributes
    ----------
    pins : tuple of Pin
        Its lines.
    reasons : tuple of str
        Why each line is as it is, where a planner made it; empty otherwise.
    """

    def __init__(self, lab: GuestLab, pins: Mapping[Key, str | int], reasons: Sequence[str] = ()):
        self._lab, self.reasons = lab, tuple(reasons)
        if not isinstance(pins, Mapping):
            raise PlanError(f"{pins!r:.60} is no plan: write what to which CPUs, such as {{('c1', 0): '1'}}.")
        look = _Look(lab)
        self._groups: dict[Pin, Group] = {}
        for key, cpus in pins.items():
            pin = targets.named(key)
            group = look.group(pin)
            self._groups[Pin(pin.guest, pin.who, targets.legal_cpus(pin, cpus, look.online))] = group
        targets.refuse_overlaps(self._groups)
        self.pins = tuple(self._groups)

    def __repr__(self) -> str:
        return "Plan: " + ("; ".join(map(self._line, self.pins)) or "nothing")

    def _line(self, pin: Pin) -> str:
        threads, bound = self._groups[pin]
        count = f" ({len(threads)} thread{'s' * (len(threads) != 1)})" if pin.guest is None else ""
        stay = f"; {bound} more that the kernel has bound stay" if bound else ""
        return f"{pin}{count} on CPU {cpulist.format(pin.cpus)}{stay}"

    @documents("lint")
    def lint(self) -> pd.DataFrame:
        """What is unwise about this machine as it would be with this plan; one row a finding.

        Examples
        --------
        >>> lab.plan({("c1", 0): "1", ("c2", 0): "1"}).lint()[["rule", "severity", "why"]]    # doctest: +SKIP

        """
        from kvmlab.guest import lint, scene

        return lint.lint(scene.of(self._lab).with_pins(self.pins))

    def commands(self) -> list[str]:
        """The same in virsh's words, to learn and to paste; ``taskset`` for threads that virsh leaves out or knows nothing of."""
        look = _Look(self._lab)
        return [line for pin in self.pins for line in (self._virsh(look, pin) if pin.guest else _taskset(look, pin))]

    def _virsh(self, look: _Look, pin: Pin) -> list[str]:
        virsh, guest, cpus = self._lab.virsh, shlex.quote(pin.guest), cpulist.format(pin.cpus)
        if pin.who == EMULATOR:
            others = [thread.tid for thread in look.group(pin).threads if thread.tid != thread.pid]
            return [f"{virsh} emulatorpin {guest} {cpus}", *(f"taskset -pc {cpus} {tid}" for tid in others)]
        if isinstance(pin.who, str):
            return [f"{virsh} iothreadpin {guest} {iothread(pin.who)} {cpus}"]
        return [f"{virsh} vcpupin {guest} {pin.who} {cpus}"]

    def apply(self, persistent: bool = False) -> None:
        """Pin them all and read the kernel back; if one does not come true, everything is put back.

        Plans of several processes do not interleave. What is changed of guests that this Lab did not start, and of threads
        of no guest, is first written to a journal on disk: even after a kill -9 the next Lab, or ``kvmlab doctor --clean``,
        puts it back.

        Parameters
        ----------
        persistent : bool
            Also change the guests' persistent definitions, as they will start next time. ``lab.undo`` puts these back too.

        Raises
        ------
        PinError
            When the kernel refuses, or its answer differs from the plan: which thread, what was asked, what it has.
        PlanError
            When a guest, a thread or a CPU of the plan is gone by now, a guest is not this Lab's to change, or has no
            persistent definition.
        GuestError
            When libvirt refuses.
        """
        self._lab.change(lambda: self._find(persistent))

    def _find(self, persistent: bool) -> list[Pinned]:
        look = _Look(self._lab)
        return [self._found(look, pin, persistent) for pin in self.pins]

    def _found(self, look: _Look, pin: Pin, persistent: bool) -> Pinned:
        targets.legal_cpus(pin, cpulist.format(pin.cpus), look.online)  # a CPU may have gone offline since
        guest, threads = self._in_libvirt(look, pin, persistent), look.group(pin).threads
        if pin.guest is None and pin.who[:4] in ("tid ", "pid ") and not set(self._groups[pin].threads) & set(threads):
            raise PlanError(f"{pin}: what the plan was made for has ended, and another has its number now. Make the plan anew.")
        found = {thread: cpus for thread in threads if (cpus := affinity(thread)) is not None}
        if not found:
            raise PlanError(f"{pin}: its thread ended in this moment. Make the plan anew.")
        return Pinned(pin, found, look.since, guest)

    def _in_libvirt(self, look: _Look, pin: Pin, persistent: bool) -> InLibvirt | None:
        if pin.guest is None:
            if persistent:
                raise PlanError(f"{pin}: only guests have a persistent definition. Apply it in a plan of its own, without persistent=True.")
            return None
        domain, process = look.guest(pin.guest)
        self._lab.must_be_mine(pin.guest, domain)
        if not persistent:
            return InLibvirt(process, domain, libvirt_pins.ask(domain, pin.who))
        with explained(f"Asking whether '{pin.guest}' is persistent"):
            if not domain.isPersistent():
                why = "is transient: it has no persistent definition, and all of it is gone once it ends"
                raise PlanError(f"'{pin.guest}' {why}. Apply the plan without persistent=True.")
        return InLibvirt(process, domain, libvirt_pins.ask(domain, pin.who), True, libvirt_pins.defined(domain, pin.who))


def _taskset(look: _Look, pin: Pin) -> list[str]:
    cpus, what = cpulist.format(pin.cpus), pin.who.partition(" ")
    if what[0] == "kind":
        return [f"taskset -pc {cpus} {thread.tid}" for thread in look.group(pin).threads]
    return [f"taskset -{'a' * (what[0] == 'pid')}pc {cpus} {what[2]}"]


class _Look:
    """One look at the guests and threads that a plan names: each guest is asked for once."""

    def __init__(self, lab: GuestLab):
        self._lab, self.since, self.online = lab, ticks_now(), online_cpus(ROOT)
        self._guests: dict[str, tuple[libvirt.virDomain, Process]] = {}
        self._pids: dict[int, str] | None = None

    def guest(self, name: str) -> tuple[libvirt.virDomain, Process]:
        if name not in self._guests:
            domain = self._lab.domain(name)
            self._guests[name] = domain, self._lab.process(name, domain)
        return self._guests[name]

    def group(self, pin: Pin) -> Group:
        """The threads that a line means."""
        if pin.guest is not None:
            return targets.of_guest(pin, self.guest(pin.guest)[1])
        if self._pids is None:
            self._pids = {process.pid: process.guest for process in self._lab.processes()}
        return targets.of_nobody(pin, self._pids)
