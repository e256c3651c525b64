"""Rules of the linter about the host's CPUs: isolated, tickless, interrupted, unlike each other, or not there. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from kvmlab.guest.lint_rules import Finding, Rule, free, names, on, vcpus_by_cpu
from kvmlab.guest.scene import REAL_TIME, Placed, Scene
from kvmlab.host import cpulist

UNLIKE = 1.1  # cores of one kind differ by less: favoured cores clock some percent higher
AWAKE = 0.02  # share of a CPU up to which a thread counts as asleep


def cpu_offline_or_missing(scene: Scene) -> Iterator[Finding]:
    layout = scene.layout
    for thread in scene.placed:
        if not (gone := sorted(set(thread.cpus) - layout.online)):
            continue
        known = [cpu for cpu in gone if cpu in layout.known]
        missing = [cpu for cpu in gone if cpu not in layout.known]
        what = [f"{on(known)} of its CPUs {'is' if len(known) == 1 else 'are'} offline"] if known else []
        what += [f"there is no {on(missing)} in this host"] if missing else []
        wake = f", or put it online: echo 1 > /sys/devices/system/cpu/cpu{known[0]}/online" if known else ""
        why = f"{thread}: {', and '.join(what)}. Choose among {cpulist.format(layout.online)}{wake}."
        yield Finding("error", (thread,), tuple(gone), why)


# ---- isolated CPUs


def unpinned_with_isolcpus(scene: Scene) -> Iterator[Finding]:
    layout, mixing = scene.layout, {}
    for thread in scene.placed:
        inside = layout.isolated.intersection(thread.cpus)
        if inside and not layout.isolated.issuperset(thread.cpus) and (thread.pinned or thread.kind == "vcpu"):
            mixing.setdefault((thread.guest or "", thread.pinned, thread.cpus), []).append(thread)
    for (guest, pinned, cpus), threads in sorted(mixing.items()):
        inside, others = sorted(layout.isolated.intersection(cpus)), sorted(set(cpus) - layout.isolated)
        reason = "A set of both is rarely meant" if pinned else "libvirt before 10.4 gives a guest that nobody pinned all online CPUs"
        harm = "a thread that gets onto an isolated CPU stays there, with all that it starts, for nothing balances their load"
        advice = f"Pin {'each vCPU to a CPU of its own' if guest else 'them'}, or all to {cpulist.format(others)}."
        why = f"{names(threads)} may use the isolated {on(inside)} beside {on(others)}. {reason}: {harm}. {advice}"
        yield Finding("warning", tuple(threads), tuple(inside), why)


def isolated_set_wide(scene: Scene) -> Iterator[Finding]:
    isolated, wide = scene.layout.isolated, {}
    for thread in scene.placed:
        if len(thread.cpus) > 1 and isolated.issuperset(thread.cpus):
            wide.setdefault(thread.cpus, []).append(thread)
    for cpus, threads in sorted(wide.items()):
        harm = "each stays on the CPU where it lands first, several on the same one, while others of them idle"
        why = f"{names(threads)} may use {on(cpus)}, all isolated, where the kernel balances no load: {harm}. Pin each to one of them."
        yield Finding("warning", tuple(threads), cpus, why)


def isolated_cpu_shared(scene: Scene) -> Iterator[Finding]:
    """By what nobody pinned; a guest's own vCPUs are the business of the rule above."""
    layout, taken = scene.layout, vcpus_by_cpu(scene)
    strangers = [thread for thread in scene.placed if not thread.pinned and thread.kind != "vcpu" and layout.isolated & set(thread.cpus)]
    if not strangers:
        return
    cpus = sorted(layout.isolated.intersection(*(thread.cpus for thread in strangers)) or layout.isolated & set(strangers[0].cpus))
    used = [thread for cpu in cpus for thread in taken.get(cpu, ())]
    beside = f", where {names(used)} {'is' if len(used) == 1 else 'are'} to be alone" if used else ""
    others = cpulist.format(layout.online - layout.isolated) or "other CPUs"
    why = f"Nobody pinned {names(strangers)}, which may use the isolated {on(cpus)}{beside}. Give them {others}."
    yield Finding("warning" if used else "note", (*strangers, *used), tuple(cpus), why)


def nohz_full_crowded(scene: Scene) -> Iterator[Finding]:
    for cpu in sorted(scene.layout.nohz_full & scene.layout.online):
        threads = [thread for thread in scene.placed if thread.cpus == (cpu,) and (thread.busy is None or thread.busy >= AWAKE)]
        if len(threads) > 1:
            harm = "the tick stays off only while one thread wants the CPU, and each entry into the kernel still costs more there"
            why = f"{names(threads)} share {on([cpu])}, which is nohz_full: {harm}. Leave one of them there."
            yield Finding("warning", tuple(threads), (cpu,), why)


