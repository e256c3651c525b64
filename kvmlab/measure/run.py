"""One run: what the vCPUs of some guests got, waited for and felt while they worked.

What they ran and waited is the kernel's count, by the sampler; how often they were put on a CPU is schedstat's third field; what
they missed themselves is in the memory that they share with the host. What all else took of their CPUs is /proc/stat, less what
they ran.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from kvmlab.guest.guest import Guest
from kvmlab.guest.microguest.page import bucket
from kvmlab.guest.vcpus import ROOT
from kvmlab.host import cputime, tsc
from kvmlab.measure.rates import rates
from kvmlab.measure.sampler import sample

_HZ = 10


class Got(NamedTuple):
    """What one vCPU got: shares of the time, numbers a second, and times between two of its turns; None where nothing tells."""

    guest: str
    vcpu: int
    seconds: float
    share: float | None
    waited: float | None
    migrations: float | None
    turns: float | None
    felt: float | None
    switches: float | None
    p50: float | None
    p99: float | None
    longest: float | None


class Run(NamedTuple):
    """What all got; the CPUs' worth that others took of the same CPUs, and that measuring took of any; whether Ctrl-C ended it."""

    got: list[Got]
    others: float | None
    cost: float
    stopped: bool


class _Reading(NamedTuple):
    """What no sampler reads of a vCPU."""

    when: float
    switches: int | None
    missed: int
    longest: int
    tail: tuple[int, ...]


def run(guests: Sequence[Guest], cpus: Sequence[int], seconds: float) -> Run:
    """Measure guests that work on these host CPUs; one that ends meanwhile is left out."""
    for guest in guests:
        for vcpu in range(guest.vcpus):
            guest.page.forget_longest_gap(vcpu)
    used, begin, before = time.process_time(), _busy(cpus), _readings(guests)
    samples = sample(guests, seconds, _HZ, progress=False)
    used, end, after = time.process_time() - used, _busy(cpus), _readings(guests)
    wall = end[0] - begin[0]
    counted = rates(samples).astype(object)
    rows = counted.where(counted.notna(), None).to_dict("records")
    others = None if None in (begin[1], end[1]) else (end[1] - begin[1]) / wall - sum(_part(row["run_pct"]) or 0 for row in rows)
    lasting = {guest.name for guest in guests if guest.process.alive()}
    got = [_got(row, before, after) for row in rows if row["guest"] in lasting]
    return Run(got, None if others is None else max(0.0, others), used / wall, samples.attrs["stopped"])


def _part(pct: float | None) -> float | None:
    return None if pct is None else pct / 100


def _got(row: dict, before: dict, after: dict) -> Got:
    key = row["guest"], row["vcpu"]
    counted = row["seconds"], _part(row["run_pct"]), _part(row["run_delay_pct"]), row["migrations_per_s"], row["turns_per_s"]
    return Got(*key, *counted, *_between(before[key], after[key]))


def _busy(cpus: Sequence[int]) -> tuple[float, float | None]:
    """When it was asked, and the seconds that these CPUs were not idle; None where /proc/stat lacks one."""
    times = {
        cpu: [part or 0 for part in (*user, irq, softirq, steal, guest, nice)]
        for _, cpu, *user, _, _, irq, softirq, steal, guest, nice in cputime.rows(ROOT)
    }
    return time.monotonic(), sum(sum(times[cpu]) for cpu in cpus) if set(cpus) <= times.keys() else None


def _readings(guests: Sequence[Guest]) -> dict[tuple[str, int], _Reading]:
    return {(guest.name, vcpu): _reading(guest, vcpu) for guest in guests for vcpu in range(guest.vcpus)}


def _reading(guest: Guest, vcpu: int) -> _Reading:
    """The page can be read also after the guest's end: it is our mapping."""
    schedstat = ROOT.read(f"proc/{guest.process.pid}/task/{guest.process.vcpus.get(vcpu)}/schedstat")
    gaps = guest.page.gaps(vcpu)
    return _Reading(time.monotonic(), int(schedstat.split()[2]) if schedstat else None, gaps.summed, gaps.longest, guest.page.tail(vcpu))


def _between(before: _Reading, after: _Reading) -> tuple[float | None, ...]:
    """What it felt, how often it was put on a CPU a second, and the median, 99th percentile and longest of the times between its turns."""
    wall, hz = after.when - before.when, tsc.hz()
    switches = None if None in (before.switches, after.switches) else (after.switches - before.switches) / wall
    counts = [(later - earlier) % (1 << 32) for earlier, later in zip(before.tail, after.tail, strict=True)]
    if not any(counts):  # another work than spin and duty
        return None, switches, None, None, None
    highest = after.longest or _quantile(counts, 1)
    times = (min(_quantile(counts, part) or highest, highest) / hz for part in (0.5, 0.99))
    return (after.missed - before.missed) / hz / wall, switches, *times, highest / hz


def _quantile(counts: Sequence[int], part: float) -> int | None:
    """How many ticks `part` of all are below, by the upper bound of the bucket; None in the last one, which has none."""
    below = 0
    for number, count in enumerate(counts):
        below += count
        if below >= part * sum(counts):
            return bucket(number)[1]
    return None
