"""class GuestLab: guests started, guests watched, and everything undone at the end."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4
from weakref import WeakKeyDictionary

from kvmlab.columns import documents, frame
from kvmlab.errors import GuestError, KvmlabError, PlanError
from kvmlab.guest import accel as acceleration
from kvmlab.guest import folder as folders
from kvmlab.guest import image, layers, numbers, subsystems, vcpus
from kvmlab.guest.connection import connect, default_uri, explained, libvirt
from kvmlab.guest.devices import wanted, write_disk
from kvmlab.guest.guest import Guest
from kvmlab.guest.lab_cpus import CpuModels
from kvmlab.guest.lab_pins import Pinning
from kvmlab.guest.microguest.page import wait_until
from kvmlab.guest.pinning import Plan
from kvmlab.guest.schedinfo import SchedInfo
from kvmlab.guest.shape import shape
from kvmlab.guest.spec import GuestSpec
from kvmlab.host.sysroot import SysRoot
from kvmlab.wording import count

if TYPE_CHECKING:
    import pandas as pd

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "suspended",
}


_OPEN: WeakKeyDictionary[GuestLab, None] = WeakKeyDictionary()


def open_labs() -> tuple[GuestLab, ...]:
    """Every Lab of this process that is not closed, the last one opened last."""
    return tuple(_OPEN)


class GuestLab(CpuModels, Pinning, SchedInfo):
    """Guests on one libvirt. ``kvmlab.Lab`` is this with what measures and shows them.

    Guests are transient and auto-destroyed: when the Python process goes, however it goes, libvirt removes them.
    """

    _start_flags = libvirt.VIR_DOMAIN_START_AUTODESTROY

    def __init__(self, uri: str | None = None, *, accel: str = "auto", allow_changes: bool = False):
        self.uri = uri or default_uri()
        self.accel, self.accel_reason = acceleration.choose(accel, self.uri)
        self._allow_changes = allow_changes
        self._mine: dict[str, Guest | None] = {}  # by uuid; None while it is being started
        self._seen: dict[str, vcpus.Process] = {}
        self._folders: dict[str, Path] = {}
        folders.sweep()
        self._image, self._folder = image.readable(self.uri)
        self._connection, self._log = connect(self.uri)
        self._begin()
        _OPEN[self] = None
        atexit.register(self.close)

    def __repr__(self) -> str:
        if self._connection is None:
            return f"Lab on {self.uri}: closed"
        return f"Lab on {self.uri}, {count(len(self._mine), 'guest')} of its own. They run on {self.accel.upper()}: {self.accel_reason}"

    def __enter__(self):
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    @property
    def own(self) -> dict[str, Guest]:
        """The guests that this Lab started, by name."""
        return {guest.name: guest for guest in self._mine.values() if guest is not None}

    @property
    def connection(self) -> libvirt.virConnect:
        """libvirt's own connection, for what kvmlab does not do."""
        if self._connection is None:
            raise KvmlabError("This Lab is closed: open another one with Lab().")
        return self._connection

    def start(
        self,
        name: str,
        vcpus: int | None = None,
        devices: str | None = None,
        *,
        cpu: str | None = None,
        topology: str | None = None,
        cells: Sequence[str] | None = None,
        distances: Sequence[Sequence[int]] | None = None,
        pins: str | None = None,
    ) -> Guest:
        """Start a lab guest and return once all its vCPUs take work; they are idle.

        Parameters
        ----------
        name : str
            Its name for libvirt, as `virsh list` will show it.
        vcpus : int, optional
            1 to 64. By default as many as the topology, the pins or the cells have, or 1.
        devices : "all", optional
            Give it a disk of 1 MiB (qcow2, served by an I/O thread), a network card (user-mode: no privileges, no tap) and
            a VNC display on a private UNIX socket. The lab guest has no drivers: they are there in QEMU, to be looked at
            with ``lab.subsystems``, and idle.
        cpu : str, optional
            A CPU model ("Westmere"), "host-model", "host-passthrough", "maximum", or what ``lab.cpu_xml`` returns. By
            default libvirt's own choice, which is QEMU's default model.
        topology : str, optional
            Sockets x dies x cores x threads, as in "2x1x2x2" (three numbers: one die a socket), or "host-like": the shape of
            the host CPUs in `pins`, of the first `vcpus` of this host, or of as many whole sockets, dies or cores of it as 64
            vCPUs can be. By default each vCPU is a socket.
        cells : list of str, optional
            NUMA cells: the vCPUs of each, as in ["0-3", "4-7"].
        distances : list of lists, optional
            How far the cells are from each other: a row a cell, 10 to itself.
        pins : str, optional
            A host CPU for each vCPU, in the order written: "2,0-1" pins vCPU 0 to CPU 2 before this returns. A host-like guest
            takes them by their place instead: socket, die, core, thread.

        Raises
        ------
        GuestError
            For a name that is taken, for other devices, for a CPU model, topology or cells that cannot be, and for a guest
            that does not come up; nothing is left of it.

        Examples
        --------
        >>> with Lab() as lab:                                # doctest: +SKIP
        ...     c1 = lab.start("c1", vcpus=2)
        ...     c1.work("spin")
        ...     lab.vcpus()[["guest", "vcpu", "cpu", "allowed_cpus"]]
        """
        asked = shape(vcpus, topology, cells, distances, pins)
        model = cpu if cpu is None else self._known_cpu(cpu)
        uuid = str(uuid4())
        folder = self._folder_of(uuid)
        spec = GuestSpec(name, asked.vcpus, self.accel, str(self._image), str(folder), uuid, wanted(devices), model, *asked[1:3])
        self._refuse_taken(name)
        self._mine[uuid] = None
        try:
            self._make_folder(spec)
            with explained(f"Starting guest '{name}'"):
                self.connection.createXML(spec.xml(), self._start_flags)
            guest = self._mine[uuid] = Guest(*self._attachment(spec))
            if asked.pins:
                Plan(self, {(name, vcpu): cpu for vcpu, cpu in enumerate(asked.pins)}).apply()
        except BaseException:  # Ctrl-C too: a guest that was half started must not stay
            self._destroy(uuid)
            raise
        finally:  # its own pins from the start: nothing to go back to
            self._undo[:] = [step for step in self._undo if {row.uuid for row in step.rows} != {uuid}]
        return guest

    def _attachment(self, spec: GuestSpec) -> tuple:
        """What a Guest needs to be attached to its process here."""
        return spec, self._process(spec.name, spec.uuid), lambda: self._destroy(spec.uuid)

    def _folder_of(self, uuid: str) -> Path:
        return folders.path(uuid)

    def _find(self, guests: Iterable[tuple[str, str]]) -> dict[str, vcpus.Process]:
        return vcpus.find(guests)

    def _make_folder(self, spec: GuestSpec) -> None:
        self._folders[spec.uuid] = Path(spec.folder)
        folders.make(Path(spec.folder))
        if spec.devices:
            write_disk(Path(spec.disk))

    def _refuse_taken(self, name: str) -> None:
        taken = {domain.name(): domain.UUIDString() for domain in self._domains(0)}
        if taken.get(name) in self._mine:
            raise GuestError(f"The name '{name}' is taken by a guest of this Lab. Choose another, or end that one: its destroy().")
        if name in taken:
            way = f"Choose another, or wait until that is done; what nobody needs, {self.virsh} destroy {name} ends."
            raise GuestError(f"The name '{name}' is taken on {self.uri}, by another Lab or tool. {way}")

    def _destroy(self, uuid: str) -> None:
        guest = self._mine.pop(uuid, None)
        process = self._seen.pop(uuid, None) or self._find([("", uuid)]).get(uuid)
        try:
            self.connection.lookupByUUIDString(uuid).destroy()
        except libvirt.libvirtError:
            if process and process.alive():  # the daemon is gone: end QEMU ourselves
                os.kill(process.pid, signal.SIGKILL)
        if process:
            wait_until(lambda: not process.alive(), 5)
            wait_until(lambda: not self._listed(uuid), 5)  # libvirt takes a moment to notice the end of one that was killed
        if folder := self._folders.pop(uuid, None):
            folders.remove(folder)
        if guest:
            guest.close()

    def _listed(self, uuid: str) -> bool:
        try:
            self.connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError:
            return False
        return True

    # ---- what there is

    def _domains(self, flags: int = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE) -> list[libvirt.virDomain]:
        with explained(f"Listing the guests on {self.uri}"):
            return self.connection.listAllDomains(flags)

    def domain(self, name: str) -> libvirt.virDomain:
        """libvirt's own object of a running guest."""
        domains = {domain.name(): domain for domain in self._domains()}
        if name not in domains:
            raise PlanError(f"There is no running guest {name!r} on {self.uri}: it has {', '.join(sorted(domains)) or 'none'}.")
        return domains[name]

    def process(self, name: str, domain: libvirt.virDomain | None = None) -> vcpus.Process:
        """The QEMU process of a running guest, with its threads as they are now."""
        return self._process(name, (domain or self.domain(name)).UUIDString())

    def _process(self, name: str, uuid: str) -> vcpus.Process:
        known = self._seen.get(uuid)
        if known is None or not known.alive():
            self._seen |= self._find([(name, uuid)])
            known = self._seen.get(uuid)
        if known is None or not known.alive():
            raise GuestError(f"'{name}' has no QEMU process on this machine: it ended, or {self.uri} is another machine.")
        return known.look()

    def processes(self) -> list[vcpus.Process]:
        """The QEMU processes of all running guests, started by this Lab or not."""
        running = {domain.UUIDString(): domain.name() for domain in self._domains()}
        self._seen = {uuid: process for uuid, process in self._seen.items() if uuid in running and process.alive()}
        self._seen |= self._find([(name, uuid) for uuid, name in running.items() if uuid not in self._seen])
        return sorted((process.look() for process in self._seen.values()), key=lambda process: process.guest)

    @documents("guests")
    def guests(self) -> pd.DataFrame:
        """One row a guest that runs on this libvirt, started by this Lab or not."""
        domains = {domain.UUIDString(): domain for domain in self._domains()}
        rows = []
        for process in self.processes():
            with explained(f"Asking for the state of '{process.guest}'"):
                info = domains[process.uuid].info() if process.uuid in domains else None
            if info is None:
                continue
            boots = process.page.boots() if process.page else None
            state = _STATES.get(info[0], "unknown")
            rows.append((process.guest, state, len(process.vcpus), process.pid, process.accel, process.uuid in self._mine, info[1], boots))
        return self._frame(rows, "guests", {"boots": "only this Lab's own guests have a control page"})

    @documents("vcpus")
    def vcpus(self) -> pd.DataFrame:
        """One row a vCPU of the guests that run on this libvirt, read from the kernel."""
        processes = self.processes()
        return self._frame([row for process in processes for row in vcpus.rows(process)], "vcpus", vcpus.unavailable(processes))

    @documents("subsystems")
    def subsystems(self, name: str) -> pd.DataFrame:
        """One row a device of a running guest, started by this Lab or not, and what serves it on the host.

        All five subsystems have a row; where the guest has no such device, `device` is NA. What serves a device may well be
        idle: the lab guest itself drives none.

        Raises
        ------
        PlanError
            When no guest of that name runs.

        """
        domain, process, root = self._running(name)
        with explained(f"Asking for the XML of '{name}'"):
            xml = domain.XMLDesc()
        rows = subsystems.rows(root, process, xml, self.virsh)
        return self._frame(rows, "subsystems", subsystems.unavailable(root, process))

    @documents("layers")
    def layers(self, name: str) -> pd.DataFrame:
        """One row a layer under a running guest, started by this Lab or not: from KVM's kernel modules up to this Python.

        Under TCG the layers of KVM have a row each that says that there is nothing.

        Raises
        ------
        PlanError
            When no guest of that name runs.

        """
        domain, process, root = self._running(name)
        with explained(f"Asking for the statistics of '{name}'"):
            answers = self.connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_VCPU)
            known = layers.Domain(domain.ID(), answers[0][1] if answers else {}, self.uri, self.virsh)
        return self._frame(layers.rows(root, process, known), "layers", layers.unavailable(root, process, known))

    @documents("numbers")
    def numbers(self, name: str) -> pd.DataFrame:
        """One row a vCPU of a running guest: what libvirt, QEMU, the guest itself and the host call it.

        QEMU is asked through its monitor, which makes libvirt mark the guest as tainted: a guest that this Lab only watches
        is spared that.

        Raises
        ------
        PlanError
            When no guest of that name runs.

        """
        domain, process, _ = self._running(name)
        guest = self._mine.get(domain.UUIDString())
        may_ask = guest is not None or self._allow_changes
        return self._frame(list(numbers.rows(domain, process, guest, may_ask)), "numbers", numbers.unavailable(may_ask))

    def _running(self, name: str) -> tuple[libvirt.virDomain, vcpus.Process, SysRoot]:
        domain = self.domain(name)
        return domain, self._process(name, domain.UUIDString()), SysRoot("/")

    @property
    def virsh(self) -> str:
        """How to call virsh for this libvirt."""
        return "virsh" if self.uri == default_uri() else f"virsh -c {shlex.quote(self.uri)}"

    def _frame(self, rows: list[tuple], kind: str, unavailable: Mapping[str, str]) -> pd.DataFrame:
        result = frame(rows, kind, unavailable)
        result.attrs["unavailable"] = {c: why for c, why in result.attrs["unavailable"].items() if result[c].isna().any()}
        result.attrs["accel"] = self.accel
        return result

    # ---- the end

    def close(self) -> str:
        """Put back every pin and end every guest; says what was done. A daemon that a Lab started ends by itself."""
        if self._connection is None:
            return "This Lab was closed before."
        gone = len(self._mine)
        try:
            undone = self._put_all_back()
        finally:
            self._end()
        return f"{count(gone, 'guest')} gone{f'; {undone}' if undone else ''}."

    def end(self, guests: Iterable[Guest]) -> None:
        """End several guests of this Lab at once, which is faster than one by one."""
        self._destroy_all([guest.uuid for guest in guests if guest.uuid in self._mine])

    def _destroy_all(self, uuids: Sequence[str]) -> None:
        for process in [self._seen[uuid] for uuid in uuids if uuid in self._seen]:
            if process.alive():  # libvirt ends five guests of a connection at a time, and waits for each until it is reaped
                os.kill(process.pid, signal.SIGKILL)
        with ThreadPoolExecutor(max_workers=16) as pool, suppress(RuntimeError):  # at the interpreter's exit no thread can start:
            list(pool.map(self._destroy, uuids))
        for uuid in [uuid for uuid in uuids if uuid in self._mine]:  # one by one, then
            self._destroy(uuid)

    def _end(self) -> None:
        self._destroy_all(list(self._mine))
        with suppress(libvirt.libvirtError):  # the daemon may be gone already
            self._connection.close()
        self._connection = None
        if self._log:
            self._log.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        _OPEN.pop(self, None)
        atexit.unregister(self.close)
