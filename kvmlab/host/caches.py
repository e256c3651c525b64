"""Caches: which there are, how large, and which CPUs share each.

Source: Documentation/ABI/stable/sysfs-devices-system-cpu (cpuX/cache/indexY). A cache that no mask places is left out. Of two
files that disagree, shared_cpu_map and shared_cpu_list, the map is taken, as lscpu and hwloc do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from kvmlab.host import cpulist
from kvmlab.host.cpusets import CPUS, online_cpus, read_cpus
from kvmlab.host.sysroot import SysRoot

_COLUMNS = {(1, "Data"): "l1d", (1, "Unified"): "l1d", (1, "Instruction"): "l1i"} | {
    (level, kind): f"l{level}" for level in (2, 3) for kind in ("Unified", "Data")
}
_TYPES = ("Data", "Instruction", "Unified")
_UNITS = {"": 1 / 1024, "K": 1, "M": 1024, "G": 1024 * 1024}


class Cache(NamedTuple):
    """One cache, and where one of its CPUs describes it."""

    number: int
    level: int
    type: str
    cpus: tuple[int, ...]
    place: str


def caches(root: SysRoot, cpus: tuple[int, ...]) -> list[Cache]:
    """Each cache of the online CPUs once: by level and type, and within these by first CPU."""
    found: dict[tuple[int, str, tuple[int, ...]], str] = {}
    online = set(cpus)
    for cpu in cpus:
        for index in root.numbered(f"{CPUS}/cpu{cpu}/cache", "index"):
            place = f"{CPUS}/cpu{cpu}/cache/index{index}"
            level, kind, shared = root.number(f"{place}/level"), root.read(f"{place}/type"), read_cpus(root, f"{place}/shared_cpu")
            if level is not None and 0 < level < 10 and kind in _TYPES and shared is not None:
                together = tuple(sorted(online.intersection(shared) | {cpu}))
                found.setdefault((level, kind, together), place)
    result, counts = [], dict.fromkeys(((level, kind) for level, kind, _ in found), 0)
    for level, kind, together in sorted(found):
        result.append(Cache(counts[level, kind], level, kind, together, found[level, kind, together]))
        counts[level, kind] += 1
    return result


def cache_ids(root: SysRoot, cpus: tuple[int, ...]) -> dict[str, dict[int, int]]:
    """For each column of cpus() (l1d, l1i, l2, l3): the number of each CPU's cache."""
    numbers: dict[str, dict[int, int]] = {"l1d": {}, "l1i": {}, "l2": {}, "l3": {}}
    for cache in caches(root, cpus):
        if column := _COLUMNS.get((cache.level, cache.type)):
            numbers[column] |= dict.fromkeys(cache.cpus, cache.number)
    return numbers


def rows(root: SysRoot) -> Iterator[tuple]:
    """All caches of the online CPUs, in the order of columns.FRAMES["caches"]."""
    for cache in caches(root, online_cpus(root)):
        ways, line = (root.number(f"{cache.place}/{name}") for name in ("ways_of_associativity", "coherency_line_size"))
        size = parse_size(root.read(f"{cache.place}/size") or "")
        yield cache.number, cache.level, cache.type, size, ways or None, line or None, cpulist.format(cache.cpus)


def parse_size(text: str) -> int | None:
    """KiB of "32K", "1024K" or "8M"; None for anything else, and for the 0 of a kernel that does not know.

    >>> parse_size("8M")
    8192
    """
    match = re.fullmatch(r"([0-9]{1,9})([KMG]?)", text, re.ASCII)
    return int(int(match[1]) * _UNITS[match[2]]) or None if match else None
