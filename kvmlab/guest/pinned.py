"""One line of a plan in the kernel and in libvirt: what it found, set, read back, put back.

libvirt is told first, so that it knows of the pin and `virsh vcpupin` shows it, and because a thread may not leave the cpuset
that libvirt keeps it in. Pinning the emulator through libvirt moves QEMU's main thread, and the others only where cgroups do it
for libvirt: the rest is moved with sched_setaffinity(2), so that "emulator" means all of them, everywhere.
"""

from __future__ import annotations

import os
import pwd
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from kvmlab.errors import GuestError, PinError
from kvmlab.guest import libvirt_pins
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.targets import EMULATOR, Pin, Thread, tasks
from kvmlab.guest.vcpus import ROOT, Process
from kvmlab.host import cpulist
from kvmlab.host.affinity import PF_NO_SETAFFINITY
from kvmlab.host.cpusets import online_cpus
from kvmlab.host.threads import TICKS_PER_S, read_stat

WHAT = "pin"  # in the journal


@dataclass(frozen=True)
class InLibvirt:
    """A guest, and what libvirt's idea of a pin of it was; `defined` counts only where the definition is changed too."""

    process: Process
    domain: libvirt.virDomain
    known: frozenset[int]
    persistent: bool = False
    defined: str | None = None

    def has_definition(self) -> bool:
        """Whether the definition was changed too, and is still there."""
        if self.persistent and self.domain:
            with suppress(GuestError), explained(f"Asking whether '{self.process.guest}' is persistent"):
                return bool(self.domain.isPersistent())
        return False


@dataclass(frozen=True)
class Pinned:
    """A pin, the affinity of each thread as it was found, and the time (ticks since boot) at which that was."""

    pin: Pin
    found: dict[Thread, frozenset[int]]
    guest: InLibvirt | None = None
    since: int = field(default_factory=lambda: int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S))

    def __str__(self) -> str:
        return str(self.pin)

    @property
    def uuid(self) -> str | None:
        """Of the guest."""
        return self.guest.process.uuid if self.guest else None

    @property
    def cpus(self) -> frozenset[int]:
        """Where it shall be."""
        return frozenset(self.pin.cpus)

    # ---- there

    def set(self) -> None:
        """Pin it."""
        if self.guest:
            libvirt_pins.tell(self.guest.domain, self.pin.who, self.cpus)
            if self.guest.persistent:
                libvirt_pins.tell(self.guest.domain, self.pin.who, self.cpus, persistent=True)
        for thread in self.found:
            self._move(thread, self.cpus)
        if self.pin.who == EMULATOR or str(self.pin.who).startswith("pid"):  # it means whoever is there
            for thread in self._newcomers():  # started by one that had not been moved yet
                self._move(thread, self.cpus)

    def read_back(self) -> None:
        """Raise where the kernel's answer is another than the pin."""
        for thread in self.found:
            now = affinity(thread)
            if now not in (None, self.cpus):
                asked, has = cpulist.format(self.cpus), cpulist.format(now)
                why = f"Somebody else pins it too, or {_cpuset(thread)} is narrower"
                raise PinError(
                    f"{self.pin}: asked for CPU {asked}, but the kernel lets thread {thread.tid} use {has}. {why}. Everything was put back."
                )

    # ---- and back

    def there(self) -> bool:
        """Whether anything of it is left that could be put back."""
        if self.guest:
            return self.guest.has_definition() or (self.guest.domain is not None and self.guest.process.alive())
        return any(affinity(thread) is not None for thread in self.found)

    def differs(self) -> str | None:
        """Who has changed it since, in words; what is as it was found is as good as what was set."""
        online = frozenset(online_cpus(ROOT))
        if self.guest and (words := self._libvirt_differs(online)):
            return words
        for thread, before in self.found.items():
            now = affinity(thread)
            if now is not None and not _is_one_of(now, (before, self.cpus), online):
                left = cpulist.format(self.cpus)
                return f"{self.pin}: thread {thread.tid} may use CPU {cpulist.format(now)} now, and was left on {left}"
        return None

    def _libvirt_differs(self, online: frozenset[int]) -> str | None:
        guest, left = self.guest, cpulist.format(self.cpus)
        if guest.process.alive():
            now = libvirt_pins.ask(guest.domain, self.pin.who)
            if not _is_one_of(now, (guest.known, self.cpus), online):
                return f"{self.pin}: libvirt has it on CPU {cpulist.format(now)} now, and was told {left}"
        if guest.has_definition() and (now := libvirt_pins.defined(guest.domain, self.pin.who)) not in (guest.defined, left):
            return f"{self.pin}: its definition says {(now and f'CPU {now}') or 'nothing'} now, and was told {left}"
        return None

    def put_back(self) -> None:
        """Make it as it was found. The kernel's part also where libvirt does not answer any more."""
        try:
            if self.guest:
                self._tell_libvirt_back()
        finally:
            for thread, cpus in self.found.items():
                self._move(thread, cpus)
            self._move_newcomers()

    def _tell_libvirt_back(self) -> None:
        guest = self.guest
        if guest.process.alive():
            libvirt_pins.tell(guest.domain, self.pin.who, guest.known)
        if not guest.has_definition():
            return
        if guest.defined is None:
            libvirt_pins.take_out(guest.domain, self.pin.who)
        else:
            libvirt_pins.tell(guest.domain, self.pin.who, frozenset(cpulist.parse(guest.defined)), persistent=True)

    def _move_newcomers(self) -> None:
        """Those that started meanwhile have their affinity from one that was pinned: they go where most of these came from."""
        home = Counter(self.found.values()).most_common(1)
        for _ in range(2 if home else 0):  # one of them may start another while it is moved
            for thread in self._newcomers():
                if affinity(thread) == self.cpus:
                    self._move(thread, home[0][0])

    # ---- threads

    def _newcomers(self) -> list[Thread]:
        """Threads that came after it, which the pinned ones may have started."""
        known = {thread.tid for thread in self.found}
        stats = [(pid, tid, stat) for pid, tid in self._around() if tid not in known and (stat := read_stat(ROOT, pid, tid))]
        new = [(pid, tid, stat) for pid, tid, stat in stats if stat.start_ticks >= self.since and not stat.flags & PF_NO_SETAFFINITY]
        return [Thread(pid, tid, stat.start_ticks) for pid, tid, stat in new]

    def _around(self) -> Iterable[tuple[int, int]]:
        if self.guest:  # a vCPU starts none
            process = self.guest.process
            return ((process.pid, tid) for tid in process.look().emulator) if isinstance(self.pin.who, str) and process.alive() else ()
        if self.pin.who.startswith("kind"):
            return ()
        return ((pid, tid) for pid in {thread.pid for thread in self.found} for tid in tasks(pid))

    def _move(self, thread: Thread, cpus: frozenset[int]) -> None:
        if affinity(thread) in (None, cpus):
            return
        try:
            os.sched_setaffinity(thread.tid, cpus)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise PinError(f"{self.pin}: thread {thread.tid} belongs to {_owner(thread)}; pin it as that user or as root.") from error
        except OSError as error:
            why = f"the kernel refuses CPU {cpulist.format(cpus)} for thread {thread.tid} ({error.strerror})"
            raise PinError(f"{self.pin}: {why}. Is {_cpuset(thread)} narrower?") from error

    # ---- on disk

    def as_json(self) -> dict:
        """For the journal."""
        row = {"what": WHAT, "who": self.pin.who, "cpus": cpulist.format(self.cpus), "since": self.since}
        row["found"] = [[*thread, cpulist.format(cpus)] for thread, cpus in self.found.items()]
        if self.guest:
            process, guest = self.guest.process, self.guest
            row |= {"guest": process.guest, "uuid": process.uuid, "pid": process.pid, "start_ticks": process.start_ticks}
            row |= {"known": cpulist.format(guest.known), "persistent": guest.persistent, "defined": guest.defined}
        return row


