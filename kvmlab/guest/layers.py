"""The layers under a running guest, from the kernel module up to this Python: what each is, and its number.

Sources: /sys/module; stat(2) of /dev/kvm; proc(5): fd, exe, cmdline and stat of the QEMU process, net/unix of this one;
SO_PEERCRED of this process's socket to libvirt, unix(7); libvirt's statistics of a vCPU (virDomainListGetStats).
"""

from __future__ import annotations

import grp
import os
import shlex
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvmlab.guest.vcpus import Process, kvm_fds
from kvmlab.host.check import BACK_ENDS
from kvmlab.host.sysroot import SysRoot
from kvmlab.host.threads import read_stat

_DEVICE = "/dev/kvm"
_SOCKETS = {"libvirt-sock": "libvirtd", "virtqemud-sock": "virtqemud"}  # who listens there, as a rule
_DAEMONS = {*_SOCKETS.values(), "virtproxyd"}
_EMULATED = "none: emulated by TCG"


@dataclass(frozen=True)
class Domain:
    """What libvirt says of a guest: its id and its statistics, and how to reach it: the URI, and virsh for it."""

    id: int
    statistics: Mapping[str, int | str]
    uri: str
    virsh: str


def rows(root: SysRoot, process: Process, domain: Domain) -> list[tuple]:
    """All layers from the bottom up, in the order of columns.FRAMES["layers"]."""
    targets = {fd: root.target(f"proc/{process.pid}/fd/{fd}") for fd in root.numbered(f"proc/{process.pid}/fd")}
    fds = {fd: name for fd, name in targets.items() if name}
    kernel = (
        _emulated(process) if process.accel == "tcg" else [*_modules(root), _device(), _vm(process, fds), *_vcpus(process, fds, domain)]
    )
    return [*kernel, *_threads(root, process), _process(root, process, fds), _domain(process, domain), *_clients(root, domain)]


def unavailable(root: SysRoot, process: Process, domain: Domain) -> dict[str, str]:
    """Why columns of the frame may hold NA here."""
    reasons = {"vcpu": "only file descriptors and threads of vCPUs belong to one", "exits": _no_exits(process, domain)}
    if process.accel == "tcg":
        reasons |= dict.fromkeys(("what", "id"), "TCG emulates in QEMU's own threads: nothing of KVM is used")
    elif f"proc/{process.pid}/fd" in root.refused:
        reasons["id"] = f"/proc/{process.pid}/fd is for QEMU's own user and root: look as one of them"
    else:
        reasons |= dict.fromkeys(("what", "id"), "it was not found: type the line in found_by to see why")
    return reasons


def _no_exits(process: Process, domain: Domain) -> str:
    if process.accel == "tcg":
        return "a guest emulated by TCG never leaves guest mode, for it is never in it"
    if not any(name.endswith(".exits.sum") for name in domain.statistics):
        return "this libvirt or QEMU passes no statistics of KVM's on"
    return "they are counted for each vCPU's file descriptor"


def _emulated(process: Process) -> Iterator[tuple]:
    line = f"ls -l /proc/{process.pid}/fd | grep -E '/dev/kvm|anon_inode:kvm'  # nothing"
    for layer, vcpu in [("module", None), ("device", None), ("vm", None), *(("vcpu", vcpu) for vcpu in sorted(process.vcpus))]:
        yield layer, vcpu, None, None, _EMULATED, None, line


# ---- the kernel


def _modules(root: SysRoot) -> Iterator[tuple]:
    names = [name for name in ("kvm", *BACK_ENDS) if root.exists(f"sys/module/{name}")]
    for name in names:
        what = "KVM, its common part" if name == "kvm" else "its part for this processor"
        how = "loaded as a module" if root.exists(f"sys/module/{name}/initstate") else "built into the kernel"
        yield "module", None, what, name, how, None, f"ls -d /sys/module/{name}"
    if not names:
        yield "module", None, "KVM", None, "built into the kernel, under no name", None, "ls -d /sys/module/kvm*"


def _device() -> tuple:
    try:
        found = os.stat(_DEVICE)
    except OSError as error:
        return "device", None, _DEVICE, None, error.strerror, None, f"ls -l {_DEVICE}"
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return "device", None, _DEVICE, number, f"group {group}, {stat.filemode(found.st_mode)}", None, f"ls -l {_DEVICE}"


def _vm(process: Process, fds: Mapping[int, str]) -> tuple:
    name = "anon_inode:kvm-vm"
    fd = next((f"fd {fd}" for fd, target in fds.items() if target == name), None)
    return "vm", None, name, fd, f"open in process {process.pid}", None, _fd_line(process, "kvm-vm")


