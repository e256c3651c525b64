"""What the pin canvas reads: the threads of all guests, the busy ones of nobody's, and how busy each host CPU is.

Sources: proc(5), /proc/PID/task/TID/stat, schedstat and sched (kept open by `Watch`), /proc/PID/stat, /proc/stat.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvmlab.guest import targets
from kvmlab.guest.vcpus import ROOT, Process
from kvmlab.guest.watch import Guests, Watch
from kvmlab.host import cpulist, cputime
from kvmlab.host.affinity import PF_NO_SETAFFINITY
from kvmlab.host.threads import Stat, parse_stat, read_stat
from kvmlab.widgets.model import Row, Used, Window

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

LOOK_S = 1.0  # libvirt is asked for guests so often
_BUSY = 0.05  # of a CPU: a process that takes as much is a noisy other
_MOST = 24  # threads of nobody's
_QUIET_S = 10.0  # and when it is none any more
_ORDER = ("vcpu", "emulator", "iothread", "thread")


class Reader:
    """Reads at the canvas' pace; `rows` and `window` are what it knows."""

    def __init__(self, lab: GuestLab, cpus: list[int]):
        self._lab, self._guests, self._others = lab, Guests(lab), Others()
        self._watch = Watch(self._processes)
        self._before: dict[int, tuple] = {}  # the last row of each thread
        self._times: dict[int, tuple[float, float]] = {}
        self._next_look = 0.0
        self._now = time.monotonic()
        self.rows: list[Row] = []
        self.window = Window(cpus)

    def read(self) -> None:
        """Once more; raises KvmlabError where the Lab was closed or libvirt does not answer."""
        now = time.monotonic()
        if now >= self._next_look:
            self._watch.look()
            self._next_look = now + LOOK_S
        groups: dict[tuple, list[tuple]] = {}
        for row in self._watch.rows():
            groups.setdefault((row[1], *row[2][:2]), []).append(row)
        self._fill(now, groups)
        self._now = now

    def _fill(self, now: float, groups: dict[tuple, list[tuple]]) -> None:
        used, rows = {}, []
        for (guest, kind, number), threads in groups.items():
            row = self._row(guest, kind, number, threads)
            rows.append(row)
            used[row.name] = [one for thread in threads if (one := _used(self._before.get(thread[4]), thread))]
        self._before = {thread[4]: thread for threads in groups.values() for thread in threads}
        busy = self._busy()
        if self._times and now > self._now:
            self.window.add(now, now - self._now, {name: several for name, several in used.items() if several}, busy)
        self.rows = sorted(rows, key=_rank)

    def close(self) -> None:
        self._watch.close()

    # ---- threads

    def _processes(self) -> Iterator[Process]:
        """All that is to be watched, as Watch takes it: a thread's number is (kind, which, tid) here."""
        known = self._guests()
        for process in known:
            threads = {("vcpu", vcpu, tid): tid for vcpu, tid in process.vcpus.items()}
            threads |= {("iothread", number, tid): tid for number, tid in targets.iothreads(process).items()}
            threads |= {("emulator", 0, tid): tid for tid in process.emulator}
            yield replace(process, vcpus=threads, page=None)
        yield from self._others.look({process.pid for process in known})

    def _row(self, guest: str, kind: str, number: int, threads: list[tuple]) -> Row:
        sets = {thread[7] for thread in threads}
        allowed = sets.pop() if len(sets) == 1 else cpulist.format({cpu for text in sets for cpu in cpulist.parse(text)})
        if kind == "thread":
            comm, bound = self._others.names.get(number, (f"thread {number}", False))
            return Row(f"tid {number}", comm, kind, allowed, "the kernel binds it to its CPU" if bound else None)
        key = number if kind == "vcpu" else "emulator" if kind == "emulator" else f"iothread {number}"
        who = f"vCPU {number}" if kind == "vcpu" else "emulator" if kind == "emulator" else f"I/O thread {number}"
        return Row((guest, key), who, kind, allowed, self._locked(guest))

    def _locked(self, guest: str) -> str | None:
        own = self._lab._allow_changes or any(known and known.name == guest for known in self._lab._mine.values())
        return None if own else "another's guest, only watched here: Lab(allow_changes=True) may move it"

    # ---- host CPUs

    def _busy(self) -> np.ndarray:
        """The share of the time since the last look that each host CPU was in use, by anything."""
        times = {row[1]: (sum(value or 0.0 for value in row[2:]), (row[5] or 0.0) + (row[6] or 0.0)) for row in cputime.rows(ROOT)}
        result = np.zeros(len(self.window.place))
        for cpu, place in self.window.place.items():
            if cpu in times and cpu in self._times:
                whole, idle = (after - before for after, before in zip(times[cpu], self._times[cpu], strict=True))
                result[place] = min(1.0, max(0.0, 1 - idle / whole)) if whole > 0 else 0.0
        self._times = times
        return result


