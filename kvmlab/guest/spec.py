"""What a guest should be, and the domain XML that says so to libvirt. Pure: no libvirt, no files."""

from __future__ import annotations

import re
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

from kvmlab.errors import GuestError

MEMORY_MIB = 32  # touched only as far as the work 'memory' goes
MOST_VCPUS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}", re.ASCII)
_DOMAIN_TYPE = {"kvm": "kvm", "tcg": "qemu"}


@dataclass(frozen=True)
class GuestSpec:
    """A lab guest: its name, its vCPUs, what runs them ("kvm" or "tcg") and the ROM it boots.

    With the path of a `disk` it has that one, and a network card and a display too.

    Raises
    ------
    GuestError
        For a name that libvirt or a shell would misread, or a number of vCPUs the image cannot run.
    """

    name: str
    vcpus: int
    accel: str
    image: str
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    disk: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise GuestError(
                f"Guest name {self.name!r}: write up to 50 letters, digits, dots, dashes and underscores, a letter or digit first."
            )
        if not isinstance(self.vcpus, int) or isinstance(self.vcpus, bool) or not 1 <= self.vcpus <= MOST_VCPUS:
            raise GuestError(f"Guest '{self.name}': {self.vcpus!r} vCPUs; the lab guest runs on 1 to {MOST_VCPUS}.")

    def xml(self) -> str:
        """The libvirt domain.

        The RAM is an anonymous file that host and guest share: it leaves nothing on disk, and through it the host sets
        each vCPU's work and reads its counters.
        """
        domain = ET.Element("domain", type=_DOMAIN_TYPE[self.accel])
        _add(domain, "name", self.name)
        _add(domain, "uuid", self.uuid)
        _add(domain, "memory", str(MEMORY_MIB), unit="MiB")
        backing = _add(domain, "memoryBacking")
        _add(backing, "source", type="memfd")
        _add(backing, "access", mode="shared")
        _add(domain, "vcpu", str(self.vcpus), placement="static")
        if self.disk:
            _add(domain, "iothreads", "1")
        os = _add(domain, "os")
        _add(os, "type", "hvm", arch="x86_64", machine="pc")
        _add(os, "loader", self.image, readonly="yes", type="rom")
        features = _add(domain, "features")
        _add(features, "acpi")
        _add(features, "apic")
        devices = _add(domain, "devices")
        _add(devices, "controller", type="usb", model="none")
        _add(devices, "memballoon", model="none")
        _add(devices, "serial", type="pty")  # the bell: a byte on it wakes halted vCPUs
        if self.disk:
            _add_devices(devices, self.disk)
        ET.indent(domain)
        return ET.tostring(domain, encoding="unicode") + "\n"


def _add_devices(devices: ET.Element, path: str) -> None:
    """A disk with a thread of its own, a network card that needs no privileges, a display on a socket that libvirt places."""
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type="qcow2", iothread="1")
    _add(disk, "source", file=path)
    _add(disk, "target", dev="vda", bus="virtio")
    card = _add(devices, "interface", type="user")
    _add(card, "model", type="virtio")
    _add(card, "rom", enabled="no")  # the lab guest boots from no network: no file needed
    _add(_add(devices, "graphics", type="vnc"), "listen", type="socket")
    _add(_add(devices, "video"), "model", type="vga")


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element
