"""What libvirt knows of a guest's pins: asked and told, of the running guest and of its persistent definition.

libvirt has no call that takes a pin out of a definition again, only one that writes "all CPUs" there, and these are the CPUs
of today: such a definition is written anew without it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from kvmlab.errors import GuestError
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.targets import EMULATOR, iothread

_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
_DEFINITION = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE  # with passwords: it is written back


def ask(domain: libvirt.virDomain, who: int | str) -> frozenset[int]:
    """The CPUs that libvirt lets a thread of the running guest use."""
    with explained(f"Asking where {who!r} of '{domain.name()}' may run"):
        try:
            if who == EMULATOR:
                cpumap = domain.emulatorPinInfo(_LIVE)
            elif isinstance(who, str):
                cpumap = dict(domain.ioThreadInfo(_LIVE))[iothread(who)]
            else:
                cpumap = domain.vcpuPinInfo(_LIVE)[who]
        except LookupError:
            raise GuestError(f"libvirt knows of no {who!r} of '{domain.name()}' any more.") from None
    return frozenset(cpu for cpu, may in enumerate(cpumap) if may)


def tell(domain: libvirt.virDomain, who: int | str, cpus: frozenset[int], persistent: bool = False) -> None:
    """Pin it: in the running guest, or in the persistent definition."""
    cpumap, flags = tuple(cpu in cpus for cpu in range(max(cpus) + 1)), _CONFIG if persistent else _LIVE
    with explained(f"Pinning {who!r} of '{domain.name()}'{' in its definition' if persistent else ''}"):
        if who == EMULATOR:
            domain.pinEmulator(cpumap, flags)
        elif isinstance(who, str):
            domain.pinIOThread(iothread(who), cpumap, flags)
        else:
            domain.pinVcpuFlags(who, cpumap, flags)


def defined(domain: libvirt.virDomain, who: int | str) -> str | None:
    """What the persistent definition says, as it is written there; None where it pins nothing."""
    with explained(f"Asking for the definition of '{domain.name()}'"):
        pin = _found(ET.fromstring(domain.XMLDesc(_DEFINITION)), who)
    return None if pin is None else pin.get("cpuset")


def take_out(domain: libvirt.virDomain, who: int | str) -> None:
    """Write the persistent definition anew without the pin of a thread."""
    with explained(f"Taking the pin of {who!r} out of the definition of '{domain.name()}'"):
        definition = ET.fromstring(domain.XMLDesc(_DEFINITION))
        if (pin := _found(definition, who)) is not None:
            definition.find("cputune").remove(pin)
            domain.connect().defineXML(ET.tostring(definition, encoding="unicode"))


def _found(definition: ET.Element, who: int | str) -> ET.Element | None:
    if who == EMULATOR:
        return definition.find("cputune/emulatorpin")
    if isinstance(who, str):
        return definition.find(f"cputune/iothreadpin[@iothread='{iothread(who)}']")
    return definition.find(f"cputune/vcpupin[@vcpu='{who}']")
