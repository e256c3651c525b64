"""Topology and caches as CPUID tells them inside of a guest, in the columns of ``Host.cpus()``.

A CPU's place is written into its APIC id; CPUID tells which bits of it are socket, die, core and thread. In this order:
leaf 0x1F, which alone knows dies; leaf 0xB; on AMD leaves 0x80000008 (bits of a socket) and, with `topoext`, 0x8000001E (threads, dies);
then leaves 1 and 4. Caches: leaf 4; on AMD 0x8000001D with `topoext`, and without it the sizes in 0x80000005 and 0x80000006, which say
nothing of sharing: then, as Linux has it, L1 and L2 are each CPU's own and L3 is its socket's.

Linux looks at leaf 0xB of an AMD CPU only with `topoext`; we always do, as AMD's manual has it: see `remarks`.
Sources: Intel SDM volume 3, 9.9; AMD APM volume 3, appendix E; Linux arch/x86/kernel/cpu/topology*.c and cacheinfo.c.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from kvmlab.guest.cpuid import Leaves, brand

_AMD = ("AuthenticAMD", "HygonGenuine")
_SMT, _DIE = 1, 5  # level types of leaves 0xB and 0x1F
_NONE = (0, 0, 0, 0)
_CACHES = {(1, 1): "l1d", (1, 2): "l1i", (1, 3): "l1d", (2, 1): "l2", (2, 3): "l2", (3, 1): "l3", (3, 3): "l3"}  # level, type


class Bits(NamedTuple):
    """How many low bits of an APIC id number the threads of a core, of a die and of a socket."""

    core: int
    die: int
    socket: int


def rows(per_vcpu: Mapping[int, Leaves]) -> Iterator[tuple]:
    """All vCPUs, in the order of columns.FRAMES["cpus"]."""
    places = {vcpu: place(leaves) for vcpu, leaves in sorted(per_vcpu.items())}
    caches = {name: _numbered({vcpu: held.get(name) for vcpu, held in _caches(per_vcpu).items()}) for name in ("l1d", "l1i", "l2", "l3")}
    threads: dict[tuple[int, ...], list[int]] = {}
    for vcpu, where in places.items():
        threads.setdefault(where, []).append(vcpu)
    for vcpu, (socket, die, core) in places.items():
        smt = threads[socket, die, core].index(vcpu)
        yield (vcpu, True, None, socket, die, None, core, smt, *(numbers[vcpu] for numbers in caches.values()), *(None,) * 5)


def unavailable() -> dict[str, str]:
    """Why columns have no value; that of a cache holds for the vCPUs without one."""
    caches = dict.fromkeys(("l1d", "l1i", "l2", "l3"), "CPUID tells of no such cache on this CPU model")
    return caches | {
        "node": "CPUID does not tell NUMA nodes: the guest's firmware does, in ACPI tables",
        "cluster": "no level that CPUID tells: Linux takes the CPUs that share an L2 cache",
        "min_mhz": "not in CPUID: a guest learns frequencies from its kernel's drivers",
        "max_mhz": "not in CPUID: a guest learns frequencies from its kernel's drivers",
        "capacity": "not in CPUID: worked out by an operating system",
        "isolated": "the lab guest has no operating system that could isolate CPUs",
        "nohz_full": "the lab guest has no operating system that could stop a tick",
    }


def place(leaves: Leaves) -> tuple[int, int, int]:
    """Socket, die within the socket and core within the die of one CPU."""
    number, bits = apic_id(leaves), _bits(leaves)
    return number >> bits.socket, _field(number, bits.die, bits.socket), _field(number, bits.core, bits.die)


def _field(number: int, begin: int, end: int) -> int:
    return (number & (1 << end) - 1) >> begin


def apic_id(leaves: Leaves) -> int:
    """The number in which a CPU's place is written."""
    if leaf := _levels_leaf(leaves):
        return leaves[leaf, 0][3]
    if _is_amd(leaves) and _has_topoext(leaves) and (0x8000001E, 0) in leaves:
        return leaves[0x8000001E, 0][0]
    return leaves.get((1, 0), _NONE)[1] >> 24


def _is_amd(leaves: Leaves) -> bool:
    return brand(leaves).vendor in _AMD


def _has_topoext(leaves: Leaves) -> bool:
    return bool(leaves.get((0x80000001, 0), _NONE)[2] >> 22 & 1)


def _levels_leaf(leaves: Leaves) -> int | None:
    """0x1F or 0xB, where it says anything: a first level of threads, with CPUs in it."""
    for leaf in (0x1F, 0xB):
        _, count, kind, _ = leaves.get((leaf, 0), _NONE)
        if count & 0xFFFF and kind >> 8 & 0xFF == _SMT:
            return leaf
    return None


