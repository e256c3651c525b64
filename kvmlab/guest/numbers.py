"""What a guest's vCPUs are called: by libvirt, by QEMU, by the guest's own CPUID, and by the host's kernel."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping

from kvmlab.guest.connection import explained, libvirt, libvirt_qemu
from kvmlab.guest.guest import Guest
from kvmlab.guest.topology import LEVELS, Topology
from kvmlab.guest.vcpus import Process
from kvmlab.guest.vcpus import rows as vcpu_rows

_PROPERTIES = ("socket-id", "die-id", "core-id", "thread-id")


def rows(domain: libvirt.virDomain, process: Process, guest: Guest | None, may_ask: bool) -> Iterator[tuple]:
    """One row a vCPU, in the order of columns.FRAMES["numbers"]. `may_ask` QEMU: libvirt marks a guest so asked as tainted."""
    asked, qemu, inside = _asked(domain), _qemu(domain) if may_ask else {}, _inside(guest)
    cpus = {row[2]: row[5] for row in vcpu_rows(process)}
    for vcpu, tid in sorted(process.vcpus.items()):
        properties = qemu.get(vcpu, {})
        place = _text(properties.get(name, 0) for name in _PROPERTIES) if properties else None
        apic_id = guest.page.apic_id(vcpu) if guest else None
        yield process.guest, vcpu, asked.get(vcpu), place, inside.get(vcpu), apic_id, properties.get("node-id"), tid, cpus.get(vcpu)


def unavailable(may_ask: bool) -> dict[str, str]:
    """Why columns have gaps."""
    reasons = dict.fromkeys(("seen", "apic_id"), "only this Lab's own guests can be asked for their CPUID")
    reasons["asked"] = "its XML asks for clusters of cores too, which have no number here"
    if may_ask:
        return reasons | {"node": "this guest has no NUMA cells"}
    return reasons | dict.fromkeys(("qemu", "node"), "QEMU's monitor taints a guest, and this Lab only watches this one")


def _asked(domain: libvirt.virDomain) -> dict[int, str]:
    with explained(f"Asking for the XML of '{domain.name()}'"):
        return asked_places(domain.XMLDesc())


def asked_places(xml: str) -> dict[int, str]:
    """The <topology> of a domain, counted out as QEMU does, also for vCPUs that are not there yet; without one each vCPU is a socket.

    >>> asked_places("<domain><vcpu current='1'>2</vcpu></domain>")
    {0: '0:0:0:0', 1: '1:0:0:0'}
    """
    root = ET.fromstring(xml)
    element = root.find("cpu/topology")
    if element is not None and element.get("clusters", "1") != "1":
        return {}
    sizes = (int(root.findtext("vcpu")), 1, 1, 1) if element is None else (int(element.get(level, "1")) for level in LEVELS)
    return dict(enumerate(_text(place) for place in Topology(*sizes).places()))


def _qemu(domain: libvirt.virDomain) -> Mapping[int, dict]:
    """QEMU's own: query-cpus-fast of its monitor protocol."""
    with explained(f"Asking QEMU for the vCPUs of '{domain.name()}'"):
        answer = libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": "query-cpus-fast"}), 0)
    return {cpu["cpu-index"]: cpu.get("props", {}) for cpu in json.loads(answer)["return"]}


def _inside(guest: Guest | None) -> dict[int, str]:
    seen = guest.topology()[["cpu", "socket", "die", "core", "smt"]].fillna(0) if guest else None
    return {} if seen is None else {int(cpu): _text(place) for cpu, *place in seen.itertuples(index=False)}


def _text(place: Iterable[int]) -> str:
    return ":".join(str(int(number)) for number in place)
