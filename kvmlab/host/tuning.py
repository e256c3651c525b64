"""Readiness for measuring and tuning: what else on this machine moves, shares, slows or counts the work of vCPUs.

Sources: cgroups(7), Documentation/scheduler/sched-stats.rst, Documentation/admin-guide/sysctl/kernel.rst,
Documentation/admin-guide/mm (hugetlbpage, transhuge, ksm), Documentation/ABI/testing/sysfs-devices-system-cpu,
Documentation/admin-guide/pm/cpufreq.rst, /sys/devices/system/clocksource.
"""

from __future__ import annotations

import re
from collections import Counter

from kvmlab.host.check import Check, Machine

_CPUS = "sys/devices/system/cpu"
_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "blkio", "io", "devices", "pids", "hugetlb")


def cgroups(m: Machine) -> Check:
    """libvirt can limit and place guests by cgroup."""
    check, source = "cgroups", "/proc/mounts"
    first, second = controllers(m)
    if first is None and second is None:
        return m.unknown(check, source)
    version = " and ".join(name for name, group in (("v1", first), ("v2", second)) if group is not None)
    there = [name for name in _CONTROLLERS if name in (first or set()) | (second or set())]
    missing = [name for name in ("cpu", "cpuset") if name not in there]
    lost = {"cpu": "shares and quota", "cpuset": "cpusets"}
    advice = f"Without {' and '.join(missing)} libvirt cannot set {' and '.join(lost[n] for n in missing)} of guests." if missing else None
    return Check(check, "warn" if missing else "pass", f"{version}: {' '.join(there) or 'no controllers'}", source, advice)


def controllers(m: Machine) -> tuple[set[str] | None, set[str] | None]:
    """The controllers of cgroup v1 and of v2; None where there is none, or not known."""
    first, places = None, ["sys/fs/cgroup"]
    for line in (m.read("proc/mounts") or "").splitlines():
        _, place, kind, options, *_ = *line.split(), "", "", "", ""
        if kind == "cgroup":
            first = (first or set()) | set(options.split(","))
        elif kind == "cgroup2" and ".." not in place:
            places.append(place.strip("/"))
    texts = (m.read(f"{place}/cgroup.controllers") for place in places)
    second = next((set(text.split()) for text in texts if text is not None), None)
    return first, second


def schedstats(m: Machine) -> Check:
    """The kernel counts how long each thread waits for a CPU."""
    check, path = "schedstats", "proc/sys/kernel/sched_schedstats"
    details = {"0": "off", "1": "on"}.get(m.read(path) or "")
    own = re.fullmatch(r"\d+ \d+ \d+", m.read("proc/self/schedstat") or "")
    if own or m.read("proc/schedstat"):
        words = f"run delay of each thread; details: {details or 'not in this kernel'}"
        advice = f"For waits and sleeps too: sysctl {path[9:].replace('/', '.')}=1" if details == "off" else None
        return Check(check, "pass", words, "/proc/self/schedstat" if own else "/proc/schedstat", advice)
    if m.live:
        return Check(
            check, "warn", "none", "/proc/self/schedstat", "Without CONFIG_SCHED_INFO nobody knows how long a vCPU waits (run delay)."
        )
    return m.unknown(check, "/proc/schedstat")


def perf(m: Machine) -> Check:
    """perf can count cycles, and who may."""
    check, events, setting = "perf", "sys/bus/event_source/devices", "proc/sys/kernel/perf_event_paranoid"
    level, devices = m.root.number(setting), m.root.list(events)
    if level is None and not devices:
        return m.unknown(check, f"/{setting}")
    counters = sorted(name for name in devices if name.startswith(("cpu", "armv", "arm_", "apple", "riscv")))
    words = f"perf_event_paranoid {'not shown' if level is None else level}; "
    if not devices:
        return Check(check, "unknown", words + "hardware counters: not recorded", f"/{setting}")
    if not counters:
        advice = "No cycles or cache misses here; inside a VM its hypervisor must give it a PMU."
        return Check(check, "warn", words + "no hardware counters", f"/{events}", advice)
    advice = "For users other than root: sysctl kernel.perf_event_paranoid=1" if level is not None and level > 1 else None
    return Check(check, "pass", words + f"hardware counters: {' '.join(counters)}", f"/{events}", advice)


def huge_pages(m: Machine) -> Check:
    """Guest memory can lie in huge pages."""
    check, place = "huge pages", "sys/kernel/mm/hugepages"
    sizes = sorted(int(size[1]) for name in m.root.list(place) if (size := re.fullmatch(r"hugepages-([0-9]{1,9})kB", name)))
    counts = {size: m.root.number(f"{place}/hugepages-{size}kB/nr_hugepages") for size in sizes}
    mode = re.search(r"\[(\w+)]", m.read("sys/kernel/mm/transparent_hugepage/enabled") or "")
    if not mode and not any(count is not None for count in counts.values()):
        return m.unknown(check, f"/{place}")
    reserved = [f"{count} of {_size(size)}" for size, count in counts.items() if count]
    words = ", ".join(reserved) or "none reserved"
    useful = bool(reserved) or (mode and mode[1] != "never")
    advice = None if useful else "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: QEMU asks for them."
    status = "pass" if useful else "warn" if mode else "unknown"
    return Check(check, status, f"{words}; transparent: {mode[1] if mode else 'not shown'}", f"/{place}", advice if mode else None)


