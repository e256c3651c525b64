"""The five subsystems of a running guest: which device, thread, process and file serves each.

Sources: libvirt's XML of the running guest (virDomainGetXMLDesc); proc(5): cmdline, maps, fd, fdinfo, net/unix and net/tcp of its
QEMU process, and the names of its threads. What the XML names counts as found only where QEMU really holds it open.
"""

from __future__ import annotations

import os
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from kvmlab.guest.vcpus import Process, kvm_fds
from kvmlab.host.sysroot import SysRoot

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) [0-9a-f]+ \S+ \d+ *(.*)")
_MEMORY_OBJECT = re.compile(r'memory-backend-(\w+)"?,.*?(?:"id":"|\bid=)([^",]+)')  # properties as JSON, or as key=value
_DISPLAY_THREADS = {"vnc": "vnc_worker", "spice": "SPICE Worker"}
_ELSEWHERE = {"vhostuser": "another process (vhost-user)", "hostdev": "the card itself (VFIO)", "vdpa": "the card itself (vDPA)"}
_TAPS = {"network", "bridge", "ethernet", "direct"}
_LISTENS = 0x10000  # __SO_ACCEPTCON in the flags of /proc/PID/net/unix


class Found(NamedTuple):
    """A thread or a file, and the line that shows it."""

    what: str | None
    shown_by: str
    tid: int | None = None


class Mapping(NamedTuple):
    """A part of a process's memory: one line of /proc/PID/maps."""

    start: str
    end: str
    rights: str
    path: str

    @property
    def size(self) -> int:
        return int(self.end, 16) - int(self.start, 16)


@dataclass(frozen=True)
class View:
    """What the kernel says of a guest's QEMU process, and libvirt of the guest."""

    root: SysRoot
    process: Process
    domain: ET.Element
    virsh: str
    fds: dict[int, str]
    threads: dict[str, list[int]]

    @property
    def proc(self) -> str:
        return f"/proc/{self.process.pid}"

    def row(self, subsystem: str, device: str, served: Found, behind: Found) -> tuple:
        shown = "; ".join(dict.fromkeys(line for line in (served.shown_by, behind.shown_by) if line))
        pid = None if served.what in _ELSEWHERE.values() else self.process.pid
        return subsystem, device, served.what, pid, served.tid, behind.what, shown

    def nothing(self, subsystem: str, element: str) -> tuple:
        look = f"{self.virsh_line('dumpxml')} | grep '<{element}'  # nothing: its XML has none"
        return subsystem, None, None, self.process.pid, None, None, look

    def virsh_line(self, command: str) -> str:
        return f"{self.virsh} {command} {shlex.quote(self.process.guest)}"

    def thread(self, comm: str) -> Found | None:
        """The thread of that name, if there is one."""
        tids = self.threads.get(comm, [])
        line = f"ps -L -p {self.process.pid} -o tid,comm | grep -w {shlex.quote(comm)}"
        return Found(comm, line, tids[0]) if len(tids) == 1 else None

    def main_loop(self) -> Found:
        pid = self.process.pid
        comm = next((name for name, tids in self.threads.items() if pid in tids), None)
        return Found(f"main loop ({comm})" if comm else "main loop", f"ps -p {pid} -o pid,comm", pid)

    def fd_line(self, pattern: str) -> str:
        return f"ls -l {self.proc}/fd | grep -F {shlex.quote(pattern)}"

    def open_file(self, target: str, pattern: str, words: str | None = None) -> Found:
        """What QEMU holds open under that name, in other `words` if given; nothing where its files cannot be read."""
        line = self.fd_line(pattern)
        fd = next((fd for fd, name in self.fds.items() if name.removesuffix(" (deleted)") == target), None)
        words = words or (self.fds[fd] if fd is not None else target)
        if fd is not None:
            return Found(f"fd {fd}: {words}", line)
        return Found(f"{words}, which QEMU does not hold open" if self.fds else None, line)


