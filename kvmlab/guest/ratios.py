"""Overcommit ratios: how many vCPUs of running guests there are for the host CPUs that they may use, and what they ask of these.

Sources: sched_getaffinity(2) and proc(5) schedstat of each vCPU's thread, read twice. How long a thread ran and how long it
waited is, together, for how long it asked for a CPU. Had nobody been in its way that would have been no longer, and shorter where
it has little to do and waits for the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

from kvmlab.errors import KvmlabError
from kvmlab.guest import vcpus
from kvmlab.guest.connection import libvirt
from kvmlab.guest.schedinfo import quota_of
from kvmlab.guest.vcpus import ROOT, Process
from kvmlab.host import cpulist
from kvmlab.host.cpusets import NODES, node_cpus, online_cpus

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

UNAVAILABLE = dict.fromkeys(("demand", "slack"), "this kernel has no /proc/PID/schedstat (CONFIG_SCHED_INFO)")
_MOST_S = 3600


class VCpu(NamedTuple):
    """A vCPU's thread: the host CPUs that it may use, and how much of one CPU it asked for; None where that is not told."""

    guest: str
    cpus: frozenset[int]
    demand: float | None


def rows(threads: Sequence[VCpu], online: Iterable[int], nodes: Mapping[int, Iterable[int]]) -> Iterator[tuple]:
    """One row a set, in the order of columns.FRAMES["ratios"]: the host, its NUMA nodes, and what else vCPUs are pinned to."""
    host = frozenset(online)
    threads = [thread._replace(cpus=thread.cpus & host) for thread in threads]
    sets = {host: "host"}
    for node, cpus in sorted(nodes.items()) if len(nodes) > 1 else ():
        sets.setdefault(host & frozenset(cpus), f"node {node}")
    for cpus in sorted({thread.cpus for thread in threads}, key=sorted):
        sets.setdefault(cpus, cpulist.format(cpus))
    return (_row(name, cpus, threads) for cpus, name in sets.items() if cpus)


def _row(name: str, cpus: frozenset[int], threads: Sequence[VCpu]) -> tuple:
    guests = {thread.guest for thread in threads if thread.cpus & cpus}
    inside = [thread for thread in threads if thread.cpus <= cpus]
    known = all(thread.demand is not None for thread in inside)
    demand = sum(thread.demand for thread in inside) if known else None
    slack = len(cpus) - demand if known else None
    return name, cpulist.format(cpus), len(cpus), len(guests), len(inside), len(inside) / len(cpus), demand, slack


def watched(processes: Sequence[Process], seconds: float) -> list[VCpu]:
    """The vCPUs that were there all this time, with what they asked for meanwhile.

    Raises
    ------
    KvmlabError
        For a time that is none, or longer than an hour.
    """
    if not isinstance(seconds, Real) or not 0 < seconds <= _MOST_S:
        raise KvmlabError(f"seconds={seconds!r}: write how long to watch, more than 0 and up to {_MOST_S}.")
    before = _readings(processes)
    time.sleep(seconds)
    return [_between(before[key], row) for key, row in _readings(processes).items() if key in before]


def _readings(processes: Iterable[Process]) -> dict[tuple, tuple]:
    """Each vCPU's row of columns.FRAMES["vcpus"], by its thread: a guest of the same name that came later is another."""
    return {row[3:5]: row for process in processes for row in vcpus.rows(process)}


def _between(before: tuple, after: tuple) -> VCpu:
    """Of the columns: time_s is the first, allowed_cpus the eighth, run_s and run_delay_s the twelfth and the one after it.

    The kernel books a wait when it ends, so that one which began before we looked may be longer than we did; and it books as a wait
    what a quota takes away, though nobody else has the CPU then.
    """
    asked = None
    if None not in (*before[11:13], *after[11:13]):
        asked = min((sum(after[11:13]) - sum(before[11:13])) / (after[0] - before[0]), 1, quota_of(*after[3:5]) or 1)
    return VCpu(after[1], frozenset(cpulist.parse(after[7])), asked)


def of_this_host(lab: GuestLab, seconds: float) -> Iterator[tuple]:
    """What `rows` says of the guests that run on a Lab's libvirt; those that are paused ask for nothing."""
    running = {domain.UUIDString() for domain in lab._domains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)}
    threads = watched([process for process in lab.processes() if process.uuid in running], seconds)
    return rows(threads, online_cpus(ROOT), {node: node_cpus(ROOT, node) or () for node in ROOT.numbered(NODES, "node")})