def _size(kib: int) -> str:
    for unit, factor in (("GiB", 1 << 20), ("MiB", 1 << 10)):
        if kib >= factor and kib % factor == 0:
            return f"{kib // factor} {unit}"
    return f"{kib} KiB"


def ksm(m: Machine) -> Check:
    """The kernel merges equal pages of guests."""
    place = "sys/kernel/mm/ksm"
    run, sharing = m.read(f"{place}/run"), m.root.number(f"{place}/pages_sharing")
    if run == "1":
        words = "on" if sharing is None else f"on: {sharing} pages saved"
        return Check("KSM", "warn", words, f"/{place}/run", f"ksmd takes CPU time from guests; while you measure: echo 0 > /{place}/run")
    return Check("KSM", "pass", "off", f"/{place}/run") if run in ("0", "2") else m.unknown("KSM", f"/{place}/run")


def numa_balancing(m: Machine) -> Check:
    """The kernel moves memory and threads between nodes by itself."""
    check, path = "NUMA balancing", "proc/sys/kernel/numa_balancing"
    mode = m.root.number(path)
    if mode is None:
        return m.unknown(check, f"/{path}")
    nodes = len(m.root.numbered("sys/devices/system/node", "node"))
    words = f"{'on' if mode else 'off'}; nodes: {nodes or 'not shown'}"
    busy = mode and nodes > 1
    advice = "It moves memory and threads of guests; while you measure: sysctl kernel.numa_balancing=0"
    return Check(check, "warn" if busy else "pass", words, f"/{path}", advice if busy else None)


_STEADY = ("tsc", "arch_sys_counter", "timebase", "tod", "riscv_clocksource", "Constant", "stick")


def clock(m: Machine) -> Check:
    """Reading the time is cheap."""
    place = "sys/devices/system/clocksource/clocksource0"
    current, others = m.read(f"{place}/current_clocksource"), (m.read(f"{place}/available_clocksource") or "").split()
    if not current:
        return m.unknown("clock source", f"/{place}")
    words = f"{current}; available: {' '.join(others) or 'not shown'}"
    if current in _STEADY:
        return Check("clock source", "pass", words, f"/{place}")
    advice = f"echo tsc > /{place}/current_clocksource" if "tsc" in others else "Without tsc reading the time is dearer, for guests too."
    return Check(
        "clock source", "warn" if m.architecture == "x86" else "unknown", words, f"/{place}", advice if m.architecture == "x86" else None
    )


def frequency(m: Machine) -> Check:
    """The CPUs keep their speed."""
    check = "CPU frequency"
    policies = [f"{_CPUS}/cpufreq/policy{n}" for n in m.root.numbered(f"{_CPUS}/cpufreq", "policy")]
    places = policies or [f"{_CPUS}/cpu{n}/cpufreq" for n in m.root.numbered(_CPUS, "cpu")]
    governors = Counter(text for place in places if (text := m.read(f"{place}/scaling_governor")))
    source = f"/{_CPUS}/cpufreq"
    if not governors:
        return m.unknown(check, source)
    words = ", ".join(f"{name} ({count})" for name, count in governors.most_common())
    steady = set(governors) == {"performance"}
    advice = "Speed follows load, and measurements with it: cpupower frequency-set -g performance"
    return Check(check, "pass" if steady else "warn", f"governors: {words}", source, None if steady else advice)


def smt(m: Machine) -> Check:
    """Host CPUs share cores."""
    place = f"{_CPUS}/smt"
    active, control = m.read(f"{place}/active"), m.read(f"{place}/control")
    if active not in ("0", "1"):
        return m.unknown("SMT", f"/{place}/active")
    advice = "Two vCPUs on siblings share one core: see core and smt in cpus()." if active == "1" else None
    return Check("SMT", "pass", f"{'on' if active == '1' else 'off'} (control: {control or 'not shown'})", f"/{place}/active", advice)


def vulnerabilities(m: Machine) -> Check:
    """The known flaws of the CPU, by what the kernel does about them."""
    check, place = "CPU vulnerabilities", f"{_CPUS}/vulnerabilities"
    texts = {name: text for name in sorted(m.root.list(place)) if (text := m.read(f"{place}/{name}"))}
    if not texts:
        return m.unknown(check, f"/{place}")
    kinds = {name: _kind(text) for name, text in texts.items()}
    counts = Counter(kinds.values())
    words = ", ".join(f"{counts[kind]} {kind}" for kind in ("vulnerable", "mitigated", "unaffected", "unknown") if counts[kind])
    open_ones = [name for name, kind in kinds.items() if kind == "vulnerable"]
    siblings = [name for name, text in texts.items() if kinds[name] == "mitigated" and "SMT vulnerable" in text]
    advice = f"Vulnerable: {', '.join(open_ones)}. The kernel's mitigations= says what it does." if open_ones else ""
    advice += f" Between SMT siblings: {', '.join(siblings)}." if siblings else ""
    status = "warn" if advice else "pass" if not counts["unknown"] else "unknown"
    return Check(check, status, words + (f": {', '.join(open_ones)}" if open_ones else ""), f"/{place}", advice.strip() or None)


def _kind(text: str) -> str:
    """Of Documentation/ABI/testing/sysfs-devices-system-cpu: itlb_multihit writes "KVM:" before, or "Processor vulnerable"."""
    text = text.removeprefix("KVM: ").removeprefix("Processor ").capitalize()
    for begin, kind in (("Vulnerable", "vulnerable"), ("Mitigation", "mitigated"), ("Not affected", "unaffected")):
        if text.startswith(begin):
            return kind
    return "unknown"
