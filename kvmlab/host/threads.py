"""Threads: every kernel task of a machine, as ``ps -eL`` sees them.

Sources: proc(5), /proc/PID/task/TID/stat and status, /proc/PID/status and cmdline. A thread that goes while it is read is
left out, and so is one whose recorded stat is no such text.
"""

from __future__ import annotations

import gc
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

from kvmlab.errors import CpuListError
from kvmlab.host import cpulist, kinds
from kvmlab.host.kinds import VCPU_NAME
from kvmlab.host.sysroot import SysRoot
from kvmlab.host.unix import pwd

TICKS_PER_S = 100  # USER_HZ: so on every architecture but alpha and ia64, and a recording does not say it
_POLICIES = {b"0": "other", b"1": "fifo", b"2": "rr", b"3": "batch", b"5": "idle", b"6": "deadline", b"7": "ext"}
_NOT_NICED = (b"1", b"2", b"5", b"6")  # the scheduler does not look at the nice value of these, and ps shows none
_NICES = {b"%d" % nice: nice for nice in range(-20, 20)}
_REAL_UID = re.compile(rb"^Uid:\s*(\d{1,10})\s", re.MULTILINE)
_ALLOWED = re.compile(rb"^Cpus_allowed_list:\s*(\S+)$", re.MULTILINE)


class Stat(NamedTuple):
    """What /proc/PID/task/TID/stat says, as far as kvmlab uses it."""

    comm: str
    flags: int
    ppid: int
    cpu: int
    state: str
    user_s: float
    kernel_s: float
    guest_s: float
    nice: int | None
    policy: str | None
    priority: int
    start_ticks: int


class _Known(dict):
    """What texts mean, found out once each: a machine's threads repeat the same few, and a look-up costs a third."""

    def __init__(self, meaning: Callable):
        self._meaning = meaning

    def __missing__(self, text):
        if len(self) > 10_000:
            self.clear()
        value = self[text] = self._meaning(text)
        return value


def _number(text: bytes) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError(f"{number} is no count")
    return number


_NAMES = _Known(lambda text: text.decode("utf-8", "backslashreplace"))
_NUMBERS = _Known(_number)
_STATES = _Known(lambda text: text.decode("ascii"))
_PURPOSES = _Known(lambda thread: (kinds.kind(*thread), *kinds.worker(*thread[:2])))  # of (comm, flags, of_qemu)


def parse_stat(data: bytes) -> Stat | None:
    """A Stat from the text of the file; None from any other text."""
    values = _values(data)
    try:
        return values and Stat(*values[:-1], _number(values[-1]))
    except ValueError:
        return None


def _values(data: bytes) -> tuple | None:
    """The values of a Stat, start_ticks as text: `rows` needs no Stat, and would spend as much again on making 20,000 of them.

    Linux counts guest time inside user time, each on its own tick: what is left of user time may not fall below 0.
    """
    try:
        end = data.rindex(b")")  # the name itself may hold brackets
        f = data[end + 2 :].split(b" ", 41)
        user, guest, policy = _NUMBERS[f[11]], _NUMBERS[f[40]], f[38]
        return (
            _NAMES[data[data.index(b"(") + 1 : end]],
            _NUMBERS[f[6]],
            _NUMBERS[f[1]],
            _NUMBERS[f[36]],
            _STATES[f[0]],
            (user - guest if user > guest else 0) / TICKS_PER_S,
            _NUMBERS[f[12]] / TICKS_PER_S,
            guest / TICKS_PER_S,
            None if policy in _NOT_NICED else _NICES.get(f[16]),
            _POLICIES.get(policy),
            _NUMBERS[f[37]],
            f[19],
        )
    except (ValueError, IndexError):
        return None


def read_stat(root: SysRoot, pid: int, tid: int) -> Stat | None:
    """One thread's Stat; None where it is gone."""
    return parse_stat(root.read_bytes(f"proc/{pid}/task/{tid}/stat") or b"")


