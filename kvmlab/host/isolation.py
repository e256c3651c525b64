"""Isolation: what the kernel keeps away from each host CPU, and which interrupts it sends there.

Sources: Documentation/admin-guide/kernel-parameters.txt (isolcpus, nohz_full, rcu_nocbs, and how it writes CPU lists),
Documentation/admin-guide/cgroup-v2.rst (cpuset.cpus.partition), cgroup-v1/cpusets.rst, core-api/irq/irq-affinity.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvmlab.host import cpulist
from kvmlab.host.cpusets import CPUS, known_cpus, members, online_cpus
from kvmlab.host.sysroot import SysRoot

_FLAGS = ("domain", "managed_irq", "nohz")
_UNIFIED = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # cgroup v2, alone or beside v1
_V1 = "sys/fs/cgroup/cpuset"
_DEEPEST = 12  # cgroups within each other


def rows(root: SysRoot) -> Iterator[tuple]:
    """All CPUs that the kernel knows, in the order of columns.FRAMES["isolation"]."""
    cpus = sorted({*known_cpus(root), *online_cpus(root)})
    given = parameters(root)
    flags, asked = ((), ()) if given is None else isolcpus(given.get("isolcpus", ""), cpus)
    isolated = members(root.read(f"{CPUS}/isolated"))
    if isolated is None and given is not None:
        isolated = asked if "domain" in flags else ()
    tickless = members(root.read(f"{CPUS}/nohz_full"))
    if tickless is None and given is not None:
        tickless = kernel_list(given.get("nohz_full", ""), cpus)
    offloaded = None if given is None else _rcu_nocbs(given, cpus)
    partitions, irqs = _partitions(root), _irqs(root)
    for cpu in cpus:
        yield (
            *(cpu, _among(cpu, isolated), ",".join(flags) if flags and cpu in asked else None),
            *(_among(cpu, None if given is None else asked if "managed_irq" in flags else ()), _among(cpu, tickless)),
            *(_among(cpu, offloaded), partitions.get(cpu), None if irqs is None else cpulist.format(irqs.get(cpu, ()))),
        )


def _among(cpu: int, cpus: tuple[int, ...] | None) -> bool | None:
    return None if cpus is None else cpu in cpus


# ---- what the kernel was told at boot


def parameters(root: SysRoot) -> dict[str, str] | None:
    """The kernel's command line; of a word that stands there twice, the last."""
    text = root.read("proc/cmdline")
    return None if text is None else {name: value for name, _, value in (word.partition("=") for word in text.split())}


def isolcpus(text: str, cpus: list[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The flags and CPUs of ``isolcpus=managed_irq,domain,1-2``; without any flag the kernel takes "domain".

    >>> isolcpus("managed_irq,1-2", [0, 1, 2, 3])
    (('managed_irq',), (1, 2))
    """
    words = text.split(",")
    flags = tuple(word for word in words if word in _FLAGS)
    found = kernel_list(",".join(word for word in words if not re.fullmatch("[a-z_]+", word) or word == "all"), cpus)
    return (flags or ("domain",), found) if found else ((), ())


def kernel_list(text: str, cpus: list[int]) -> tuple[int, ...]:
    """CPUs as the kernel's command line writes them: also "all", "N" for the last CPU, and "0-15:2/4" for 2 of each 4.

    What makes no sense names no CPU, as for the kernel.

    >>> kernel_list("0-7:2/4,9-N", list(range(11)))
    (0, 1, 4, 5, 9, 10)
    """
    found: set[int] = set()
    last = max(cpus, default=0)
    for part in text.split(","):
        match = re.fullmatch(r"(all|[0-9]{1,5}|N)(?:-([0-9]{1,5}|N))?(?::([0-9]{1,5})/([0-9]{1,5}))?", part, re.ASCII)
        if not match:
            continue
        low, high = (0, last) if match[1] == "all" else (last if n == "N" else int(n) for n in (match[1], match[2] or match[1]))
        used, group = (int(match[3]), int(match[4])) if match[4] else (1, 1)
        found |= {cpu for cpu in cpus if low <= cpu <= high and group and (cpu - low) % group < used}
    return tuple(sorted(found))


def _rcu_nocbs(given: dict[str, str], cpus: list[int]) -> tuple[int, ...]:
    """rcu_nocbs without a list means all CPUs; nohz_full implies it."""
    listed = kernel_list(given.get("rcu_nocbs", "") or ("all" if "rcu_nocbs" in given else ""), cpus)
    return tuple(sorted({*listed, *kernel_list(given.get("nohz_full", ""), cpus)}))


# ---- cpusets


def _partitions(root: SysRoot) -> dict[int, str]:
    """For each CPU that a cgroup has to itself: the cgroup's path and how it has it."""
    found = {}
    for top in _UNIFIED:
        for place in _groups(root, top) if root.exists(f"{top}/cgroup.controllers") else ():
            kind = root.read(f"{place}/cpuset.cpus.partition")
            if kind and kind != "member":
                cpus = members(root.read(f"{place}/cpuset.cpus.effective")) or ()
                found |= {cpu: f"{place.removeprefix(top)} ({kind})" for cpu in cpus}
    for place in _groups(root, _V1):
        if root.read(f"{place}/cpuset.cpu_exclusive") == "1":
            balanced = root.read(f"{place}/cpuset.sched_load_balance") != "0"
            cpus = members(root.read(f"{place}/cpuset.cpus")) or ()
            found |= {cpu: f"{place.removeprefix(_V1)} (exclusive{'' if balanced else ', no load balancing'})" for cpu in cpus}
    return found


def _groups(root: SysRoot, top: str) -> Iterator[str]:
    """All cgroups under `top`, parents first."""
    waiting = [(f"{top}/{name}", 1) for name in sorted(root.folders(top))]
    while waiting:
        place, depth = waiting.pop(0)
        yield place
        if depth < _DEEPEST:
            waiting += [(f"{place}/{name}", depth + 1) for name in sorted(root.folders(place))]


# ---- interrupts


def _irqs(root: SysRoot) -> dict[int, list[int]] | None:
    """CPU -> the interrupts that really go there, or may go there where the kernel does not say."""
    numbers = root.numbered("proc/irq")
    if not numbers:
        return None
    found: dict[int, list[int]] = {}
    for irq in numbers:
        place = f"proc/irq/{irq}"
        for cpu in members(root.read(f"{place}/effective_affinity_list")) or members(root.read(f"{place}/smp_affinity_list")) or ():
            found.setdefault(cpu, []).append(irq)
    return found
