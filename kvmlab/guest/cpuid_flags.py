"""CPU flags as CPUID tells them, by the kernel's names.

Bits only: a kernel adds flags that it works out by itself (rep_good, nopl, cpuid, xtopology, tsc_known_freq, ...) and takes away those that
it does not use or that its own command line turns off. The bits and names are in cpuid_flags.txt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kvmlab.guest.cpuid import Leaves
from kvmlab.guest.flag_names import Feature, features
from kvmlab.host import flags as host_flags

_REGISTERS = ("eax", "ebx", "ecx", "edx")


class _Cpuinfo(NamedTuple):
    """The /proc/cpuinfo that a kernel could show, in place of a machine's files."""

    text: str

    def read(self, path: str) -> str | None:
        return self.text if path == "proc/cpuinfo" else None


def _told(leaves: Leaves) -> Iterator[Feature]:
    for feature in features():
        answer = leaves.get((feature.leaf, feature.number))
        if answer and answer[_REGISTERS.index(feature.register)] >> feature.bit & 1:
            yield feature


def flags(leaves: Leaves) -> list[str]:
    """The flags that these bits bring in /proc/cpuinfo, in the kernel's order."""
    return list(dict.fromkeys(flag for feature in _told(leaves) for flag in feature.flags))


def libvirt_features(leaves: Leaves) -> set[str]:
    """The same bits by libvirt's names: also those that the kernel has no flag for."""
    return {feature.libvirt for feature in _told(leaves) if feature.libvirt}


def rows(per_vcpu: Mapping[int, Leaves]) -> Iterator[tuple]:
    """The flags of all vCPUs, each once, in the order of columns.FRAMES["flags"], with the groups and meanings of ``Host.flags()``."""
    paragraphs = [f"processor\t: {vcpu}\nflags\t\t: {' '.join(flags(leaves))}\n" for vcpu, leaves in per_vcpu.items()]
    yield from host_flags.rows(_Cpuinfo("\n".join(paragraphs)))