def _rank(row: Row) -> tuple:
    which = row.key[1] if isinstance(row.key, tuple) and isinstance(row.key[1], int) else 0
    return row.guest is None, row.locked is not None, row.guest or "", _ORDER.index(row.kind), which, row.who, row.name


def _used(before: tuple | None, after: tuple) -> Used | None:
    """Between two rows of columns.FRAMES["vcpus"] of one thread."""
    if before is None:
        return None
    user, kernel, guest, run, wait, moves = (
        None if now is None or then is None else max(0, now - then) for then, now in zip(before[8:14], after[8:14], strict=True)
    )
    return Used(after[5], run, wait, guest, user, kernel, moves)


class Others:
    """The busy threads that belong to no guest. Only processes as a whole are looked at, until one is busy."""

    def __init__(self) -> None:
        self.names: dict[int, tuple[str, bool]] = {}  # tid -> its name, and whether the kernel binds it
        self._ticks: dict[int, float] = {}
        self._until: dict[int, float] = {}  # busy processes, and how long they count as such
        self._threads: dict[int, tuple[float, float]] = {}  # of those: CPU time, and until when it is noisy
        self._last = self._next = 0.0

    def look(self, guests: set[int]) -> list[Process]:
        """As processes without a guest; a full look takes at most 1 % of the time."""
        now = time.monotonic()
        if now >= self._next:
            self._find_busy(now, guests)
            self._last, self._next = now, now + max(2.0, 100 * (time.monotonic() - now))
        return list(self._told())

    def _find_busy(self, now: float, guests: set[int]) -> None:
        ticks = {}
        for pid in ROOT.numbered("proc"):
            if pid not in guests and (stat := parse_stat(ROOT.read_bytes(f"proc/{pid}/stat") or b"")):
                ticks[pid] = stat.user_s + stat.kernel_s + stat.guest_s
        for pid, spent in ticks.items():
            if pid in self._ticks and spent - self._ticks[pid] > _BUSY * (now - self._last):
                self._until[pid] = now + _QUIET_S
        self._until = {pid: until for pid, until in self._until.items() if until > now and pid in ticks}
        self._ticks = ticks

    def _told(self) -> Iterator[Process]:
        self.names, seen = {}, set()
        for pid in sorted(self._until):
            threads, tids = {}, ROOT.numbered(f"proc/{pid}/task")
            seen.update(tids)
            for tid in tids:
                stat = read_stat(ROOT, pid, tid)
                if stat and len(self.names) < _MOST and self._noisy(tid, stat):
                    self.names[tid] = stat.comm, bool(stat.flags & PF_NO_SETAFFINITY)
                    threads["thread", tid, tid] = tid
            yield Process("", "", pid, 0, vcpus=threads)
        self._threads = {tid: known for tid, known in self._threads.items() if tid in seen}

    def _noisy(self, tid: int, stat: Stat) -> bool:
        """A thread that ran since it was last looked at, or did a moment ago."""
        now, spent = time.monotonic(), stat.user_s + stat.kernel_s + stat.guest_s
        before, until = self._threads.get(tid, (spent, 0.0))
        until = now + _QUIET_S if spent - before > _BUSY * LOOK_S else until
        self._threads[tid] = spent, until
        return until > now
