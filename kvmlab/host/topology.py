"""Topology: sockets, dies, cores, SMT threads, caches and NUMA nodes of each host CPU.

Source: Documentation/ABI/stable/sysfs-devices-system-cpu and Documentation/ABI/testing/sysfs-devices-system-cpu.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmlab.host import cpulist
from kvmlab.host.sysroot import SysRoot

CPUS = "sys/devices/system/cpu"
_CACHES = {("1", "Data"): "l1d", ("1", "Instruction"): "l1i", ("2", "Unified"): "l2", ("3", "Unified"): "l3"}


def online_cpus(root: SysRoot) -> tuple[int, ...]:
    """The CPUs that can run threads now."""
    text = root.read(f"{CPUS}/online")
    return tuple(root.numbered(CPUS, "cpu")) if text is None else cpulist.parse(text)


def rows(root: SysRoot) -> Iterator[tuple]:
    """All CPUs that the kernel knows, in the order of columns.FRAMES["cpus"]."""
    online = set(online_cpus(root))
    isolated, nohz_full = (_members(root, name) for name in ("isolated", "nohz_full"))
    numbers: dict[tuple[str, str], int] = {}
    for cpu in root.numbered(CPUS, "cpu"):
        place = f"{CPUS}/cpu{cpu}"
        ids = [_id(root, f"{place}/topology/{name}") for name in ("physical_package_id", "die_id", "cluster_id", "core_id")]
        caches = _cache_numbers(root, place, numbers)
        yield (
            *(cpu, cpu in online, _node(root, place), *ids, _smt(root, place, cpu)),
            *(caches.get(name) for name in ("l1d", "l1i", "l2", "l3")),
            *(_mhz(root, f"{place}/cpufreq/cpuinfo_{which}_freq") for which in ("min", "max")),
            _id(root, f"{place}/cpu_capacity"),
            *(None if names is None else cpu in names for names in (isolated, nohz_full)),
        )


def _members(root: SysRoot, name: str) -> set[int] | None:
    text = root.read(f"{CPUS}/{name}")
    if text is None:
        return None
    return set() if text == "(null)" else set(cpulist.parse(text))  # nohz_full without any reads "(null)"


def _id(root: SysRoot, path: str) -> int | None:
    text = root.read(path)
    return None if text in (None, "", "-1", "65535") else int(text)  # both mean "not known" in the sysfs ABI


def _node(root: SysRoot, place: str) -> int | None:
    nodes = root.numbered(place, "node")
    return nodes[0] if nodes else None


def _smt(root: SysRoot, place: str, cpu: int) -> int | None:
    text = root.read(f"{place}/topology/core_cpus_list") or root.read(f"{place}/topology/thread_siblings_list")
    siblings = cpulist.parse(text or "")
    return siblings.index(cpu) if cpu in siblings else None


def _cache_numbers(root: SysRoot, place: str, numbers: dict[tuple[str, str], int]) -> dict[str, int]:
    """Name -> number of each cache of a CPU; `numbers` remembers the caches seen before, by name and CPUs."""
    found = {}
    for index in root.numbered(f"{place}/cache", "index"):
        files = (root.read(f"{place}/cache/index{index}/{name}") for name in ("level", "type", "shared_cpu_list"))
        level, kind, shared = files
        name = _CACHES.get((level or "", kind or ""))
        if name and shared:
            count = sum(1 for known, _ in numbers if known == name)
            found[name] = numbers.setdefault((name, shared), count)
    return found


def _mhz(root: SysRoot, path: str) -> float | None:
    text = root.read(path)
    return int(text) / 1000 if text and text.isdigit() else None
