"""What a plan names: its lines, checked before anything is touched, and the threads behind them.

Sources: proc(5) stat and status, taskset(1), PF_NO_SETAFFINITY in include/linux/sched.h.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kvmlab.errors import CpuListError, PlanError
from kvmlab.guest.vcpus import ROOT, Process
from kvmlab.host import cpulist
from kvmlab.host.affinity import PF_NO_SETAFFINITY
from kvmlab.host.kinds import KINDS, VCPU_NAME, kind
from kvmlab.host.threads import Stat, read_stat

EMULATOR = "emulator"

_IOTHREAD = re.compile(r"iothread ([0-9]{1,9})", re.ASCII)
_IOTHREAD_NAME = re.compile(r"IO iothread([0-9]+)", re.ASCII)
_WORDS = re.compile(r"(tid|pid|kind) (\S+)")
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_TGID = re.compile(r"^Tgid:\s*([0-9]+)$", re.MULTILINE)
_HOW = "write (guest, vCPU), (guest, 'emulator') or (guest, 'iothread 1'), such as ('c1', 0); or 'tid 4711', 'pid 4711' or 'kind kswapd'"


@dataclass(frozen=True)
class Pin:
    """One line of a plan: the host CPUs that a thread, or several of one name, may use.

    Attributes
    ----------
    guest : str or None
        None for threads that belong to no guest of libvirt.
    who : int or str
        A vCPU's number, "emulator" or "iothread 1" of a guest; "tid 4711", "pid 4711" or "kind kswapd" without one.
    cpus : tuple of int
        Sorted.
    """

    guest: str | None
    who: int | str
    cpus: tuple[int, ...]

    @property
    def key(self) -> tuple[str, int | str] | str:
        """As ``lab.plan`` takes it."""
        return self.who if self.guest is None else (self.guest, self.who)

    def __str__(self) -> str:
        who = self.who if isinstance(self.who, str) else f"vCPU {self.who}"
        return who if self.guest is None else f"{who} of '{self.guest}'"


class Thread(NamedTuple):
    """A thread that can be told from a later one of the same number."""

    pid: int
    tid: int
    start_ticks: int


class Group(NamedTuple):
    """The threads that a line of a plan means, and how many more of them the kernel keeps where they are."""

    threads: tuple[Thread, ...]
    bound: int = 0


# ---- pure


def named(key: tuple[str, int | str] | str) -> Pin:
    """A line of a plan without its CPUs.

    >>> str(named(("c1", 0))), str(named(("c1", "iothread 1"))), named("tid 4711").key
    ("vCPU 0 of 'c1'", "iothread 1 of 'c1'", 'tid 4711')
    """
    if isinstance(key, str):
        return _named_threads(key)
    if not (isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str)):
        raise PlanError(f"{key!r} names no thread: {_HOW}.")
    guest, who = key
    if isinstance(who, bool) or not (isinstance(who, str) or hasattr(who, "__index__")):
        raise PlanError(f"'{guest}' has no vCPU {who!r}: {_HOW}.")
    return Pin(guest, who if isinstance(who, str) else operator.index(who), ())


def _named_threads(key: str) -> Pin:
    match = _WORDS.fullmatch(key)
    if match is None or (match[1] != "kind" and not _NUMBER.fullmatch(match[2])):
        raise PlanError(f"{key!r} names no thread: {_HOW}.")
    if match[1] == "kind" and match[2] not in KINDS:
        near = difflib.get_close_matches(match[2], KINDS) or KINDS
        raise PlanError(f"{key!r}: there is no such kind of threads. There are: {', '.join(near)}.")
    return Pin(None, key if match[1] == "kind" else f"{match[1]} {int(match[2])}", ())


def legal_cpus(whose: Pin | str, cpus: str | int, online: Iterable[int]) -> tuple[int, ...]:
    """The CPUs of a line, sorted; an error names whose they are, what is wrong and what would be legal.

    >>> legal_cpus(named(("c1", 0)), "0-3,^1", range(4))
    (0, 2, 3)
    """
    try:
        wanted = cpulist.parse(str(cpus))
    except CpuListError as error:
        raise PlanError(f"{whose}: {error}") from error
    if not wanted:
        raise PlanError(f"{whose}: an empty CPU set; name one or more of the online CPUs {cpulist.format(online)}.")
    if strange := sorted(set(wanted) - set(online)):
        verb = f"CPU {strange[0]} is" if len(strange) == 1 else f"CPUs {cpulist.format(strange)} are"
        raise PlanError(f"{whose}: {verb} not among the online CPUs {cpulist.format(online)}.")
    return wanted


def refuse_overlaps(groups: Mapping[Pin, Group]) -> None:
    """Raise where two lines of a plan mean the same thread: one of them could not come true."""
    seen: dict[int, Pin] = {}
    for pin, group in groups.items():
        for thread in group.threads:
            if (other := seen.setdefault(thread.tid, pin)) is not pin:
                raise PlanError(f"{other} and {pin}: both mean thread {thread.tid}. Leave one of them out.")


# ---- what there is


def iothreads(process: Process) -> dict[int, int]:
    """libvirt's number of each I/O thread of a guest -> tid; QEMU's thread names carry it."""
    names = {tid: _IOTHREAD_NAME.fullmatch(ROOT.read(f"proc/{process.pid}/task/{tid}/comm") or "") for tid in process.iothreads}
    return {int(match[1]): tid for tid, match in names.items() if match}


def iothread(who: int | str) -> int | None:
    """libvirt's number of an I/O thread from its name in a plan; None for all others."""
    match = _IOTHREAD.fullmatch(who) if isinstance(who, str) else None
    return int(match[1]) if match else None


