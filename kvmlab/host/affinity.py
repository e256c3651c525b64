"""Affinity: where threads may run, where they last ran, how often they moved, and whether they can be moved at all.

Sources: proc(5) stat, status and schedstat; /proc/PID/task/TID/sched (kernel/sched/debug.c; before Linux 6.15 only with
CONFIG_SCHED_DEBUG); cgroups(7) for cgroup, cgroup-v1/cpusets.rst, cgroup-v2.rst; PF_NO_SETAFFINITY in include/linux/sched.h.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from kvmlab.errors import ThreadError
from kvmlab.host import cpulist, kinds
from kvmlab.host.cpusets import members
from kvmlab.host.sysroot import SysRoot
from kvmlab.host.threads import VCPU_NAME, Stat, parse_stat

PF_NO_SETAFFINITY = 0x04000000  # the kernel bound it itself: sched_setaffinity(2) answers EINVAL
COUNTED = "counted by the kernel: nr_migrations in /proc/PID/task/TID/sched"
NOT_COUNTED = "not counted by the kernel here: measure.thread_moves counts the changes of cpu from look to look"
_V1, _UNIFIED = "sys/fs/cgroup/cpuset", ("sys/fs/cgroup", "sys/fs/cgroup/unified")
_TGID = re.compile(r"^Tgid:\s*(\d{1,9})$", re.MULTILINE)
_ALLOWED = re.compile(r"^Cpus_allowed_list:\s*(\S+)$", re.MULTILINE)
_MIGRATIONS = re.compile(r"nr_migrations\s*:\s*(\d{1,18})$", re.MULTILINE)


def rows(root: SysRoot, ids: tuple[int, ...]) -> list[tuple]:
    """In the order of columns.FRAMES["affinity"]: all threads of each process, or the one thread.

    Raises
    ------
    ThreadError
        Where there is none of them.
    """
    if not ids:
        raise ThreadError("Whose affinity? Give the number of a process or thread: os.getpid(), or one of threads().tid.")
    found = [row for wanted in ids for row in _rows(root, _number(wanted))]
    if not found:
        raise ThreadError(_absent(root, ids))
    return found


def _number(wanted: object) -> int:
    """numpy's numbers too: they come from frames."""
    try:
        number = wanted.__index__()
    except AttributeError:
        number = -1
    if number < 1 or isinstance(wanted, bool):
        how = "threads().query(\"comm == 'bash'\") finds the numbers of a name"
        raise ThreadError(f"{wanted!r} is no process or thread: they are numbers from 1 on; {how}.")
    return number


def _absent(root: SysRoot, ids: tuple[int, ...]) -> str:
    pids = root.numbered("proc")
    named = f"{', '.join(map(str, ids[:5]))}{', ...' if len(ids) > 5 else ''}"
    if not pids:
        return f"There is no process or thread {named}: no processes were recorded here."
    there = f"there are {len(pids)} processes, such as {pids[0]} and {pids[-1]}"
    return f"There is no process or thread {named}; it may have ended. {there[0].upper()}{there[1:]}; threads() lists them all."


def _rows(root: SysRoot, wanted: int) -> Iterator[tuple]:
    pid = _process(root, wanted)
    places = {tid: f"proc/{pid}/task/{tid}" for tid in _tids(root, pid)} or {pid: f"proc/{pid}"}  # others recorded no task/
    stats = {tid: stat for tid, place in places.items() if (stat := parse_stat(root.read_bytes(f"{place}/stat") or b""))}
    of_qemu = any(VCPU_NAME.fullmatch(stat.comm) for stat in stats.values())
    for tid in (wanted,) if wanted != pid else stats:
        if tid in stats:
            yield _row(root, pid, tid, places[tid], stats[tid], of_qemu)


def _row(root: SysRoot, pid: int, tid: int, place: str, stat: Stat, of_qemu: bool) -> tuple:
    allowed = _ALLOWED.search(root.read(f"{place}/status") or "")
    migrations = _MIGRATIONS.search(root.read(f"{place}/sched") or "")
    return (
        *(time.monotonic() if root.live else None, pid, tid, stat.comm, kinds.kind(stat.comm, stat.flags, of_qemu), stat.cpu),
        *(_list(allowed[1]) if allowed else None, _cpuset(root, pid, place), not stat.flags & PF_NO_SETAFFINITY),
        *(int(migrations[1]) if migrations else None, *_schedstat(root.read(f"{place}/schedstat") or "")),
    )


def _process(root: SysRoot, wanted: int) -> int:
    """The process of a process or thread. /proc opens to a tid as well, but does not list it."""
    told = _TGID.search(root.read(f"proc/{wanted}/status") or "")
    return int(told[1]) if told else next((pid for pid in root.numbered("proc") if wanted in (pid, *_tids(root, pid))), wanted)


def _tids(root: SysRoot, pid: int) -> list[int]:
    return root.numbered(f"proc/{pid}/task")


def _list(text: str) -> str | None:
    cpus = members(text)
    return None if cpus is None else cpulist.format(cpus)


def _schedstat(text: str) -> tuple[float | None, float | None]:
    words = text.split()
    return tuple(int(word) / 1e9 for word in words[:2]) if len(words) == 3 and all(map(str.isdecimal, words)) else (None, None)


def unavailable(root: SysRoot) -> dict[str, str]:
    """Why columns may hold NA on this machine."""
    reasons = {}
    if root.live and root.read_bytes("proc/self/sched") is None:
        reasons["migrations"] = "this kernel has no /proc/PID/sched (CONFIG_SCHED_DEBUG)"
    if root.live and root.read_bytes("proc/self/schedstat") is None:
        reasons |= dict.fromkeys(("run_s", "run_delay_s"), "this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)")
    return reasons


# ---- its cpuset


def _cpuset(root: SysRoot, pid: int, place: str) -> str | None:
    """The CPUs that its cpuset has; where its cgroup has none of its own, the nearest one above that does."""
    text = root.read(f"{place}/cgroup") or root.read(f"proc/{pid}/cgroup") or ""
    groups = {names: path for _, names, path in (line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2)}
    first = next((path for names, path in groups.items() if "cpuset" in names.split(",")), None)
    unified = next((top for top in _UNIFIED if root.exists(f"{top}/cgroup.controllers")), None)
    if first is not None:
        return _nearest(root, _V1, first, "cpuset.effective_cpus") or _nearest(root, _V1, first, "cpuset.cpus")
    return _nearest(root, unified, groups[""], "cpuset.cpus.effective") if unified and "" in groups else None


def _nearest(root: SysRoot, top: str, path: str, name: str) -> str | None:
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # a container sees its cgroup from outside of it
        return None
    for depth in range(len(parts), -1, -1):
        if text := root.read("/".join([top, *parts[:depth], name])):
            return _list(text)
    return None
