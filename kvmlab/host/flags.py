"""CPU flags: which CPU has which, what each is for.

Source: /proc/cpuinfo, proc(5). The kernel writes a line a CPU on x86 (``flags``, ``vmx flags``), Arm and LoongArch (``Features``), RISC-V
(``isa``, ``hart isa``) and MIPS (``ASEs implemented``); a single one for all on s390x (``features``) and old Arm; none on POWER and SPARC.
Five names are in both lists of x86 (ept, ept_ad, vpid, vnmi, flexpriority) and mean the same there: each is one row.

Groups and meanings come from flags.txt beside this file:
virtualization (running guests, or being one), simd (vectors and matrices), crypto (ciphers, hashes, random numbers),
security (protection, and cures of speculation bugs), memory (pages, translations, caches), time (clocks and timers),
interrupts (their controllers; waiting), topology, power (frequency, energy, heat), reliability (hardware errors),
monitoring (performance counters, traces, debugging), basic (all other instructions and modes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources

from kvmlab.host import cpulist
from kvmlab.host.sysroot import SysRoot

GROUPS = (
    *("virtualization", "simd", "crypto", "security", "memory", "time"),
    *("interrupts", "topology", "power", "reliability", "monitoring", "basic"),
)
_SECTIONS = {
    **{"flags": "x86", "vmx flags": "x86", "Features": "arm", "features": "s390"},
    **{"isa": "riscv", "hart isa": "riscv", "ASEs implemented": "mips"},
}
_CPU = re.compile(r"processor[ \t]*(?:([0-9]{1,5}):|:[ \t]*([0-9]{1,5})\s*$)", re.ASCII)  # s390x writes "processor 0: version = ..."
_RISCV = re.compile(r"rv(?:32|64|128)([a-wy]*)(\S*)")  # no letter x or z stands alone: each begins a longer name

_Line = tuple[str, str]  # what comes before and after the colon


def rows(root: SysRoot) -> Iterator[tuple]:
    """All flags in the kernel's order, each once, in the order of columns.FRAMES["flags"]."""
    text = root.read("proc/cpuinfo") or ""
    lines, every_cpu = _lines(text)
    holders: dict[tuple[str, str], dict[int, set[int]]] = {}
    for (key, value), cpus in lines.items():
        section = "loongarch" if key == "Features" and "\nCPU Family" in text else _SECTIONS[key]
        for flag in _split(section, value):
            holders.setdefault((section, flag), {})[id(cpus)] = cpus
    lists: dict[tuple[int, ...], str | None] = {}  # flags of the same lines have the same CPUs: written once
    for (section, flag), sets in holders.items():
        same = (id(every_cpu),) if id(every_cpu) in sets else tuple(sets)
        if same not in lists:
            lists[same] = cpulist.format(set().union(*(sets[number] for number in same))) or None
        yield (flag, lists[same], *_table().get((section, flag), (None, None)))


def _lines(text: str) -> tuple[dict[_Line, set[int]], set[int]]:
    """The different lines of flags with the CPUs that have them, and the set of all CPUs.

    A line without a CPU in its paragraph stands for all of them. A CPU whose number is no CPU number is left out.
    """
    lines: dict[_Line, set[int]] = {}
    every_cpu: set[int] = set()
    cpus = every_cpu
    for line in text.split("\n"):
        key, _, value = line.partition(":")
        key = key.rstrip()
        if not line.strip():
            cpus = every_cpu
        elif key in _SECTIONS:
            _note(lines, (key, value.strip()), cpus, every_cpu)
        elif line.startswith("processor"):
            cpus = _cpu(line)
            every_cpu |= cpus
    return lines, every_cpu


def _cpu(line: str) -> set[int]:
    match = _CPU.match(line)
    number = int(match[1] or match[2]) if match else cpulist.HIGHEST_CPU + 1
    return {number} if number <= cpulist.HIGHEST_CPU else set()


def _note(lines: dict[_Line, set[int]], line: _Line, cpus: set[int], every_cpu: set[int]) -> None:
    if cpus is every_cpu:
        lines[line] = every_cpu
    else:
        lines.setdefault(line, set()).update(cpus)


def _split(section: str, text: str) -> Iterable[str]:
    """The flags of a line: names, or on RISC-V letters and names, as in rv64imafdc_zicsr. MIPS has another kind of isa line."""
    if section != "riscv":
        return text.split()
    match = _RISCV.fullmatch(text)
    return [*match[1], *(name for name in match[2].split("_") if name)] if match else []


@cache
def _table() -> dict[tuple[str, str], tuple[str, str]]:
    """(section, flag) -> (group, meaning) of flags.txt."""
    table, section = {}, ""
    for line in resources.files(__package__).joinpath("flags.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            flag, group, meaning = (part.strip() for part in line.split("|"))
            table[section, flag] = (group, meaning)
    return table
