"""Rules of the linter about threads that share: CPUs, cores, and the way to memory. Pure: a Scene in, findings out.

Each rule is a function that yields a Finding for each thing that it holds unwise; what it says names the threads and CPUs and
ends with the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kvmlab.guest.scene import REAL_TIME, Placed, Scene
from kvmlab.host import cpulist

BUSY = 0.3  # share of a CPU from which a vCPU counts as one that wants it
RATIO = 5  # vCPUs for each CPU of a set: what Red Hat calls safe while the load is low


class Finding(NamedTuple):
    """What one rule holds unwise in a scene."""

    severity: str  # error: cannot work; warning: costs what pinning is for; note: good to know
    threads: tuple[Placed, ...]
    cpus: tuple[int, ...]
    why: str


class Rule(NamedTuple):
    """A rule's name, its function, and where to read more."""

    name: str
    find: Callable[[Scene], Iterator[Finding]]
    source: str


def names(threads: Iterable[Placed], most: int = 4) -> str:
    """As a sentence lists them.

    >>> names([Placed("c1", 0, (1,)), Placed("c1", 1, (2,))])
    'c1 vCPU 0 and c1 vCPU 1'
    """
    words = [str(thread) for thread in threads]
    if len(words) > most + 1:
        words = [*words[:most], f"{len(words) - most} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def on(cpus: Iterable[int]) -> str:
    """CPUs as a sentence has them.

    >>> on([2]), on([3, 4, 5])
    ('CPU 2', 'CPUs 3-5')
    """
    cpus = tuple(cpus)
    return f"CPU{'s' if len(cpus) > 1 else ''} {cpulist.format(cpus)}"


def vcpus_by_cpu(scene: Scene) -> dict[int, list[Placed]]:
    """The vCPUs that are pinned to one online CPU alone, by that."""
    found: dict[int, list[Placed]] = {}
    for thread in scene.placed:
        if thread.kind == "vcpu" and thread.pinned and len(thread.cpus) == 1 and thread.cpus[0] in scene.layout.online:
            found.setdefault(thread.cpus[0], []).append(thread)
    return found


def free(scene: Scene) -> list[int]:
    """Online CPUs, not isolated, to which no vCPU is pinned."""
    return sorted(scene.layout.online - scene.layout.isolated - vcpus_by_cpu(scene).keys())


def _instead(cpus: list[int], what: str) -> str:
    return f" {what} {on(cpus)}, where no vCPU is pinned." if cpus else " All CPUs have a pinned vCPU here: fewer vCPUs, or other hosts."


# ---- vCPUs with each other


def busy_vcpus_stacked(scene: Scene) -> Iterator[Finding]:
    for cpu, threads in sorted(vcpus_by_cpu(scene).items()):
        busy = [thread for thread in threads if thread.busy is not None and thread.busy >= BUSY]
        unknown = [thread for thread in threads if thread.busy is None]
        if len(busy) > 1:
            share = f"each gets about 1/{len(busy)} of it, whatever idles elsewhere"
            why = f"{names(busy)} are busy and may run on {on([cpu])} only: {share}." + _instead(free(scene), "Pin all but one to")
            yield Finding("warning", tuple(busy), (cpu,), why)
        elif unknown and len(busy) + len(unknown) > 1:
            told = f"{names(busy + unknown)} may run on {on([cpu])} only, and how busy they are is not known: if they are, they share it."
            yield Finding("note", tuple(busy + unknown), (cpu,), told + _instead(free(scene), "Pin all but one to"))


def set_over_committed(scene: Scene) -> Iterator[Finding]:
    """More than one CPU: that of stacked vCPUs has a rule of its own, as long as they are not many."""
    vcpus = [thread for thread in scene.placed if thread.kind == "vcpu" and thread.pinned]
    for cpus in sorted({frozenset(thread.cpus) & scene.layout.online for thread in vcpus} - {frozenset()}, key=sorted):
        inside = [thread for thread in vcpus if cpus.issuperset(thread.cpus)]
        known = [thread.busy for thread in inside if thread.busy is not None]
        asked, ratio = sum(known), len(inside) / len(cpus)
        counted = f"{names(inside)}, {len(inside)} vCPUs, may use {on(sorted(cpus))} only"
        if len(cpus) > 1 and len(inside) > len(cpus) and asked > len(cpus) * 1.05:
            why = f"{counted} and ask for {asked:.1f} CPUs: they wait for each other. Give them more CPUs, or pin some elsewhere."
            yield Finding("warning", tuple(inside), tuple(sorted(cpus)), why)
        elif ratio > RATIO:
            idle = len(known) == len(inside) and asked < len(cpus) / 2
            why = f"{counted}: {ratio:.1f} a CPU, where {RATIO} are held safe at low load. Give them more CPUs, or pin some elsewhere."
            yield Finding("note" if idle else "warning", tuple(inside), tuple(sorted(cpus)), why)


def siblings_to_different_guests(scene: Scene) -> Iterator[Finding]:
    taken, layout = vcpus_by_cpu(scene), scene.layout
    for core in sorted(set(layout.core.values())):
        threads = [thread for cpu in core for thread in taken.get(cpu, ())]
        pairs = {(thread.guest, thread.cpus[0]) for thread in threads}
        if len({guest for guest, _ in pairs}) < 2 or len({cpu for _, cpu in pairs}) < 2:
            continue
        empty = [other for other in sorted(set(layout.core.values())) if not taken.keys() & set(other) and not layout.isolated & set(other)]
        advice = f" The core of {on(empty[0])} is free: move one guest there." if empty else " No core is free: give guests whole cores."
        why = f"{names(threads)} run on the SMT siblings {cpulist.format(core)}, one core: each slows the other, and may learn of it."
        yield Finding("warning" if empty else "note", tuple(threads), core, why + advice)


def guest_siblings_apart(scene: Scene) -> Iterator[Finding]:
    layout = scene.layout
    pinned = {(thread.guest, thread.who): (cpu, thread) for cpu, threads in vcpus_by_cpu(scene).items() for thread in threads}
    smt = any(len(core) > 1 for core in layout.core.values())
    for (guest, vcpu), (cpu, thread) in sorted(pinned.items()):
        others = [pinned[guest, other] for other in thread.siblings if (guest, other) in pinned and other > vcpu]
        apart = [(at, other) for at, other in others if at not in layout.core[cpu]]
        if apart:
            threads, cpus = (thread, *(other for _, other in apart)), tuple(sorted({cpu, *(at for at, _ in apart)}))
            told = f"{guest} takes {names(threads)} for threads of one core and schedules by that, but {on(cpus)} are different cores."
            beside = [other for other in layout.core[cpu] if other != cpu]
            advice = f" Pin them to {on(layout.core[cpu])}." if beside else " Give the guest a topology with one thread a core."
            yield Finding("warning" if smt else "note", threads, cpus, told + advice)


# ---- the way to memory


def vcpus_off_their_memory(scene: Scene) -> Iterator[Finding]:
    layout, far = scene.layout, {}
    for thread in scene.placed:
        cpus = [cpu for cpu in thread.cpus if cpu in layout.online and layout.node(cpu) not in thread.nodes]
        if thread.kind == "vcpu" and thread.pinned and thread.nodes and cpus:
            far.setdefault((thread.guest, thread.nodes), []).append((thread, cpus))
    for (guest, nodes), found in sorted(far.items()):
        threads, cpus = [thread for thread, _ in found], sorted({cpu for _, some in found for cpu in some})
        off, home = cpulist.format(map(layout.node, cpus)), cpulist.format(nodes)
        near = sorted(cpu for cpu in layout.online - layout.isolated if layout.node(cpu) in nodes)
        advice = f" Pin them within {on(near)}" if near else " That node has no CPU to pin them to"
        where = f"{names(threads)} may run on {on(cpus)} of node {off}"
        why = f"{where}, but the memory of {guest} is bound to node {home}: what no cache holds comes from there."
        yield Finding("warning", tuple(threads), tuple(cpus), f"{why}{advice}, or bind the memory where they run.")


# ---- vCPUs with the rest of their guest


def emulator_on_vcpu_cpu(scene: Scene) -> Iterator[Finding]:
    taken, room = vcpus_by_cpu(scene), free(scene)
    for thread in scene.placed:
        shared = [cpu for cpu in thread.cpus if cpu in taken]
        if thread.kind not in ("emulator", "iothread") or not thread.pinned or not shared:
            continue
        vcpus = [vcpu for cpu in shared for vcpu in taken[cpu]]
        confined = len(shared) == len(thread.cpus)
        how = "runs nowhere but on" if confined else "may run on"
        harm = "the vCPU waits, and with it whoever waits for a lock that it holds"
        if confined and any(vcpu.policy in REAL_TIME for vcpu in vcpus):
            harm = "a real-time vCPU lets it run only while it halts, and the guest's devices wait"
        why = f"{thread} {how} {on(shared)}, where {names(vcpus)} {'is' if len(vcpus) == 1 else 'are'} pinned: when it works, {harm}."
        severity = "warning" if confined and room else "note"
        yield Finding(severity, (thread, *vcpus), tuple(shared), why + _instead(room, "Give it"))


def quota_on_pinned_vcpu(scene: Scene) -> Iterator[Finding]:
    taken = vcpus_by_cpu(scene)
    for thread in scene.placed:
        if thread.kind != "vcpu" or not thread.pinned or thread.quota is None:
            continue
        off = f" Take it off: virsh schedinfo {thread.guest} --live --set vcpu_quota=-1."
        limited = f"{thread} on {on(thread.cpus)} has a quota of {thread.quota:.2f} CPUs"
        if thread.policy in REAL_TIME:
            why = f"{limited}, which holds for ordinary threads only: as policy {thread.policy} it runs past it, without it it is stopped."
            yield Finding("warning", (thread,), thread.cpus, why + off)
        elif thread.quota < 1 and len(taken.get(thread.cpus[0], ())) == 1:
            why = f"{limited}: once that is used up it stands still until the next period, though no other vCPU is pinned there."
            yield Finding("note", (thread,), thread.cpus, why + off)


_LIBVIRT = "libvirt, Domain XML format: CPU tuning; https://libvirt.org/formatdomain.html#cpu-tuning"
_TOPOLOGY = "libvirt, Domain XML format: CPU model and topology; https://libvirt.org/formatdomain.html#cpu-model-and-topology"
_OVERCOMMIT = "Red Hat, Configuring and managing Linux virtual machines: Optimizing virtual machine CPU performance"
_NUMA = "Red Hat, Virtualization Tuning and Optimization Guide: libvirt NUMA tuning"
_NFV = "Red Hat, OVS-DPDK End to End Troubleshooting Guide: Using virsh emulatorpin in virtual environments with NFV"
RULES = (
    Rule("busy-vcpus-stacked", busy_vcpus_stacked, _LIBVIRT),
    Rule("set-over-committed", set_over_committed, _OVERCOMMIT),
    Rule("siblings-to-different-guests", siblings_to_different_guests, "Linux, Documentation/admin-guide/hw-vuln/core-scheduling.rst"),
    Rule("guest-siblings-apart", guest_siblings_apart, _TOPOLOGY),
    Rule("vcpus-off-their-memory", vcpus_off_their_memory, _NUMA),
    Rule("emulator-on-vcpu-cpu", emulator_on_vcpu_cpu, _NFV),
    Rule("quota-on-pinned-vcpu", quota_on_pinned_vcpu, "Linux, Documentation/scheduler/sched-bwc.rst"),
)
