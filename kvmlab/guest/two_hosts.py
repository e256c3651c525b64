"""Two "hosts" on one machine: two private session daemons of libvirt, between which guests move.

libvirt refuses to move a guest that is marked for auto-destroy. Here a guard (guard.py) keeps the promise that nothing outlives
its Lab: it ends the daemons and every QEMU under them as soon as this Python process is gone.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kvmlab.errors import ConnectError, GuestError
from kvmlab.guest import accel as acceleration
from kvmlab.guest import guard, vcpus
from kvmlab.guest.connection import explained, libvirt
from kvmlab.guest.daemon import program
from kvmlab.guest.guest import Guest
from kvmlab.guest.lab import GuestLab
from kvmlab.guest.microguest.page import IMAGE, wait_until
from kvmlab.guest.spec import GuestSpec

NOBODY = 65534
PATIENCE_S = 15
_KVM = "/dev/kvm"
_SOCKETS = {"libvirtd": "libvirt-sock", "virtqemud": "virtqemud-sock"}


@dataclass(frozen=True)
class PrivateHost:
    """A libvirt daemon with all of its files in one folder."""

    name: str
    home: Path

    @property
    def socket(self) -> str:
        """Where the daemon listens."""
        return f"{self.home}/run/libvirt/{_SOCKETS[Path(program()).name]}"

    @property
    def uri(self) -> str:
        """By which libvirt's clients find it."""
        return f"qemu:///session?socket={self.socket}"

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Make its folders, and return the daemon's command and environment. Two hosts differ by their UUID for libvirt."""
        for folder in ("run", "conf/libvirt", "cache", "data", "guests"):
            (self.home / folder).mkdir(mode=0o711, parents=True)
        config = self.home / "conf/libvirt/daemon.conf"
        config.write_text(f'host_uuid = "{uuid.uuid4()}"\n')
        (self.home / "conf/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')  # no log daemon for each of them
        folders = {"RUNTIME_DIR": "run", "CONFIG_HOME": "conf", "CACHE_HOME": "cache", "DATA_HOME": "data"}
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.home)}
        environment |= {f"XDG_{variable}": f"{self.home}/{folder}" for variable, folder in folders.items()}
        return [program(), "-f", str(config), "-p", f"{self.home}/run/daemon.pid"], environment

    def answers(self) -> bool:
        """Whether the daemon listens."""
        with socket.socket(socket.AF_UNIX) as line:
            return line.connect_ex(self.socket) == 0


class HostGuests(GuestLab):
    """The guests of one of two hosts."""

    _start_flags = 0

    def __init__(self, host: PrivateHost, accel: str, reason: str):
        self.host = host
        super().__init__(host.uri, accel=accel)
        self.accel_reason = reason
        self._image = host.home.parent / IMAGE.name
        with explained(f"Asking host {host.name} what it can do"):  # its QEMU is looked at now, not at the first guest
            self.connection.getDomainCapabilities(None, "x86_64", None, "kvm" if accel == "kvm" else "qemu")

    def __repr__(self) -> str:
        return super().__repr__().replace(f"Lab on {self.uri}", f"Lab on host {self.host.name} of two")

    def _folder_of(self, uuid: str) -> Path:
        return self.host.home / "guests" / uuid[:8]

    def _make_folder(self, spec: GuestSpec) -> None:
        if spec.devices:
            raise GuestError(f"'{spec.name}': guests of TwoHosts have no devices, for they move. Lab().start(devices='all') gives them.")
        super()._make_folder(spec)
        _hand_over(Path(spec.folder))

    def _find(self, guests: Iterable[tuple[str, str]]) -> dict[str, vcpus.Process]:
        return vcpus.find(guests, within=f"{self.host.home}/")

    def _attachment(self, spec: GuestSpec) -> tuple:
        return *super()._attachment(spec), self.host.home / f"cache/libvirt/qemu/log/{spec.name}.log"

    # ---- a guest that comes or goes

    @property
    def image(self) -> Path:
        """The guest image, where QEMU can read it."""
        return self._image

    def owned(self, name: str) -> Guest:
        """The guest of this name that this Lab started or took over."""
        uuid = self.domain(name).UUIDString()
        guest = self._mine.get(uuid)
        if guest is None and uuid in self._mine:
            raise GuestError(f"'{name}' runs on host {self.host.name}, but no longer answers this Lab, with which it ends.")
        if guest is None:
            raise GuestError(f"'{name}' on host {self.host.name} was not started by this Lab: move it with virsh, or start one with it.")
        return guest

    def folder_for(self, uuid: str) -> Path:
        """Where a guest with this uuid would have its folder here."""
        return self._folder_of(uuid)

    def xml(self, name: str) -> str:
        """The domain XML of a running guest as a move needs it: with what libvirt would add anyway left out."""
        with explained(f"Asking for the XML of '{name}'"):
            return self.domain(name).XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)

    def known_cpu(self, cpu: str) -> str:
        """The <cpu> element of a model's name or of XML, once libvirt knows all its names."""
        return self._known_cpu(cpu)

    def expect(self, spec: GuestSpec) -> None:
        """Make room for a guest that is about to come; `drop` takes that back."""
        self._refuse_taken(spec.name)
        self._mine[spec.uuid] = None
        try:
            self._make_folder(spec)
        except BaseException:
            self._destroy(spec.uuid)
            raise

    def adopt(self, spec: GuestSpec, guest: Guest | None = None) -> Guest:
        """Take over a guest that has come: the same object where there was one, or a new one."""
        if guest:
            guest.close()
            try:
                guest.attach(*self._attachment(spec))
            except GuestError as error:
                raise GuestError(f"{error} It runs on host {self.host.name} now, and ends with this Lab.") from error
        self._mine[spec.uuid] = guest or Guest(*self._attachment(spec))
        return self._mine[spec.uuid]

    def drop(self, uuid: str) -> None:
        """Forget a guest, and end what there still is of it here."""
        self._destroy(uuid)

    def release(self, uuid: str) -> Guest | None:
        """Forget a guest that has left; its Guest stays open for `adopt`."""
        guest, self._mine[uuid] = self._mine[uuid], None
        self._destroy(uuid)
        return guest

    def incoming(self, spec: GuestSpec) -> vcpus.Process | None:
        """The QEMU process that waits for a guest here, once there is one."""
        return self._find([(spec.name, spec.uuid)]).get(spec.uuid)


