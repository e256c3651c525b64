"""KVM's own statistics of vCPUs, as libvirt passes them on: exits by reason, halted time, ...

Source: virConnectGetAllDomainStats (VIR_DOMAIN_STATS_VCPU), which asks QEMU (query-stats, since 7.1), which asks KVM
(KVM_GET_STATS_FD, Documentation/virt/kvm/api.rst). Names differ between processors: what is there is taken. They cost much more
than the kernel's files, and each reading calls every vCPU out of guest mode once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvmlab.guest.connection import explained, libvirt

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

_NAME = re.compile(r"vcpu\.(\d+)\.(\w+)\.sum")
_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


def read(lab: GuestLab) -> dict[tuple[str, str, int], dict[str, int]]:
    """By (UUID, guest, vCPU): counters since its start, by KVM's names. Guests that have none are left out."""
    with explained(f"Asking {lab.uri} for the statistics of its guests"):
        domains = lab.connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_VCPU, _FLAGS)
        named = [(domain.UUIDString(), domain.name(), values) for domain, values in domains]
    found: dict[tuple[str, str, int], dict[str, int]] = {}
    for uuid, guest, values in named:
        for name, value in values.items():
            if match := _NAME.fullmatch(name):
                found.setdefault((uuid, guest, int(match[1])), {})[match[2]] = value
    return found