def _bits(leaves: Leaves) -> Bits:
    leaf = _levels_leaf(leaves)
    bits = _bits_of_levels(leaves, leaf) if leaf else None
    if not _is_amd(leaves):
        return bits or _bits_of_counts(leaves)
    bits = bits or _bits_of_amd(leaves)
    return _with_amds_dies(leaves, bits) if _has_topoext(leaves) else bits


def _bits_of_levels(leaves: Leaves, leaf: int) -> Bits:
    """A level's eax is the bits below the next one. Below dies there may be modules and tiles; they belong to a die's cores."""
    widths, number = [], 0
    while (leaf, number) in leaves and leaves[leaf, number][2] >> 8 & 0xFF:
        widths.append((leaves[leaf, number][2] >> 8 & 0xFF, leaves[leaf, number][0] & 0x1F))
        number += 1
    socket = max(width for _, width in widths)
    core = widths[0][1]
    below_dies = [width for kind, width in widths if kind < _DIE]
    has_dies = any(kind >= _DIE for kind, _ in widths)
    return Bits(core, max(below_dies) if has_dies else socket, socket)


def _bits_of_amd(leaves: Leaves) -> Bits:
    if (0x80000008, 0) not in leaves:
        return _bits_of_counts(leaves)
    sizes = leaves[0x80000008, 0][2]
    socket = sizes >> 12 & 0xF or _order((sizes & 0xFF) + 1)
    threads = (leaves.get((0x8000001E, 0), _NONE)[1] >> 8 & 0xFF) + 1 if _has_topoext(leaves) else 1
    return Bits(min(_order(threads), socket), socket, socket)


def _with_amds_dies(leaves: Leaves, bits: Bits) -> Bits:
    """Dies ("nodes" of a processor, in AMD's words) are the highest bits within a socket."""
    dies = (leaves.get((0x8000001E, 0), _NONE)[2] >> 8 & 7) + 1
    return bits._replace(die=max(bits.core, min(bits.die, bits.socket - _order(dies))))


def _bits_of_counts(leaves: Leaves) -> Bits:
    """From CPUs a socket (leaf 1, with the flag `ht`) and cores a socket (leaf 4), rounded up to powers of two."""
    _, counts, _, features = leaves.get((1, 0), _NONE)
    first_cache = leaves.get((4, 0), _NONE)[0]
    cores = _order((first_cache >> 26) + 1) if first_cache & 0x1F else 0
    socket = max(cores, _order(counts >> 16 & 0xFF)) if features >> 28 & 1 else cores
    return Bits(socket - cores, socket, socket)


def _order(count: int) -> int:
    """Bits that so many numbers need."""
    return max(count - 1, 0).bit_length()


def _caches(per_vcpu: Mapping[int, Leaves]) -> dict[int, dict[str, Hashable]]:
    """Of each vCPU: something that all the sharers of its l1d, l1i, l2 and l3 have in common."""
    return {vcpu: dict(_shared_by(leaves)) for vcpu, leaves in sorted(per_vcpu.items())}


def _shared_by(leaves: Leaves) -> Iterator[tuple[str, Hashable]]:
    amd = _is_amd(leaves)
    if amd and not _has_topoext(leaves):
        yield from _by_size(leaves)
        return
    leaf, number = 0x8000001D if amd else 4, 0
    while (answer := leaves.get((leaf, number), _NONE))[0] & 0x1F:
        if name := _CACHES.get((answer[0] >> 5 & 7, answer[0] & 0x1F)):
            yield name, apic_id(leaves) >> _order((answer[0] >> 14 & 0xFFF) + 1)
        number += 1


def _by_size(leaves: Leaves) -> Iterator[tuple[str, Hashable]]:
    """A CPU has L1 and L2 alone, and a socket its L3."""
    level1, level2 = leaves.get((0x80000005, 0), _NONE), leaves.get((0x80000006, 0), _NONE)
    number = apic_id(leaves)
    for name, size in (("l1d", level1[2] >> 24), ("l1i", level1[3] >> 24), ("l2", level2[2] >> 16)):
        if size:
            yield name, number
    if level2[3] >> 18:
        yield "l3", number >> _bits(leaves).socket


def _numbered(shared_by: Mapping[int, Hashable | None]) -> dict[int, int | None]:
    """By first CPU, as ``Host.cpus()`` numbers caches."""
    order = {key: number for number, key in enumerate(dict.fromkeys(key for key in shared_by.values() if key is not None))}
    return {vcpu: order.get(key) for vcpu, key in shared_by.items()}


def remarks(per_vcpu: Mapping[int, Leaves]) -> list[str]:
    """What an operating system may see otherwise than `rows`, a sentence each."""
    hidden = [leaves for leaves in per_vcpu.values() if _is_amd(leaves) and not _has_topoext(leaves) and _levels_leaf(leaves)]
    if any(_bits(leaves).core for leaves in hidden):
        return ["Linux sees no SMT threads here: it looks for those of an AMD CPU only where the CPU has the flag topoext."]
    return []
