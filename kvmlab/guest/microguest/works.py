"""What a work's parameter means, what is legal, and what it is by default. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kvmlab.errors import GuestError
from kvmlab.guest.microguest.page import AREA_KIB, WORK

OF_32_BIT = ("idle", "spin")
_RANGES = {
    "memory": (4, AREA_KIB, 4096, "KiB"),
    "device": (1, AREA_KIB, 1024, "KiB"),
    "lock": (0, 1_000_000, 1000, "rounds"),
    "duty": (1, 99, 50, "percent"),
}


def parameters(work: str, vcpus: list[int], apic_ids: Sequence[int], parameter: int | None) -> list[int]:
    """The number that each of these vCPUs gets with its work, in a guest whose vCPUs have these APIC ids.

    Raises
    ------
    GuestError
        For an unknown work, a parameter out of its range or that the work does not take, and vCPUs that it cannot be done by.
    """
    if work not in WORK:
        raise GuestError(f"Work {work!r}: the lab guest knows {', '.join(WORK)}.")
    if parameter is not None and (not isinstance(parameter, int) or isinstance(parameter, bool)):
        raise GuestError(f"Work '{work}', parameter {parameter!r}: write a whole number.")
    if work == "ipi":
        return [apic_ids[_other(vcpu, len(apic_ids), parameter)] for vcpu in vcpus]
    if work == "ping-pong":
        return _pairs(vcpus, apic_ids, parameter)
    return [_in_range(work, parameter)] * len(vcpus)


def _in_range(work: str, parameter: int | None) -> int:
    if work not in _RANGES:
        if parameter is not None:
            raise GuestError(f"Work '{work}' takes no parameter; {', '.join([*_RANGES, 'ipi'])} do.")
        return 0
    low, high, default, unit = _RANGES[work]
    if parameter is not None and not low <= parameter <= high:
        raise GuestError(f"Work '{work}', parameter {parameter}: write {low} to {high} {unit}.")
    return default if parameter is None else parameter


def _other(vcpu: int, count: int, parameter: int | None) -> int:
    target = (vcpu + 1) % count if parameter is None else parameter
    if target == vcpu or target not in range(count):
        raise GuestError(f"Work 'ipi' of vCPU {vcpu} needs another vCPU to interrupt, not {target}: the guest has 0 to {count - 1}.")
    return target


def _pairs(vcpus: list[int], apic_ids: Sequence[int], parameter: int | None) -> list[int]:
    if parameter is not None or len(vcpus) % 2 or len(set(vcpus)) < len(vcpus):
        raise GuestError(f"Work 'ping-pong' is done in pairs, such as vcpus=(0, 1), and takes no parameter; given: {vcpus}, {parameter}.")
    return [2 * apic_ids[vcpus[n & ~1]] + n % 2 for n in range(len(vcpus))]