class _Process(NamedTuple):
    """What was read of a process: its files, and those of its threads, side by side."""

    pid: int
    status: bytes | None
    cmdline: bytes | None
    tids: list[int]
    stats: list[bytes | None]
    statuses: list[bytes | None]


def rows(root: SysRoot, affinity: bool = False) -> list[tuple]:
    """All threads, in the order of columns.FRAMES["threads"]; with `affinity`, one more file a thread is read for allowed_cpus.

    Everything is read before anything is parsed: Python is a tenth slower where it returns from the kernel all the time.
    """
    with _no_collection():
        processes = [_read(root, pid, affinity) for pid in root.numbered("proc")]
        there = [process for process in processes if process.status is not None or not root.live]  # the others are gone
        return [row for process in there for row in _process_rows(process, root.live)]


@contextmanager
def _no_collection() -> Iterator[None]:
    """20,000 new tuples, none of them garbage: to look for some, again and again, costs another tenth."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(root: SysRoot, pid: int, affinity: bool) -> _Process:
    """Where others recorded no task/, the process as a whole stands for its threads."""
    tids = root.numbered(f"proc/{pid}/task")
    places = [f"proc/{pid}/task/{tid}/" for tid in tids] or [f"proc/{pid}/"]
    stats = [root.read_bytes(place + "stat") for place in places]
    statuses = [root.read_bytes(place + "status") for place in places] if affinity else [None] * len(places)
    return _Process(pid, root.read_bytes(f"proc/{pid}/status"), root.read_bytes(f"proc/{pid}/cmdline"), tids or [pid], stats, statuses)


def _process_rows(process: _Process, live: bool) -> Iterator[tuple]:
    pid, ruser, args = process.pid, _ruser(process.status, live), _args(process.cmdline)
    threads = [_values(stat) if stat else None for stat in process.stats]  # None where it is gone, or no such text
    of_qemu = any(map(VCPU_NAME.fullmatch, {thread[0] for thread in threads if thread}))
    for tid, status, thread in zip(process.tids, process.statuses, threads, strict=True):
        if thread is None:
            continue
        comm, flags, ppid, cpu, state, user_s, kernel_s, guest_s, nice, policy, priority, _ = thread
        kind, pool, queue = _PURPOSES[comm, flags, of_qemu]
        words = f"[{comm}]" if args == "" else args
        allowed = _allowed(status) if status else None
        yield ruser, pid, ppid, tid, cpu, state, comm, words, kind, pool, queue, user_s, kernel_s, guest_s, nice, policy, priority, allowed


def _args(cmdline: bytes | None) -> str | None:
    return None if cmdline is None else cmdline.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "backslashreplace")


def _allowed(status: bytes) -> str | None:
    match = _ALLOWED.search(status)
    return _CPUS[match[1]] if match else None


def _cpus(text: bytes) -> str | None:
    try:
        return cpulist.format(cpulist.parse(text.decode("ascii", "replace")))
    except CpuListError:
        return None


_CPUS = _Known(_cpus)


def _ruser(status: bytes | None, live: bool) -> str | None:
    match = _REAL_UID.search(status or b"")
    return _user_name(int(match[1]), live) if match else None


@lru_cache(maxsize=4096)
def _user_name(uid: int, live: bool) -> str:
    """A recorded machine's names were left behind: but for root, its users are numbers."""
    if not live:
        return "root" if uid == 0 else str(uid)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def per_cpu_rows(threads: Iterable[tuple]) -> list[tuple]:
    """How many threads of each kind each CPU ran last, in the order of columns.FRAMES["threads_per_cpu"], from `rows`."""
    seen, running = Counter(), Counter()
    for _, _, _, _, cpu, state, _, _, kind, *_ in threads:
        seen[cpu, kind] += 1
        running[cpu, kind] += state == "R"
    return [(cpu, kind, count, running[cpu, kind]) for (cpu, kind), count in sorted(seen.items())]