def of_guest(pin: Pin, process: Process) -> Group:
    """The threads of a guest that a line means."""
    if pin.who == EMULATOR:
        return _group((process.pid, tid) for tid in process.emulator)
    served = iothreads(process)
    tid = served.get(iothread(pin.who)) if isinstance(pin.who, str) else process.vcpus.get(pin.who)
    if tid is None:
        legal = [*map(str, sorted(process.vcpus)), *(f"'iothread {number}'" for number in sorted(served))]
        what = "I/O thread" if iothread(pin.who) is not None else "vCPU"
        raise PlanError(f"'{pin.guest}' has no {what} {pin.who!r}: it has {', '.join(legal)}, and 'emulator'.")
    return _group([(process.pid, tid)])


def of_nobody(pin: Pin, guests: Mapping[int, str]) -> Group:
    """The threads outside of guests that a line means; `guests` are libvirt's, by the pid of their QEMU."""
    what, _, name = pin.who.partition(" ")
    if what == "kind":
        group = _of_kind(name, guests)
    else:
        pid = _process_of(pin, int(name))
        if pid in guests:
            raise PlanError(
                f"{pin}: it belongs to the guest '{guests[pid]}'. Pin that by its own names: ('{guests[pid]}', 0), or 'emulator'."
            )
        group = _group([(pid, int(name))] if what == "tid" else ((pid, tid) for tid in tasks(pid)))
    if not group.threads:
        why = f"the kernel has bound all {group.bound} of them to their CPUs" if group.bound else "there is none that could be moved"
        raise PlanError(f"{pin}: {why}. Pin another one: Host().threads() lists them.")
    return group


def tasks(pid: int) -> list[int]:
    """The threads of a process, now."""
    return ROOT.numbered(f"proc/{pid}/task")


def _process_of(pin: Pin, number: int) -> int:
    match = _TGID.search(ROOT.read(f"proc/{number}/status") or "")
    if match is None:
        raise PlanError(f"{pin}: no such thread runs. Host().threads() lists those that do.")
    pid = int(match[1])
    if pin.who.startswith("pid") and pid != number:
        raise PlanError(f"{pin}: that is a thread of process {pid}. Write 'tid {number}', or 'pid {pid}' for all of its threads.")
    return pid


def _group(threads: Iterable[tuple[int, int]]) -> Group:
    return _sorted((pid, tid, stat) for pid, tid in threads if (stat := read_stat(ROOT, pid, tid)))


def _sorted(threads: Iterable[tuple[int, int, Stat]]) -> Group:
    movable, bound = [], 0
    for pid, tid, stat in threads:
        if stat.flags & PF_NO_SETAFFINITY:
            bound += 1
        elif stat.state not in "ZX":
            movable.append(Thread(pid, tid, stat.start_ticks))
    return Group(tuple(movable), bound)


def _of_kind(name: str, guests: Mapping[int, str]) -> Group:
    return _sorted((pid, tid, stat) for pid, tid, stat, found in _all_threads() if found == name and pid not in guests)


def _all_threads() -> Iterator[tuple[int, int, Stat, str]]:
    for pid in ROOT.numbered("proc"):
        stats = {tid: stat for tid in tasks(pid) if (stat := read_stat(ROOT, pid, tid))}
        of_qemu = any(VCPU_NAME.fullmatch(stat.comm) for stat in stats.values())
        for tid, stat in stats.items():
            yield pid, tid, stat, kind(stat.comm, stat.flags, of_qemu)
