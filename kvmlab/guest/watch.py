"""Guests watched at a pace: the files of their vCPU threads are kept open, and libvirt is asked only now and then.

Sources: proc(5), /proc/PID/task/TID/stat, schedstat and sched. A file that was opened stays the file of that one thread: when
the thread is gone, reading it fails with ESRCH, whoever has its number then.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from kvmlab.guest import vcpus
from kvmlab.guest.vcpus import Process

if TYPE_CHECKING:
    from kvmlab.guest.guest import Guest
    from kvmlab.guest.lab import GuestLab

_FILES = ("stat", "schedstat", "sched")


class _Thread:
    """A vCPU's thread, with its files kept open."""

    def __init__(self, process: Process, vcpu: int, tid: int):
        self.process, self.vcpu, self.tid = process, vcpu, tid
        self.files = [_opened(f"/proc/{process.pid}/task/{tid}/{name}") for name in _FILES]

    def row(self) -> tuple | None:
        try:
            texts = [b"" if file is None else os.pread(file, 8192, 0) for file in self.files]
            allowed = os.sched_getaffinity(self.tid)
        except OSError:
            return None
        return vcpus.row(self.process, self.vcpu, self.tid, allowed, *texts)

    def close(self) -> None:
        for file in self.files:
            if file is not None:
                os.close(file)


class _Unkept:
    """A vCPU's thread beyond those whose files we may keep open (``ulimit -n``): they are opened each time."""

    def __init__(self, process: Process, vcpu: int, tid: int):
        self.process, self.vcpu, self.tid = process, vcpu, tid

    def row(self) -> tuple | None:
        return vcpus.read_row(self.process, self.vcpu, self.tid)

    def close(self) -> None:
        pass


class Watch:
    """The vCPU threads of some QEMU processes; `look` finds which there are, `rows` reads them all and forgets those that are gone.

    Parameters
    ----------
    processes : callable
        Gives the processes that there are now; it is asked by `look` only.
    """

    def __init__(self, processes: Callable[[], Iterable[Process]]):
        self._processes = processes
        self._threads: dict[tuple[int, int], _Thread | _Unkept] = {}
        self._room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 // len(_FILES)  # the other half is for everybody else
        self.accels: dict[str, str | None] = {}
        self.unavailable: dict[str, str] = {}

    def look(self) -> bool:
        """Find the threads that came, and let go of those that are not given any more. Whether there are any new ones."""
        processes = list(self._processes())
        self.unavailable |= vcpus.unavailable(processes)
        self.accels |= {process.guest: process.accel for process in processes}
        given = {(process.pid, tid): (process, vcpu, tid) for process in processes for vcpu, tid in process.vcpus.items()}
        for key in self._threads.keys() - given.keys():
            self._threads.pop(key).close()
        new = {key: about for key, about in given.items() if key not in self._threads}
        for key, about in new.items():
            self._threads[key] = (_Thread if len(self._threads) < self._room else _Unkept)(*about)
        self._threads = dict(sorted(self._threads.items(), key=lambda item: (item[1].process.guest, item[1].vcpu)))
        return bool(new)

    def rows(self) -> list[tuple]:
        """One row a vCPU, in the order of columns.FRAMES["vcpus"]."""
        found = []
        for key, thread in list(self._threads.items()):
            if row := thread.row():
                found.append(row)
            else:
                self._threads.pop(key).close()
        return found

    def close(self) -> None:
        while self._threads:
            self._threads.popitem()[1].close()


class Guests:
    """The processes of all guests that run on a Lab's libvirt, found apart from what the Lab itself remembers.

    A Lab is used by one thread, and this by another that watches meanwhile.
    """

    def __init__(self, lab: GuestLab):
        self._lab = lab
        self._known: dict[str, Process] = {}

    def __call__(self) -> list[Process]:
        running = {domain.UUIDString(): domain.name() for domain in self._lab._domains()}
        self._known = {uuid: process for uuid, process in self._known.items() if uuid in running and process.alive()}
        self._known |= vcpus.find([(name, uuid) for uuid, name in running.items() if uuid not in self._known])
        for uuid, process in self._known.items():
            guest = self._lab._mine.get(uuid)  # None while it is being started
            process.look().page = guest.page if guest else None
        return list(self._known.values())


def own_guests(lab: GuestLab) -> list[Guest]:
    """The guests that a Lab started, in that order."""
    return [guest for guest in lab._mine.values() if guest]


def _opened(path: str) -> int | None:
    with suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return None