def rows(root: SysRoot, process: Process, xml: str, virsh: str) -> list[tuple]:
    """All devices of a guest, in the order of columns.FRAMES["subsystems"]; `virsh` is how to call it for this libvirt."""
    place = f"proc/{process.pid}"
    targets = {fd: root.target(f"{place}/fd/{fd}") for fd in root.numbered(f"{place}/fd")}
    threads: dict[str, list[int]] = {}
    for tid in root.numbered(f"{place}/task"):
        threads.setdefault(root.read(f"{place}/task/{tid}/comm") or "", []).append(tid)
    view = View(root, process, ET.fromstring(xml), virsh, {fd: name for fd, name in targets.items() if name}, threads)
    devices = {"storage": ("disk", _disk), "network": ("interface", _card), "display": ("graphics", _display)}
    found = [*_vcpus(view), _memory(view)]
    for subsystem, (element, describe) in devices.items():
        elements = view.domain.findall(f"devices/{element}")
        found += [view.row(subsystem, *describe(view, one)) for one in elements] or [view.nothing(subsystem, element)]
    return found


def unavailable(root: SysRoot, process: Process) -> dict[str, str]:
    """Why columns of the frame may hold NA here."""
    reasons = dict.fromkeys(("device", "served_by", "behind"), "this guest has no such device, or QEMU no name for it")
    reasons["tid"] = "no thread of QEMU's own serves it, or more than one does"
    if f"proc/{process.pid}/fd" in root.refused:
        reasons["behind"] = f"/proc/{process.pid}/fd is for QEMU's own user and root: look as one of them"
    return reasons


# ---- CPU


def _vcpus(view: View) -> Iterator[tuple]:
    cpu = view.domain.find("cpu")
    model = (cpu.findtext("model") or cpu.get("mode")) if cpu is not None else None
    behind = _behind_vcpus(view)
    for vcpu, tid in sorted(view.process.vcpus.items()):
        comm = f"CPU {vcpu}/{(view.process.accel or '').upper()}"
        served = Found(comm, f"ps -L -p {view.process.pid} -o tid,comm | grep -w {shlex.quote(comm)}", tid)
        yield view.row("cpu", f"vCPU {vcpu} ({model})" if model else f"vCPU {vcpu}", served, behind[vcpu])
    if not behind:
        count, threads = view.domain.findtext("vcpu"), f"ps -L -p {view.process.pid} -o tid,comm"
        yield view.row("cpu", f"{count} vCPUs", Found(None, threads), Found(None, ""))


def _behind_vcpus(view: View) -> dict[int, Found]:
    if view.process.accel == "tcg":
        return dict.fromkeys(view.process.vcpus, Found("none: emulated by TCG", ""))
    line = view.fd_line("kvm-vcpu")
    known = kvm_fds(view.process, view.fds)
    return {v: Found(f"fd {known[v]}: {view.fds[known[v]]}" if v in known else None, line) for v in view.process.vcpus}


# ---- memory


def _memory(view: View) -> tuple:
    kib, objects = int(view.domain.findtext("memory") or 0), _memory_objects(view)
    line = f"tr '\\0' '\\n' <{view.proc}/cmdline | grep memory-backend-"
    served = Found(", ".join(f"memory-backend-{kind} {name}" for kind, name in objects), line) if objects else Found(None, "")
    anonymous = all(kind == "ram" for kind, _ in objects)
    return view.row("memory", f"{kib / 1024:g} MiB of RAM", served, _behind_memory(view, kib, anonymous))


def _memory_objects(view: View) -> list[tuple[str, str]]:
    """QEMU's objects for the RAM, as (kind, name): one, or one a NUMA cell; a QEMU without any allocates it by itself."""
    words = (view.root.read(f"proc/{view.process.pid}/cmdline") or "").split("\0")
    objects = (_MEMORY_OBJECT.search(after) for word, after in pairwise(words) if word == "-object")
    return [(match[1], match[2]) for match in objects if match]


def _behind_memory(view: View, kib: int, anonymous: bool) -> Found:
    """RAM is a mapping as large as a NUMA cell of the guest, or as all its memory where it has none."""
    text = view.root.read(f"proc/{view.process.pid}/maps")
    if not text:
        return Found(None, f"cat {view.proc}/maps")
    mappings = [Mapping(*match.groups()) for line in text.splitlines() if (match := _MAPPING.fullmatch(line))]
    size = 1024 * min((int(cell.get("memory", kib)) for cell in view.domain.findall("cpu/numa/cell")), default=kib)
    if files := _large_files(mappings, size):
        return _named(view, files)
    same = [m for m in mappings if m.size == size and m.rights == "rw-p" and (not m.path or m.path.startswith("[anon"))]
    if len(same) == 1 and anonymous:
        return Found(f"anonymous memory at {same[0].start}-{same[0].end}", f"grep {same[0].start} {view.proc}/maps")
    return Found("anonymous memory" if anonymous else None, f"grep 'rw-p 00000000 00:00' {view.proc}/maps")


