"""A guest that no Lab started: persistent, as virt-manager or virsh define them, and taken away again."""

from __future__ import annotations

import os
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kvmlab import Lab
from kvmlab.guest.connection import libvirt
from kvmlab.guest.spec import GuestSpec


@contextmanager
def guest(lab: Lab, name: str, vcpus: int = 2) -> Iterator[libvirt.virDomain]:
    """Running, with one I/O thread."""
    folder = tempfile.mkdtemp(prefix="kvmlab-foreign-", dir="/tmp")
    os.chmod(folder, 0o777)
    xml = GuestSpec(name, vcpus, lab.accel, str(lab._image), folder).xml()
    domain = lab.connection.defineXML(xml.replace("<vcpu ", "<iothreads>1</iothreads>\n  <vcpu "))
    try:
        domain.create()
        yield domain
    finally:
        with suppress(libvirt.libvirtError):  # it may be shut off by now
            domain.destroy()
        domain.undefine()
        shutil.rmtree(folder)


def plug_disk(domain: libvirt.virDomain, folder: Path) -> None:
    """Give it a disk of 1 MiB while it runs."""
    for place in (folder, *folder.parents[:-2]):
        with suppress(OSError):
            place.chmod(0o755)
    (folder / "disk").write_bytes(bytes(1 << 20))
    (folder / "disk").chmod(0o666)
    disk = f"<disk type='file'><driver name='qemu' type='raw'/><source file='{folder}/disk'/><target dev='vda' bus='virtio'/></disk>"
    domain.attachDevice(disk)


def pins(domain: libvirt.virDomain) -> list[tuple[str, str]]:
    """What its persistent definition pins, and where to."""
    definition = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return sorted((pin.tag, pin.get("cpuset")) for pin in definition.findall("cputune/*"))
