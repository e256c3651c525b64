"""What a guest should be, and the domain XML that says so to libvirt. Pure: no libvirt, no files."""

from __future__ import annotations

import re
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

from kvmlab.errors import GuestError
from kvmlab.guest.topology import LEVELS, Cells, Topology

MEMORY_MIB = 32  # touched only as far as the work 'memory' goes
CELL_MIB = 8  # of each NUMA cell but the first, which holds all that the image uses
MOST_VCPUS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}", re.ASCII)
_DOMAIN_TYPE = {"kvm": "kvm", "tcg": "qemu"}


@dataclass(frozen=True)
class GuestSpec:
    """A lab guest: its name, its vCPUs, what runs them ("kvm" or "tcg"), the ROM it boots and its folder on the host.

    With `devices` it has a disk there, and a network card and a display too. `cpu` is a libvirt <cpu> element, the
    model; without a `topology` each vCPU is a socket.

    Raises
    ------
    GuestError
        For a name that libvirt or a shell would misread, a number of vCPUs the image cannot run, and a topology that does
        not multiply out to it.
    """

    name: str
    vcpus: int
    accel: str
    image: str
    folder: str
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    devices: bool = False
    cpu: str | None = None
    topology: Topology | None = None
    cells: Cells | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise GuestError(
                f"Guest name {self.name!r}: write up to 50 letters, digits, dots, dashes and underscores, a letter or digit first."
            )
        if not isinstance(self.vcpus, int) or isinstance(self.vcpus, bool) or not 1 <= self.vcpus <= MOST_VCPUS:
            raise GuestError(f"Guest '{self.name}': {self.vcpus!r} vCPUs; the lab guest runs on 1 to {MOST_VCPUS}.")
        if self.topology and self.topology.vcpus != self.vcpus:
            raise GuestError(f"Guest '{self.name}': {self.topology.arithmetic()}, not {self.vcpus}. Change one of these numbers.")

    @property
    def bell(self) -> str:
        """The socket of its serial line: a byte sent there wakes halted vCPUs."""
        return f"{self.folder}/bell"

    @property
    def disk(self) -> str:
        """The file of its disk, if it has devices."""
        return f"{self.folder}/{self.name}.qcow2"

    @property
    def apic_ids(self) -> list[int]:
        """Of each vCPU."""
        return self.topology.apic_ids() if self.topology else list(range(self.vcpus))

    @property
    def memory_mib(self) -> int:
        """Its memory, of all cells."""
        return MEMORY_MIB + (CELL_MIB * (len(self.cells.vcpus) - 1) if self.cells else 0)

    def xml(self) -> str:
        """The libvirt domain.

        The RAM is an anonymous file that host and guest share: it leaves nothing on disk, and through it the host sets
        each vCPU's work and reads its counters.
        """
        domain = ET.Element("domain", type=_DOMAIN_TYPE[self.accel])
        _add(domain, "name", self.name)
        _add(domain, "uuid", self.uuid)
        _add(domain, "memory", str(self.memory_mib), unit="MiB")
        backing = _add(domain, "memoryBacking")
        _add(backing, "source", type="memfd")
        _add(backing, "access", mode="shared")
        _add(domain, "vcpu", str(self.vcpus), placement="static")
        if self.devices:
            _add(domain, "iothreads", "1")
        os = _add(domain, "os")
        _add(os, "type", "hvm", arch="x86_64", machine="pc")
        _add(os, "loader", self.image, readonly="yes", type="rom")
        features = _add(domain, "features")
        _add(features, "acpi")
        _add(features, "apic")
        if self.cpu or self.topology or self.cells:
            domain.append(self._cpu())
        devices = _add(domain, "devices")
        _add(devices, "controller", type="usb", model="none")
        _add(devices, "memballoon", model="none")
        # not a pty: QEMU looks only once a second whether somebody has opened one
        _add(_add(devices, "serial", type="unix"), "source", mode="bind", path=self.bell)
        if self.devices:
            _add_devices(devices, self.disk)
        ET.indent(domain)
        return ET.tostring(domain, encoding="unicode") + "\n"

    def _cpu(self) -> ET.Element:
        """The <cpu> element, with the topology and the cells behind the model, where libvirt's schema has them."""
        cpu = ET.fromstring(self.cpu) if self.cpu else ET.Element("cpu")
        places = [n for n, child in enumerate(cpu) if child.tag in ("model", "vendor")]
        if self.topology:
            attributes = {level: str(getattr(self.topology, level)) for level in LEVELS}
            cpu.insert(max(places, default=-1) + 1, ET.Element("topology", attributes))
        if self.cells:
            _add_cells(_add(cpu, "numa"), self.cells)
        return cpu


def _add_cells(numa: ET.Element, cells: Cells) -> None:
    for number, vcpus in enumerate(cells.vcpus):
        cell = _add(numa, "cell", id=str(number), memory=str(CELL_MIB if number else MEMORY_MIB), unit="MiB")
        if vcpus:
            cell.set("cpus", vcpus)
        if cells.distances:
            distances = _add(cell, "distances")
            for other, value in enumerate(cells.distances[number]):
                _add(distances, "sibling", id=str(other), value=str(value))


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
