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
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from kvmlab.errors import GuestError, PinError, PlanError
from kvmlab.guest import libvirt_pins
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.targets import EMULATOR, Pin, Thread, iothread, named, tasks
from kvmlab.guest.vcpus import ROOT, Process
from kvmlab.host import cpulist
from kvmlab.host.affinity import PF_NO_SETAFFINITY
from kvmlab.host.cpusets import online_cpus
from kvmlab.host.threads import TICKS_PER_S, read_stat

WHAT = "pin"  # in the journal
_LOOKS = 10  # for threads that start meanwhile


@dataclass(frozen=True)
class InLibvirt:
    """A guest, and what libvirt's idea of a pin of it was; `defined` counts only where the definition is changed too."""

    process: Process
    domain: libvirt.virDomain | None
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
    """A pin, the time (ticks since boot) before its threads were looked for, and the affinity of each as it was found."""

    pin: Pin
    found: dict[Thread, frozenset[int]]
    since: int
    guest: InLibvirt | None = None

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
        if self._means_all():  # also those that were started by one that had not been moved yet
            self._move_newcomers(lambda now: now != self.cpus, self.cpus)

    def read_back(self) -> None:
        """Raise where the kernel's answer is another than the pin."""
        for thread in [*self.found, *(self._newcomers() if self._means_all() else ())]:
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
            return self.guest.has_definition() or self.guest.process.alive()
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
        if guest.process.alive() and guest.domain:
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
            if home := Counter(self.found.values()).most_common(1):  # where most of those came from that may have started them
                self._move_newcomers(lambda now: now == self.cpus, home[0][0])

    def _tell_libvirt_back(self) -> None:
        guest = self.guest
        if guest.process.alive():
            if guest.domain is None:
                raise GuestError(f"libvirt does not know '{guest.process.guest}' now, though its QEMU runs")
            libvirt_pins.tell(guest.domain, self.pin.who, guest.known)
        if not guest.has_definition():
            return
        if guest.defined is None:
            libvirt_pins.take_out(guest.domain, self.pin.who)
        else:
            libvirt_pins.tell(guest.domain, self.pin.who, frozenset(cpulist.parse(guest.defined)), persistent=True)

    # ---- threads

    def _means_all(self) -> bool:
        """Whether it means whoever is there."""
        return self.pin.who == EMULATOR or str(self.pin.who).startswith("pid")

    def _move_newcomers(self, is_strange: Callable[[frozenset[int]], bool], cpus: frozenset[int]) -> None:
        """Until two looks in a row find none: one of them may start another meanwhile, and a list that threads leave may skip one."""
        quiet = 0
        for _ in range(_LOOKS):
            strange = [thread for thread in self._newcomers() if (now := affinity(thread)) is not None and is_strange(now)]
            quiet = 0 if strange else quiet + 1
            if quiet == 2:
                return
            for thread in strange:
                self._move(thread, cpus)

    def _newcomers(self) -> list[Thread]:
        """Threads that came after it, which the pinned ones may have started."""
        stats = [(pid, tid, stat) for pid, tid in self._around() if (stat := read_stat(ROOT, pid, tid))]
        new = [(pid, tid, stat) for pid, tid, stat in stats if stat.start_ticks >= self.since and not stat.flags & PF_NO_SETAFFINITY]
        return [thread for pid, tid, stat in new if (thread := Thread(pid, tid, stat.start_ticks)) not in self.found]

    def _around(self) -> Iterable[tuple[int, int]]:
        if self.guest:  # a vCPU starts none
            process = self.guest.process
            return ((process.pid, tid) for tid in process.look().emulator) if isinstance(self.pin.who, str) and process.alive() else ()
        if not self.pin.who.startswith("pid"):  # who started what came since, nobody can tell
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
    name, who = row.get("guest"), row["who"]
    if not _is_ours(name, who):
        raise ValueError(f"{who!r} names no thread of ours")
    threads = {Thread(*_typed(int, *thread)): _set(cpus) for *thread, cpus in row["found"]}
    pin, guest = Pin(name, who, tuple(sorted(_set(row["cpus"])))), None
    if name is not None:
        pid, start = _typed(int, row["pid"], row["start_ticks"])
        process = Process(name, *_typed(str, row["uuid"]), pid, start if same_boot else -1)
        (persistent,), defined = _typed(bool, row["persistent"]), row["defined"]
        if defined is not None:
            _set(defined)
        guest = InLibvirt(process, domain, _set(row["known"]), persistent, defined)
    return Pinned(pin, threads if same_boot else {}, *_typed(int, row["since"]), guest)


def _is_ours(guest: str | None, who: object) -> bool:
    with suppress(PlanError):
        if guest is None:
            return named(who).who == who
        return who == EMULATOR or iothread(who) is not None or named((guest, who)).who == who >= 0
    return False


def ticks_now() -> int:
    """Since boot, as the kernel writes when a thread started."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S)


def _typed(kind: type, *values: object) -> tuple:
    if strange := [value for value in values if type(value) is not kind]:
        raise TypeError(f"{strange[0]!r} is no {kind.__name__}")
    return values


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
    found = frozenset(cpulist.parse(*_typed(str, cpus)))
    if not found:
        raise ValueError("an empty CPU set")
    return found


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
