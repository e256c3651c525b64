"""Exercises of 03_smp_topology: what guests see, and where they believe that they sit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvmlab.course.exercise import Finding, exercise
from kvmlab.course.labs import Labs
from kvmlab.wording import count


@exercise(
    "03.1",
    "The place of c6's vCPU 17",
    hints=(
        "The last bit is the thread. How many before it are the core? Two bits number four cores, and there are five.",
        "The core takes three bits: read 1 | 011 | 1.",
    ),
    wants='a place "socket:core:thread", such as "0:4:1"',
)
def place(labs: Labs, answer: str) -> Iterator[Finding]:
    if not re.fullmatch(r"\d+:\d+:\d+", answer, re.ASCII):
        raise ValueError
    guest = labs.guest("c6")
    seen = guest.topology().set_index("cpu").loc[17]
    for level, name, said in zip(("socket", "core", "smt"), ("socket", "core", "thread"), answer.split(":"), strict=True):
        right = int(said) == seen[level]
        yield Finding(right, f"Its {name} is {said}." if right else f"Its {name} is not {said}.")


@exercise(
    "03.2",
    "Nine vCPUs whose highest APIC id is 10",
    hints=(
        "9x1x1 has no gaps, for each socket has one core. Nine can also be divided by three.",
        "Three cores take two bits, so that each socket begins at a multiple of four: 0, 4, 8.",
    ),
)
def nine(labs: Labs, answer: None) -> Iterator[Finding]:
    guest = labs.guest("nine")
    yield Finding(guest.vcpus == 9, f"'nine' has {count(guest.vcpus, 'vCPU')}.")
    highest = max(guest.cpuid(1, vcpu=vcpu)[1] >> 24 for vcpu in range(guest.vcpus))  # leaf 1, EBX, bits 24 to 31
    yield Finding(highest == 10, f"Its highest APIC id is {highest}, as it reads it in CPUID leaf 1.")


@exercise(
    "03.3",
    "The highest leaf of t2",
    hints=(
        "t2.cpuid(0) asks leaf 0, and gives four registers: EAX, EBX, ECX, EDX.",
        "The first of them, EAX, is the highest leaf: t2.cpuid(0)[0].",
    ),
    wants="the number of a leaf, such as 0x1f",
)
def highest_leaf(labs: Labs, answer: int) -> Iterator[Finding]:
    said, guest = int(answer), labs.guest("t2")
    highest = guest.cpuid(0)[0]
    words = "is the highest leaf that t2 has" if said == highest else f"is {'above' if said > highest else 'below'} its highest leaf"
    yield Finding(said == highest, f"{said:#x} {words}.")


@exercise(
    "03.4",
    "Four vCPUs, two and two with an L3 cache in common",
    hints=(
        "The caches follow the shape: there is an L3 for each socket.",
        "Four vCPUs in two sockets: topology='2x2x1', or '2x1x2'.",
    ),
)
def two_and_two(labs: Labs, answer: None) -> Iterator[Finding]:
    seen = labs.guest("pairs").topology()
    yield Finding(len(seen) == 4, f"'pairs' has {count(len(seen), 'vCPU')}.")
    sharers = sorted(seen.groupby("l3").cpu.count())
    words = ", ".join(str(count) for count in sharers) or "none"
    yield Finding(sharers == [2, 2], f"vCPUs on each L3 cache that it sees: {words}.")
