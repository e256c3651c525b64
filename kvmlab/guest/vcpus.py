"""vCPU <-> thread: QEMU's process of a guest, what each of its threads is for, and their counters.

libvirt names neither process nor threads through its API (only through QEMU's monitor, which taints the guest); but it
starts every QEMU with the guest's UUID on the command line and with debug-threads=on, so that a vCPU's thread is called
"CPU 0/KVM" or "CPU 0/TCG".
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from kvmlab.guest.microguest.page import ControlPage
from kvmlab.host import cpulist
from kvmlab.host.sysroot import SysRoot
from kvmlab.host.threads import VCPU_NAME, parse_stat, read_stat

ROOT = SysRoot("/")
_VCPU_FD = re.compile(r"anon_inode:kvm-vcpu:(\d+)")
_MIGRATIONS = re.compile(rb"nr_migrations\s*:\s*(\d+)")


@dataclass
class Process:
    """The QEMU process of one guest and its threads: vCPU number -> tid, I/O threads, and all others of QEMU."""

    guest: str
    uuid: str
    pid: int
    start_ticks: int
    vcpus: dict[int, int] = field(default_factory=dict)
    iothreads: list[int] = field(default_factory=list)
    emulator: list[int] = field(default_factory=list)
    accel: str | None = None
    page: ControlPage | None = None

    def look(self) -> Process:
        """Read anew which threads there are; QEMU starts and ends helpers at any time."""
        self.vcpus, self.iothreads, self.emulator = {}, [], []
        for tid in ROOT.numbered(f"proc/{self.pid}/task"):
            comm = ROOT.read(f"proc/{self.pid}/task/{tid}/comm") or ""
            if match := VCPU_NAME.fullmatch(comm):
                self.vcpus[int(match[1])] = tid
                self.accel = match[2].lower()
            elif comm.startswith("IO iothread"):
                self.iothreads.append(tid)
            elif comm and not comm.startswith("kvm-nx-"):  # KVM's own: it lives in the cgroup of the vCPU that ran first
                self.emulator.append(tid)
        return self

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie that nobody reaped yet does not."""
        stat = read_stat(ROOT, self.pid, self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and stat.state not in "ZX"


def find(guests: Iterable[tuple[str, str]], within: str = "") -> dict[str, Process]:
    """The processes of guests given as (name, uuid), by uuid; guests without one here are left out.

    Of a guest on the move there are two with the same uuid: `within` is a folder that the right one's command line names.
    """
    wanted = {uuid.encode(): (name, uuid) for name, uuid in guests}
    found = {}
    for pid in ROOT.numbered("proc") if wanted else ():
        line = ROOT.read_bytes(f"proc/{pid}/cmdline") or b""
        words = line.split(b"\0")
        if within.encode() in line and b"-uuid" in words and (known := wanted.get(words[words.index(b"-uuid") + 1])):
            stat = read_stat(ROOT, pid, pid)
            if stat and stat.state not in "ZX":
                found[known[1]] = Process(*known, pid, stat.start_ticks)
    return found


def kvm_fds(process: Process, fds: Mapping[int, str]) -> dict[int, int]:
    """vCPU -> the file descriptor by which QEMU runs it; of none where that cannot be told.

    KVM numbers vCPUs by APIC id, which has gaps where QEMU's own numbers have none: both in order, they are the same.
    """
    found = sorted((int(match[1]), fd) for fd, name in fds.items() if (match := _VCPU_FD.fullmatch(name)))
    return dict(zip(sorted(process.vcpus), (fd for _, fd in found), strict=True)) if len(found) == len(process.vcpus) else {}


def rows(process: Process) -> list[tuple]:
    """One row a vCPU, in the order of columns.FRAMES["vcpus"]; a vCPU that ends meanwhile is left out."""
    found = (read_row(process, vcpu, tid) for vcpu, tid in sorted(process.vcpus.items()))
    return [row for row in found if row]


def read_row(process: Process, vcpu: int, tid: int) -> tuple | None:
    """One vCPU's row, by opening its files; None where it is gone."""
    task = f"proc/{process.pid}/task/{tid}"
    texts = [ROOT.read_bytes(f"{task}/{name}") or b"" for name in ("stat", "schedstat", "sched")]
    try:
        return row(process, vcpu, tid, os.sched_getaffinity(tid), *texts)
    except ProcessLookupError:
        return None


def row(process: Process, vcpu: int, tid: int, allowed: set[int], stat_text: bytes, schedstat: bytes, sched: bytes) -> tuple | None:
    """One vCPU's row from what its files hold; None where they are those of a thread that ended."""
    stat = parse_stat(stat_text)
    if stat is None or stat.state in "ZX":
        return None
    migrations = _MIGRATIONS.search(sched)
    return (
        *(time.monotonic(), process.guest, vcpu, process.pid, tid, stat.cpu, stat.state, _cpu_list(frozenset(allowed))),
        *(stat.user_s, stat.kernel_s, stat.guest_s, *_schedstat(schedstat)),
        int(migrations[1]) if migrations else None,
        *_doing(process.page, vcpu),
    )


@lru_cache(1024)
def _cpu_list(cpus: frozenset[int]) -> str:
    return cpulist.format(cpus)


def _doing(page: ControlPage | None, vcpu: int) -> tuple[str | None, int | None]:
    try:
        return (page.work(vcpu), sum(page.turns(vcpu))) if page else (None, None)
    except ValueError:  # the guest was destroyed in this very moment, and its page closed
        return None, None


def _schedstat(data: bytes) -> tuple[float | None, float | None]:
    if not data:
        return None, None
    run, delay, _ = data.split()
    return int(run) / 1e9, int(delay) / 1e9


def unavailable(processes: Iterable[Process]) -> dict[str, str]:
    """Why columns of the vCPU frame may hold NA here."""
    reasons = {}
    if ROOT.read_bytes("proc/self/schedstat") is None:
        reasons |= dict.fromkeys(("run_s", "run_delay_s"), "this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)")
    if ROOT.read_bytes("proc/self/sched") is None:
        reasons["migrations"] = "this kernel has no /proc/PID/sched (CONFIG_SCHED_DEBUG)"
    if any(process.page is None for process in processes):
        reasons |= dict.fromkeys(("work", "turns"), "only this Lab's own guests have a control page")
    return reasons