class TwoHosts:
    """What kvmlab.lab.TwoHosts is; `lab_class` makes each host's Lab."""

    lab_class: Callable[..., HostGuests] = HostGuests

    def __init__(self, *, accel: str = "auto"):
        accel, reason, groups = _choose(accel)
        self.labs: tuple[HostGuests, ...] = ()
        self._folder = Path(tempfile.mkdtemp(prefix="kvmlab-2h-", dir=_short_place()))
        self._guard = None
        atexit.register(self.close)
        try:
            hosts = [PrivateHost(name, self._folder / name) for name in "ab"]
            self._start(hosts, groups)
            with ThreadPoolExecutor() as pool:  # each daemon looks at QEMU once: at the same time
                waiting = [pool.submit(self.lab_class, host, accel, reason) for host in hosts]
            self.labs = tuple(lab.result() for lab in waiting if not lab.exception())
            for lab in waiting:
                lab.result()  # raises what one of them did not get over; `close` ends the other
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _start(self, hosts: list[PrivateHost], groups: list[int]) -> None:
        commands = [host.prepare() for host in hosts]
        shutil.copyfile(IMAGE, self._folder / IMAGE.name)
        for path in (self._folder, *self._folder.rglob("*")):
            _hand_over(path)
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": groups} if os.geteuid() == 0 else {}
        job = json.dumps({"folder": str(self._folder), "commands": commands, "user": user})
        with tempfile.TemporaryFile("w+") as said:
            streams = {"stdin": subprocess.PIPE, "stdout": said, "stderr": said}
            self._guard = subprocess.Popen([sys.executable, "-IS", guard.__file__, job], cwd="/", start_new_session=True, **streams)
            wait_until(lambda: all(host.answers() for host in hosts) or self._guard.poll() is not None, PATIENCE_S, 0.01)
            if silent := [host.name for host in hosts if not host.answers()]:
                said.seek(0)
                words = " ".join(said.read().split())[-500:] or "it said nothing"
                if self._guard.poll() is not None:
                    raise ConnectError(f"A libvirt daemon of the two hosts ended at once: {words}")
                raise ConnectError(f"The libvirt daemon of host {silent[0]} does not answer within {PATIENCE_S} s: {words}")
            self._guard.stdin.write(guard.ALL_ANSWER)
            self._guard.stdin.flush()

    def __iter__(self) -> Iterator[HostGuests]:
        return iter(self.labs)

    def __enter__(self) -> tuple[HostGuests, ...]:
        return self.labs

    def __exit__(self, *_exception) -> None:
        self.close()

    def close(self) -> None:
        """End every guest of both hosts, and the hosts; nothing of them stays."""
        atexit.unregister(self.close)
        try:
            for lab in self.labs:
                lab.close()
        finally:
            if self._guard:
                self._guard.communicate()  # closes its standard input, and waits
            shutil.rmtree(self._folder, ignore_errors=True)  # where there was no guard


def _choose(accel: str) -> tuple[str, str, list[int]]:
    """KVM or TCG, why, and the groups that QEMU's user needs for it: what root may open says nothing of that user."""
    groups, closed = [], None
    if os.geteuid() == 0 and os.path.exists(_KVM):
        found = os.stat(_KVM)
        if not found.st_mode & stat.S_IWOTH and found.st_mode & stat.S_IWGRP:
            groups = [found.st_gid]
        elif not found.st_mode & stat.S_IWOTH:
            closed = f"{_KVM} can be opened by root only ({stat.filemode(found.st_mode)}), and QEMU is not root here"
    if closed and accel == "kvm":
        raise GuestError(f"KVM cannot be had: {closed}. chgrp kvm {_KVM} && chmod 660 {_KVM} lets its group in.")
    chosen, reason = acceleration.choose("tcg" if closed and accel == "auto" else accel, "qemu:///session")
    return chosen, closed or reason, groups


def _short_place() -> str:
    """The name of a UNIX socket has 108 bytes, and libvirt's lie deep."""
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()


def _hand_over(path: Path) -> None:
    """Give a file to the user that the daemons run as."""
    if os.geteuid() == 0:
        os.lchown(path, NOBODY, NOBODY)
