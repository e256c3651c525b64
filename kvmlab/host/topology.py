"""Topology: sockets, dies, clusters, cores, SMT threads, caches and NUMA node of each host CPU.

Which CPUs belong together is read from the kernel's sibling masks, and the ids (which are free-form: -1, repeated across dies,
books or drawers, or arbitrary on Arm and POWER) only name the groups. Where ids do not tell the groups apart, groups are numbered
by their first CPU. So (socket, die, core) is always a key of the cores. Bulldozer's modules are cores with two threads, as the
kernel has them; s390 books and drawers only tell sockets apart.

Sources: Documentation/ABI/stable/sysfs-devices-system-cpu and Documentation/admin-guide/cputopology.rst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kvmlab.host.caches import cache_ids
from kvmlab.host.cpusets import CPUS, known_cpus, members, nodes_of_cpus, online_cpus, read_cpus
from kvmlab.host.sysroot import SysRoot

_UNKNOWN_IDS = {-1, 0xFFFF, 0xFFFFFFFF}  # the kernel's ways to say so

Groups = dict[int, tuple[int, ...]]  # of each CPU: all that are with it, itself included


def groups(root: SysRoot, cpus: tuple[int, ...], *names: str) -> Groups:
    """The online CPUs that share something with each CPU, from the first of the topology masks that is there."""
    online, found = set(cpus), {}
    for cpu in cpus:
        told = read_cpus(root, *(f"{CPUS}/cpu{cpu}/topology/{name}" for name in names))
        if told is not None:
            found[cpu] = tuple(sorted(online.intersection(told) | {cpu}))
    return found


def ids(root: SysRoot, cpus: tuple[int, ...], name: str) -> dict[int, int]:
    """The kernel's own number of it for each CPU, where it has one."""
    numbers = {cpu: root.number(f"{CPUS}/cpu{cpu}/topology/{name}") for cpu in cpus}
    return {cpu: number for cpu, number in numbers.items() if number is not None and number not in _UNKNOWN_IDS and abs(number) < 1 << 31}


def named(together: Groups, names: Mapping[int, int], within: Mapping[int, object]) -> dict[int, int]:
    """A number for each CPU's group: the kernel's where it tells groups apart (inside of `within`), else by first CPU."""
    if not together:
        return dict(names)
    pairs = {(within.get(cpu), names.get(cpu), group) for cpu, group in together.items()}
    distinct = len({(place, name) for place, name, _ in pairs}) == len({group for *_, group in pairs}) == len(pairs)
    if distinct and all(name is not None for _, name, _ in pairs):
        return {cpu: names[cpu] for cpu in together}
    order = {group: number for number, group in enumerate(dict.fromkeys(together[cpu] for cpu in sorted(together)))}
    return {cpu: order[group] for cpu, group in together.items()}


def rows(root: SysRoot) -> Iterator[tuple]:
    """All CPUs that the kernel knows, in the order of columns.FRAMES["cpus"]."""
    online = online_cpus(root)
    sockets = named(groups(root, online, "package_cpus", "core_siblings"), ids(root, online, "physical_package_id"), {})
    dies = ids(root, online, "die_id")
    threads = groups(root, online, "core_cpus", "thread_siblings")
    cores = named(threads, ids(root, online, "core_id"), {cpu: (sockets.get(cpu), dies.get(cpu)) for cpu in online})
    clusters, caches, nodes = ids(root, online, "cluster_id"), cache_ids(root, online), nodes_of_cpus(root)
    isolated, nohz_full = (members(root.read(f"{CPUS}/{name}")) for name in ("isolated", "nohz_full"))
    for cpu in sorted({*known_cpus(root), *online}):
        place = f"{CPUS}/cpu{cpu}"
        yield (
            *(cpu, cpu in online, nodes.get(cpu), sockets.get(cpu), dies.get(cpu), clusters.get(cpu), cores.get(cpu)),
            threads[cpu].index(cpu) if cpu in threads else None,
            *(caches[name].get(cpu) for name in ("l1d", "l1i", "l2", "l3")),
            *(_mhz(root.number(f"{place}/cpufreq/cpuinfo_{which}_freq")) for which in ("min", "max")),
            root.number(f"{place}/cpu_capacity"),
            *(None if names is None else cpu in names for names in (isolated, nohz_full)),
        )


def _mhz(khz: int | None) -> float | None:
    return None if khz is None else khz / 1000