def _vcpus(process: Process, fds: Mapping[int, str], domain: Domain) -> Iterator[tuple]:
    known = kvm_fds(process, fds)
    for vcpu in sorted(process.vcpus):
        fd = known.get(vcpu)
        exits = domain.statistics.get(f"vcpu.{vcpu}.exits.sum")
        what, number = (fds[fd], f"fd {fd}") if fd is not None else ("anon_inode:kvm-vcpu", None)
        yield "vcpu", vcpu, what, number, f"open in process {process.pid}", exits, _fd_line(process, "kvm-vcpu")


def _fd_line(process: Process, pattern: str) -> str:
    return f"ls -l /proc/{process.pid}/fd | grep {pattern}"


# ---- QEMU


def _threads(root: SysRoot, process: Process) -> Iterator[tuple]:
    line = f"ps -L -p {process.pid} -o tid,psr,comm"
    for vcpu, tid in sorted(process.vcpus.items()):
        seen = read_stat(root, process.pid, tid)
        where = f"last on host CPU {seen.cpu}" if seen else "ended meanwhile"
        yield "thread", vcpu, f"CPU {vcpu}/{(process.accel or '').upper()}", f"tid {tid}", where, None, line


def _process(root: SysRoot, process: Process, fds: Mapping[int, str]) -> tuple:
    device = ", ".join(f"fd {fd}" for fd, name in fds.items() if name == _DEVICE)
    holds = f"holds {_DEVICE} open as {device}" if device else f"does not hold {_DEVICE} open" if fds else "its files are not ours to see"
    return "process", None, _program(root, process.pid), f"pid {process.pid}", holds, None, f"ls -l /proc/{process.pid}/exe"


def _program(root: SysRoot, pid: int) -> str | None:
    """The file it runs; for other people's processes the first word of its command line, which everybody may read."""
    return root.target(f"proc/{pid}/exe") or (root.read(f"proc/{pid}/cmdline") or "").split("\0")[0] or None


# ---- libvirt


def _domain(process: Process, domain: Domain) -> tuple:
    line = f"{domain.virsh} dominfo {shlex.quote(process.guest)}"
    return "domain", None, process.guest, f"id {domain.id}", f"UUID {process.uuid}", None, line


def _clients(root: SysRoot, domain: Domain) -> Iterator[tuple]:
    """The daemon, and this process on top of it."""
    mine, me = _connection(root, domain.uri), os.getpid()
    if mine is None:
        yield "daemon", None, None, None, f"serves {domain.uri}", None, "pgrep -a 'libvirtd|virtqemud'"
    else:
        name, pid = mine.daemon(root)
        what = _program(root, pid) if pid else name
        yield "daemon", None, what, f"pid {pid}" if pid else None, f"serves {domain.uri} at {mine.path}", None, f"pgrep -a {name}"
    held = f"connected to the daemon by fd {mine.fd}" if mine else f"connected to {domain.uri}"
    yield "client", None, "this Python", f"pid {me}", held, None, f"ps -p {me} -o pid,args"


@dataclass(frozen=True)
class Connection:
    """A socket of ours to a libvirt daemon: where it leads, and which process of which user listens there."""

    fd: int
    path: str
    pid: int
    uid: int

    def daemon(self, root: SysRoot) -> tuple[str, int | None]:
        """Its name and pid. Where systemd opened the socket, the listener is systemd: then the one such process of that user."""
        if (comm := root.read(f"proc/{self.pid}/comm")) in _DAEMONS:
            return comm, self.pid
        name = _SOCKETS[os.path.basename(self.path)]
        named = (pid for pid in root.numbered("proc") if root.read(f"proc/{pid}/comm") == name)
        pids = [pid for pid in named if f"\nUid:\t{self.uid}\t" in (root.read(f"proc/{pid}/status") or "")]
        return name, pids[0] if len(pids) == 1 else None


def _connection(root: SysRoot, uri: str) -> Connection | None:
    """This process's socket to the libvirt of that URI; where several Labs have one, any of them."""
    sockets = [fd for fd in root.numbered("proc/self/fd") if (root.target(f"proc/self/fd/{fd}") or "").startswith("socket:")]
    found = [one for one in map(_peer, sockets) if one]
    system = [one for one in found if one.path.startswith(("/run/libvirt/", "/var/run/libvirt/"))]
    mine = system if uri.endswith("/system") else [one for one in found if one not in system]
    return mine[0] if mine else None


def _peer(fd: int) -> Connection | None:
    """Where a socket of ours leads, if that is libvirt."""
    try:
        with socket.socket(fileno=os.dup(fd)) as same:
            path = same.getpeername()
            if not isinstance(path, str) or os.path.basename(path) not in _SOCKETS:
                return None
            pid, uid, _ = struct.unpack("3i", same.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return Connection(fd, path, pid, uid)
    except OSError:
        return None