def from_json(row: dict, domain: libvirt.virDomain | None, same_boot: bool) -> Pinned:
    """What the journal holds; of another boot only what is in definitions, for its threads are gone."""
    threads = [(Thread(*map(int, thread)), _set(cpus)) for *thread, cpus in row["found"]] if same_boot else []
    pin = Pin(row.get("guest"), row["who"], cpulist.parse(row["cpus"]))
    guest = None
    if pin.guest is not None:
        process = Process(pin.guest, row["uuid"], int(row["pid"]), int(row["start_ticks"]) if same_boot else -1)
        guest = InLibvirt(process, domain, _set(row["known"]), row["persistent"], row["defined"])
    return Pinned(pin, dict(threads), guest, int(row["since"]))


def affinity(thread: Thread) -> frozenset[int] | None:
    """What the kernel lets a thread use; None where it is gone, even if another has its number by now."""
    stat = read_stat(ROOT, thread.pid, thread.tid)
    if stat is None or stat.start_ticks != thread.start_ticks:
        return None
    try:
        return frozenset(os.sched_getaffinity(thread.tid))
    except ProcessLookupError:
        return None


def _set(cpus: str) -> frozenset[int]:
    return frozenset(cpulist.parse(cpus))


def _is_one_of(now: frozenset[int], ours: tuple[frozenset[int], ...], online: frozenset[int]) -> bool:
    """CPUs that are offline by now do not count."""
    return any(now in (cpus, cpus & online) for cpus in ours)


def _cpuset(thread: Thread) -> str:
    path = ROOT.read(f"proc/{thread.pid}/task/{thread.tid}/cpuset")
    return f"its cpuset {path}" if path else "its cpuset"


def _owner(thread: Thread) -> str:
    try:
        uid = os.stat(f"/proc/{thread.tid}").st_uid
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except (OSError, KeyError):
        return "another user"
