"""Cpuset partitions: CPUs taken away from everybody else while the machine runs, and given back.

Source: Documentation/admin-guide/cgroup-v2.rst, "Cpuset". A partition's parent must be one, so it lies right below the top.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress

from kvmlab.errors import PartitionError
from kvmlab.host import cpulist
from kvmlab.host.cpusets import online_cpus
from kvmlab.host.sysroot import SysRoot

KINDS = ("isolated", "root")
_PLACES = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # cgroup v2, alone or beside v1
_OURS = re.compile(r"kvmlab-(\d+)-[\d,-]+$")


class Partition:
    """Host CPUs that only the processes put into it may use, until the with-block ends.

    Needs cgroup v2 with the cpuset controller, and root. Leaving puts its processes back where they were, and removes it.

    Parameters
    ----------
    cpus : str
        The CPUs, such as "2-3"; at least one must be left to all others.
    kind : {"isolated", "root"}
        "isolated": nothing is balanced there, as with isolcpus. "root": the kernel balances its processes among these CPUs.

    Attributes
    ----------
    answer : str
        What the kernel said when it was asked back: the kind, for it would not have come to be otherwise.

    Raises
    ------
    PartitionError
        Where there is no such controller, no permission, no such CPUs, or the kernel makes it invalid, with its reason.
        What had been changed is put back.

    Examples
    --------
    >>> with Partition("1") as quiet:                          # doctest: +SKIP
    ...     quiet.add(os.getpid())
    ...     print(Host().isolation().cpuset_partition.dropna())
    """

    def __init__(self, cpus: str, kind: str = "isolated"):
        self.root = SysRoot("/")
        self.cpus, self.kind, self.answer = cpulist.parse(str(cpus)), kind, None
        if kind not in KINDS:
            raise PartitionError(f"{kind!r} is no kind of partition: write {' or '.join(map(repr, KINDS))}.")
        self.name = f"kvmlab-{os.getpid()}-{cpulist.format(self.cpus)}"
        self._undo: list[Callable[[], None]] = []
        self._homes: dict[str, str] = {}  # process -> the cgroup.procs that it came from

    def __repr__(self) -> str:
        return f"Partition: CPU {cpulist.format(self.cpus)}, {self.answer or 'not made'}"

    def __enter__(self) -> Partition:
        top = self._top()
        self._check()
        self._place = f"{top}/{self.name}"
        try:
            self._make(top)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        """The last thing done is the first undone; what is gone meanwhile needs nothing."""
        while self._undo:
            with suppress(OSError):
                self._undo.pop()()
        self.answer = None

    def add(self, pid: int) -> None:
        """Put a process, with all of its threads, onto these CPUs."""
        if self.answer is None:
            raise PartitionError(f"The partition of CPU {cpulist.format(self.cpus)} is not made: use it in a with-block.")
        text = self.root.read(f"proc/{pid}/cgroup") or ""
        before = next((line[3:] for line in text.splitlines() if line.startswith("0::")), None)
        if before is None:
            raise PartitionError(f"There is no process {pid!r}; it may have ended.")
        top = self._place.rpartition("/")[0]
        self._write(f"{self._place}/cgroup.procs", str(pid))
        self._homes[str(pid)] = "/".join([top, *before.split("/")[1:], "cgroup.procs"]).replace("//", "/")

    # ---- its parts

    def _top(self) -> str:
        for top in _PLACES:
            if self.root.exists(f"{top}/cgroup.controllers"):
                has = (self.root.read(f"{top}/cgroup.controllers") or "").split()
                if "cpuset" in has:
                    return top
                raise PartitionError(
                    f"cgroup v2 at /{top} has no cpuset controller, only {', '.join(has) or 'none at all'}: cgroup v1 holds it. "
                    "Boot with systemd.unified_cgroup_hierarchy=1, or without cgroup v1's cpuset."
                )
        raise PartitionError("There is no cgroup v2 here: partitions need it, with its cpuset controller, at /sys/fs/cgroup.")

    def _check(self) -> None:
        online = online_cpus(self.root)
        if strange := sorted(set(self.cpus) - set(online)):
            raise PartitionError(f"There is no online CPU {strange[0]}: the online CPUs are {cpulist.format(online)}.")
        if not self.cpus or set(self.cpus) == set(online):
            how_many = "all" if self.cpus else "none"
            raise PartitionError(
                f"A partition of {how_many} of the online CPUs {cpulist.format(online)}: take some, and leave some to the others."
            )

    def _make(self, top: str) -> None:
        control, kind = f"{top}/cgroup.subtree_control", f"{self._place}/cpuset.cpus.partition"
        for name in self.root.folders(top):  # of a Python that was killed
            if (left := _OURS.match(name)) and not self.root.exists(f"proc/{left[1]}"):
                self._remove(f"{top}/{name}")
        if "cpuset" not in (self.root.read(control) or "").split():
            self._write(control, "+cpuset")
            self._undo.append(lambda: self._put(control, "-cpuset"))
        try:
            os.mkdir(self.root.path + self._place)
        except OSError as error:
            raise _refused(self._place, error) from error
        self._undo.append(lambda: self._remove(self._place))
        self._write(f"{self._place}/cpuset.cpus", cpulist.format(self.cpus))
        self._write(kind, self.kind)
        self.answer = self.root.read(kind)
        if self.answer != self.kind:
            raise PartitionError(f"The kernel makes no partition of CPU {cpulist.format(self.cpus)}; it says: {self.answer}.")

    def _remove(self, place: str) -> None:
        """Children of a process go where it came from, or to the top."""
        homes = [*self._homes.values(), f"{place.rpartition('/')[0]}/cgroup.procs"]
        for pid in (self.root.read(f"{place}/cgroup.procs") or "").split():
            with suppress(OSError):
                self._put(self._homes.get(pid, homes[0]), pid)
        with suppress(OSError):
            self._put(f"{place}/cpuset.cpus.partition", "member")
        with suppress(OSError):
            os.rmdir(self.root.path + place)

    def _put(self, path: str, text: str) -> None:
        fd = os.open(self.root.path + path, os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _write(self, path: str, text: str) -> None:
        try:
            self._put(path, text)
        except OSError as error:
            raise _refused(path, error) from error


def _refused(path: str, error: OSError) -> PartitionError:
    how = "Only root may." if isinstance(error, PermissionError) else "Is there a partition already that has some of these CPUs?"
    return PartitionError(f"/{path}: {error.strerror}. {how}")
