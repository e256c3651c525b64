"""CPUID as a guest sees it: which leaves and subleaves there are, walked in few rounds of questions, and who the CPU says it is.

Sources: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst for leaves 0x40000000 and up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

Question = tuple[int, int]  # leaf, subleaf
Answer = tuple[int, int, int, int]  # eax, ebx, ecx, edx
Leaves = dict[Question, Answer]

BASIC, HYPERVISOR, EXTENDED, CENTAUR = 0, 0x40000000, 0x80000000, 0xC0000000
_HYPERVISORS = (HYPERVISOR, HYPERVISOR + 0x100)  # KVM's own leaves stand 0x100 higher where it plays Hyper-V
_ROOTS = (BASIC, *_HYPERVISORS, EXTENDED, CENTAUR)
_MOST = 64  # leaves of a range, and subleaves of a leaf: no CPU has as many

# How a leaf tells its subleaves: by the number of the last one in eax of the first, by a bit for each one, or by their own type, which
# is 0 after the last.
_LAST = {0x7, 0x14, 0x17, 0x18, 0x1D, 0x20, 0x24}
_TYPED: dict[int, Callable[[Answer], int]] = {
    **dict.fromkeys((0x4, 0x8000001D), lambda answer: answer[0] & 0x1F),
    **dict.fromkeys((0xB, 0x1F, 0x80000026), lambda answer: answer[2] >> 8 & 0xFF),
    **dict.fromkeys((0x12, 0x1B), lambda answer: answer[0] & 0xF),
}
_AT_ONCE = 4  # of typed ones: more than most CPUs have caches, so that no round goes for the last


class Brand(NamedTuple):
    """Who a CPU says it is; `bits` is 64 with long mode, else 32; `name` and `hypervisor` are None where there are none."""

    vendor: str
    family: int
    model: int
    name: str | None
    bits: int
    hypervisor: str | None


def walk(ask: Callable[[list[Question]], list[Answer]]) -> Leaves:
    """All leaves and subleaves of a CPU.

    Parameters
    ----------
    ask
        Answers any number of questions, (leaf, subleaf), by eax, ebx, ecx and edx each. Called three or four times.
    """
    told: Leaves = {}
    due = [*((root, 0) for root in _ROOTS), (1, 0)]
    while due:
        told.update(zip(due, ask(due), strict=True))
        due = [question for question in _questions(told) if question not in told]
    return {question: told[question] for question in _questions(told) if not _is_void(question, told[question])}


def _questions(told: Leaves) -> Iterator[Question]:
    """All that there is to ask, as far as the answers so far tell, in order."""
    for root in _ROOTS:
        for leaf in range(root, last_leaf(told, root) + 1):
            yield leaf, 0
            if (leaf, 0) in told:
                yield from ((leaf, subleaf) for subleaf in _subleaves(leaf, told))


def last_leaf(told: Leaves, root: int) -> int:
    """The highest leaf of a range; root - 1 for one that this CPU has not.

    A CPU that lacks a range answers for its highest basic leaf, with anything: what is no number of this range does not count,
    and the hypervisor's range only counts in a guest.
    """
    last = told.get((root, 0), (-1,))[0]
    if root in _HYPERVISORS and not told.get((1, 0), (0, 0, 0, 0))[2] >> 31:
        return root - 1
    return min(last, root + _MOST - 1) if root <= last < root + 0x10000 else root - 1


def _subleaves(leaf: int, told: Leaves) -> Iterator[int]:
    """The subleaves after the first."""
    eax, ebx, _, edx = told[leaf, 0]
    if leaf in _LAST:
        yield from range(1, min(eax, _MOST - 1) + 1)
    elif leaf == 0xD:  # state components, of user mode in leaf 0 and of the kernel in leaf 1
        _, _, low, high = told.get((0xD, 1), (0, 0, 0, 0))
        yield from (n for n in range(1, 63) if n == 1 or (eax | low | (edx | high) << 32) >> n & 1)
    elif leaf == 0xF:
        yield from (n for n in range(1, 32) if edx >> n & 1)
    elif leaf in (0x10, 0x80000020):
        yield from (n for n in range(1, 32) if ebx >> n & 1)
    elif leaf == 0x23:
        yield from (n for n in range(1, 32) if eax >> n & 1)
    elif leaf in _TYPED:
        yield from _until_void(leaf, told)


def _until_void(leaf: int, told: Leaves) -> Iterator[int]:
    if leaf == 0x12 and told[leaf, 0][0]:  # SGX: the first two have no type
        yield 1
    elif leaf == 0x12 or not _TYPED[leaf](told[leaf, 0]):
        return
    known = 2 if leaf == 0x12 else 1
    while known < _MOST and (leaf, known) in told and _TYPED[leaf](told[leaf, known]):
        yield known
        known += 1
    if (leaf, known) not in told:
        yield from range(known, min(known + _AT_ONCE, _MOST))


def _is_void(question: Question, answer: Answer) -> bool:
    leaf, subleaf = question
    return leaf in _TYPED and subleaf > (leaf == 0x12) and not _TYPED[leaf](answer)


def _text(*registers: int) -> str:
    """The letters in registers, up to the first 0; other bytes are left out."""
    letters = struct.pack(f"<{len(registers)}I", *registers).split(b"\0")[0]
    return "".join(chr(letter) for letter in letters if 32 <= letter < 127)


def vendor(leaves: Leaves) -> str:
    """GenuineIntel, AuthenticAMD, ..."""
    _, ebx, ecx, edx = leaves.get((0, 0), (0, 0, 0, 0))
    return _text(ebx, edx, ecx)


def brand(leaves: Leaves) -> Brand:
    """Who the CPU says it is, with family and model as the kernel and /proc/cpuinfo count them."""
    signature = leaves.get((1, 0), (0, 0, 0, 0))[0]
    family, model = signature >> 8 & 0xF, signature >> 4 & 0xF
    if family >= 6:
        model |= (signature >> 16 & 0xF) << 4
    if family == 0xF:
        family += signature >> 20 & 0xFF
    parts = [leaves.get((EXTENDED + n, 0)) for n in (2, 3, 4)]
    name = _text(*(register for part in parts for register in part)).strip() if all(parts) else ""
    bits = 64 if leaves.get((EXTENDED + 1, 0), (0, 0, 0, 0))[3] >> 29 & 1 else 32
    hypervisor = _text(*leaves[HYPERVISOR, 0][1:]) if (HYPERVISOR, 0) in leaves else ""
    return Brand(vendor(leaves), family, model, name or None, bits, hypervisor or None)
