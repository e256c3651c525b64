"""A POWER guest on this machine: libvirt knows POWER's CPU models without an emulator, QEMU's emulator runs them.

The guest is a `pseries` machine under TCG with 256 MiB and no disk. Its firmware (SLOF) comes up, finds nothing to boot, and
waits. Which CPU it has, QEMU is asked: by the type of the CPU's object, and by its processor version register.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, NamedTuple

from kvmlab.errors import GuestError
from kvmlab.guest import cpumap
from kvmlab.guest.connection import explained, libvirt, libvirt_qemu
from kvmlab.guest.cpu_models import known_names
from kvmlab.guest.cpu_xml import check_names, cpu_xml

if TYPE_CHECKING:
    from kvmlab.guest.lab import GuestLab

ARCH, _MACHINE, _MEMORY_MIB = "ppc64", "pseries", 256  # libvirt rounds POWER's memory up to 256 MiB
_PVR = re.compile(r"\bPVR ([0-9a-f]{8,16})\b")


class PowerCpu(NamedTuple):
    """What QEMU says of a POWER guest's CPU."""

    asked: str  # as the guest's XML names it
    qemu_type: str  # as QEMU's object model does: power8_v2.0-powerpc64-cpu
    pvr: int  # processor version register
    model: str | None  # libvirt's name of the processors with such a register


class PowerGuest:
    """A running POWER guest, made by `start`. It ends with `destroy`, with its with-block, or with its Lab."""

    def __init__(self, lab: GuestLab, name: str, uuid: str, model: str):
        self.name, self._lab, self._uuid, self._model = name, lab, uuid, model

    def __repr__(self) -> str:
        return f"POWER guest '{self.name}': {self._model} on TCG"

    def __enter__(self) -> PowerGuest:
        return self

    def __exit__(self, *_exception) -> None:
        self.destroy()

    def cpu(self) -> PowerCpu:
        """Ask QEMU which CPU the guest has.

        Raises
        ------
        GuestError
            When the guest is gone, and where QEMU tells no processor version register.

        Examples
        --------
        >>> guest.cpu().model                                                                # doctest: +SKIP
        'POWER8'
        """
        with explained(f"Asking QEMU for the CPU of '{self.name}'"):
            domain = self._domain()
            path = _ask(domain, "query-cpus-fast")[0]["qom-path"]
            qemu_type = _ask(domain, "qom-get", path=path, property="type")
            registers = libvirt_qemu.qemuMonitorCommand(domain, "info registers", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        found = _PVR.search(registers)
        if found is None:
            raise GuestError(f"'{self.name}': this QEMU names no PVR in 'info registers', so its processor version cannot be told.")
        pvr = int(found[1], 16)
        return PowerCpu(self._model, qemu_type, pvr, model_of(pvr))

    def _domain(self) -> libvirt.virDomain:
        """Never kept: as long as one is, the Lab's connection stays open behind its back, and the guest with it."""
        return self._lab.connection.lookupByUUIDString(self._uuid)

    def destroy(self) -> None:
        """End it; one that is gone stays gone."""
        try:
            self._domain().destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise GuestError(f"Ending '{self.name}': libvirt says: {error.get_error_message()}.") from error


def _ask(domain: libvirt.virDomain, command: str, **arguments: str):
    question = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(libvirt_qemu.qemuMonitorCommand(domain, question, 0))["return"]


def start(lab: GuestLab, name: str, model: str) -> PowerGuest:
    """Start a POWER guest with a CPU model, on the libvirt of a Lab.

    Parameters
    ----------
    lab : Lab
        The guest ends with it, if not before. It is emulated whatever the Lab's own guests run on.
    name : str
        Its name for libvirt.
    model : str
        "POWER8", "POWER9", ...: ``lab.cpu_models("ppc64")`` lists them.

    Raises
    ------
    GuestError
        Where the emulator is not installed (the package is named), and for a model that libvirt or QEMU does not know.

    Examples
    --------
    >>> with power.start(lab, "p8", "POWER8") as guest:                                     # doctest: +SKIP
    ...     guest.cpu().qemu_type
    'power8_v2.0-powerpc64-cpu'
    """
    cpu = cpu_xml(model, fallback="forbid")
    check_names(cpu, ARCH, known_names(lab.connection), ())
    _need_emulator(lab.connection)
    with explained(f"Starting POWER guest '{name}'"):
        uuid = lab.connection.createXML(domain_xml(name, cpu), libvirt.VIR_DOMAIN_START_AUTODESTROY).UUIDString()
    return PowerGuest(lab, name, uuid, model)


def _need_emulator(connection: libvirt.virConnect) -> None:
    """libvirt looks for new emulators by itself: no daemon has to be started anew after an installation."""
    try:
        connection.getDomainCapabilities(None, ARCH, _MACHINE, "qemu")
    except libvirt.libvirtError as error:
        raise GuestError(
            f"No POWER guest can run here: libvirt says: {error.get_error_message()}. Install the emulator: "
            "apt install --no-install-recommends qemu-system-ppc (Fedora: qemu-system-ppc). Its models are listed without it."
        ) from error


def domain_xml(name: str, cpu: str) -> str:
    """The libvirt domain."""
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = name
    ET.SubElement(domain, "memory", unit="MiB").text = str(_MEMORY_MIB)
    ET.SubElement(domain, "vcpu").text = "1"
    ET.SubElement(ET.SubElement(domain, "os"), "type", arch=ARCH, machine=_MACHINE).text = "hvm"
    domain.append(ET.fromstring(cpu))
    devices = ET.SubElement(domain, "devices")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    ET.SubElement(devices, "serial", type="pty")
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def model_of(pvr: int) -> str | None:
    """libvirt's name of the processors with such a version register, by its cpu_map; None where it knows none."""
    models = cpumap.load().models(ARCH).values()
    return next((model.name for model in models if any(pvr & known.mask == known.value for known in model.pvrs)), None)
