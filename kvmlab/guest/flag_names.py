"""CPU features by their two names: the kernel's flag in /proc/cpuinfo, and the one that libvirt (and, nearly, QEMU) gives the same bit.

The table is cpuid_flags.txt beside this file. Most features are one bit, one flag and one name, but not all: the kernel shows no
flag for some bits, the same flag for several (`ibrs` for Intel's spec-ctrl and for AMD's ibrs) and several for one (spec-ctrl
brings `ibrs` and `ibpb`). So a name is only translated where it says exactly the same, and `proven` reads a whole line of flags.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple

_AMD = ("AuthenticAMD", "HygonGenuine")


class Feature(NamedTuple):
    """One bit that tells of a feature, in CPUID or, where `leaf` is None, in the MSR `number`."""

    leaf: int | None
    number: int  # subleaf, or number of the MSR
    register: str
    bit: int
    flags: tuple[str, ...]
    libvirt: str | None


@cache
def features() -> tuple[Feature, ...]:
    """All of the table, in the order in which the kernel shows them."""
    found, place = [], (None, 0, "")
    for line in resources.files(__package__).joinpath("cpuid_flags.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            place = _place(line)
        elif line and not line.startswith("#"):
            bit, flags, libvirt = line.split()
            found.append(Feature(*place, int(bit), () if flags == "-" else tuple(flags.split(",")), None if libvirt == "-" else libvirt))
    return tuple(found)


def _place(line: str) -> tuple[int | None, int, str]:
    """Of "[0x7.1 eax]" or "[msr 0x10a eax]"."""
    *where, register = line.strip("[]").split()
    if where[0] == "msr":
        return None, int(where[1], 16), register
    leaf, _, subleaf = where[0].partition(".")
    return int(leaf, 16), int(subleaf), register


@cache
def _by_flag() -> dict[str, tuple[Feature, ...]]:
    found: dict[str, tuple[Feature, ...]] = {}
    for feature in features():
        for flag in feature.flags:
            found[flag] = (*found.get(flag, ()), feature)
    return found


@cache
def _by_libvirt() -> dict[str, Feature]:
    return {feature.libvirt: feature for feature in features() if feature.libvirt}


def libvirt_name(kernel_name: str) -> str | None:
    """libvirt's name of what a flag stands for; None where it has none, or where several features bring that flag.

    >>> libvirt_name("sse4_1"), libvirt_name("ibrs")
    ('sse4.1', None)
    """
    sources = _by_flag().get(kernel_name, ())
    return sources[0].libvirt if len(sources) == 1 else None


def kernel_name(libvirt_name: str) -> str | None:
    """The flag that stands for a feature of libvirt's and for no other; None where there is none: see `shown_as`.

    >>> kernel_name("pclmuldq"), kernel_name("spec-ctrl")
    ('pclmulqdq', None)
    """
    return next((flag for flag in shown_as(libvirt_name) if len(_by_flag()[flag]) == 1), None)


def shown_as(libvirt_name: str) -> tuple[str, ...]:
    """All flags that a feature of libvirt's brings; none where /proc/cpuinfo does not show it, or the table does not know it.

    >>> shown_as("spec-ctrl"), shown_as("rdctl-no")
    (('ibrs', 'ibpb'), ())
    """
    feature = _by_libvirt().get(libvirt_name)
    return feature.flags if feature else ()


def proven(flags: Iterable[str], vendor: str) -> set[str]:
    """The features, by libvirt's names, that a CPU must have to show these flags.

    What is not among them is absent only if `shown_as` has flags for it: of the others /proc/cpuinfo says nothing.

    Parameters
    ----------
    flags
        The words of the lines "flags" and "vmx flags".
    vendor
        As /proc/cpuinfo has it: it tells who brought the flags that Intel and AMD have from different bits.

    >>> sorted(proven({"nx", "ibrs", "ibpb"}, "GenuineIntel")), sorted(proven({"nx", "ibpb"}, "AuthenticAMD"))
    (['nx', 'spec-ctrl'], ['ibpb', 'nx'])
    """
    shown = set(flags)
    possible = {flag: [source for source in _by_flag()[flag] if shown.issuperset(source.flags)] for flag in shown & _by_flag().keys()}
    for flag, sources in possible.items():
        if len(sources) > 1:
            possible[flag] = [source for source in sources if _is_amds(source) == (vendor in _AMD)]
    return {sources[0].libvirt for sources in possible.values() if len(sources) == 1} - {None}


def _is_amds(feature: Feature) -> bool:
    """Of two that bring the same flag: AMD's are those of the extended leaves."""
    return feature.leaf is not None and feature.leaf >= 0x80000000
