"""NUMA nodes: their CPUs, memory, huge pages and distances.

Source: Documentation/ABI/stable/sysfs-devices-node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvmlab.host import cpulist
from kvmlab.host.cpusets import NODES, node_cpus, online_cpus
from kvmlab.host.sysroot import SysRoot


def rows(root: SysRoot) -> Iterator[tuple]:
    """All NUMA nodes, in the order of columns.FRAMES["nodes"]."""
    online = set(online_cpus(root))
    for node in root.numbered(NODES, "node"):
        cpus = node_cpus(root, node)
        total, free = (_meminfo(root.read(f"{NODES}/node{node}/meminfo") or "", name) for name in ("MemTotal", "MemFree"))
        yield node, None if cpus is None else cpulist.format(online.intersection(cpus)), total, free, *_hugepages(root, node)


def distances(root: SysRoot) -> tuple[list[int], list[list[int | None]]]:
    """The nodes, and for each of them its distance to every node; 10 is its own memory."""
    nodes = root.numbered(NODES, "node")
    return nodes, [_distances(root.read(f"{NODES}/node{node}/distance") or "", len(nodes)) for node in nodes]


def _distances(text: str, count: int) -> list[int | None]:
    numbers = text.split()
    known = len(numbers) == count and all(re.fullmatch("[0-9]{1,9}", number) for number in numbers)
    return [int(number) for number in numbers] if known else [None] * count


def _meminfo(text: str, name: str) -> int | None:
    match = re.search(rf"\b{name}:\s*([0-9]{{1,18}}) kB", text, re.ASCII)
    return int(match[1]) if match else None


def _hugepages(root: SysRoot, node: int) -> tuple[int | None, int | None]:
    """How many of all sizes, and how much memory they are."""
    place = f"{NODES}/node{node}/hugepages"
    sizes = [match for name in root.list(place) if (match := re.fullmatch(r"hugepages-([0-9]{1,12})kB", name, re.ASCII))]
    counts = [(root.number(f"{place}/{match[0]}/nr_hugepages"), int(match[1])) for match in sizes]
    known = [(count, size) for count, size in counts if count is not None and 0 <= count < 1 << 40]
    if not known:
        return None, None
    return sum(count for count, _ in known), sum(count * size for count, size in known)