def _large_files(mappings: list[Mapping], size: int) -> list[str]:
    """The files that hold at least `size` of the process's writable memory; programs and libraries are no RAM."""
    code = {m.path for m in mappings if "x" in m.rights}
    sizes: dict[str, int] = {}
    for m in mappings:
        if m.path.startswith("/") and m.path not in code and m.rights.startswith("rw"):
            sizes[m.path] = sizes.get(m.path, 0) + m.size
    return [path for path, held in sizes.items() if held >= size]


def _named(view: View, paths: list[str]) -> Found:
    names, lines = [], []
    for path in paths:
        fds = ", ".join(str(fd) for fd, name in view.fds.items() if name == path)
        names.append(f"fd {fds}: {path}" if fds else path)
        plain = path.removesuffix(" (deleted)")
        lines.append(view.fd_line(plain) if fds else f"grep -F {shlex.quote(plain)} {view.proc}/maps")
    return Found("; ".join(names), "; ".join(lines))


# ---- storage


def _disk(view: View, disk: ET.Element) -> tuple[str, Found, Found]:
    target = disk.find("target")
    bus, dev = (target.get("bus"), target.get("dev")) if target is not None else (None, None)
    device = " ".join(word for word in (bus, disk.get("device"), dev) if word)
    source = disk.find("source")
    path = None if source is None else source.get("file") or source.get("dev")
    if source is None:
        behind = Found("no medium in it", view.virsh_line("domblklist"))
    elif path is None:
        behind = Found(_as_in_xml(disk.get("type"), source), view.virsh_line("domblklist"))
    else:
        behind = view.open_file(os.path.realpath(path), os.path.basename(os.path.realpath(path)))
    return device, _served_disk(view, disk), behind


def _served_disk(view: View, disk: ET.Element) -> Found:
    if disk.get("type") == "vhostuser":
        return Found(_ELSEWHERE["vhostuser"], view.virsh_line("domblklist"))
    numbers = _iothreads(disk) or _iothreads(_controller(view, disk))
    found = [thread for number in numbers if (thread := view.thread(f"IO iothread{number}"))]
    if not found:
        return view.main_loop()
    tid = found[0].tid if len(found) == 1 else None
    return Found(", ".join(f.what for f in found if f.what), "; ".join(f.shown_by for f in found), tid)


def _iothreads(element: ET.Element | None) -> list[str]:
    driver = element.find("driver") if element is not None else None
    if driver is None:
        return []
    return [one.get("id", "") for one in driver.iter("iothread")] or [number for number in [driver.get("iothread")] if number]


def _controller(view: View, disk: ET.Element) -> ET.Element | None:
    """The controller that a SCSI disk hangs on, which has the I/O thread for it."""
    target, address = disk.find("target"), disk.find("address")
    if target is None or address is None or target.get("bus") != "scsi":
        return None
    controllers = view.domain.findall("devices/controller[@type='scsi']")
    return next((one for one in controllers if one.get("index") == address.get("controller")), None)


def _as_in_xml(kind: str | None, source: ET.Element) -> str:
    words = [f"{name}={value}" for element in source.iter() for name, value in element.attrib.items() if name != "index"]
    return " ".join([f"{kind}:", *words])


# ---- network


def _card(view: View, card: ET.Element) -> tuple[str, Found, Found]:
    kind, model, mac = card.get("type") or "", card.find("model"), card.find("mac")
    words = [found.get(name) for found, name in ((model, "type"), (mac, "address")) if found is not None]
    return " ".join(word for word in words if word), _served_card(view, card, kind), _behind_card(view, card, kind)


def _served_card(view: View, card: ET.Element, kind: str) -> Found:
    if kind in _ELSEWHERE:
        return Found(_ELSEWHERE[kind], "")
    return (_vhost(view, card) if kind in _TAPS else None) or view.main_loop()


