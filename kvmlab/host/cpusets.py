"""Sets of CPUs in the kernel's files: lists, masks, which CPUs there are, and which node has which.

Sources: Documentation/ABI/stable/sysfs-devices-system-cpu, Documentation/ABI/stable/sysfs-devices-node and, where a kernel has no
folders for its CPUs, the processors of /proc/cpuinfo.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache

from kvmlab.errors import CpuListError
from kvmlab.host import cpulist
from kvmlab.host.sysroot import SysRoot

CPUS, NODES = "sys/devices/system/cpu", "sys/devices/system/node"


def members(text: str | None) -> tuple[int, ...] | None:
    """The CPUs of a kernel's list, None where it is no such list; nohz_full without any reads "(null)"."""
    if text is None or text == "(null)":
        return None if text is None else ()
    with suppress(CpuListError):
        return cpulist.parse(text)
    return None


@lru_cache(maxsize=1 << 14)
def mask(text: str) -> tuple[int, ...] | None:
    """The CPUs of a kernel's mask such as "00000000,0000000f", the highest 32 first."""
    words = text.split(",")
    if len(words) > 2048 or not all(re.fullmatch("[0-9a-fA-F]{1,16}", word) for word in words):
        return None
    value = int("".join(word.rjust(8, "0") for word in words), 16)
    return tuple(bit for bit in range(value.bit_length()) if value >> bit & 1)


def read_cpus(root: SysRoot, *places: str) -> tuple[int, ...] | None:
    """What the first of these masks or lists says; each place is a path without its _list or map ending."""
    for place in places:
        for path in (place, f"{place}_map"):
            text = root.read(path)
            if text and (cpus := mask(text)) is not None:
                return cpus
        if cpus := members(root.read(f"{place}_list")):
            return cpus
    return None


# ---- which CPUs there are


def known_cpus(root: SysRoot) -> list[int]:
    """All CPUs that the kernel has a folder for, or that /proc/cpuinfo lists where there are none."""
    found = [cpu for cpu in root.numbered(CPUS, "cpu") if cpu <= cpulist.HIGHEST_CPU]
    if found:
        return found
    lines = re.findall(r"^(?:processor\s*:\s*|processor |CPU)(\d{1,5})\b", root.read("proc/cpuinfo") or "", re.MULTILINE)
    return sorted({int(number) for number in lines if int(number) <= cpulist.HIGHEST_CPU})


def online_cpus(root: SysRoot) -> tuple[int, ...]:
    """The CPUs that can run threads now."""
    told = members(root.read(f"{CPUS}/online"))
    return told or tuple(cpu for cpu in known_cpus(root) if root.number(f"{CPUS}/cpu{cpu}/online") != 0)


# ---- NUMA nodes


def nodes_of_cpus(root: SysRoot) -> dict[int, int]:
    """The NUMA node of each CPU; of none where nodes claim the same CPUs, which no kernel says of a real machine."""
    claims = [(cpu, node) for node in root.numbered(NODES, "node") for cpu in node_cpus(root, node) or ()]
    found = dict(claims)
    return found if len(found) == len(claims) else {}


def node_cpus(root: SysRoot, node: int) -> tuple[int, ...] | None:
    """The CPUs of a NUMA node; empty where it has only memory."""
    told = root.read(f"{NODES}/node{node}/cpumap")
    found = mask(told) if told else None
    return members(root.read(f"{NODES}/node{node}/cpulist")) if found is None else found
