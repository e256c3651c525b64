"""Threads: every kernel task of a machine, as ``ps -eL`` sees them.

Sources: proc(5), /proc/PID/stat, /proc/PID/status and /proc/PID/cmdline. A thread that goes while it is read is left out.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from kvmlab.host.sysroot import SysRoot

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
VCPU_NAME = re.compile(r"CPU (\d+)/(KVM|TCG)")  # QEMU's debug-threads=on, which libvirt always sets
_PF_KTHREAD = 0x00200000  # include/linux/sched.h


class Stat(NamedTuple):
    """What /proc/PID/task/TID/stat says, as far as kvmlab uses it."""

    comm: str
    state: str
    ppid: int
    kernel_thread: bool
    user_s: float
    kernel_s: float
    guest_s: float
    start_ticks: int
    cpu: int


def parse_stat(data: bytes) -> Stat:
    """Linux counts guest time inside user time, each on its own tick: what is left of user time may not fall below 0."""
    head, _, tail = data.rpartition(b")")  # the name itself may hold brackets
    f = tail.split()
    user, kernel, guest = int(f[11]), int(f[12]), int(f[40])
    return Stat(
        comm=head.partition(b"(")[2].decode("utf-8", "backslashreplace"),
        state=f[0].decode(),
        ppid=int(f[1]),
        kernel_thread=bool(int(f[6]) & _PF_KTHREAD),
        user_s=max(0, user - guest) / TICKS_PER_S,
        kernel_s=kernel / TICKS_PER_S,
        guest_s=guest / TICKS_PER_S,
        start_ticks=int(f[19]),
        cpu=int(f[36]),
    )


def read_stat(root: SysRoot, pid: int, tid: int) -> Stat | None:
    """One thread's Stat; None where it is gone."""
    data = root.read_bytes(f"proc/{pid}/task/{tid}/stat")
    return parse_stat(data) if data else None


def rows(root: SysRoot) -> Iterator[tuple]:
    """All threads, in the order of columns.FRAMES["threads"]."""
    for pid in root.numbered("proc"):
        yield from _process_rows(root, pid)


def _process_rows(root: SysRoot, pid: int) -> list[tuple]:
    stats = [(tid, stat) for tid in root.numbered(f"proc/{pid}/task") if (stat := read_stat(root, pid, tid))]
    status = root.read_bytes(f"proc/{pid}/status")
    if not stats or status is None:
        return []
    ruser = _user_name(_real_uid(status))
    args = (root.read_bytes(f"proc/{pid}/cmdline") or b"").rstrip(b"\0").replace(b"\0", b" ")
    words = args.decode("utf-8", "backslashreplace")
    qemu = any(VCPU_NAME.fullmatch(stat.comm) for _, stat in stats)
    return [(ruser, pid, s.ppid, tid, s.cpu, s.state, s.comm, words or f"[{s.comm}]", *_use(s, qemu)) for tid, s in stats]


def _use(stat: Stat, of_qemu: bool) -> tuple:
    return kind(stat.comm, stat.kernel_thread, of_qemu), stat.user_s, stat.kernel_s, stat.guest_s


def kind(comm: str, kernel_thread: bool, of_qemu: bool) -> str:
    """What a thread is for: vcpu, emulator, iothread, vhost, kernel or ordinary."""
    if comm.startswith("vhost-"):
        return "vhost"  # a kernel thread before Linux 6.4, a thread of QEMU's process since
    if kernel_thread:
        return "kernel"
    if not of_qemu:
        return "ordinary"
    if VCPU_NAME.fullmatch(comm):
        return "vcpu"
    return "iothread" if comm.startswith("IO iothread") else "emulator"


def _real_uid(status: bytes) -> int:
    start = status.index(b"\nUid:") + 5
    return int(status[start : status.index(b"\n", start)].split()[0])


@lru_cache(maxsize=4096)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