def _behind_card(view: View, card: ET.Element, kind: str) -> Found:
    target, source, line = card.find("target"), card.find("source"), view.virsh_line("domiflist")
    dev = target.get("dev") if target is not None else None
    if kind == "user":
        backend = card.find("backend")
        passt = backend is not None and backend.get("type") == "passt"
        return Found(f"user-mode network: {'passt, a process of its own' if passt else 'slirp inside QEMU, no tap'}", line)
    if kind == "direct" and dev:
        number = view.root.number(f"sys/class/net/{dev}/ifindex")
        return view.open_file(f"/dev/tap{number}", "/dev/tap", f"/dev/tap{number}, macvtap {dev}")
    if dev and kind in _TAPS:
        return _tap(view, dev, source.get("bridge") if source is not None else None)
    return Found(_as_in_xml(kind, source) if source is not None else None, line)


def _tap(view: View, dev: str, bridge: str | None) -> Found:
    """Which open /dev/net/tun is this tap: the line "iff:" of its fdinfo, drivers/net/tun.c."""
    line = f"grep -H iff: {view.proc}/fdinfo/*"
    where = f"tap {dev} in bridge {bridge}" if bridge else f"tap {dev}"
    for fd in (fd for fd, name in view.fds.items() if name == "/dev/net/tun"):
        info = view.root.read(f"proc/{view.process.pid}/fdinfo/{fd}") or ""
        if f"iff:\t{dev}" in info.splitlines():
            return Found(f"fd {fd}: /dev/net/tun, {where}", line)
    return Found(f"{where}, which QEMU does not hold open" if view.fds else None, line)


def _vhost(view: View, card: ET.Element) -> Found | None:
    """The kernel's own thread for virtio cards: of QEMU's process since Linux 6.4, a kernel thread of that name before."""
    driver, model, name = card.find("driver"), card.find("model"), f"vhost-{view.process.pid}"
    if model is None or not model.get("type", "").startswith("virtio") or (driver is not None and driver.get("name") == "qemu"):
        return None
    if view.fds and "/dev/vhost-net" not in view.fds.values():
        return None
    comms = {pid: view.root.read(f"proc/{pid}/comm") for pid in view.root.numbered("proc")}
    tids = view.threads.get(name) or [pid for pid, comm in comms.items() if comm == name]
    return Found(name, f"ps -eL -o tid,comm | grep {name}", tids[0] if len(tids) == 1 else None) if tids else None


# ---- display


def _display(view: View, graphics: ET.Element) -> tuple[str, Found, Found]:
    kind = graphics.get("type") or ""
    cards = [f"{model.get('type')} card" for model in view.domain.findall("devices/video/model")]
    device = ", ".join([*cards, f"{kind.upper()} display"])
    return device, view.thread(_DISPLAY_THREADS.get(kind, "")) or view.main_loop(), _behind_display(view, graphics)


def _behind_display(view: View, graphics: ET.Element) -> Found:
    listen = graphics.find("listen")
    path = graphics.get("socket") or (listen.get("socket") if listen is not None else None)
    port = next((int(text) for name in ("port", "tlsPort") if (text := graphics.get(name, "")).isdecimal()), 0)
    if path:
        inode, line = _unix_socket(view, path), f"grep {shlex.quote(path)} {view.proc}/net/unix"
        return _socket(view, inode, path, line)
    if port:
        address = (listen.get("address") if listen is not None else None) or "every address"
        line = f"grep -i :{port:04X} {view.proc}/net/tcp {view.proc}/net/tcp6"
        return _socket(view, _tcp_socket(view, port), f"TCP port {port} on {address}", line)
    return Found("no socket", view.virsh_line("dumpxml"))


def _socket(view: View, inode: str | None, words: str, line: str) -> Found:
    found = view.open_file(f"socket:[{inode}]", inode or "socket", words)
    return Found(found.what, f"{line}; {found.shown_by}")


def _unix_socket(view: View, path: str) -> str | None:
    lines = (view.root.read(f"proc/{view.process.pid}/net/unix") or "").splitlines()[1:]
    sockets = (line.split(None, 7) for line in lines)
    return next((f[6] for f in sockets if len(f) == 8 and f[7] == path and int(f[3], 16) & _LISTENS), None)


def _tcp_socket(view: View, port: int) -> str | None:
    """The inode of a listening socket on that port which is QEMU's: state 0A, see proc_net_tcp in the kernel's Documentation."""
    for name in ("tcp", "tcp6"):
        for line in (view.root.read(f"proc/{view.process.pid}/net/{name}") or "").splitlines()[1:]:
            f = line.split()
            mine = len(f) > 9 and f"socket:[{f[9]}]" in view.fds.values()
            if mine and f[3] == "0A" and int(f[1].rpartition(":")[2], 16) == port:
                return f[9]
    return None