def housekeeping_cpu(scene: Scene) -> Iterator[Finding]:
    """Only where there is a choice: a vCPU on the first CPU with others free, or on all that isolation left to the rest."""
    layout, taken, others = scene.layout, vcpus_by_cpu(scene), free(scene)
    left = layout.online - layout.isolated
    if layout.isolated & layout.online and left and left <= taken.keys():
        threads = [thread for cpu in sorted(left) for thread in taken[cpu]]
        why = f"{names(threads)} hold {on(sorted(left))}, all that is not isolated: the rest of the host runs there too. Pin one elsewhere."
        yield Finding("warning", tuple(threads), tuple(sorted(left)), why)
    elif layout.online and (first := min(layout.online)) in taken and first not in layout.isolated and others:
        why = (
            f"{names(taken[first])} on {on([first])}: the kernel's own work often ends up on the first CPU. {on(others)} would be quieter."
        )
        yield Finding("note", tuple(taken[first]), (first,), why)


# ---- interrupts, and unlike CPUs


def irqs_on_pinned_cpu(scene: Scene) -> Iterator[Finding]:
    """A note at most where nobody asked for a quiet CPU, and only where there are others to take."""
    layout, taken = scene.layout, vcpus_by_cpu(scene)
    silent = [cpu for cpu in free(scene) if cpu not in layout.irqs]
    aimed = sorted(taken.keys() & layout.irqs.keys())
    tickless = layout.isolated | layout.nohz_full
    quiet = [cpu for cpu in aimed if cpu in tickless or any(thread.policy in REAL_TIME for thread in taken[cpu])]
    loud = [cpu for cpu in aimed if cpu not in quiet] if silent else []
    for severity, cpus in (("warning", quiet), ("note", loud)):
        if not cpus:
            continue
        threads = [thread for cpu in cpus for thread in taken[cpu]]
        numbers = cpulist.format(number for cpu in cpus for number in layout.irqs[cpu])
        told = f"Interrupts ({numbers}) are sent to {on(cpus)}, and each stops {names(threads)} for a moment"
        way = "Send them elsewhere by /proc/irq/N/smp_affinity_list, which a device's own queues refuse"
        yield Finding(severity, tuple(threads), tuple(cpus), f"{told}. {way}" + (f", or take {on(silent)}." if silent else "."))


def hybrid_cores_mixed(scene: Scene) -> Iterator[Finding]:
    strength, pinned = scene.layout.strength, {}
    for thread in scene.placed:
        if thread.kind == "vcpu" and thread.pinned and strength.keys() & set(thread.cpus):
            pinned.setdefault(thread.guest, []).append(thread)
    for threads in pinned.values():
        cpus = sorted(strength.keys() & {cpu for thread in threads for cpu in thread.cpus})
        strongest = max(strength[cpu] for cpu in cpus)
        weak = [cpu for cpu in cpus if strength[cpu] * UNLIKE < strongest]
        if weak:
            yield Finding("warning", tuple(threads), tuple(cpus), _unlike(threads, cpus, weak))


def _unlike(threads: list[Placed], cpus: list[int], weak: list[int]) -> str:
    strong = [cpu for cpu in cpus if cpu not in weak]
    told = f"{names(threads)} run on cores of two kinds, {on(strong)} stronger than {on(weak)}"
    return f"{told}; the guest takes all for alike, and its slowest vCPU holds up the others. Pin them to one kind."


_ISOLATION = "Linux, Documentation/admin-guide/cpu-isolation.rst"
_AFFINITY = "libvirt, NEWS of v10.4.0: Don't set affinity for isolcpus unless explicitly requested"
_TICK = "Linux, Documentation/timers/no_hz.rst"
_IRQS = "Linux, Documentation/core-api/irq/irq-affinity.rst"
_CAPACITY = "Linux, Documentation/scheduler/sched-capacity.rst; QEMU issue 777: Hang on Alder Lake with multiple cores"
RULES = (
    Rule("cpu-offline-or-missing", cpu_offline_or_missing, "Linux, Documentation/core-api/cpu_hotplug.rst"),
    Rule("unpinned-with-isolcpus", unpinned_with_isolcpus, _AFFINITY),
    Rule("isolated-set-wide", isolated_set_wide, "Linux, Documentation/admin-guide/kernel-parameters.txt: isolcpus"),
    Rule("isolated-cpu-shared", isolated_cpu_shared, _ISOLATION),
    Rule("nohz-full-crowded", nohz_full_crowded, _TICK),
    Rule("housekeeping-cpu", housekeeping_cpu, f"{_ISOLATION}: Housekeeping"),
    Rule("irqs-on-pinned-cpu", irqs_on_pinned_cpu, _IRQS),
    Rule("hybrid-cores-mixed", hybrid_cores_mixed, _CAPACITY),
)
